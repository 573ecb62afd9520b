"""Frozen, validated settings. Every number that shapes a result is defined here and stored with the run.

A setting is one field. One call of `setting` has its default, its check, its help, the source of its default and its
form in labels. Flags (`launch/_train_flags.py`), labels (`methods/learned.py`) and `docs/settings.md` derive from it.

Defaults are those of the paper (Table I) if it has one, otherwise ours. The docstring of `mrlato_jax.learning` lists
where the code uses each setting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from mrlato_jax.errors import InputError, accepted_numbers, check_choice, check_number, check_type, shorten

DECIDES = ("placement", "order")
SERVERS = ("one_server", "any_servers")
DECODER_INPUTS = ("paper", "task", "task_sim", "lookahead")
LOOKAHEAD_RULES = 5  # number of quick rules
CANDIDATES = (
    6  # ready tasks compared with a free order; more change makespans of fresh training DAGs by less than 0.1 %
)
ENCODERS = ("forward", "bidirectional")
NEIGHBOURS = ("listed", "pooled")
TASK_FEATURES = ("paper", "outlook")
MATMULS = ("float32", "tf32", "bfloat16")
BASELINES = ("value", "leave_one_out")
LEARN_FROM = ("samples", "deviations", "optimum")
META_UPDATES = ("reptile", "reptile_adam", "fomaml", "maml", "joint")
REWARD_SCALES = ("all_local", "none")
TASK_AXES = ("auto", "map", "vmap")
PARALLEL = ("auto", "single", "shard_map", "pmap")
EXPERIMENTS = ("exp1", "exp2", "exp3")
CHANNEL_NAMES = ("paper", "mrlco", "mrlco_code", "resident")  # defined in mec/system.py

STORED_AS = {"network": "policy"}  # fields with another name in files

BY_NAME, BY_VALUE, UNSAID = "name=value", "value", "unsaid"  # form in labels of a value that differs from the method's

OURS = "ours"  # source of a default without a reason


@dataclasses.dataclass(frozen=True)
class Setting:
    """The description of a setting, except its name and default.

    Attributes:
        kind: str, int, float or bool.
        help: its effect, with units, in sentences.
        source: source of the default: a table, section or equation of the paper, or "ours" with a reason.
        choices: all accepted values of a text; empty if they are defined elsewhere.
        low: least accepted number.
        high: largest accepted number.
        open_low: whether `low` itself is excluded.
        label: `BY_NAME`, `BY_VALUE`, or `UNSAID` for a setting that changes the cost and not the method.
        unread_with: another setting of the same record, and its value with which this setting has no effect; then no
            label has this setting.
    """

    kind: type
    help: str
    source: str = OURS
    choices: Collection[str] = ()
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    label: str = BY_NAME
    unread_with: tuple[str, str] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raises InputError unless the setting called `name` accepts `value`."""
        if self.kind is bool:
            if not isinstance(value, bool):
                raise InputError(f"{name} is {shorten(value)}; accepted: {self.accepted}")
        elif self.kind is not str:
            integer = self.kind is int
            check_number(name, value, low=self.low, high=self.high, open_low=self.open_low, integer=integer)
        elif self.choices:
            check_choice(name, value, self.choices)
        else:
            check_type(name, value, str)

    @property
    def accepted(self) -> str:
        """The values that `check` accepts, in words."""
        if self.kind is bool:
            return "true, false"
        if self.kind is not str:
            return accepted_numbers(self.low, self.high, self.open_low, self.kind is int)
        return ", ".join(self.choices) or "text"


def setting(default: Any, **known: Any) -> Any:
    """Defines a field of a settings record; `known` has the attributes of its `Setting`. The default gives its kind."""
    return dataclasses.field(default=default, metadata={"setting": Setting(type(default), **known)})


