"""A policy as a `jax.export` program, which runs with JAX and without this package. Needs the extra `export`.

The durable form of a policy is its weights (`inference.weights`). A program is a cache: it runs only with a JAX at most
six months older or newer than the JAX that wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from mrlato_jax.errors import InputError, check_choice, check_number, check_type
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.objective import Prices
from mrlato_jax.mec.system import CHANNELS, MOST_SERVERS, RADIOS

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def to_program(
    policy: Offloader,
    num_positions: int,
    channel: str = "paper",
    platforms: Sequence[str] = PLATFORMS[:2],
    *,
    num_servers: int = 1,
    radio: str = "shared",
    pins: bool = False,
    energy: bool = False,
) -> bytes:
    """Exports `Offloader.decide` for any number of DAGs of at most `num_positions` tasks.

    Another process runs the program with JAX alone:

        program = jax.export.deserialize(data)
        placement, order, makespans = program.call(ue, uplink, vm, downlink, parents, mask)

    The first four arguments are seconds in scheduling order, 0 on padding: ue is float32[B, N]; uplink, vm and downlink
    are float32[B, N], or float32[B, N, K] for K > 1 servers. parents is bool[B, N, N], true at [b, i, j] where the task
    at position j is a parent of the task at position i. mask is bool[B, N]. Further arguments, where they apply, follow
    in this order:

        forward    float32, of the shape of uplink, seconds to send a task's result up to a server; with "resident"
        backhaul   float32[B, N], seconds to send a task's result from one server to another; with "resident"
        allowed    bool[B, N, K + 1], the sites that pins allow to each task (0 the UE, 1 to K the servers); with `pins`
        prices     float32[B, 4], costs of a second of makespan, of computing on the UE, of sending and of receiving;
                   with `energy`

    The program returns the three arrays of a `Decision`: int32[B, N], int32[B, N] and float32[B]. Its order has
    positions in place of task ids.

    Args:
        policy: the policy.
        num_positions: N, at least 1.
        channel: the channel rules.
        platforms: platforms that the program can run on.
        num_servers: K.
        radio: "shared" or "separate".
        pins: whether the program takes `allowed`; without `allowed`, every task may run anywhere.
        energy: whether the program takes `prices`; without `prices`, the makespan alone counts.

    Returns:
        The serialized program.

    Raises:
        InputError: an argument is out of its range, or there are several servers or energy and the policy knows one
            server and the makespan.
        ImportError: the package `flatbuffers` is not installed.
    """
    check_type("policy", policy, Offloader)
    check_number("num_positions", num_positions, low=1, integer=True)
    check_choice("channel", channel, tuple(CHANNELS))
    check_number("num_servers", num_servers, low=1, high=MOST_SERVERS, integer=True)
    check_choice("radio", radio, RADIOS)
    check_type("pins", pins, bool)
    check_type("energy", energy, bool)
    for name in platforms:
        check_choice("platforms", name, PLATFORMS)
    if not policy.network.any_servers and num_servers > 1:
        raise InputError(f"num_servers is {num_servers}; accepted: 1, which this policy knows")
    if not policy.network.any_servers and energy:
        raise InputError("energy is True; accepted: False, since this policy knows only the makespan")
    size, stays = num_positions, CHANNELS[channel].results_stay

    def of_servers(times: jax.Array) -> jax.Array:
        return times[:, None] if num_servers == 1 else times

    def decide_one(given: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
        dag = DagArrays(
            ue=given["ue"],
            uplink=of_servers(given["uplink"]),
            vm=of_servers(given["vm"]),
            downlink=of_servers(given["downlink"]),
            parents=given["parents"],
            mask=given["mask"],
            order=jnp.arange(size, dtype=jnp.int32),
            channel=channel,
            radio=radio,
            allowed=given.get("allowed"),
            forward=of_servers(given["forward"]) if stays else None,
            backhaul=given.get("backhaul"),
            prices=Prices(*given["prices"]) if energy else None,
        )
        # A plain tuple: a process without this package knows no Decision.
        return tuple(leaf[0] for leaf in policy.decide(jax.tree.map(lambda leaf: leaf[None], dag)))

    (batch,) = jax.export.symbolic_shape("b")
    of_task = jax.ShapeDtypeStruct((batch, size), jnp.float32)
    of_server = of_task if num_servers == 1 else jax.ShapeDtypeStruct((batch, size, num_servers), jnp.float32)
    shapes = {
        "ue": of_task,
        "uplink": of_server,
        "vm": of_server,
        "downlink": of_server,
        "parents": jax.ShapeDtypeStruct((batch, size, size), jnp.bool_),
        "mask": jax.ShapeDtypeStruct((batch, size), jnp.bool_),
    }
    if stays:
        shapes |= {"forward": of_server, "backhaul": of_task}
    if pins:
        shapes["allowed"] = jax.ShapeDtypeStruct((batch, size, num_servers + 1), jnp.bool_)
    if energy:
        shapes["prices"] = jax.ShapeDtypeStruct((batch, len(Prices._fields)), jnp.float32)

    def decide_all(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return jax.vmap(decide_one)(dict(zip(shapes, arrays, strict=True)))

    exported = jax.export.export(jax.jit(decide_all), platforms=tuple(platforms))(*shapes.values())
    try:
        return bytes(exported.serialize())
    except ImportError:
        raise ImportError("exporting needs the package flatbuffers (pip install 'mrlato-jax[export]')") from None
