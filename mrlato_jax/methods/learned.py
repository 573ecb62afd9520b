"""Learned methods, as configurations of `learning`."""

from __future__ import annotations

import dataclasses
from typing import Any

from mrlato_jax.config import BY_VALUE, UNSAID, LearningConfig, NetworkConfig, Setting, TrainConfig, settings_of
from mrlato_jax.methods.face import Prepared, Train


@dataclasses.dataclass(frozen=True)
class LearnedMethod:
    """A method whose policy is trained.

    Attributes:
        name: name in tables and of `--method`.
        network: the network's settings.
        learning: the learning settings.
        warm_start: learning settings of the warm start from demonstrations; None for a random initial theta.
        warm_start_iterations: iterations of the warm start.
    """

    name: str
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None
    warm_start_iterations: int = 0

    def config(self, **run: Any) -> TrainConfig:
        """Returns the settings of a training run; `run` has those that the method does not define (seed, ...)."""
        settings: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return TrainConfig(method=settings.pop("name"), **{**settings, **run})

    def label(self, config: TrainConfig) -> str:
        """Returns the label of a run in tables: the method's name and the settings that differ from the method's.

        A setting's field in `config.py` defines its form in labels, if any. Labels omit the budget (iterations,
        rollouts, ...), which the run's record has, and settings that the run does not use.
        """
        own = self.config()
        records = ((config.network, own.network), (config.learning, own.learning), (config, own))
        additions = [
            str(getattr(given, name)) if known.label == BY_VALUE else f"{name}={getattr(given, name)}"
            for given, usual in records
            for name, known in settings_of(given).items()
            if getattr(given, name) != getattr(usual, name) and _is_said(known, given)
        ]
        return "+".join([self.name, *additions])

    def prepare(self, train: Train) -> Prepared:
        """Returns the policy that `train` learns."""
        return train(self)


def _is_said(known: Setting, record: Any) -> bool:
    """Returns whether a label includes the setting when its value differs from the method's."""
    if known.unread_with is not None and getattr(record, known.unread_with[0]) == known.unread_with[1]:
        return False
    return known.label != UNSAID