def settings_of(record: Any) -> dict[str, Setting]:
    """Returns the settings of a record or its class by name, in order, without nested records."""
    return {
        field.name: field.metadata["setting"] for field in dataclasses.fields(record) if "setting" in field.metadata
    }


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts `TrainConfig.to_json`'s output of an earlier version to the present form.

    Adds missing settings with their former behaviour. Drops removed settings that have the one value that the package
    still implements.
    """

    def fill(values: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
        nested = {
            name: fill(RECORDS[name].without_removed(value) if name in RECORDS else value, plain[name])
            for name, value in values.items()
            if isinstance(value, Mapping) and isinstance(plain.get(name), Mapping)
        }
        return {**plain, **values, **nested}

    plain = TrainConfig().to_json()
    if values.get("warm_start") is not None:
        plain["warm_start"] = plain["learning"]
    return fill(values, plain)


class _Settings:
    """A record of settings. Checks each setting, then all together; converts to and from JSON values."""

    removed: ClassVar[Mapping[str, Any]] = {}  # removed settings by name, with the one value still implemented

    def __post_init__(self) -> None:
        for name, known in settings_of(self).items():
            known.check(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        """Raises InputError if settings that are accepted alone do not fit together."""

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {STORED_AS.get(name, name): value for name, value in values.items()}

    @classmethod
    def without_removed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Drops, from `to_json`'s output of an earlier version, the settings in `removed` that have their one value."""
        return {
            name: value for name, value in values.items() if not (name in cls.removed and value == cls.removed[name])
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the record from `to_json`'s output; raises InputError on unknown names and values of other types.

        Missing fields take their defaults. The default of a new setting keeps the package's former behaviour.
        """
        if not isinstance(values, Mapping):
            raise InputError(f"{cls.__name__} is {shorten(values)}; accepted: a JSON object")
        values = cls.without_removed(values)
        for name in sorted(cls.removed.keys() & values.keys()):
            raise InputError(f"{name} is {shorten(values[name])}, a removed setting; accepted: {cls.removed[name]}")
        names = {STORED_AS.get(field.name, field.name): field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise InputError(f"{cls.__name__} has unknown names {shorten(unknown)}; accepted: {list(names)}")
        given = {}
        for name, value in values.items():
            if name in RECORDS and not (name == "warm_start" and value is None):
                if not isinstance(value, Mapping):
                    raise InputError(f"{name} is {shorten(value)}; accepted: a JSON object")
                value = RECORDS[name].from_json(value)
            given[names[name]] = value
        return cls(**given)


@dataclasses.dataclass(frozen=True)
class NetworkConfig(_Settings):
    """Shape of the seq2seq policy (paper IV-B, V-B)."""

    removed: ClassVar[Mapping[str, Any]] = {"candidates": CANDIDATES}

    decides: str = setting(
        "placement",
        help="The scope of an action: the site of the next task in the priority order, or the next task, too, among "
        f"the {CANDIDATES} ready tasks of the highest priority.",
        source="(13): tasks are placed in the order of their priority",
        choices=DECIDES,
        label=BY_VALUE,
    )
    servers: str = setting(
        "one_server",
        help="The choices of the network. one_server: local or offloaded, two logits. any_servers: options (a site, or "
        "a ready task and a site). One small network scores each option from the task, the decoder's state and the "
        "option's own quantities. any_servers takes any number of servers, results that stay, pins and energy.",
        source="Section III-C: one MEC server",
        choices=SERVERS,
        label=BY_VALUE,
    )
    decoder_input: str = setting(
        "paper",
        help="The decoder's input besides its own state. paper: nothing else. task: the task being decided. task_sim: "
        "the simulator's queues, too. lookahead: also the outcome of each decision if quick rules decide the rest.",
        source="Section IV-B: only its own state and the attention over the encoder",
        choices=DECODER_INPUTS,
        label=BY_VALUE,
    )
    lookahead_rules: int = setting(
        LOOKAHEAD_RULES,
        help=f"Number of quick rules, at most {LOOKAHEAD_RULES}; the best outcome among them scores a decision. If "
        "results stay, three more rules are added. Only with --decoder_input=lookahead.",
        source="ours: all rules (environment/rules.py)",
        low=1,
        high=LOOKAHEAD_RULES,
    )
    units: int = setting(
        128, help="LSTM units per layer, embedding width and width of the attention.", source="Section V-B", low=1
    )
    layers: int = setting(2, help="LSTM layers in the encoder and in the decoder.", source="Section V-B", low=1)
    heads: int = setting(
        8,
        help="Attention heads, a divisor of --units. 0: no attention; the decoder gets only the encoder's last state.",
        source="Table I; 1 with mrlco and drl",
        low=0,
    )
    neighbour_width: int = setting(
        32,
        help="Largest number of parents, and of children, of a task. Only with --neighbours=listed.",
        source="ours: enough for the data, where they reach 23; smaller data need fewer inputs",
        low=1,
    )
    neighbours: str = setting(
        "listed",
        help="Encoding of a task's parents and children. listed: lists of positions. pooled: summaries of any number "
        "of them.",
        source="Section IV-B: lists of positions",
        choices=NEIGHBOURS,
        label=BY_VALUE,
    )
    task_features: str = setting(
        "paper",
        help="Features of a task for the encoder. paper: as in the paper. outlook: also features of the tasks after it "
        "(paths to the end, remaining work).",
        source="Section IV-B",
        choices=TASK_FEATURES,
        label=BY_VALUE,
    )
    encoder: str = setting(
        "forward",
        help="Direction in which the encoder reads the scheduling order.",
        source="(16)",
        choices=ENCODERS,
        label=BY_VALUE,
    )
    matmul: str = setting(
        "float32",
        help="Precision of the policy's matrix products. tf32 applies to NVIDIA GPUs since Ampere, elsewhere it is "
        "float32. bfloat16 adds up in float32.",
        source="ours: the paper gives no precision; on a GPU, tf32 and bfloat16 multiply faster",
        choices=MATMULS,
        label=BY_VALUE,
    )

    def _check_together(self) -> None:
        if self.heads and self.units % self.heads:
            raise InputError(f"heads is {self.heads}; accepted: 0, or a divisor of units ({self.units})")
        if self.encoder == "bidirectional" and self.units % 2:
            raise InputError(f"units is {self.units} with encoder=bidirectional; accepted: an even number")
        if self.any_servers and not self.sees_simulator:
            raise InputError(
                f"decoder_input is {self.decoder_input} with servers=any_servers, whose options need the simulator's "
                "quantities; accepted: task_sim, lookahead"
            )
        if self.neighbours == "pooled" and self.neighbour_width != NetworkConfig.neighbour_width:
            raise InputError(
                f"neighbour_width is {self.neighbour_width} with neighbours=pooled, which has no width; accepted: the "
                f"default, {NetworkConfig.neighbour_width}"
            )

    @property
    def neighbour_limit(self) -> int | None:
        """Largest number of parents, and of children, of a task; None for no limit."""
        return self.neighbour_width if self.neighbours == "listed" else None

    @property
    def any_servers(self) -> bool:
        """Whether options are scored one by one, for any number of servers."""
        return self.servers == "any_servers"

    @property
    def logits(self) -> int:
        """Logits of the head: one for each of the two sites, or one for the scored option."""
        return 1 if self.any_servers else 2

    @property
    def in_order(self) -> bool:
        """Whether tasks are placed in the priority order (13); otherwise actions choose the order, too."""
        return self.decides == "placement"

    @property
    def sees_simulator(self) -> bool:
        """Whether the decoder gets the simulator's quantities."""
        return self.decoder_input in ("task_sim", "lookahead")

    @property
    def outlook(self) -> bool:
        """Whether the encoder gets features of the tasks after each task."""
        return self.task_features == "outlook"


@dataclasses.dataclass(frozen=True)
class LearningConfig(_Settings):
    """Inner loop (23)-(27) and outer loop (28)-(29)."""

    learn_from: str = setting(
        "samples",
        help="Source of learning. samples: sampled trajectories. deviations: the policy's own plan, and plans with one "
        "changed decision. optimum: imitation of demonstrations, the best known plan of each DAG.",
        source="Algorithm 1",
        choices=LEARN_FROM,
        label=BY_VALUE,
    )
    inner_lr: float = setting(
        5e-4, help="alpha: learning rate of Adam in the inner loop.", source="Table I", low=0.0, open_low=True
    )
    inner_lr_decay: int = setting(
        0,
        help="Adam steps over which --inner_lr decays to 0 (half a cosine). 0: no decay.",
        source="the paper has none",
        low=0,
    )
    outer_lr: float = setting(
        5e-4,
        help="beta: learning rate of the outer loop. Not used with --meta_update=joint.",
        source="Table I",
        low=0.0,
        open_low=True,
        unread_with=("meta_update", "joint"),
    )
    outer_lr_decay: int = setting(
        0,
        help="Iterations over which --outer_lr decays to 0 (half a cosine). 0: no decay.",
        source="the paper has none",
        low=0,
        label=UNSAID,
    )
    inner_steps: int = setting(
        3, help="m: full-batch gradient steps of the inner loop on one collection.", source="Table I", low=1
    )
    meta_batch: int = setting(
        10,
        help="Learning tasks in a meta-iteration, drawn without replacement.",
        source="Section V-C, Experiment 1; 5 in Experiment 2",
        low=1,
        label=UNSAID,
    )
    graphs_per_task: int = setting(
        100,
        help="DAGs of a learning task in one collection.",
        source="Section V-C: 100 DAGs in each set, all used in a collection",
        low=1,
        label=UNSAID,
    )
    rollouts: int = setting(
        10,
        help="Trajectories per DAG in one collection; with deviations, including the policy's own plan.",
        source="ours: the paper gives no number; MRLCO's public code uses 10",
        low=1,
        label=UNSAID,
    )
    gamma: float = setting(0.99, help="Discount per step.", source="Table I", low=0.0, high=1.0)
    gae_lambda: float = setting(
        0.95, help="lambda of the advantage estimate (25).", source="Table I", low=0.0, high=1.0
    )
    baseline: str = setting(
        "value",
        help="Baseline of the advantages. value: the values (25). leave_one_out: the other trajectories of the same "
        "DAG.",
        source="(25)",
        choices=BASELINES,
        label=BY_VALUE,
    )
    clip_epsilon: float = setting(
        0.2,
        help="epsilon: clipping of the probability ratio (23).",
        source="Table I",
        low=0.0,
        high=1.0,
        open_low=True,
    )
    value_coef: float = setting(0.5, help="c1: weight of the value loss (27).", source="Table I", low=0.0)
    entropy_coef: float = setting(
        0.0, help="Weight of the entropy per step.", source="(27) has no entropy term", low=0.0
    )
    reward_scale: str = setting(
        "all_local",
        help="Divisor of a DAG's rewards. all_local: its all-local makespan. none: rewards in seconds.",
        source="ours: without this scale the value loss in raw units hides the policy gradient",
        choices=REWARD_SCALES,
    )
    normalise_advantages: bool = setting(
        True,
        help="Normalise advantages to mean 0 and standard deviation 1 over a learning task's steps.",
        source="ours: usual in PPO",
    )
    meta_update: str = setting(
        "reptile",
        help="Step of the outer loop. reptile: the paper's averaged first-order update (29). reptile_adam: the same "
        "with Adam. fomaml: first-order MAML. maml: MAML. joint: no inner loop, joint training on the meta-batch.",
        source="(28)-(29); joint with drl",
        choices=META_UPDATES,
        label=BY_VALUE,
    )

    def _check_together(self) -> None:
        if self.baseline == "leave_one_out" and self.rollouts < 2:
            raise InputError("rollouts is 1 with baseline=leave_one_out; accepted: at least 2")
        if self.learn_from == "deviations" and self.rollouts < 2:
            raise InputError("rollouts is 1 with learn_from=deviations; accepted: at least 2, the own plan and another")
        if self.baseline == "leave_one_out" and self.learn_from != "samples":
            raise InputError(f"baseline is leave_one_out with learn_from={self.learn_from}; accepted: value")


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(_Settings):
    """Distribution of the work over devices. Apart from rounding, it changes the cost but no result.

    So it is not part of a run's settings, and a run may continue with another one. `learning.devices.resolve` replaces
    the defaults.
    """

    parallel: str = setting(
        "auto",
        help="Method of sharing the tasks of a meta-batch over devices. auto: shard_map with several devices.",
        choices=PARALLEL,
        label=UNSAID,
    )
    num_devices: int = setting(
        0,
        help="Number of devices; on a host without a GPU, its cores. 0: as many as the learning tasks keep busy, or "
        "one with --parallel=single.",
        low=0,
        label=UNSAID,
    )
    task_axis: str = setting(
        "auto",
        help="Batching of a device's tasks. auto: map on a CPU, otherwise vmap.",
        choices=TASK_AXES,
        label=UNSAID,
    )
    metrics_every: int = setting(
        0,
        help="Iterations between two fetches of metrics; a fetch waits for the device. 0: 1 on a CPU, otherwise 10.",
        low=0,
        label=UNSAID,
    )

    def _check_together(self) -> None:
        if self.parallel == "single" and self.num_devices > 1:
            raise InputError(f"num_devices is {self.num_devices}; accepted with parallel single: 0 or 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig(_Settings):
    """One meta-training run: data, method, length and seed."""

    experiment: str = setting(
        "exp2",
        help="Data set: exp1 (unseen topologies), exp2 (unseen numbers of tasks), exp3 (unseen rates), general (all "
        "kinds), or your own set (make_data.py --from) in --data.",
        source="Section V-C has the first three",
        label=UNSAID,
    )
    method: str = setting(  # the methods are defined in methods/
        "mrlato",
        help="Method to train. A method has its own settings; other flags replace them.",
        source="Algorithm 1",
        label=UNSAID,
    )
    iterations: int = setting(2000, help="Meta-iterations of the whole run.", source="Table I", low=1, label=UNSAID)
    seed: int = setting(0, help="Seed of every random draw of the run.", low=0, high=2**32 - 1, label=UNSAID)
    channel: str = setting(
        "paper",
        help="Channel rules of the simulator, for sets whose system has none.",
        source="Section III-C: (7)-(10)",
        choices=CHANNEL_NAMES,
        label=UNSAID,
    )
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None  # learning from demonstrations before the first iteration
    warm_start_iterations: int = setting(
        0,
        help="Iterations of imitation before training, for methods with a warm start. 0: no warm start; theta begins "
        "at random.",
        source="the paper has none",
        low=0,
    )

    @property
    def warm_start_config(self) -> TrainConfig | None:
        """Settings of the run that learns this run's initial theta; None if theta is random."""
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

    def _check_together(self) -> None:
        if self.warm_start_iterations and self.warm_start is None:
            raise InputError(
                f"warm_start_iterations is {self.warm_start_iterations} with method {self.method}, which is not "
                "warm-started; accepted: 0"
            )
        if self.warm_start_iterations and self.channel != CHANNEL_NAMES[0]:
            raise InputError(
                f"channel is {self.channel} with a warm start; accepted: {CHANNEL_NAMES[0]}, as in demonstrations"
            )
        if 0 < self.learning.outer_lr_decay < self.iterations:
            raise InputError(
                f"outer_lr_decay is {self.learning.outer_lr_decay}, after which the learning rate is 0; accepted: 0, "
                f"or at least {self.iterations}, the number of iterations"
            )


RECORDS: dict[str, type[_Settings]] = {  # the records within a TrainConfig, by their names in files
    "policy": NetworkConfig,
    "learning": LearningConfig,
    "warm_start": LearningConfig,
}
