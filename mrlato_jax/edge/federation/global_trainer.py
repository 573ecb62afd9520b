"""The paper's global trainer: accepts or refuses answers, and takes the outer step (29) over all of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from mrlato_jax.config import LearningConfig
from mrlato_jax.edge import codec
from mrlato_jax.edge.federation.aggregation import aggregated
from mrlato_jax.edge.federation.messages import (
    METRICS,
    REFUSALS,
    Arrays,
    bound_of,
    check_arrays,
    named,
    network_arrays,
    opened,
    params_sha256,
    update_norm,
)
from mrlato_jax.edge.federation.settings import Federation, draw_round, setting_of
from mrlato_jax.errors import InputError
from mrlato_jax.learning.flat import flat
from mrlato_jax.learning.learning_task import stack, take
from mrlato_jax.learning.meta_batch import MetaBatch
from mrlato_jax.learning.outer import REPTILE, LearnerState, init_state, outer_update
from mrlato_jax.training import checkpoint
from mrlato_jax.training.run_folder import checkpoint_meta

LARGEST_METRIC = float(np.finfo(np.float32).max)  # keeps the sum over a round finite
MOST_REFUSED = 10  # after this number of refused answers of one UE, the round fails


class Verdict(NamedTuple):
    """The server's judgement of an answer."""

    ue: int | None  # the UE of the answer; None if unknown
    refused: str | None  # a name in REFUSALS; None for an accepted answer, or if a UE rightly has no learning task


class GlobalTrainer:
    """The paper's global trainer: judges answers, takes the outer step (29), and keeps the state between rounds.

    The state is one file, written atomically after each round: parameters, the optimiser's state, the round, and the
    record of all rounds. After a kill, the server continues with its last round.
    """

    def __init__(self, federation: Federation, folder: Path, keys: Sequence[bytes]) -> None:
        """Starts, or continues from the state in `folder`.

        Args:
            federation: the shared settings.
            folder: folder of the state; created if missing.
            keys: keys of the UEs.

        Raises:
            InputError: as in `Federation.dataset`; or the folder has the state of another federation.
        """
        if len(keys) != federation.ues:
            raise InputError(f"keys are {len(keys)}; accepted: {federation.ues}, one for each UE")
        config = federation.config
        dataset = federation.dataset()
        self.federation, self._folder, self._keys = federation, Path(folder), list(keys)
        self._setting = setting_of(federation, dataset)
        self._meta = {**checkpoint_meta(config, dataset.content_hash), "ues": federation.ues}
        self._meta["aggregation"] = federation.aggregation
        self.state = init_state(config.network, config.learning, config.seed)
        self.rounds: list[dict[str, Any]] = []
        self.refused = dict.fromkeys(REFUSALS, 0)
        restored = checkpoint.restore(self._folder, self.state._asdict(), self._meta)
        if restored is not None:
            self.state = LearnerState(**restored.tree)
            self.rounds, self.refused = restored.meta["rounds"], restored.meta["refused"]
        self._like = network_arrays(config.network)
        self._bound = bound_of(federation, self._like)
        # Twice the size of names and numbers, to allow for the encoding. Larger messages are refused unread.
        self.most_bytes = 2 * sum(array.nbytes + len(name) + 64 for name, array in self._like.items()) + 2**16
        self._begin()

    def _begin(self) -> None:
        """Draws the next round."""
        self._batch = draw_round(self.federation, self._setting, self.done)
        self.asked = [int(ue) for ue in self._batch.set]  # the UEs of this round, in the order of the meta-batch
        self._answers: dict[int, tuple[Arrays, dict[str, float]]] = {}
        self._bad: dict[int, int] = {}
        self._theta = named(self.state.params)
        self._start = params_sha256(self._theta)

    @property
    def done(self) -> int:
        """Number of rounds done."""
        return int(self.state.iteration)

    @property
    def round(self) -> int:
        """The current round, from 1."""
        return self.done + 1

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.done >= self.federation.config.iterations

    @property
    def missing(self) -> set[int]:
        """The UEs that have not answered in this round."""
        return set(self.asked) - self._answers.keys()

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The arrays of theta by name."""
        return dict(self._theta)

    def message(self) -> bytes:
        """Returns the message to every UE in this round."""
        return codec.packed({"round": self.round, "arrays": self._theta})

    def offer(self, data: bytes) -> Verdict:
        """Judges an answer: keeps it if accepted, otherwise counts the reason of the refusal.

        Raises:
            InputError: `MOST_REFUSED` answers of one UE were refused in this round, so the round cannot end.
        """
        ue, body, wrong = opened(data, self._keys, self.most_bytes)
        wrong = wrong or self._judge(ue, body)
        if wrong is not None:
            self.count(wrong, ue)
            return Verdict(ue, wrong)
        if ue is not None and body["arrays"] is not None:
            self._answers[ue] = body["arrays"], body["metrics"]
        return Verdict(ue, None)

    def count(self, wrong: str, ue: int | None = None) -> None:
        """Counts a refused answer.

        Raises:
            InputError: as in `offer`.
        """
        self.refused[wrong] += 1
        if ue is None or wrong in ("stale_round", "doubled") or ue not in self.missing:
            return
        self._bad[ue] = self._bad.get(ue, 0) + 1
        if self._bad[ue] >= MOST_REFUSED:
            raise InputError(
                f"UE {ue} sent {self._bad[ue]} answers in round {self.round} that cannot be used, the last one with "
                f"{REFUSALS[wrong]}; accepted: finite arrays of the network within the bound {self._bound:g} (where "
                "training diverged, try a lower inner_lr or outer_lr)"
            )

    def _judge(self, ue: int | None, body: Any) -> str | None:
        if not isinstance(body, dict) or set(body) != {"round", "start", "arrays", "metrics"}:
            return "unreadable"
        if type(body["round"]) is not int or type(body["start"]) is not str:
            return "unreadable"
        if body["round"] != self.round or body["start"] != self._start:
            return "stale_round"
        if body["arrays"] is None:  # the UE reports that it has no learning task in this round
            return "not_asked" if ue in self.asked else None
        if ue not in self.asked:
            return "not_asked"
        if ue in self._answers:
            return "doubled"
        wrong = check_arrays(body["arrays"], self._like)
        if wrong is not None:
            return wrong
        metrics = body["metrics"]
        if not isinstance(metrics, dict) or set(metrics) != set(METRICS):
            return "unreadable"
        if not all(isinstance(value, float) and abs(value) <= LARGEST_METRIC for value in metrics.values()):
            return "not_finite"
        start = self._theta if self.federation.config.learning.meta_update in REPTILE else None
        return "norm" if update_norm(body["arrays"], start) > self._bound else None

    def finish(self, seconds: float, sent: int) -> dict[str, Any]:
        """Takes the outer step over all answers of the round and saves the state.

        Args:
            seconds: duration of the round.
            sent: number of messages sent in the round.

        Returns:
            The record of the round.

        Raises:
            InputError: a UE has not answered.
        """
        if self.missing:
            raise InputError(
                f"UEs {sorted(self.missing)} have not answered; accepted: answers of all, (29) is over all"
            )
        learning = self.federation.config.learning
        answers = [self._answers[ue] for ue in self.asked]
        # `flat` uses the order of the tree's leaves, which differs from the order of the names.
        trees = [unflatten_dict(dict(arrays), sep="/") for arrays, _ in answers]
        visited = aggregated(self.federation.aggregation, np.stack([flat(tree) for tree in trees]))
        self.state, norm = aggregate(learning, self.state, jnp.asarray(visited), self._batch)
        means = {name: math.fsum(values[name] for _, values in answers) / len(answers) for name in METRICS}
        record = {"round": self.done, "ues": sorted(self.asked), "seconds": seconds, "sent": sent}
        record |= means | {"update_norm": float(norm)}
        self.rounds.append(record)
        self.save()
        self._begin()
        return record

    def save(self) -> None:
        """Writes the state atomically."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        meta = {**self._meta, "rounds": self.rounds, "refused": self.refused}
        checkpoint.save(self._folder, self.done, self.state._asdict(), meta)

    def report(self) -> dict[str, Any]:
        """Returns the final report of a run."""
        return {"rounds": self.rounds, "refused": self.refused, "params_sha256": params_sha256(self._theta)}


