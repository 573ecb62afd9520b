"""The policy that a run has trained so far."""

from __future__ import annotations

import json

import jax

from mrlato_jax.errors import InputError
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.run_folder import RunFolder, checkpoint_meta, completed_meta
from mrlato_jax.files import write_atomically
from mrlato_jax.methods import Offloader, label, ranges

RANGES = "ranges.json"


def trained_policy(run: RunFolder) -> Offloader:
    """The policy in the newest whole checkpoint of a run.

    Raises:
        InputError: no whole checkpoint, or one of other settings or data.
    """
    found, config = checkpoint.read_params(run.checkpoints), run.config
    wanted = checkpoint_meta(config, run.record["data_hash"])
    differences = checkpoint.differing_fields(completed_meta(found.meta), wanted)
    if differences:
        raise InputError(
            f"{run.checkpoints} was saved under other settings than config.json: {'; '.join(differences)}; accepted: a "
            "run folder as it was written"
        )
    params = jax.tree.map(jax.numpy.asarray, found.tree)
    return Offloader(config.policy, params, label(config), found.step, config.learning, _ranges(run))


def store_ranges(run: RunFolder, found: ranges.Ranges) -> None:
    """Notes what a run is trained on, for the policies that come of it."""
    write_atomically(run.path / RANGES, json.dumps(ranges.to_json(found), indent=1).encode() + b"\n")


def _ranges(run: RunFolder) -> ranges.Ranges | None:
    """What `store_ranges` noted; None in a run that has none."""
    path = run.path / RANGES
    if not path.exists():
        return None
    try:
        return ranges.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}); accepted: what the run wrote") from None
