"""The paper's local trainer: the inner loop at one UE."""

from __future__ import annotations

import math
import secrets
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from mrlato_jax.config import LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.edge import codec
from mrlato_jax.edge.federation.messages import (
    KEY_BYTES,
    REFUSALS,
    ROOM,
    Arrays,
    bound_of,
    check_arrays,
    named,
    network_arrays,
    params_sha256,
    signed,
    update_norm,
)
from mrlato_jax.edge.federation.settings import Fault, Federation, Setting, draw_round, setting_of
from mrlato_jax.errors import InputError, check_number, shorten
from mrlato_jax.learning.flat import unflat
from mrlato_jax.learning.inner import InnerMetrics
from mrlato_jax.learning.learning_task import learning_task, stack, stack_alike, take, trim
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, padded_sizes
from mrlato_jax.learning.outer import REPTILE, MetaMetrics, adapt_tasks
from mrlato_jax.training.experiments import objective_of, systems_of
from mrlato_jax.training.loop import flatten

TASK_AXIS = "map"  # a UE has one learning task at a time


class LocalTrainer:
    """The paper's local trainer: runs the inner loop on the learning task of one UE, from the received theta."""

    def __init__(self, federation: Federation, ue: int, key: bytes) -> None:
        """Reads only the UE's own training set.

        Raises:
            InputError: as in `Federation.dataset`; or the UE does not exist.
        """
        check_number("ue", ue, low=0, high=federation.ues - 1, integer=True)
        self._federation, self._ue, self._key = federation, ue, key
        dataset = federation.dataset()
        self._setting = setting_of(federation, dataset)
        self._pool = own_pool(federation.config, dataset, self._setting, ue)
        self._like = network_arrays(federation.config.network)
        self._done_wrong: set[Fault] = set()

    def answer(self, data: bytes) -> bytes:
        """Returns the UE's answer to a message of the server.

        Raises:
            InputError: the message is not from this federation's server.
        """
        message = codec.unpacked(data)
        if not isinstance(message, dict) or set(message) != {"round", "arrays"}:
            raise InputError(f"message has {shorten(message)}; accepted: round and arrays")
        check_number("round", message["round"], low=1, integer=True)
        number, arrays = message["round"], message["arrays"]
        if wrong := check_arrays(arrays, self._like):
            raise InputError(f"theta of round {number} has {REFUSALS[wrong]}; accepted: finite arrays of the network")
        body: dict[str, Any] = {"round": number, "start": params_sha256(arrays), "arrays": None, "metrics": None}
        batch = draw_round(self._federation, self._setting, number - 1)
        own = np.flatnonzero(np.asarray(batch.set) == self._ue)
        if own.size:
            body |= self._trained(arrays, jax.tree.map(lambda leaf: leaf[own], batch))
        for fault in self._federation.faults:
            if fault[:2] == (number, self._ue) and fault not in self._done_wrong:
                self._done_wrong.add(fault)
                return self._wrong(fault.what, body, arrays)
        return signed(self._ue, self._key, body)

    def _trained(self, arrays: Arrays, batch: MetaBatch) -> dict[str, Any]:
        """Runs the inner loop on the one learning task of `batch`."""
        config = self._federation.config
        theta = unflatten_dict({name: jnp.asarray(array)[None] for name, array in arrays.items()}, sep="/")
        batch = batch._replace(set=jnp.zeros_like(batch.set))  # the pool has only this set
        visited, metrics = _adapt(config.network, config.learning, theta, self._pool, batch)
        values = flatten(MetaMetrics(InnerMetrics(*take(metrics, 0)), jnp.zeros(())))
        del values["update_norm"]  # belongs to the outer step
        return {"arrays": named(unflat(visited[0], take(theta, 0))), "metrics": values}

    def _wrong(self, what: str, body: dict[str, Any], theta: Arrays) -> bytes:
        """Returns a faulty answer: one that the server must refuse, a late one, or one that looks honest."""
        ue, key = self._ue, self._key
        if what == "late":
            time.sleep(2 * self._federation.patience_s)
        elif what == "stale":
            body["round"] -= 1
        elif what == "stranger":
            key = secrets.token_bytes(KEY_BYTES)
        elif what == "poison":
            body["arrays"] = self._poisoned(body["arrays"], theta)
        else:
            arrays = dict(body["arrays"])
            name = next(iter(arrays))
            if what == "tree":
                arrays[name + "s"] = arrays.pop(name)
            else:
                arrays[name] = {
                    "nan": lambda array: np.full_like(array, np.nan),
                    "infinity": lambda array: np.full_like(array, np.inf),
                    "shape": lambda array: array[None],
                    "dtype": lambda array: array.astype(np.float64),
                    "norm": lambda array: array + 1e6,
                }[what](arrays[name])
            body["arrays"] = arrays
        return signed(ue, key, body)

    def _poisoned(self, arrays: Arrays, theta: Arrays) -> Arrays:
        """Returns the learned arrays with the smallest array shifted as far as the server accepts."""
        start = theta if self._federation.config.learning.meta_update in REPTILE else None
        name = min(arrays, key=lambda name: arrays[name].size)
        honest = dict(arrays, **{name: np.zeros_like(arrays[name]) if start is None else start[name]})
        bound = bound_of(self._federation, self._like) / ROOM
        room = math.sqrt(max(bound**2 - update_norm(honest, start) ** 2, 0.0))
        return {**honest, name: honest[name] + np.float32(room / math.sqrt(honest[name].size))}


def own_pool(config: TrainConfig, dataset: DagDataset, setting: Setting, ue: int) -> TaskPool:
    """Returns the learning task of one UE under each of its systems.

    As for `meta_iteration`, the task is encoded at the size of the largest training set and then trimmed. The last bits
    of the encoding depend on that size, and where a gradient is nearly 0, Adam amplifies its last bits.
    """
    sizes, size_of_set = padded_sizes(setting.sizes)
    size, index = sizes[size_of_set[ue]], setting.sets[ue]
    graphs, goal = dataset.graphs(index), objective_of(dataset, index)
    systems = systems_of(dataset, index, config.channel)
    variants = [learning_task(graphs, system, config.network, setting.positions, goal) for system in systems]
    return TaskPool(jax.block_until_ready(trim(stack_alike([stack(variants)]), size)), (size,))


@partial(jax.jit, static_argnames=("network", "learning"))
def _adapt(
    network: NetworkConfig, learning: LearningConfig, params: Any, pool: TaskPool, batch: MetaBatch
) -> tuple[jax.Array, InnerMetrics]:
    return adapt_tasks(network, learning, TASK_AXIS, params, pool, batch)