def aggregate(
    learning: LearningConfig, state: LearnerState, visited: jax.Array, batch: MetaBatch
) -> tuple[LearnerState, jax.Array]:
    """Takes the outer step (Algorithm 1, line 9) over the UEs' answers, `flat`, in the order of the meta-batch.

    Returns:
        The state after the round, and the norm of the step.
    """
    params, opt_state, norm = _aggregate(learning, stack([state]), visited, batch)
    after = LearnerState(take(params, 0), take(opt_state, 0), state.iteration + 1, state.key)
    return jax.block_until_ready(after), norm[0]


@partial(jax.jit, static_argnames="learning")
def _aggregate(
    learning: LearningConfig, states: LearnerState, visited: jax.Array, batch: MetaBatch
) -> tuple[Any, Any, jax.Array]:
    params, opt_states = outer_update(learning, states, visited, batch)
    moved = flat(params, 1) - flat(states.params, 1)
    return params, opt_states, jnp.linalg.norm(moved, axis=-1)


def to_ask(
    online: Collection[int],
    known: Mapping[int, int],
    missing: Collection[int],
    due: Mapping[int, float],
    now: float,
) -> list[int]:
    """Returns the nodes to which the round's message is sent now.

    Only its answers show which UE a node is. So nodes that have never answered are asked, too.

    Args:
        online: connected nodes.
        known: the UE of each node that has answered.
        missing: UEs that have not answered in this round.
        due: for each node asked in this round, when to ask again.
        now: the time on the same clock.
    """
    wanted = [node for node in online if node not in known or known[node] in missing]
    return [node for node in wanted if node not in due or now >= due[node]]
