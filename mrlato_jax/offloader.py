"""Inference for other programs: a trained policy that plans applications.

policy = load_offloader("runs/20260101-120000-exp2-mrlato")
plan = policy.plan(graph, system)
"""

from __future__ import annotations

from pathlib import Path

from mrlato_jax.errors import InputError, shorten
from mrlato_jax.experiments.run_folder import RunFolder
from mrlato_jax.experiments.trained_policy import trained_policy
from mrlato_jax.methods import Offloader


def load_offloader(source: str | Path) -> Offloader:
    """A policy that plans, from the newest whole checkpoint of a run.

    Args:
        source: a run folder, as `launch/meta_train.py` leaves it.

    Raises:
        InputError: no run there, no whole checkpoint in it, or one of other settings or data.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"source is {shorten(source)}; accepted: the path of a run folder")
    return trained_policy(RunFolder.open(Path(source)))
