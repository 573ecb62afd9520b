"""The policy that a run has trained: loaded from its newest checkpoint, scored, and written as weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mrlato_jax.errors import InputError
from mrlato_jax.files import write_atomically
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.inference.weights import DESCRIPTION, TENSORS, check_arrays, to_bytes
from mrlato_jax.learning import ranges
from mrlato_jax.methods import label
from mrlato_jax.training import checkpoint
from mrlato_jax.training.experiments import TestSetting
from mrlato_jax.training.run_folder import RunFolder, checkpoint_meta, completed_meta


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
    check_arrays(run.checkpoints, config.network, flatten_dict(found.tree, sep="/"))
    params = jax.tree.map(jax.numpy.asarray, found.tree)
    return Offloader(config.network, params, label(config), found.step, config.learning, run.trained_ranges)


def score(policy: Offloader, settings: Sequence[TestSetting]) -> dict[str, float]:
    """Mean makespan of the policy's plans before any update, milliseconds, by setting."""
    return {
        setting.name: 1e3 * float(np.mean([plan.makespan for plan in policy.plan(setting.graphs, setting.system)]))
        for setting in settings
    }


def save_weights(folder: Path, name: str, run: RunFolder, settings: Sequence[TestSetting]) -> dict[str, Any]:
    """Writes what a run trained as `name`.safetensors and `name`.json.

    Args:
        folder: to write to; it exists.
        name: of the files.
        run: with a whole checkpoint.
        settings: of its experiment, that it is scored on.

    Returns:
        The description that was written.
    """
    policy, config = trained_policy(run), run.config
    last = run.record["sessions"][-1] if run.record["sessions"] else {}
    data = to_bytes({key: np.asarray(leaf) for key, leaf in flatten_dict(policy.params, sep="/").items()})
    description = {
        "method": policy.label,
        "config": config.to_json(),
        "iteration": policy.iteration,
        "data_hash": run.record["data_hash"],
        "trained_by": {name: last.get(name) for name in ("versions", "commit", "device")},
        "sha256": hashlib.sha256(data).hexdigest(),
        "makespan_ms": score(policy, settings),
        "ranges": None if policy.ranges is None else ranges.to_json(policy.ranges),
    }
    write_atomically(folder / f"{name}{TENSORS}", data)
    write_atomically(folder / f"{name}{DESCRIPTION}", json.dumps(description, indent=2).encode() + b"\n")
    return description
