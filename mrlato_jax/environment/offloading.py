"""The environment for reinforcement learning: the decision process of `process` with a new application each episode.

    env = Offloading(Applications(num_tasks=(10, 30)), System())
    state, observation = env.reset(jax.random.key(0))
    state, observation, reward, done = env.step(state, action)

`reset`, `step` and `allowed` are pure functions of one episode, safe under `jax.jit` and `jax.vmap`. All applications
are padded to one size, so episodes of different lengths run side by side.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import CANDIDATES, REWARD_SCALES
from mrlato_jax.dag.families import FAMILIES, Family
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment import process
from mrlato_jax.environment.features import (
    OPTION_FEATURES,
    FeatureSettings,
    encode,
    num_features,
    option_features,
    time_scale,
)
from mrlato_jax.environment.generator import MOST_TASKS, Applications, Numbers, draw, numbers
from mrlato_jax.environment.reward import all_local_cost
from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays, pack, padded_to
from mrlato_jax.mec.graph_arrays import arrays
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import OF_SERVERS, System, host_number, of_servers

ALL_FEATURES = FeatureSettings(outlook=True, any_servers=True)  # for any number of parents, children and servers


class EpisodeState(NamedTuple):
    """One episode between two decisions. A pytree.

    Attributes:
        dag: the application on its system, no leading axes.
        decisions: state of `process.step`; `decisions.queues.makespan` is the makespan of the tasks placed so far.
        tasks: float[N, F], `features.encode` of the DAG.
        scale: `features.time_scale` of the DAG, seconds.
        action_mask: bool[A], the actions allowed next.
    """

    dag: DagArrays
    decisions: process.State
    tasks: jax.Array
    scale: jax.Array
    action_mask: jax.Array


class Observation(NamedTuple):
    """Observation before a decision. A pytree of arrays; N is the padded number of tasks, A the number of actions.

    Attributes:
        tasks: float[N, F], features of each task, by place in the priority order: its times, its neighbours' times,
            and the tasks after it (`features.encode`); 0 on padding.
        parents: bool[N, N], `parents[i, j]`: the task at j is a parent of the task at i.
        placed: bool[N], whether each task is placed.
        position: int32, position of the unplaced task of the highest priority, the next in the priority order.
        options: float[A, 9], the simulator's quantities of each action (`features.option_features`); 0 where the action
            is not allowed.
        action_mask: bool[A], the allowed actions.
    """

    tasks: jax.Array
    parents: jax.Array
    placed: jax.Array
    position: jax.Array
    options: jax.Array
    action_mask: jax.Array


class _Row(NamedTuple):
    """An application kind on a system, as arrays; several have a leading axis."""

    kind: Numbers
    rates: tuple[Any, ...]  # ue_hz, the three of `OF_SERVERS` [K] and backhaul_bps
    energy_weight: Any


@dataclasses.dataclass(frozen=True, eq=False)  # `__eq__` below compares the meaning of the fields
class Offloading:
    """The environment. Each episode places the tasks of one application, one after the other.

    An action is a site: 0 the UE, 1 to K the servers. With `in_order=False`, an action is `actions.pack` of a position
    and a site, and also chooses the next task. The reward is minus the growth of the makespan (of the cost). So the
    rewards sum to minus the makespan (the cost).

    Environments are equal by value and hashable: a program compiled for one environment serves all equal environments.

    Attributes:
        applications: distribution of the applications: `Applications`, a `Family`, or a sequence of them with equal
            probabilities; or a `TaskGraph`, or a sequence of them, one of them in each episode.
        system: the system of the applications, or a sequence of systems with equal probabilities; all have the same
            channel, radio, power and number of servers. By default a family's own system, else `System()`.
        objective: the objective to minimise. By default a family's energy weight, else the makespan. A deadline needs
            applications given as graphs.
        in_order: whether tasks are placed in the priority order (13).
        candidates: with a free order, number of ready tasks, those of the highest priority, that may be next.
        reward_scale: "none": rewards are seconds; "all_local": rewards are shares of the cost of all tasks on the UE.
        num_positions: N; by default the largest number of tasks.

    Raises:
        InputError: a field is out of its range, or systems differ in channel, radio, power or number of servers.
    """

    applications: Any = dataclasses.field(default_factory=Applications)
    system: System | Sequence[System] | None = None
    objective: Objective | None = None
    in_order: bool = True
    candidates: int = CANDIDATES
    reward_scale: str = "none"
    num_positions: int | None = None

    def __post_init__(self) -> None:
        check_type("in_order", self.in_order, bool)
        check_number("candidates", self.candidates, low=1, integer=True)
        check_choice("reward_scale", self.reward_scale, REWARD_SCALES)
        if self.objective is not None:
            check_type("objective", self.objective, Objective)
        if not self.draws:
            padded_to("applications", self._entries, self.num_positions)
            self._packed  # noqa: B018 (packing checks the other fields)
        elif self.objective is not None and self.objective.deadline_s is not None:
            raise InputError(
                f"objective has deadline_s {self.objective.deadline_s}; accepted with applications that are drawn: "
                "None, since each application has its own latency (give applications as graphs)"
            )
        elif self.num_positions is not None:
            most = max(kind.num_tasks[1] for kind, _, _ in self._kinds)
            check_number("num_positions", self.num_positions, low=most, high=MOST_TASKS, integer=True)
        else:
            self._kinds  # noqa: B018

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Offloading) and self._value == other._value)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _value(self) -> tuple[Any, ...]:
        known = tuple(self._kinds) if self.draws else (self._entries, self._systems)
        options = (self.in_order, self.candidates, self.reward_scale, self.num_tasks)
        return known, self.objective, *options

    @cached_property
    def _hash(self) -> int:
        return hash(self._value)

    @cached_property
    def _entries(self) -> tuple[Any, ...]:
        """The entries of `applications`: all distributions, or all graphs."""
        accepted = "accepted: Applications, a Family, a TaskGraph, or a sequence (of TaskGraph alone, or of the others)"
        given = self.applications
        entries = [given] if isinstance(given, Applications | Family | TaskGraph) else given
        if isinstance(given, str):
            groups = ", ".join(f"FAMILIES[{name!r}]" for name in FAMILIES)
            raise InputError(
                f"applications is {shorten(given)}; {accepted}, such as one of mrlato_jax.dag.families: {groups}"
            )
        if not isinstance(entries, Sequence) or not entries:
            raise InputError(f"applications is {shorten(entries)}; {accepted}")
        kinds = (TaskGraph,) if isinstance(entries[0], TaskGraph) else (Applications, Family)
        for i, entry in enumerate(entries):
            if not isinstance(entry, kinds):
                raise InputError(f"applications[{i}] is {shorten(entry)}; {accepted}")
        return tuple(entries)

    @cached_property
    def _systems(self) -> tuple[System, ...]:
        """The entries of `system`; empty where `system` is None."""
        if self.system is None:
            return ()
        systems = (self.system,) if isinstance(self.system, System) else self.system
        if not isinstance(systems, Sequence) or not systems:
            raise InputError(f"system is {shorten(systems)}; accepted: a System, or a sequence of at least one")
        for i, system in enumerate(systems):
            check_type(f"system[{i}]", system, System)
        return tuple(map(_plain, systems))

    @cached_property
    def _kinds(self) -> list[tuple[Applications, System, float]]:
        """Each kind of application with each of its systems, and its weight of energy."""
        kinds = []
        for entry in self._entries:
            own = entry.system if isinstance(entry, Family) else None
            systems = self._systems or (_plain(System() if own is None else System(**own)),)
            weight = entry.energy_weight if isinstance(entry, Family) else 0.0
            weight = weight if self.objective is None else self.objective.energy_weight
            kind = Applications.of_family(entry) if isinstance(entry, Family) else entry
            kinds += [(kind, system, weight) for system in systems]
        first = kinds[0][1]
        for _, system, _ in kinds:
            for name in ("channel", "radio", "num_servers", "power"):
                if getattr(system, name) != getattr(first, name):
                    raise InputError(
                        f"system has {name} {getattr(system, name)!r} for some episodes; accepted: "
                        f"{getattr(first, name)!r}, as in the first (with applications that are drawn)"
                    )
        return kinds

    @cached_property
    def _rows(self) -> _Row:
        """`_kinds` as arrays; the leading axis is their number."""
        kinds, systems, weights = zip(*self._kinds, strict=True)
        names = ("ue_hz", *OF_SERVERS, "backhaul_bps")
        rates = [np.array([getattr(system, name) for system in systems], np.float32) for name in names]
        return _Row(numbers(kinds), tuple(rates), np.array(weights, np.float32))

    @cached_property
    def _packed(self) -> DagArrays:
        """Each graph on each system, on the host; the leading axis is their number."""
        pairs = list(itertools.product(self._entries, self._systems or (System(),)))
        graphs, systems = [graph for graph, _ in pairs], [system for _, system in pairs]
        return pack(graphs, systems, num_positions=self.num_positions, objective=self.objective)

    @property
    def draws(self) -> bool:
        """Whether applications are drawn from distributions; otherwise they are given as graphs."""
        return not isinstance(self._entries[0], TaskGraph)

    @property
    def num_sites(self) -> int:
        """K + 1: the UE and the servers."""
        return self._kinds[0][1].num_sites if self.draws else self._packed.num_sites

    @property
    def num_tasks(self) -> int:
        """N: the padded number of tasks, and the most decisions of an episode."""
        if not self.draws:
            return self._packed.mask.shape[1]
        return self.num_positions or max(kind.num_tasks[1] for kind, _, _ in self._kinds)

    @property
    def num_actions(self) -> int:
        """A: the number of sites; with a free order, the number of tasks times sites."""
        return self.num_sites * (1 if self.in_order else self.num_tasks)

    @property
    def num_episodes(self) -> int:
        """Number of entries that `reset` draws from: kinds of applications, or graphs, each on each system."""
        return len(self._kinds) if self.draws else self._packed.mask.shape[0]

    @property
    def num_features(self) -> tuple[int, int]:
        """Numbers of features of a task and of an option: last axes of `Observation.tasks` and of its `options`."""
        return num_features(ALL_FEATURES), OPTION_FEATURES

    def reset(self, key: jax.Array, index: jax.Array | int | None = None) -> tuple[EpisodeState, Observation]:
        """Begins an episode.

        Args:
            key: random key of the application and its system.
            index: index below `num_episodes` of the kind of application (or graph) and the system; by default drawn.
                Inside `jax.jit` the range is not checked, and an index outside it begins another entry's episode.

        Returns:
            The state before the first decision, and its observation.

        Raises:
            InputError: `key` is no array, or `index` is not one integer or, where it is known, out of its range.
        """
        if not isinstance(key, jax.Array | np.ndarray):
            raise InputError(f"key is {shorten(key)}; accepted: a random key, such as jax.random.key(0)")
        if index is not None:
            _check_integer("index", index, self.num_episodes - 1)
        index_key, key = jax.random.split(key)
        if index is None:
            index = jax.random.randint(index_key, (), 0, self.num_episodes)
        index = jnp.asarray(index)
        dag = self._drawn(index, key) if self.draws else _take(self._packed, index)
        decisions = process.reset(dag)
        state = EpisodeState(dag, decisions, encode(dag, ALL_FEATURES), time_scale(dag), self._allowed(dag, decisions))
        return state, self.observe(state)

    def _drawn(self, index: jax.Array, key: jax.Array) -> DagArrays:
        row, first = _take(self._rows, index), self._kinds[0][1]
        ue_hz, *of_each, backhaul_bps = row.rates
        rates_of: dict[str, Any] = {
            name: tuple(rates[server] for server in range(first.num_servers))
            for name, rates in zip(OF_SERVERS, of_each, strict=True)
        }
        system = dataclasses.replace(first, ue_hz=ue_hz, **rates_of)
        most_jump = max(kind.jump[1] for kind, _, _ in self._kinds)
        pins = any(kind.pinned for kind, _, _ in self._kinds)
        graph = draw(row.kind, key, self.num_tasks, most_jump=most_jump, pins=pins)
        priced = any(weight for _, _, weight in self._kinds)
        dag = arrays(graph, system, energy_weight=row.energy_weight if priced else None)
        if dag.backhaul is None:
            return dag
        # The backhaul rate of a `System` is static; here the rate is data.
        return dataclasses.replace(dag, backhaul=dag.backhaul * (first.backhaul_bps / backhaul_bps))

    def step(
        self, state: EpisodeState, action: jax.Array | int
    ) -> tuple[EpisodeState, Observation, jax.Array, jax.Array]:
        """Takes a decision. An action that is not allowed changes nothing and earns nothing, as does any after the end.

        Args:
            state: state before the decision.
            action: int32. Inside `jax.jit` the range is not checked, and an action outside it is not allowed.

        Returns:
            The state after the decision; its observation; the reward, float; and whether all tasks are placed, bool.

        Raises:
            InputError: `action` is not one integer or, where it is known, out of its range.
        """
        _check_integer("action", action, self.num_actions - 1)
        action = jnp.asarray(action)
        # Indexing would take an action out of range for the last site.
        is_allowed = (state.action_mask & (jnp.arange(self.num_actions) == action)).any()
        counts = is_allowed & ~process.is_done(state.dag, state.decisions)
        after, reward = process.step(state.dag, state.decisions, action, in_order=self.in_order)
        after = jax.tree.map(lambda new, old: jnp.where(counts, new, old), after, state.decisions)
        if self.reward_scale == "all_local":
            reward = reward / all_local_cost(state.dag)
        state = state._replace(decisions=after, action_mask=self._allowed(state.dag, after))
        return state, self.observe(state), jnp.where(counts, reward, 0), process.is_done(state.dag, after)

    def allowed(self, state: EpisodeState) -> jax.Array:
        """Returns the allowed actions: bool[A]; all actions after the end of the episode."""
        return state.action_mask

    def cost(self, state: EpisodeState) -> jax.Array:
        """Returns the cost of the tasks placed so far; with `reward_scale="none"`, minus the sum of the rewards.

        The cost is in seconds: the makespan + energy weight x energy of the UE in joules. With a deadline, the cost is
        this energy, joules, as long as the deadline is met.
        """
        return latency.cost(state.dag, state.decisions.queues)

    def _allowed(self, dag: DagArrays, decisions: process.State) -> jax.Array:
        return process.allowed(dag, decisions, in_order=self.in_order, candidates=self.candidates)

    def observe(self, state: EpisodeState) -> Observation:
        """Returns the observation before the next decision."""
        dag, queues = state.dag, state.decisions.queues
        tasks = jax.tree.map(jnp.asarray, latency.tasks(dag))
        done = process.is_done(dag, state.decisions)
        position = jnp.argmin(state.decisions.placed | ~dag.mask).astype(jnp.int32)

        def options_of(task: latency.Task) -> jax.Array:
            return option_features(dag, state.scale, queues, task, latency.candidate_ends(dag, queues, task))

        if self.in_order:
            options = options_of(jax.tree.map(lambda leaf: leaf[position], tasks))
        else:
            options = jax.vmap(options_of)(tasks).reshape(self.num_actions, -1)
        return Observation(
            tasks=state.tasks,
            parents=dag.parents,
            placed=state.decisions.placed & dag.mask,
            position=position,
            options=jnp.where((state.action_mask & ~done)[:, None], options, 0),
            action_mask=state.action_mask,
        )


def _check_integer(field: str, value: Any, most: int) -> None:
    """Raises InputError unless `value` is one integer in [0, most]; a value that JAX holds may have any range."""
    if isinstance(value, jax.Array):  # may be traced, and reading it would wait for the device
        if value.shape or not jnp.issubdtype(value.dtype, jnp.integer):
            raise InputError(
                f"{field} is {value.dtype}{list(value.shape)}; accepted: one integer in [0, {most}] "
                "(jax.vmap takes many)"
            )
        return
    check_number(field, value[()] if isinstance(value, np.ndarray) else value, low=0, high=most, integer=True)


def _plain(system: System) -> System:
    """Returns the system with a number for its UE and for each server; refuses traced values."""
    plain: dict[str, Any] = {name: tuple(of_servers(system, name).tolist()) for name in OF_SERVERS}
    return dataclasses.replace(system, ue_hz=float(host_number("System.ue_hz", system.ue_hz)), **plain)


def _take(tree: Any, index: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], tree)
