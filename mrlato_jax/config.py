"""Frozen, validated settings. Every number that shapes a result lives here and is stored with the run.

Defaults are the paper's (Table I) where it gives one and ours where it does not; the module
docstring of `mrlato_jax.learning` says which equation each setting enters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten

DECODER_INPUTS = ("paper", "task", "task_sim")
NEIGHBOURS = ("listed", "pooled")
MATMULS = ("float32", "tf32", "bfloat16")
META_UPDATES = ("reptile", "reptile_adam", "fomaml", "maml", "joint")
REWARD_SCALES = ("all_local", "none")
TASK_AXES = ("auto", "map", "vmap")
PARALLEL = ("auto", "single", "shard_map", "pmap")
EXPERIMENTS = ("exp1", "exp2", "exp3")
CHANNEL_NAMES = ("paper", "mrlco", "mrlco_code")  # what they mean: mec/system.py
BUDGET = ("meta_batch", "graphs_per_task", "rollouts")  # settings that no method's name mentions


class _JsonRecord:
    """To and from plain JSON values; unknown or missing names are errors, never ignored."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the record from `to_json`'s output; raises InputError on unknown or missing names."""
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown, missing = sorted(set(values) - set(fields)), sorted(set(fields) - set(values))
        if unknown or missing:
            raise InputError(
                f"{cls.__name__} has unknown names {unknown} and lacks {missing}; accepted: {list(fields)}"
            )
        nested: dict[str, type[_JsonRecord]] = {"policy": PolicyConfig, "learning": LearningConfig}
        return cls(**{name: nested[name].from_json(v) if name in nested else v for name, v in values.items()})


@dataclasses.dataclass(frozen=True)
class PolicyConfig(_JsonRecord):
    """Shape of the seq2seq policy (paper IV-B, V-B)."""

    decoder_input: str = "paper"  # what the decoder sees beside its own state; see policy/seq2seq.py
    units: int = 128  # LSTM units, embedding width and d_model
    layers: int = 2  # LSTM layers in the encoder and in the decoder
    heads: int = 8  # attention heads
    neighbour_width: int = 32  # parents (and children) a task may have where they are listed
    neighbours: str = "listed"  # how the encoder is told of parents and children; see mec/mdp.py
    matmul: str = "float32"  # how precisely the network's products multiply; see policy/products.py

    def __post_init__(self) -> None:
        check_choice("decoder_input", self.decoder_input, DECODER_INPUTS)
        for name in ("units", "layers", "heads", "neighbour_width"):
            check_number(name, getattr(self, name), low=1, integer=True)
        if self.units % self.heads:
            raise InputError(f"heads is {self.heads}; accepted: a divisor of units ({self.units})")
        check_choice("neighbours", self.neighbours, NEIGHBOURS)
        check_choice("matmul", self.matmul, MATMULS)
        if self.neighbours == "pooled" and self.neighbour_width != PolicyConfig.neighbour_width:
            raise InputError(
                f"neighbour_width is {self.neighbour_width} with neighbours=pooled, which has no width; accepted: the "
                f"default, {PolicyConfig.neighbour_width}"
            )

    @property
    def neighbour_limit(self) -> int | None:
        """Most parents, and most children, that a task may have; None where any number can be told."""
        return self.neighbour_width if self.neighbours == "listed" else None


@dataclasses.dataclass(frozen=True)
class LearningConfig(_JsonRecord):
    """Inner loop (23)-(27) and outer loop (28)-(29)."""

    inner_lr: float = 5e-4  # alpha, Adam
    outer_lr: float = 5e-4  # beta
    inner_steps: int = 3  # m, full-batch gradient steps on one collection
    meta_batch: int = 10  # learning tasks in one meta-iteration, drawn without replacement
    graphs_per_task: int = 100  # DAGs of a learning task used in one collection
    rollouts: int = 10  # trajectories per DAG in one collection
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_epsilon: float = 0.2
    value_coef: float = 0.5  # c1 of (27)
    entropy_coef: float = 0.0  # per step; the paper has none
    reward_scale: str = "all_local"  # divide a DAG's rewards by its all-local makespan, or none: seconds
    normalise_advantages: bool = True  # over a learning task's valid steps
    meta_update: str = "reptile"

    def __post_init__(self) -> None:
        for name in ("inner_lr", "outer_lr"):
            check_number(name, getattr(self, name), low=0.0, open_low=True)
        for name in ("inner_steps", "meta_batch", "graphs_per_task", "rollouts"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), low=0.0, high=1.0)
        check_number("clip_epsilon", self.clip_epsilon, low=0.0, high=1.0, open_low=True)
        for name in ("value_coef", "entropy_coef"):
            check_number(name, getattr(self, name), low=0.0)
        check_choice("reward_scale", self.reward_scale, REWARD_SCALES)
        check_choice("meta_update", self.meta_update, META_UPDATES)
        if not isinstance(self.normalise_advantages, bool):
            raise InputError(f"normalise_advantages is {shorten(self.normalise_advantages)}; accepted: true, false")


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(_JsonRecord):
    """How the work is laid out on devices: what it costs, never, beyond rounding, what comes of it.

    So it is no part of a run's settings: a run may be continued under another one. `learning.devices.resolve` says what
    the defaults stand for.
    """

    parallel: str = "auto"  # how the tasks of a meta-batch are spread over devices: shard_map where there are several
    num_devices: int = 0  # devices used; 0: all that have work, or one with parallel single
    task_axis: str = "auto"  # how a device batches its tasks: map on CPU, vmap on accelerators
    metrics_every: int = 0  # iterations from one fetch of metrics to the next; 0: 1 on CPU, 10 on accelerators

    def __post_init__(self) -> None:
        check_choice("parallel", self.parallel, PARALLEL)
        check_choice("task_axis", self.task_axis, TASK_AXES)
        for name in ("num_devices", "metrics_every"):
            check_number(name, getattr(self, name), low=0, integer=True)
        if self.parallel == "single" and self.num_devices > 1:
            raise InputError(f"num_devices is {self.num_devices}; accepted with parallel single: 0 or 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig(_JsonRecord):
    """One meta-training run: which data, which method, how long, from which seed."""

    experiment: str = "exp2"
    method: str = "mrlato"
    iterations: int = 2000
    seed: int = 0
    channel: str = "paper"
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)

    def __post_init__(self) -> None:
        check_choice("experiment", self.experiment, EXPERIMENTS)
        check_type("method", self.method, str)  # which ones there are: methods/
        check_number("iterations", self.iterations, low=1, integer=True)
        check_number("seed", self.seed, low=0, high=2**32 - 1, integer=True)
        check_choice("channel", self.channel, CHANNEL_NAMES)
