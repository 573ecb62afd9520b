"""Data parallelism: devices share the learning tasks of a meta-iteration, and sums over devices combine the results.

Every device runs the same program on replicated inputs: parameters and the pool of learning tasks. Each device adapts
to its share of the tasks. Sums along the axis `AXIS` combine the results, so the outputs are replicated, too.
`shard_map` and `pmap` are two ways to start this program.

On a host without accelerators, `use_cores` makes each core a device. One learning task per core is faster than one
device that splits single matrix products among all cores (`launch/bench.py --only=growth`).
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
_PATIENCE = {  # by default, XLA aborts the process when one of a host's devices waits a minute for another
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 24 * 3600,
    "xla_cpu_collective_call_terminate_timeout_seconds": 7 * 24 * 3600,
}


def cores() -> int:
    """Returns the number of logical cores that the process may use; ignores a container's CPU quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores() -> None:
    """Makes each core a device, for hosts without accelerators. Call this before any other use of JAX.

    A number of devices in the environment (JAX_NUM_CPU_DEVICES, or XLA_FLAGS) takes precedence. The timeouts of
    collective operations are raised, so devices may wait for each other as long as a task takes; timeouts set in
    XLA_FLAGS stay.

    Raises:
        RuntimeError: JAX is already initialised.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    patience = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *patience])
    if "xla_force_host_platform_device_count" not in flags and jax.config.values["jax_num_cpu_devices"] < 0:
        jax.config.update("jax_num_cpu_devices", cores())


def drop_programs() -> None:
    """Frees all compiled programs. Each keeps memory maps; Linux by default allows 65,530 maps per process."""
    jax.clear_caches()


def resolve(execution: ExecutionConfig, num_tasks: int) -> ExecutionConfig:
    """Replaces the defaults of `execution` by values for this machine's devices; keeps explicit settings.

    Args:
        execution: the settings.
        num_tasks: number of learning tasks to share, over all seeds. Devices that `share` would leave without a task
            are not used.

    Raises:
        InputError: more devices than available, or only some of the devices of several processes.
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
    if execution.task_axis == "auto":  # batched matmuls, with one weight for each learning task, are slow on CPUs
        values["task_axis"] = "map" if on_cpu else "vmap"
    if execution.metrics_every == 0:
        values["metrics_every"] = 1 if on_cpu else ACCELERATOR_METRICS_EVERY
    return ExecutionConfig(**values)


def mesh(num_devices: int) -> Mesh:
    """Returns a mesh of the first `num_devices` devices of all processes, along `AXIS`."""
    return Mesh(np.array(jax.devices()[:num_devices]), (AXIS,))


def share(items: Any, axis: str | None) -> tuple[Any, jax.Array]:
    """Returns this device's share of replicated items, padded to equal length on all devices.

    Args:
        items: pytree with leading axis J, the same on every device.
        axis: name of the device axis, or None for a program on one device.

    Returns:
        ceil(J / devices) items, and a bool array of that length: False on padding.
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
    """Returns the argument `devices` of `jax.pmap`: None for all."""
    return None if execution.num_devices == jax.device_count() else jax.devices()[: execution.num_devices]


def place(tree: Any, execution: ExecutionConfig) -> Any:
    """Places host values as inputs for `execution` (resolved): on one device, or replicated on all.

    With pmap every leaf gets a leading axis with one entry for each device of this process.
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
    """Converts a tree to numpy, typed PRNG keys to their bits; also returns a function that restores the keys."""
    is_key = jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), tree)
    plain = jax.tree.map(lambda leaf, key: np.asarray(jax.random.key_data(leaf) if key else leaf), tree, is_key)
    return plain, lambda tree: jax.tree.map(lambda x, key: jax.random.wrap_key_data(x) if key else x, tree, is_key)


def unbound(tree: Any) -> Any:
    """Returns uncommitted arrays of the same values, so that programs are not compiled again for committed inputs."""
    host, typed = without_keys(tree)
    return typed(host)


def fetch(tree: Any, execution: ExecutionConfig) -> Any:
    """Inverse of `place`: returns the values of a replicated tree on this process's first device."""

    def local(leaf: jax.Array) -> jax.Array:
        own = leaf.addressable_data(0)
        return own[0] if execution.parallel == "pmap" else own

    return tree if execution.parallel == "single" else jax.tree.map(local, tree)
