"""A generator of applications in JAX, with the distributions of `dag.daggen` and `dag.families`.

`Applications` describes a distribution. `numbers` converts it to arrays, so that one program draws from any family, or
from several in turn. `draw` is pure and safe under `jax.jit` and `jax.vmap`; the padded size is fixed. The same key
gives the same application. The numpy generators of `dag` draw other applications of the same distribution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.daggen import CCR_CHOICES, CYCLES_PER_BYTE, SEND_KB
from mrlato_jax.dag.families import (
    FURTHER,
    IN_FULL,
    LEAST_STAGES,
    MOST_IN_FULL,
    MOST_JUMP,
    MOST_PINNED,
    MOST_STAGES,
    STAGED_COSTS,
    TASK_SECONDS,
    UNUSUAL,
    WIDE_COSTS,
    Costs,
    DaggenFamily,
    Family,
    StagedFamily,
    WideFamily,
)
from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten
from mrlato_jax.mec.graph_arrays import GraphArrays
from mrlato_jax.mec.system import BITS_PER_BYTE, System, of_servers

SHAPES = ("levels", "stages")
MOST_TASKS = 512  # limit of the padded size N: the choice of parents compares [N, N, N] numbers
ROWS = 48  # most vectors of random numbers for an application
ROUNDING = 1e-6  # relative tolerance: float32 may give 4.9999995 for 25**0.5

Pair = tuple[float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Applications:
    """A distribution of applications. Each pair is (least, most) of a uniform draw.

    The defaults are the paper's Experiment 2 with 20 tasks.

    Attributes:
        num_tasks: integers; the second is the default padded size N.
        shape: "levels" (`daggen`, with the four settings below) or "stages" (`StagedFamily`).
        fat: width of the levels, in [0, 1].
        density: share of the level above that a task may depend on, in [0, 1].
        regularity: greatest deviation of a level's width, in [0, 1].
        jump: integers; most levels that an edge of an application may span.
        upload_bytes: bytes that each task uploads, whole bytes.
        download_bytes: bytes that each task downloads; None: as many as it uploads.
        cycles: cycles of each task; None: `cycles_per_byte` times its upload bytes, divided by the application's ccr.
        ccr: ratios of communication to computation; each application has one of them.
        cycles_per_byte: cycles per byte at ccr 1.
        costs: deviations of tasks and stages, in place of the five fields above; `meant_for` gives the scale.
        meant_for: the system that `costs` refer to; its first server counts.
        pinned: whether some tasks may run only on the UE or only on servers, as in `families`.

    Raises:
        InputError: a field is outside its range.
    """

    num_tasks: tuple[int, int] = (20, 20)
    shape: str = "levels"
    fat: Pair = (0.4, 0.8)
    density: Pair = (0.4, 0.8)
    regularity: float = 0.5
    jump: tuple[int, int] = (1, 1)
    upload_bytes: Pair = (1e3 * SEND_KB[0], 1e3 * SEND_KB[1])
    download_bytes: Pair | None = None
    cycles: Pair | None = None
    ccr: tuple[float, ...] = CCR_CHOICES
    cycles_per_byte: float = CYCLES_PER_BYTE
    costs: Costs | None = None
    meant_for: System = dataclasses.field(default_factory=System)
    pinned: bool = False

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, SHAPES)
        whole = {"low": 1, "high": MOST_TASKS, "integer": True}
        for name in ("num_tasks", "jump"):
            self._check_pair(name, **whole)
        for name in ("fat", "density"):
            self._check_pair(name, low=0.0, high=1.0)
        check_number("regularity", self.regularity, low=0.0, high=1.0)
        for name in ("upload_bytes", "download_bytes", "cycles"):
            if name == "upload_bytes" or getattr(self, name) is not None:
                self._check_pair(name, low=0.0)
        if not isinstance(self.ccr, Sequence) or not self.ccr:
            raise InputError(f"ccr is {shorten(self.ccr)}; accepted: a sequence of at least one positive number")
        for i, ratio in enumerate(self.ccr):
            check_number(f"ccr[{i}]", ratio, low=0.0, open_low=True)
        object.__setattr__(self, "ccr", tuple(self.ccr))  # a tuple is equal by value and hashable
        check_number("cycles_per_byte", self.cycles_per_byte, low=0.0)
        if self.costs is not None:
            check_type("costs", self.costs, Costs)
        check_type("meant_for", self.meant_for, System)
        check_type("pinned", self.pinned, bool)

    def _check_pair(self, field: str, **bounds: Any) -> None:
        pair = getattr(self, field)
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise InputError(f"{field} is {shorten(pair)}; accepted: two numbers, the least and the most")
        for place, value in zip(("least", "most"), pair, strict=True):
            check_number(f"{field} ({place})", value, **bounds)
        if pair[0] > pair[1]:
            raise InputError(f"{field} is {shorten(pair)}; accepted: the least before the most")
        object.__setattr__(self, field, tuple(pair))

    @classmethod
    def of_family(cls, family: Family) -> Applications:
        """Returns the distribution that `family.sample` draws from. The family's system only scales its costs.

        Raises:
            InputError: the family is of an unknown class.
        """
        fields: dict[str, Any] = {"num_tasks": (family.num_tasks, family.num_tasks), "pinned": family.pinned}
        if isinstance(family, DaggenFamily):
            fields |= {"fat": family.fat, "density": family.density}
        elif isinstance(family, StagedFamily):
            fields |= {"shape": "stages"}
        else:
            accepted = ", ".join(kind.__name__ for kind in (DaggenFamily, WideFamily, StagedFamily))
            raise InputError(f"family is {shorten(family)}; accepted: {accepted}")
        if isinstance(family, WideFamily):
            fields |= {"jump": (1, MOST_JUMP)}
        if family.system is not None:
            costs = STAGED_COSTS if isinstance(family, StagedFamily) else WIDE_COSTS
            fields |= {"costs": costs, "meant_for": System(**family.system)}
        return cls(**fields)


class Numbers(NamedTuple):
    """`Applications` as arrays; several kinds have a leading axis."""

    num_tasks: Any  # int32[2]
    staged: Any  # bool
    fat: Any  # [2]
    density: Any  # [2]
    regularity: Any
    jump: Any  # int32[2]
    upload_bytes: Any  # [2]
    download_bytes: Any  # [2], negative: as many bytes as uploaded
    cycles: Any  # [2], negative: in proportion to bytes
    ccr: Any  # [C], the choices, padded with the last choice
    choices: Any  # int32, number of choices
    cycles_per_byte: Any
    deviates: Any  # bool, whether there are `Costs`
    upload: Any  # [2]
    download: Any  # [2]
    sigmas: Any  # [2], greatest sigma of stages and of tasks
    alike: Any
    unusual: Any
    scales: Any  # [3], cycles, upload bytes and download bytes of `TASK_SECONDS`
    pinned: Any  # bool


def numbers(kinds: Sequence[Applications]) -> Numbers:
    """Converts each kind of application to arrays for `draw`, on the host; leading axis `len(kinds)`."""
    most_choices = max(len(kind.ccr) for kind in kinds)
    by_default = (-1.0, -1.0)

    def of(kind: Applications) -> Numbers:
        costs, system = kind.costs or WIDE_COSTS, kind.meant_for
        up, down = (of_servers(system, name)[0] / BITS_PER_BYTE for name in ("uplink_bps", "downlink_bps"))
        return Numbers(
            num_tasks=kind.num_tasks,
            staged=kind.shape == "stages",
            fat=kind.fat,
            density=kind.density,
            regularity=kind.regularity,
            jump=kind.jump,
            upload_bytes=kind.upload_bytes,
            download_bytes=kind.download_bytes or by_default,
            cycles=kind.cycles or by_default,
            ccr=(*kind.ccr, *[kind.ccr[-1]] * (most_choices - len(kind.ccr))),
            choices=len(kind.ccr),
            cycles_per_byte=kind.cycles_per_byte,
            deviates=kind.costs is not None,
            upload=costs.upload,
            download=costs.download,
            sigmas=(costs.of_stages, costs.of_tasks),
            alike=costs.alike,
            unusual=costs.unusual,
            scales=(TASK_SECONDS * float(system.ue_hz), TASK_SECONDS * up, TASK_SECONDS * down),
            pinned=kind.pinned,
        )

    columns = zip(*map(of, kinds), strict=True)
    return Numbers(*(_narrow(np.array(column)) for column in columns))


def _narrow(values: np.ndarray) -> np.ndarray:
    return values.astype({"f": np.float32, "i": np.int32, "b": bool}[values.dtype.kind])


class _Layers(NamedTuple):
    """The levels or stages of one application, and the place of each task."""

    of: jax.Array  # int32[N], layer of each task
    own: jax.Array  # int32[N], place of each task in its layer
    width: jax.Array  # int32[N], width of each task's layer
    widths: jax.Array  # int32[N], width of each layer, 0 beyond the last layer


class _Uniform:
    """Random numbers in [0, 1), handed out one after the other.

    One call of the generator draws all of them, since a call for each would take ten times as long to compile.
    """

    def __init__(self, key: jax.Array, size: int) -> None:
        self._numbers = jax.random.uniform(key, (ROWS + 2 * size, size))
        self._size, self._given = size, 0

    def _take(self, rows: int) -> jax.Array:
        self._given += rows
        assert self._given <= self._numbers.shape[0], "ROWS is too small"
        return self._numbers[self._given - rows : self._given]

    def matrix(self) -> jax.Array:
        """[N, N]."""
        return self._take(self._size)

    def vector(self) -> jax.Array:
        """[N]."""
        return self._take(1)[0]

    def number(self) -> jax.Array:
        return self._take(1)[0, 0]

    def integer(self, least: jax.Array, most: jax.Array) -> jax.Array:
        """int32, uniform from the least to the most."""
        return least + jnp.floor((most - least + 1) * self.number()).astype(jnp.int32)

    def normal(self) -> jax.Array:
        """[N], normal with mean 0 and deviation 1, by the method of Box and Muller, as in `families`."""
        return jnp.sqrt(-2 * jnp.log1p(-self.vector())) * jnp.cos(2 * jnp.pi * self.vector())


def draw(kind: Numbers, key: jax.Array, num_positions: int, *, most_jump: int = 1, pins: bool = False) -> GraphArrays:
    """Draws one application.

    Task ids ascend layer by layer, so that each edge goes from a lower to a higher id.

    Args:
        kind: `numbers` of one kind, no leading axis.
        key: random key of the application.
        num_positions: N, at least the most tasks of the kind; static.
        most_jump: the most levels that an edge of any kind spans; static.
        pins: whether to draw pins, where the kind has pins; static.

    Returns:
        `GraphArrays` of one DAG, no leading axes; float32.
    """
    kind, uniform = jax.tree.map(jnp.asarray, kind), _Uniform(key, num_positions)
    n = uniform.integer(*kind.num_tasks)
    ids = jnp.arange(num_positions, dtype=jnp.int32)
    mask = ids < n
    widths = jnp.where(kind.staged, _widths_of_stages(n, num_positions, uniform), _widths_of_levels(kind, n, uniform))
    ends = jnp.cumsum(widths)
    of = jnp.minimum((ends[None, :] <= ids[:, None]).sum(axis=1, dtype=jnp.int32), num_positions - 1)
    starts = ends - widths
    widths = jnp.clip(n - starts, 0, widths)  # cuts the last level
    layers = _Layers(of, ids - starts[of], widths[of], widths)
    of_levels, of_stages = _edges_of_levels(kind, layers, uniform, most_jump), _edges_of_stages(layers, uniform)
    parents = jnp.where(kind.staged, of_stages, of_levels) & mask[:, None] & mask[None, :]
    cycles, upload, download = _costs(kind, layers, mask, uniform)
    at_ue, at_server = _pins(kind, parents, mask, uniform) if pins else (None, None)
    return GraphArrays(cycles, upload, download, parents, mask, ids, at_ue, at_server)


def _between(uniform: jax.Array, pair: jax.Array) -> jax.Array:
    return pair[0] + (pair[1] - pair[0]) * uniform


def _widths_of_levels(kind: Numbers, n: jax.Array, uniform: _Uniform) -> jax.Array:
    """Returns the widths of levels as `daggen` draws them, before the last level is cut: int32[N]."""
    mean = jnp.floor(n ** _between(uniform.number(), kind.fat) * (1 + ROUNDING))
    deviation = kind.regularity * (2 * uniform.vector() - 1)
    return jnp.maximum(1, jnp.floor(mean * (1 + deviation))).astype(jnp.int32)


def _widths_of_stages(n: jax.Array, size: int, uniform: _Uniform) -> jax.Array:
    """Returns the widths of stages as `StagedFamily` draws them: int32[N], 0 beyond the last stage."""
    most = jnp.minimum(MOST_STAGES, n)
    extra = jnp.floor((most - 1) * uniform.number()).astype(jnp.int32)
    count = jnp.minimum(n, LEAST_STAGES + extra)
    there = jnp.arange(size) < count
    weights = jnp.where(there, jnp.log1p(-uniform.vector()) ** 2, 0)
    share = (n - count) * weights / jnp.maximum(weights.sum(), jnp.finfo(weights.dtype).tiny)
    widths = jnp.where(there, 1 + jnp.floor(share).astype(jnp.int32), 0)
    return widths.at[jnp.argmax(weights)].add(n - widths.sum())


def _edges_of_levels(kind: Numbers, layers: _Layers, uniform: _Uniform, most_jump: int) -> jax.Array:
    """Returns bool[N, N], [child, parent]. Each child draws how many parents it takes of each level in reach."""
    size = layers.of.shape[0]
    above = jnp.where(layers.of > 0, layers.widths[jnp.maximum(layers.of - 1, 0)], 0)
    density = _between(uniform.number(), kind.density)
    count = jnp.minimum(1 + jnp.floor(uniform.vector() * density * above).astype(jnp.int32), above)
    drawn = jnp.arange(size)[None, :] < count[:, None]  # [child, k-th parent]
    jump = uniform.integer(*kind.jump)
    spans = 1 + jnp.floor(jump * uniform.matrix()).astype(jnp.int32)
    wanted = jnp.zeros((size, size), jnp.int32)
    for span in range(1, most_jump + 1):
        source = jnp.maximum(layers.of - span, 0)
        of_span = (drawn & (spans == span)).sum(axis=1, dtype=jnp.int32)
        wanted += jnp.where(source[:, None] == layers.of[None, :], of_span[:, None], 0)
    # The tasks with the lowest random numbers of their level are a uniform subset.
    lots = uniform.matrix()
    alike = layers.of[:, None] == layers.of[None, :]
    before = (alike[None] & (lots[:, None, :] < lots[:, :, None])).sum(axis=-1, dtype=jnp.int32)
    return before < wanted


def _edges_of_stages(layers: _Layers, uniform: _Uniform) -> jax.Array:
    """Returns bool[N, N], [child, parent].

    Parents are the partners in the stage before, or all tasks of that stage, and in some stages also the partners two
    stages before.
    """
    full, further = uniform.vector(), uniform.vector()  # by stage
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), layers.widths[:-1]])
    in_full = (full < IN_FULL) & (before * layers.widths <= MOST_IN_FULL)
    child, parent = layers.own[:, None], layers.own[None, :]
    of_child, of_parent = jnp.maximum(layers.width[:, None], 1), jnp.maximum(layers.width[None, :], 1)
    partners = jnp.where(
        of_parent >= of_child, parent * of_child // of_parent == child, child * of_parent // of_child == parent
    )
    span = layers.of[:, None] - layers.of[None, :]
    of_next = (span == 1) & (partners | in_full[layers.of][:, None])
    return of_next | ((span == 2) & partners & (further < FURTHER)[layers.of][:, None])


def _costs(
    kind: Numbers, layers: _Layers, mask: jax.Array, uniform: _Uniform
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns cycles, upload and download bytes, each [N], 0 on padding, in whole units."""
    plain, deviating = _plain_costs(kind, uniform), _deviating_costs(kind, layers, mask, uniform)
    chosen = [jnp.where(kind.deviates, *both) for both in zip(deviating, plain, strict=True)]
    cycles, upload, download = (jnp.where(mask, jnp.rint(values), 0) for values in chosen)
    return cycles, upload, download


