"""Frozen, validated settings. Every number that shapes a result lives here and is stored with the run.

Defaults are the paper's (Table I) where it gives one and ours where it does not; the module
docstring of `mrlato_jax.learning` says which equation each setting enters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten

DECIDES = ("placement", "order")
DECODER_INPUTS = ("paper", "task", "task_sim", "lookahead")
LOOKAHEAD_RULES = 5  # that there are
CANDIDATES = 6  # more change no makespan by 0.1 % on fresh DAGs of the training families
ENCODERS = ("forward", "bidirectional")
NEIGHBOURS = ("listed", "pooled")
TASK_FEATURES = ("paper", "outlook")
MATMULS = ("float32", "tf32", "bfloat16")
BASELINES = ("value", "leave_one_out")
LEARN_FROM = ("samples", "best_sample", "deviations", "optimum")
META_UPDATES = ("reptile", "reptile_adam", "fomaml", "maml", "joint")
REWARD_SCALES = ("all_local", "none")
TASK_AXES = ("auto", "map", "vmap")
PARALLEL = ("auto", "single", "shard_map", "pmap")
EXPERIMENTS = ("exp1", "exp2", "exp3")
CHANNEL_NAMES = ("paper", "mrlco", "mrlco_code")  # what they mean: mec/system.py
BUDGET = ("meta_batch", "graphs_per_task", "rollouts", "outer_lr_decay")  # settings that no method's name mentions


STORED_AS = {"network": "policy"}  # fields whose name in files is another one


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`TrainConfig.to_json`'s output of an earlier version, with the settings that it lacks, as they were meant."""

    def fill(values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
        nested = {
            name: fill(value, plain[name])
            for name, value in values.items()
            if isinstance(value, Mapping) and isinstance(plain.get(name), Mapping)
        }
        return {**plain, **values, **nested}

    plain = TrainConfig().to_json()
    if values.get("warm_start") is not None:
        plain["warm_start"] = plain["learning"]
    return fill(values, plain)


class _JsonRecord:
    """To and from plain JSON values; unknown or missing names are errors, never ignored."""

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {STORED_AS.get(name, name): value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the record from `to_json`'s output; raises InputError on unknown names and values of other types.

        What is missing has its default: a setting that is added to the package does by default what was done before.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{cls.__name__} is {shorten(values)}; accepted: a JSON object")
        names = {STORED_AS.get(field.name, field.name): field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise InputError(f"{cls.__name__} has unknown names {shorten(unknown)}; accepted: {list(names)}")
        nested: dict[str, type[_JsonRecord]] = {
            "policy": NetworkConfig,
            "learning": LearningConfig,
            "warm_start": LearningConfig,
        }
        given = {}
        for name, value in values.items():
            if name in nested and not (name == "warm_start" and value is None):
                if not isinstance(value, Mapping):
                    raise InputError(f"{name} is {shorten(value)}; accepted: a JSON object")
                value = nested[name].from_json(value)
            given[names[name]] = value
        return cls(**given)


@dataclasses.dataclass(frozen=True)
class NetworkConfig(_JsonRecord):
    """Shape of the seq2seq policy (paper IV-B, V-B)."""

    decides: str = "placement"  # what an action settles; see policy/seq2seq.py
    candidates: int = CANDIDATES  # of the ready tasks, so many of the highest priority may be next, with decides=order
    decoder_input: str = "paper"  # what the decoder sees beside its own state; see policy/seq2seq.py
    lookahead_rules: int = LOOKAHEAD_RULES  # that decide the rest where it looks ahead; see planners/lookahead.py
    units: int = 128  # LSTM units, embedding width and d_model
    layers: int = 2  # LSTM layers in the encoder and in the decoder
    heads: int = 8  # attention heads; 0: no attention, the decoder knows the encoder's last state alone
    neighbour_width: int = 32  # parents (and children) a task may have where they are listed
    neighbours: str = "listed"  # how the encoder is told of parents and children; see environment/features.py
    task_features: str = "paper"  # what it is told of the tasks themselves; see environment/features.py
    encoder: str = "forward"  # which way the encoder reads the scheduling order
    matmul: str = "float32"  # how precisely the network's products multiply; see policy/products.py

    def __post_init__(self) -> None:
        check_choice("decides", self.decides, DECIDES)
        check_choice("decoder_input", self.decoder_input, DECODER_INPUTS)
        check_number("lookahead_rules", self.lookahead_rules, low=1, high=LOOKAHEAD_RULES, integer=True)
        for name in ("candidates", "units", "layers", "neighbour_width"):
            check_number(name, getattr(self, name), low=1, integer=True)
        check_number("heads", self.heads, low=0, integer=True)
        if self.in_order and self.candidates != NetworkConfig.candidates:
            raise InputError(
                f"candidates is {self.candidates} with decides=placement, where the next task is given; accepted: the "
                f"default, {NetworkConfig.candidates}"
            )
        if self.heads and self.units % self.heads:
            raise InputError(f"heads is {self.heads}; accepted: 0, or a divisor of units ({self.units})")
        check_choice("neighbours", self.neighbours, NEIGHBOURS)
        check_choice("task_features", self.task_features, TASK_FEATURES)
        check_choice("encoder", self.encoder, ENCODERS)
        if self.encoder == "bidirectional" and self.units % 2:
            raise InputError(f"units is {self.units} with encoder=bidirectional; accepted: an even number")
        check_choice("matmul", self.matmul, MATMULS)
        if self.neighbours == "pooled" and self.neighbour_width != NetworkConfig.neighbour_width:
            raise InputError(
                f"neighbour_width is {self.neighbour_width} with neighbours=pooled, which has no width; accepted: the "
                f"default, {NetworkConfig.neighbour_width}"
            )

    @property
    def neighbour_limit(self) -> int | None:
        """Most parents, and most children, that a task may have; None where any number can be told."""
        return self.neighbour_width if self.neighbours == "listed" else None

    @property
    def in_order(self) -> bool:
        """Whether tasks are placed in the priority order (13); if not, actions choose the order too."""
        return self.decides == "placement"

    @property
    def sees_simulator(self) -> bool:
        """Whether the decoder is told what the simulator knows."""
        return self.decoder_input in ("task_sim", "lookahead")

    @property
    def outlook(self) -> bool:
        """Whether the encoder is told what comes after each task."""
        return self.task_features == "outlook"


@dataclasses.dataclass(frozen=True)
class LearningConfig(_JsonRecord):
    """Inner loop (23)-(27) and outer loop (28)-(29)."""

    learn_from: str = "samples"  # which trajectories a collection holds; see learning/inner.py
    inner_lr: float = 5e-4  # alpha, Adam
    inner_lr_decay: int = 0  # Adam steps over which alpha falls to 0 (half a cosine); 0: it stays
    outer_lr: float = 5e-4  # beta
    outer_lr_decay: int = 0  # iterations over which beta falls to 0 (half a cosine); 0: it stays
    inner_steps: int = 3  # m, full-batch gradient steps on one collection
    meta_batch: int = 10  # learning tasks in one meta-iteration, drawn without replacement
    graphs_per_task: int = 100  # DAGs of a learning task used in one collection
    rollouts: int = 10  # trajectories per DAG in one collection
    gamma: float = 0.99
    gae_lambda: float = 0.95
    baseline: str = "value"  # what advantages are measured from; see learning/inner.py
    clip_epsilon: float = 0.2
    value_coef: float = 0.5  # c1 of (27)
    entropy_coef: float = 0.0  # per step; the paper has none
    reward_scale: str = "all_local"  # divide a DAG's rewards by its all-local makespan, or none: seconds
    normalise_advantages: bool = True  # over a learning task's valid steps
    meta_update: str = "reptile"

    def __post_init__(self) -> None:
        for name in ("inner_lr", "outer_lr"):
            check_number(name, getattr(self, name), low=0.0, open_low=True)
        check_choice("learn_from", self.learn_from, LEARN_FROM)
        for name in ("inner_lr_decay", "outer_lr_decay"):
            check_number(name, getattr(self, name), low=0, integer=True)
        for name in ("inner_steps", "meta_batch", "graphs_per_task", "rollouts"):
            check_number(name, getattr(self, name), low=1, integer=True)
        for name in ("gamma", "gae_lambda"):
            check_number(name, getattr(self, name), low=0.0, high=1.0)
        check_number("clip_epsilon", self.clip_epsilon, low=0.0, high=1.0, open_low=True)
        for name in ("value_coef", "entropy_coef"):
            check_number(name, getattr(self, name), low=0.0)
        check_choice("baseline", self.baseline, BASELINES)
        if self.baseline == "leave_one_out" and self.rollouts < 2:
            raise InputError("rollouts is 1 with baseline=leave_one_out; accepted: at least 2")
        if self.learn_from == "deviations" and self.rollouts < 2:
            raise InputError("rollouts is 1 with learn_from=deviations; accepted: at least 2, the own plan and another")
        if self.baseline == "leave_one_out" and self.learn_from != "samples":
            raise InputError(f"baseline is leave_one_out with learn_from={self.learn_from}; accepted: value")
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
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None  # how theta is learned from demonstrations before the first iteration
    warm_start_iterations: int = 0  # 0: theta begins at random

    @property
    def warm_start_config(self) -> TrainConfig | None:
        """The run that gives this one its first theta; None where that is random."""
        if self.warm_start is None or self.warm_start_iterations == 0:
            return None
        return dataclasses.replace(
            self,
            learning=dataclasses.replace(
                self.warm_start, inner_lr_decay=self.warm_start_iterations if self.warm_start.inner_lr_decay else 0
            ),
            iterations=self.warm_start_iterations,
            warm_start=None,
            warm_start_iterations=0,
        )

    def __post_init__(self) -> None:
        check_number("warm_start_iterations", self.warm_start_iterations, low=0, integer=True)
        if self.warm_start_iterations and self.warm_start is None:
            raise InputError(
                f"warm_start_iterations is {self.warm_start_iterations} with method {self.method}, which is not "
                "warm-started; accepted: 0"
            )
        check_type("experiment", self.experiment, str)  # which ones there are: the data sets
        check_type("method", self.method, str)  # which ones there are: methods/
        check_number("iterations", self.iterations, low=1, integer=True)
        check_number("seed", self.seed, low=0, high=2**32 - 1, integer=True)
        check_choice("channel", self.channel, CHANNEL_NAMES)
        if self.warm_start_iterations and self.channel != CHANNEL_NAMES[0]:
            raise InputError(
                f"channel is {self.channel} with a warm start; accepted: {CHANNEL_NAMES[0]}, as in demonstrations"
            )
        if 0 < self.learning.outer_lr_decay < self.iterations:
            raise InputError(
                f"outer_lr_decay is {self.learning.outer_lr_decay}, after which nothing would be learned; accepted: 0, "
                f"or at least {self.iterations}, the number of iterations"
            )
