"""Methods that are configurations of `learning`."""

from __future__ import annotations

import dataclasses
from typing import Any

from mrlato_jax.config import BY_VALUE, UNSAID, LearningConfig, NetworkConfig, Setting, TrainConfig, settings_of
from mrlato_jax.methods.face import Prepared, Train


@dataclasses.dataclass(frozen=True)
class LearnedMethod:
    """A method whose policy is trained.

    Attributes:
        name: as tables and `--method` have it.
        network: the network's settings.
        learning: the learning settings.
        warm_start: how the first theta is learned from demonstrations; None where it is random.
        warm_start_iterations: for how long.
    """

    name: str
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None
    warm_start_iterations: int = 0

    def config(self, **run: Any) -> TrainConfig:
        """The settings of a training run of this method; `run` has those that no method decides (seed, ...)."""
        settings: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return TrainConfig(method=settings.pop("name"), **{**settings, **run})

    def label(self, config: TrainConfig) -> str:
        """The method's name with everything that a run's settings add to it, as its row in a table says it.

        How a setting is said, if at all, is part of its field in `config.py`. How much is spent (iterations, rollouts,
        ...) is not said: the run's record has that. Nor is a setting that the run does not look at.
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
        """The policy that `train` makes of it."""
        return train(self)


def _is_said(known: Setting, record: Any) -> bool:
    """Whether a label has the setting's value where it is not the method's own."""
    if known.unread_with is not None and getattr(record, known.unread_with[0]) == known.unread_with[1]:
        return False
    return known.label != UNSAID
