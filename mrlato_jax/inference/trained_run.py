"""The trained policy of a run: loading from the newest checkpoint, scoring, and writing as weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mrlato_jax.errors import InputError
from mrlato_jax.inference import weights
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.inference.weights import check_arrays
from mrlato_jax.methods import label
from mrlato_jax.training import checkpoint
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.run_folder import RunFolder, checkpoint_meta, completed_meta


def trained_policy(run: RunFolder) -> Offloader:
    """Loads the policy in the newest complete checkpoint of a run.

    Raises:
        InputError: there is no complete checkpoint, or the checkpoint belongs to other settings or data.
    """
    stored, config = checkpoint.read_params(run.checkpoints), run.config
    expected = checkpoint_meta(config, run.record["data_hash"])
    differences = checkpoint.differing_fields(completed_meta(stored.meta), expected)
    if differences:
        raise InputError(
            f"{run.checkpoints} was saved under other settings than config.json: {'; '.join(differences)}; accepted: a "
            "run folder as it was written"
        )
    check_arrays(run.checkpoints, config.network, flatten_dict(stored.tree, sep="/"))
    params = jax.tree.map(jax.numpy.asarray, stored.tree)
    return Offloader(config.network, params, label(config), stored.step, config.learning, run.trained_ranges)


def score(policy: Offloader, test_sets: Sequence[TestSet]) -> dict[str, float]:
    """Returns the mean makespan of the policy's plans before any update, in milliseconds, by test set."""
    return {
        test_set.name: 1e3 * float(np.mean([plan.makespan for plan in policy.plan(test_set.graphs, test_set.system)]))
        for test_set in test_sets
    }


def save_weights(folder: Path, name: str, run: RunFolder, test_sets: Sequence[TestSet]) -> dict[str, Any]:
    """Writes the trained policy of a run as `name`.safetensors and `name`.json.

    Args:
        folder: existing folder to write to.
        name: name of the files, without ending.
        run: the run; it has a complete checkpoint.
        test_sets: test sets of the run's experiment; the policy is scored on them.

    Returns:
        The description in `name`.json.
    """
    policy, config = trained_policy(run), run.config
    last = run.record["sessions"][-1] if run.record["sessions"] else {}
    trained_by = {key: last.get(key) for key in ("versions", "commit", "device")}
    return weights.save(
        folder / name,
        policy.stored,
        config=config.to_json(),
        trained={"data_hash": run.record["data_hash"], "trained_by": trained_by},
        scored={"makespan_ms": score(policy, test_sets)},
    )
