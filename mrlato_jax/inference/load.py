"""Inference for other programs: a trained policy that plans applications.

policy = load_offloader("exp1")
plan = policy.plan(graph, system)
"""

from __future__ import annotations

from pathlib import Path

from mrlato_jax.errors import InputError, shorten
from mrlato_jax.inference import weights
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.processes import about_to_compute

GENERAL = "general"


def load_offloader(source: str | Path = GENERAL) -> Offloader:
    """A policy that plans: one that comes with the package, or one of yours.

    Args:
        source: "general", `mrlato_plus` trained on applications and systems of all kinds; "exp1", "exp2" or "exp3", the
            same trained on that experiment's training sets; a run folder, as `launch/meta_train.py` leaves it, whose
            newest whole checkpoint counts (./exp1 where its name is one of those); or a file of
            `Offloader.save` or `launch/export_weights.py`, NAME.safetensors with NAME.json beside it.

    A server that forks its workers (gunicorn's `--preload`, `multiprocessing` by fork) must load in each worker: JAX's
    threads do not survive a fork.

    Raises:
        RuntimeError: the process was forked after its parent had computed.
        InputError: no weights of that name and no run there, no whole checkpoint in it, or one of other settings or
            data.
    """
    about_to_compute()
    if not isinstance(source, (str, Path)):
        raise InputError(f"source is {shorten(source)}; accepted: the name of shipped weights, or a path")
    shipped = weights.shipped()
    if isinstance(source, str) and source in shipped:
        return Offloader(*weights.load(shipped[source]))
    path = Path(source)
    if path.suffix == weights.TENSORS:
        return Offloader(*weights.load(path.with_suffix("")))
    if not path.exists():
        accepted = f"{', '.join(shipped)}, a run folder, or NAME.safetensors"
        raise InputError(f"source is {shorten(source)}; accepted: {accepted}")
    # Loaded here and not above: a program that plans with shipped weights needs nothing of training.
    from mrlato_jax.inference.trained_run import trained_policy
    from mrlato_jax.training.run_folder import RunFolder

    return trained_policy(RunFolder.open(path))
