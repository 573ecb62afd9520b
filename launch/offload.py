"""Plans one application from a file: prints a table of plans and the site of each task, and draws two pictures.

    python launch/offload.py --graph=app.json --uplink_mbps=7 --downlink_mbps=7

The installed package has the same command as `mrlato-offload`; `--help` lists its options.
"""

from __future__ import annotations

import sys

from mrlato_jax.inference.command import main

if __name__ == "__main__":
    sys.exit(main())
