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
    """Loads a policy that comes with the package, or one of yours.

    A server that forks its workers (gunicorn's `--preload`, `multiprocessing` by fork) must load the policy in each
    worker: JAX's threads do not survive a fork.

    Args:
        source: one of
            "general": `mrlato_plus`, trained on applications and systems of all kinds;
            "exp1", "exp2" or "exp3": `mrlato_plus`, trained on the training sets of that experiment;
            a run folder of `launch/meta_train.py`, with its newest complete checkpoint (write ./exp1 for a folder that
            has the name of shipped weights);
            the file NAME.safetensors of `Offloader.save` or `launch/export_weights.py`, with NAME.json beside it.

    Raises:
        RuntimeError: the process was forked after its parent had computed.
        InputError: there are no weights of that name and no run at that path, or the run has no complete checkpoint, or
            its checkpoint belongs to other settings or data.
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
    # Imported here, so that a program with shipped weights does not load the training packages.
    from mrlato_jax.inference.trained_run import trained_policy
    from mrlato_jax.training.run_folder import RunFolder

    return trained_policy(RunFolder.open(path))
