"""Which devices share the learning tasks of a meta-iteration, and how their results come together.

Every device runs the same program on replicated inputs: parameters and the pool of learning tasks. Each adapts to its
share of them and sums with the others along the axis `AXIS`; what comes out is replicated again. `shard_map` and `pmap`
are two ways to start that one program.

A host without accelerators has one device a core where `use_cores` was called first. One device that uses all cores
splits single matrix products among them, which gains less than one learning task each does
(`launch/bench.py --only=growth`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrlato_jax.config import ExecutionConfig
from mrlato_jax.errors import InputError

AXIS = "tasks"
ACCELERATOR_METRICS_EVERY = 10
_PATIENCE = {  # XLA by itself aborts the process where one of a host's devices waits for another for a minute
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 24 * 3600,
    "xla_cpu_collective_call_terminate_timeout_seconds": 7 * 24 * 3600,
}


def cores() -> int:
    """How many logical cores the process may use; a container's quota of their time is not looked at."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores() -> None:
    """Makes each core a device, for hosts without accelerators; call it before anything else of JAX.

    Where the environment names a number (JAX_NUM_CPU_DEVICES, or XLA_FLAGS) that many are made. However many there
    are, they may wait for each other as long as a task takes; what XLA_FLAGS says of that stays.

    Raises:
        RuntimeError: JAX has begun to compute.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    patience = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *patience])
    if "xla_force_host_platform_device_count" not in flags and jax.config.values["jax_num_cpu_devices"] < 0:
        jax.config.update("jax_num_cpu_devices", cores())


def drop_programs() -> None:
    """Forgets what was compiled: each program keeps memory maps, of which Linux by default allows a process 65,530."""
    jax.clear_caches()


def resolve(execution: ExecutionConfig, num_tasks: int) -> ExecutionConfig:
    """What the defaults stand for on this machine's devices; settings that were made stay.

    Args:
        execution: the settings.
        num_tasks: that are shared, of all seeds; a device that `share` would leave without any is not used.

    Raises:
        InputError: more devices than there are, or a part of those of several processes.
    """
    on_cpu, available = jax.default_backend() == "cpu", jax.device_count()
    values = dataclasses.asdict(execution)
    if execution.num_devices > available or (jax.process_count() > 1 and execution.num_devices not in (0, available)):
        one_or_more = "at most" if jax.process_count() == 1 else "0 or, with several processes, all"
        raise InputError(f"num_devices is {execution.num_devices}; accepted: {one_or_more} {available}")
    if execution.parallel == "single" and jax.process_count() > 1:
        raise InputError("parallel is 'single'; accepted with several processes: auto, shard_map, pmap")
    each = -(-num_tasks // min(available, num_tasks))
    useful = available if jax.process_count() > 1 else -(-num_tasks // each)
    if execution.parallel == "auto":
        values["parallel"] = "shard_map" if (execution.num_devices or useful) > 1 else "single"
    if execution.num_devices == 0:
        values["num_devices"] = 1 if values["parallel"] == "single" else useful
    if execution.task_axis == "auto":  # batched matmuls, one weight for each learning task, are slow on CPU
        values["task_axis"] = "map" if on_cpu else "vmap"
    if execution.metrics_every == 0:
        values["metrics_every"] = 1 if on_cpu else ACCELERATOR_METRICS_EVERY
    return ExecutionConfig(**values)


def mesh(num_devices: int) -> Mesh:
    """The first devices, of whatever process, along `AXIS`."""
    return Mesh(np.array(jax.devices()[:num_devices]), (AXIS,))


def share(items: Any, axis: str | None) -> tuple[Any, jax.Array]:
    """This device's part of what all have together, filled up to the same number on each.

    Args:
        items: pytree with leading axis J, the same on every device.
        axis: name of the device axis, or None for a program on one device.

    Returns:
        Entries ceil(J / devices) of them, and bool of that length: False on what only fills up.
    """
    total = jax.tree.leaves(items)[0].shape[0]
    if axis is None:
        return items, jnp.ones(total, bool)
    size = -(-total // jax.lax.axis_size(axis))
    slots = jax.lax.axis_index(axis) * size + jnp.arange(size)
    index = jnp.minimum(slots, total - 1)
    return jax.tree.map(lambda leaf: leaf[index], items), slots < total


def total(values: Any, axis: str | None) -> Any:
    """Sums each leaf over the devices."""
    return values if axis is None else jax.lax.psum(values, axis)


def pmap_devices(execution: ExecutionConfig) -> list[jax.Device] | None:
    """What `jax.pmap` takes as `devices`: None for all."""
    return None if execution.num_devices == jax.device_count() else jax.devices()[: execution.num_devices]


def place(tree: Any, execution: ExecutionConfig) -> Any:
    """Puts host values where `execution` (resolved) wants its inputs: on one device, or copied to all.

    With pmap every leaf gets a leading axis, one entry for each device of this process.
    """
    if execution.parallel == "single":
        return jax.tree.map(jnp.asarray, tree)
    host, typed = without_keys(tree)
    if execution.parallel == "pmap":
        copies = min(jax.local_device_count(), execution.num_devices)
        return jax.pmap(typed, devices=pmap_devices(execution))(
            jax.tree.map(lambda leaf: np.broadcast_to(leaf, (copies, *leaf.shape)), host)
        )
    return jax.jit(typed, out_shardings=NamedSharding(mesh(execution.num_devices), PartitionSpec()))(host)


def without_keys(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The tree in numpy, with the bits of typed PRNG keys in their place, and a function that makes them keys again."""
    is_key = jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), tree)
    plain = jax.tree.map(lambda leaf, key: np.asarray(jax.random.key_data(leaf) if key else leaf), tree, is_key)
    return plain, lambda tree: jax.tree.map(lambda x, key: jax.random.wrap_key_data(x) if key else x, tree, is_key)


def unbound(tree: Any) -> Any:
    """The same values, bound to no device, once they are there: a program that also takes others compiles once."""
    host, typed = without_keys(tree)
    return typed(host)


def fetch(tree: Any, execution: ExecutionConfig) -> Any:
    """Inverse of `place`: values of a replicated tree on this process's first device."""

    def local(leaf: jax.Array) -> jax.Array:
        own = leaf.addressable_data(0)
        return own[0] if execution.parallel == "pmap" else own

    return tree if execution.parallel == "single" else jax.tree.map(local, tree)
