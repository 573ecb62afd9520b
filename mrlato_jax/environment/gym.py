"""The environment for Gymnasium. Importing this module registers `mrlato_jax/Offloading-v0`, single and vectorised.

    env = gymnasium.make("mrlato_jax/Offloading-v0", applications=Applications(num_tasks=(10, 30)))
    envs = gymnasium.make_vec("mrlato_jax/Offloading-v0", num_envs=64)

`import mrlato_jax` after `import gymnasium` also registers it. `gymnasium.make` of the id
`mrlato_jax:mrlato_jax/Offloading-v0` needs no import. The extra `gym` installs Gymnasium.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mrlato_jax.environment.offloading import EpisodeState, Observation, Offloading
from mrlato_jax.errors import InputError, accepted_numbers, check_choice, check_number, shorten

ID = "mrlato_jax/Offloading-v0"
OBSERVATIONS = ("decision", "graph")
MOST_SHOWN = 1e6  # limit of observed quantities, in units of a DAG's mean local time; larger quantities are clipped
MOST_SEED = 2**32


class _Shown(NamedTuple):
    """The values that leave the device after a decision."""

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    action_mask: Any
    makespan: Any
    cost: Any


def _spaces(env: Offloading, observation: str) -> tuple[spaces.Space[Any], spaces.Discrete]:
    """Returns the spaces of observations and actions of one episode."""
    of_task, of_option = env.num_features
    tasks, actions = env.num_tasks, env.num_actions

    def box(*shape: int) -> spaces.Box:
        return spaces.Box(-MOST_SHOWN, MOST_SHOWN, shape, np.float32)

    if observation == "decision":
        return box((1 if env.in_order else tasks) * of_task + actions * of_option), spaces.Discrete(actions)
    graph = {
        "tasks": box(tasks, of_task),
        "parents": spaces.MultiBinary((tasks, tasks)),
        "placed": spaces.MultiBinary(tasks),
        "position": spaces.Discrete(tasks),
        "options": box(actions, of_option),
        "action_mask": spaces.MultiBinary(actions),
    }
    return spaces.Dict(graph), spaces.Discrete(actions)


def _seen(env: Offloading, observation: str, seen: Observation) -> Any:
    """Returns an observation in the form of its space."""
    tasks, options = (jnp.clip(part, -MOST_SHOWN, MOST_SHOWN) for part in (seen.tasks, seen.options))
    if observation == "decision":
        of_decision = tasks[seen.position] * (~seen.placed[seen.position]) if env.in_order else tasks.reshape(-1)
        return jnp.concatenate([of_decision, options.reshape(-1)])
    bits = {name: getattr(seen, name).astype(jnp.int8) for name in ("parents", "placed", "action_mask")}
    return {"tasks": tasks, "options": options, "position": seen.position, **bits}


class _Episodes:
    """`Offloading` in jitted programs that return the values Gymnasium needs."""

    def __init__(self, env: Offloading, observation: str) -> None:
        self.env, self.observation = env, observation
        self.spaces = _spaces(env, observation)
        self.begin, self.begin_all = jax.jit(self._begin), jax.jit(jax.vmap(self._begin))
        self.decide, self.go_on_all = jax.jit(self._decide), jax.jit(self._go_on_all)

    def _begin(self, seed: jax.Array, index: jax.Array | None = None) -> tuple[EpisodeState, _Shown]:
        state, seen = self.env.reset(jax.random.key(seed), index)
        return state, self._show(state, seen, jnp.zeros((), state.scale.dtype), jnp.zeros((), bool))

    def _decide(self, state: EpisodeState, action: jax.Array) -> tuple[EpisodeState, _Shown]:
        is_allowed = state.action_mask[action]
        state, seen, reward, _ = self.env.step(state, action)
        return state, self._show(state, seen, reward, ~is_allowed)

    def _go_on_all(
        self, state: EpisodeState, done: jax.Array, actions: jax.Array, seeds: jax.Array
    ) -> tuple[EpisodeState, _Shown]:
        """Takes a decision in each episode; episodes that are `done` begin anew."""
        gone_on = jax.vmap(self._decide)(state, actions)

        def begin(gone_on: tuple[EpisodeState, _Shown]) -> tuple[EpisodeState, _Shown]:
            def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
                return jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), new, old)

            return jax.tree.map(chosen, jax.vmap(self._begin)(seeds), gone_on)

        return jax.lax.cond(done.any(), begin, lambda gone_on: gone_on, gone_on)

    def _show(self, state: EpisodeState, seen: Observation, reward: jax.Array, truncated: jax.Array) -> _Shown:
        return _Shown(
            observation=_seen(self.env, self.observation, seen),
            reward=reward,
            terminated=(seen.placed | ~state.dag.mask).all(),
            truncated=truncated,
            action_mask=seen.action_mask,
            makespan=state.decisions.queues.makespan,
            cost=self.env.cost(state),
        )


_shared = lru_cache(maxsize=16)(_Episodes)  # equal environments share their programs: 32 of them compile once


def _episodes(observation: str, settings: dict[str, Any]) -> _Episodes:
    check_choice("observation", observation, OBSERVATIONS)
    return _shared(Offloading(**settings), observation)


def _on_host(shown: _Shown) -> _Shown:
    shown = jax.tree.map(np.array, shown)  # writable copies
    if isinstance(shown.observation, dict):  # Gymnasium's integers have 64 bits
        shown.observation["position"] = np.int64(shown.observation["position"])
    return shown


def _info(shown: _Shown) -> dict[str, Any]:
    return {
        "action_mask": shown.action_mask.astype(np.int8),
        "forbidden": shown.truncated,
        "makespan": shown.makespan,
        "cost": shown.cost,
    }


class OffloadingEnv(gymnasium.Env[Any, np.int64]):
    """The environment with one episode at a time.

    `info` has `action_mask`, int8[A], for `action_space.sample(mask=...)`; and of the tasks placed so far `makespan`,
    seconds, and `cost`, which is `Offloading.cost`. An action that the mask forbids changes nothing, earns nothing and
    ends the episode as truncated; `info["forbidden"]` is then true. `action_masks()` returns the mask for sb3-contrib's
    `MaskablePPO`.

    Args:
        observation: "decision": a vector of the next task's features (with a free order, of all tasks' features) and of
            the simulator's quantities of each action. "graph": a dictionary of all fields of `Observation`.
        render_mode: "ansi": `render` returns a line of text. With any other mode, `render` returns None; Gymnasium
            warns about such modes.
        **settings: arguments of `Offloading`.

    Raises:
        InputError: as `Offloading`, or `observation` is unknown.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's name)

    def __init__(self, observation: str = "decision", render_mode: str | None = None, **settings: Any) -> None:
        self._episodes = _episodes(observation, settings)
        self.observation_space, self.action_space = copy.deepcopy(self._episodes.spaces)  # own random state
        self.render_mode = render_mode
        self._state: EpisodeState | None = None
        self._done = False
        self._mask = np.ones(self._episodes.env.num_actions, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode.

        Args:
            seed: seed of the applications of this and the later episodes.
            options: {"index": i} takes kind i of the applications, or graph i, instead of a draw. Indices run through
                the systems of each kind or graph first.

        Raises:
            InputError: an option is unknown, or the index is out of range.
        """
        super().reset(seed=seed)
        index = _index(options, self._episodes.env.num_episodes)
        self._state, shown = self._episodes.begin(self.np_random.integers(MOST_SEED, dtype=np.uint32), index)
        observation, *_, info = self._show(shown)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a decision.

        Raises:
            InputError: the action is not in the action space, no episode has begun, or the episode has ended.
        """
        if self._state is None:
            raise InputError("step was called before reset; accepted: reset before step")
        if self._done:
            raise InputError("step was called after the end of the episode; accepted: reset before step")
        if not self.action_space.contains(action):
            accepted = accepted_numbers(0, self._episodes.env.num_actions - 1, integer=True)
            raise InputError(f"action is {shorten(action)}; accepted: {accepted}")
        self._state, shown = self._episodes.decide(self._state, action)
        return self._show(shown)

    def _show(self, shown: _Shown) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        shown = _on_host(shown)
        self._mask = shown.action_mask
        info = _info(shown)
        info |= {name: info[name].item() for name in ("forbidden", "makespan", "cost")}
        self._done = bool(shown.terminated | shown.truncated)
        return shown.observation, float(shown.reward), bool(shown.terminated), bool(shown.truncated), info

    def action_masks(self) -> np.ndarray:
        """Returns whether each action is allowed next: bool[A]."""
        return self._mask

    def render(self) -> str | None:
        """Returns a line of text: the number of placed tasks, and the makespan of these tasks."""
        if self.render_mode != "ansi" or self._state is None:
            return None
        state = jax.device_get(self._state)
        placed, n = (state.decisions.placed & state.dag.mask).sum(), state.dag.mask.sum()
        return f"{placed} of {n} tasks placed; latency so far {1e3 * state.decisions.queues.makespan:.1f} ms"


class OffloadingVectorEnv(VectorEnv[Any, Any, Any]):
    """The environment with many episodes side by side, in one jitted program.

    After an episode ends, the next step ignores the action and begins a new episode (`AutoresetMode.NEXT_STEP`). `info`
    has `action_mask`, int8[B, A], `forbidden`, bool[B], `makespan`, float[B], seconds, and `cost`, float[B].

    Args:
        num_envs: B.
        observation, **settings: as in `OffloadingEnv`.
        render_mode: None.

    Raises:
        InputError: as `OffloadingEnv`.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's name)

    def __init__(
        self, num_envs: int = 1, observation: str = "decision", render_mode: None = None, **settings: Any
    ) -> None:
        check_number("num_envs", num_envs, low=1, integer=True)
        if render_mode is not None:
            raise InputError(f"render_mode is {shorten(render_mode)}; accepted: None (a single environment renders)")
        self._episodes = _episodes(observation, settings)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = copy.deepcopy(self._episodes.spaces)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: EpisodeState | None = None
        self._done = jnp.zeros(num_envs, bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins all episodes.

        Args:
            seed: seed of all episodes.
            options: {"index": i} as in `OffloadingEnv.reset`, or with a sequence of B indices, one for each episode.

        Raises:
            InputError: as `OffloadingEnv.reset`.
        """
        super().reset(seed=seed)
        index = _index(options, self._episodes.env.num_episodes, self.num_envs)
        of_each = None if index is None else np.broadcast_to(index, self.num_envs)
        self._state, shown = self._episodes.begin_all(self._seeds(), of_each)
        observation, *_, info = self._show(shown)
        return observation, info

    def _seeds(self) -> np.ndarray:
        return self.np_random.integers(MOST_SEED, size=self.num_envs, dtype=np.uint32)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes a decision in each episode.

        Raises:
            InputError: an action is not in the action space, or no episode has begun.
        """
        if self._state is None:
            raise InputError("step was called before reset; accepted: reset before step")
        actions = np.asarray(actions)
        most = self._episodes.env.num_actions
        if (
            actions.shape != (self.num_envs,)
            or not np.issubdtype(actions.dtype, np.integer)
            or not ((actions >= 0) & (actions < most)).all()
        ):
            raise InputError(f"actions is {shorten(actions)}; accepted: {self.num_envs} integers, 0 to {most - 1}")
        self._state, shown = self._episodes.go_on_all(self._state, self._done, actions, self._seeds())
        return self._show(shown)

    def _show(self, shown: _Shown) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        shown = _on_host(shown)
        self._done = shown.terminated | shown.truncated
        return shown.observation, shown.reward, shown.terminated, shown.truncated, _info(shown)


def _index(options: dict[str, Any] | None, count: int, num_envs: int = 0) -> Any:
    """Returns the index in the options, or `num_envs` indices; None without an index."""
    unknown = sorted(set(options or ()) - {"index"})
    if unknown:
        raise InputError(f"options has {shorten(unknown)}; accepted: index")
    index = (options or {}).get("index")
    several = num_envs > 0 and isinstance(index, Sequence | np.ndarray)
    indices: list[Any] = list(index) if several else [] if index is None else [index]  # type: ignore[arg-type]
    if several and len(indices) != num_envs:
        raise InputError(f"options['index'] has {len(indices)} entries; accepted: an integer, or {num_envs} integers")
    for one in indices:
        check_number("options['index']", one, low=0, high=count - 1, integer=True)
    return np.array(indices, np.int32) if several else index


gymnasium.register(
    id=ID,
    entry_point=f"{__name__}:{OffloadingEnv.__name__}",
    vector_entry_point=f"{__name__}:{OffloadingVectorEnv.__name__}",
)