def _plain_costs(kind: Numbers, uniform: _Uniform) -> tuple[jax.Array, jax.Array, jax.Array]:
    upload, download, cycles = (
        jnp.rint(_between(uniform.vector(), pair)) for pair in (kind.upload_bytes, kind.download_bytes, kind.cycles)
    )
    ccr = kind.ccr[uniform.integer(jnp.zeros((), jnp.int32), kind.choices - 1)]
    download = jnp.where(kind.download_bytes[0] < 0, upload, download)
    return jnp.where(kind.cycles[0] < 0, kind.cycles_per_byte * upload / ccr, cycles), upload, download


def _deviating_costs(
    kind: Numbers, layers: _Layers, mask: jax.Array, uniform: _Uniform
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns costs as `families` draws them by `Costs`."""
    exists = layers.widths > 0

    def deviation() -> jax.Array:
        of_stages = _spread(uniform, kind.sigmas[0], exists)[layers.of]
        factors = jnp.where(mask, of_stages * _spread(uniform, kind.sigmas[1], mask), 0)
        return factors / factors.sum() * mask.sum()

    def ratio(pair: jax.Array) -> jax.Array:
        return pair[0] * (pair[1] / pair[0]) ** uniform.number()

    cycles = kind.scales[0] * deviation()
    upload_mean, download_mean = kind.scales[1] * ratio(kind.upload), kind.scales[2] * ratio(kind.download)
    alike = uniform.number() < kind.alike
    upload, download = upload_mean * deviation(), download_mean * deviation()
    upload = jnp.where(alike, upload_mean * cycles / kind.scales[0], upload)
    download = jnp.where(alike, upload, download)
    silent = uniform.vector() < UNUSUAL
    idle = (uniform.vector() < UNUSUAL) & ~silent
    unusual = (uniform.number() < kind.unusual) & ~(idle | ~mask).all()
    sends = ~(unusual & silent)
    return jnp.where(unusual & idle, 0, cycles), jnp.where(sends, upload, 0), jnp.where(sends, download, 0)


def _spread(uniform: _Uniform, most: jax.Array, exists: jax.Array) -> jax.Array:
    """Returns log-normal factors of mean 1 over the entries that exist; their sigma is uniform up to `most`."""
    factors = jnp.where(exists, jnp.exp(most * uniform.number() * uniform.normal()), 0)
    return factors / factors.sum() * exists.sum()


def _pins(kind: Numbers, parents: jax.Array, mask: jax.Array, uniform: _Uniform) -> tuple[jax.Array, jax.Array]:
    """Returns whether each task may run on the UE, and on a server: bool[N] each, drawn as in `families`."""
    on_ue, of_ends = uniform.vector() < 0.5, uniform.number() < 0.5
    at_an_end = ~parents.any(axis=0) | ~parents.any(axis=1)
    chosen = uniform.vector() < MOST_PINNED * uniform.number()
    pinned = kind.pinned & mask & jnp.where(of_ends, at_an_end & on_ue, chosen)
    only_ue, only_server = pinned & on_ue, pinned & ~on_ue
    return ~only_server, ~only_ue
