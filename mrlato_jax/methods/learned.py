"""Methods that are configurations of `learning`."""

from __future__ import annotations

import dataclasses
from typing import Any

from mrlato_jax.config import BUDGET, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.methods.face import Prepared, Train

SPOKEN = (  # settings whose values say what they are
    "decides", "decoder_input", "neighbours", "task_features", "encoder", "matmul", "baseline", "learn_from",
    "meta_update",
)  # fmt: skip
WITHOUT_EFFECT = {"joint": ("outer_lr",)}  # settings that an outer step does not look at


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

        How much is spent (iterations, rollouts, ...) is no part of it: the run's record has that. Nor is a setting
        that the run does not look at.
        """
        additions = [
            str(value) if name in SPOKEN else f"{name}={value}"
            for given, own in ((config.network, self.network), (config.learning, self.learning))
            for name, value in given.to_json().items()
            if name not in (*BUDGET, *WITHOUT_EFFECT.get(config.learning.meta_update, ()))
            and value != getattr(own, name)
        ]
        if config.warm_start_iterations != self.warm_start_iterations:
            additions.append(f"warm_start_iterations={config.warm_start_iterations}")
        return "+".join([self.name, *additions])

    def prepare(self, train: Train) -> Prepared:
        """The policy that `train` makes of it."""
        return train(self)
