"""A policy as a compiled program's source: `jax.export` bytes that need JAX alone, not this package.

The durable form of a policy is its weights (`inference.weights`); this one is a cache of it, for a JAX at most six
months away from the one that wrote it. Needs the extra `export`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from mrlato_jax.errors import check_choice, check_number, check_type
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.system import CHANNELS

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_program(
    policy: Offloader, num_positions: int, channel: str = "paper", platforms: Sequence[str] = PLATFORMS[:2]
) -> bytes:
    """Writes `Offloader.decide` for any number of DAGs of at most so many tasks.

    In another process, with JAX alone:

        program = jax.export.deserialize(data)
        placement, order, makespans = program.call(ue, uplink, vm, downlink, parents, mask)

    The first four are float32[B, N], seconds, in scheduling order, 0 on padding, of the one server. parents is
    bool[B, N, N], true at [b, i, j] where the task at position j is a parent of the one at i; mask is bool[B, N]. What
    comes back is the three arrays of a `Decision`, int32[B, N], int32[B, N] and float32[B]; its order has positions in
    place of task ids.

    Args:
        policy: the policy.
        num_positions: N, at least 1.
        channel: the channel rules, of those by which all results return.
        platforms: that the program can run on.

    Raises:
        InputError: an argument out of its range.
        ImportError: the package `flatbuffers` is not installed.
    """
    check_type("policy", policy, Offloader)
    check_number("num_positions", num_positions, low=1, integer=True)
    check_choice("channel", channel, [name for name, rules in CHANNELS.items() if not rules.results_stay])
    for name in platforms:
        check_choice("platforms", name, PLATFORMS)
    size = num_positions

    def decide_one(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        ue, uplink, vm, downlink, parents, mask = leaves
        order = jnp.arange(size, dtype=jnp.int32)
        dag = DagArrays(ue, uplink[:, None], vm[:, None], downlink[:, None], parents, mask, order, channel)
        # A plain tuple: a process without this package knows no Decision.
        return tuple(leaf[0] for leaf in policy.decide(jax.tree.map(lambda leaf: leaf[None], dag)))

    (batch,) = jax.export.symbolic_shape("b")
    times = [jax.ShapeDtypeStruct((batch, size), jnp.float32)] * 4
    shapes = (
        *times,
        jax.ShapeDtypeStruct((batch, size, size), jnp.bool_),
        jax.ShapeDtypeStruct((batch, size), jnp.bool_),
    )
    exported = jax.export.export(jax.jit(jax.vmap(decide_one)), platforms=tuple(platforms))(*shapes)
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ImportError("exporting needs the package flatbuffers (pip install 'mrlato-jax[export]')") from None
