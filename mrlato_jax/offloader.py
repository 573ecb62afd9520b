"""Inference for other programs: a trained policy that plans applications.

policy = load_offloader("runs/20260101-120000-exp2-mrlato")
plan = policy.plan(graph, system)
"""

from __future__ import annotations

from pathlib import Path

import jax

from mrlato_jax.errors import InputError, shorten
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.run_folder import RunFolder, checkpoint_meta
from mrlato_jax.methods import Offloader, label


def load_offloader(source: str | Path) -> Offloader:
    """A policy that plans, from the newest whole checkpoint of a run.

    Args:
        source: a run folder, as `launch/meta_train.py` leaves it.

    Raises:
        InputError: no run there, no whole checkpoint in it, or one of other settings or data.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"source is {shorten(source)}; accepted: the path of a run folder")
    run = RunFolder.open(Path(source))
    found = checkpoint.read_params(run.checkpoints)
    config = run.config
    differences = checkpoint.differing_fields(found.meta, checkpoint_meta(config, run.record["data_hash"]))
    if differences:
        raise InputError(
            f"{run.checkpoints} was saved under other settings than config.json: {'; '.join(differences)}; accepted: a "
            "run folder as it was written"
        )
    params = jax.tree.map(jax.numpy.asarray, found.tree)
    return Offloader(config.policy, params, label(config), found.step, config.learning)
