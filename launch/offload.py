"""Plans one application from a file: a table of plans, where each task runs, and two pictures.

    python launch/offload.py --graph=app.json --uplink_mbps=7 --downlink_mbps=7

Installed, the same is the command `mrlato-offload`; `--help` says what it takes.
"""

from __future__ import annotations

import sys

from mrlato_jax.inference.command import main

if __name__ == "__main__":
    sys.exit(main())
