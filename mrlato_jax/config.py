"""Frozen, validated settings. Every number that shapes a result lives here and is stored with the run.

A setting is one field: its default, its check, its help, the source of its default and how labels say it stand in one
call of `setting`. Flags (`launch/_train_flags.py`), labels (`methods/learned.py`) and `docs/settings.md` follow.

Defaults are the paper's (Table I) where it gives one and ours where it does not; the module
docstring of `mrlato_jax.learning` says which equation each setting enters.
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
LOOKAHEAD_RULES = 5  # that there are
CANDIDATES = 6  # ready tasks compared with a free order; more change no makespan by 0.1 % on fresh training DAGs
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
CHANNEL_NAMES = ("paper", "mrlco", "mrlco_code", "resident")  # what they mean: mec/system.py

STORED_AS = {"network": "policy"}  # fields whose name in files is another one

BY_NAME, BY_VALUE, UNSAID = "name=value", "value", "unsaid"  # how a label says a value that is not the method's own

OURS = "ours"  # a default that needs no reason


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is known of one setting beside its name and default.

    Attributes:
        kind: str, int, float or bool.
        help: what it does, with units, in sentences.
        source: where the default is from: the paper's table, section or equation, or ours and why.
        choices: of a text, all that are accepted; empty where what there is lies outside of the settings.
        low: of a number, the least.
        high: of a number, the largest.
        open_low: whether `low` itself is not accepted.
        label: `BY_NAME`, `BY_VALUE`, or `UNSAID` where it says how much is spent and not what is done.
        unread_with: another setting of the same record and the value with which this one has no effect, so that no
            label says it.
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
        """Raises InputError unless the setting called `name` may be `value`."""
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
        """What `check` accepts, in words."""
        if self.kind is bool:
            return "true, false"
        if self.kind is not str:
            return accepted_numbers(self.low, self.high, self.open_low, self.kind is int)
        return ", ".join(self.choices) or "text"


def setting(default: Any, **known: Any) -> Any:
    """A field of a settings record; `known` has the attributes of its `Setting`, whose kind is the default's."""
    return dataclasses.field(default=default, metadata={"setting": Setting(type(default), **known)})


def settings_of(record: Any) -> dict[str, Setting]:
    """The settings of a record or its class by name, in order; records within it are none."""
    return {
        field.name: field.metadata["setting"] for field in dataclasses.fields(record) if "setting" in field.metadata
    }


def completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """`TrainConfig.to_json`'s output of an earlier version as it is written now.

    Settings that it lacks are added, as they were meant. Settings that were removed since are left out where they have
    the one value that is still what is done.
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
    """A record of settings: checked one by one, then together; to and from plain JSON values."""

    removed: ClassVar[Mapping[str, Any]] = {}  # former settings by name, with the one value that is still what is done

    def __post_init__(self) -> None:
        for name, known in settings_of(self).items():
            known.check(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        """Raises InputError where settings, each of which is accepted, do not go together."""

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {STORED_AS.get(name, name): value for name, value in values.items()}

    @classmethod
    def without_removed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """`to_json`'s output of an earlier version without the settings of `removed` that have their one value."""
        return {
            name: value for name, value in values.items() if not (name in cls.removed and value == cls.removed[name])
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Builds the record from `to_json`'s output; raises InputError on unknown names and values of other types.

        Missing fields take their defaults. A new setting does by default what the package did before.
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
        help="What an action decides. placement: the site of the next task in the priority order. order: also which "
        f"task is next, among the {CANDIDATES} ready tasks of the highest priority.",
        source="(13): tasks are placed in the order of their priority",
        choices=DECIDES,
        label=BY_VALUE,
    )
    servers: str = setting(
        "one_server",
        help="What the network decides among. one_server: two logits, for local and offloaded. any_servers: options (a "
        "site, or a ready task and a site); one small network judges each option from the task, the decoder's state "
        "and the option's own quantities. This choice takes any number of servers, results that stay, pins and energy.",
        source="Section III-C: one MEC server",
        choices=SERVERS,
        label=BY_VALUE,
    )
    decoder_input: str = setting(
        "paper",
        help="What the decoder sees beside its own state and the attention. paper: nothing more. task: the task that "
        "it decides. task_sim: also the simulator's queues. lookahead: also the outcome of either decision if quick "
        "rules decide all later tasks.",
        source="Section IV-B: its own state and the attention over the encoder, nothing more",
        choices=DECODER_INPUTS,
        label=BY_VALUE,
    )
    lookahead_rules: int = setting(
        LOOKAHEAD_RULES,
        help=f"Number of quick rules, at most {LOOKAHEAD_RULES}. The best outcome of these rules judges a decision. "
        "Where results stay, there are three more. Used only with --decoder_input=lookahead.",
        source="ours: all quick rules (environment/rules.py)",
        low=1,
        high=LOOKAHEAD_RULES,
    )
    units: int = setting(
        128, help="LSTM units per layer; also the width of embedding and attention.", source="Section V-B", low=1
    )
    layers: int = setting(2, help="LSTM layers in the encoder and in the decoder.", source="Section V-B", low=1)
    heads: int = setting(
        8,
        help="Attention heads, a divisor of --units. With 0 there is no attention: the decoder knows only the last "
        "state of the encoder.",
        source="Table I; 1 with mrlco and drl",
        low=0,
    )
    neighbour_width: int = setting(
        32,
        help="Most parents, and most children, that a task may have. Used only with --neighbours=listed.",
        source="ours: tasks in the data have at most 23 parents or children; small data needs fewer inputs",
        low=1,
    )
    neighbours: str = setting(
        "listed",
        help="How the encoder sees a task's parents and children. listed: as lists of positions. pooled: as summaries "
        "of any number of tasks.",
        source="Section IV-B: by their positions",
        choices=NEIGHBOURS,
        label=BY_VALUE,
    )
    task_features: str = setting(
        "paper",
        help="What the encoder sees of the task itself. paper: the paper's features. outlook: also what comes after "
        "the task (longest ways to the end, work left).",
        source="Section IV-B",
        choices=TASK_FEATURES,
        label=BY_VALUE,
    )
    encoder: str = setting(
        "forward",
        help="Direction in which the encoder reads the scheduling order: forward, or both ways.",
        source="(16)",
        choices=ENCODERS,
        label=BY_VALUE,
    )
    matmul: str = setting(
        "float32",
        help="Precision of the policy's matrix products. tf32 has an effect on NVIDIA GPUs since Ampere; elsewhere it "
        "is float32. bfloat16 multiplies in bfloat16 and sums in float32.",
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
        """Most parents, and most children, that a task may have; None where any number can be told."""
        return self.neighbour_width if self.neighbours == "listed" else None

    @property
    def any_servers(self) -> bool:
        """Whether options are judged one by one, for any number of servers."""
        return self.servers == "any_servers"

    @property
    def logits(self) -> int:
        """Logits of the head: of both sides, or of the option that it judges."""
        return 1 if self.any_servers else 2

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
class LearningConfig(_Settings):
    """Inner loop (23)-(27) and outer loop (28)-(29)."""

    learn_from: str = setting(
        "samples",
        help="What the policy learns from. samples: sampled plans. deviations: the policy's own plan, and plans that "
        "differ from it in one decision. optimum: demonstrations, the best known plan of each DAG, which the policy "
        "imitates.",
        source="Algorithm 1",
        choices=LEARN_FROM,
        label=BY_VALUE,
    )
    inner_lr: float = setting(
        5e-4, help="alpha: learning rate of Adam in the inner loop.", source="Table I", low=0.0, open_low=True
    )
    inner_lr_decay: int = setting(
        0,
        help="Adam steps over which --inner_lr falls to 0 (half a cosine). With 0 the rate stays constant.",
        source="the paper has none",
        low=0,
    )
    outer_lr: float = setting(
        5e-4,
        help="beta: learning rate of the outer loop. --meta_update=joint ignores it.",
        source="Table I",
        low=0.0,
        open_low=True,
        unread_with=("meta_update", "joint"),
    )
    outer_lr_decay: int = setting(
        0,
        help="Iterations over which --outer_lr falls to 0 (half a cosine). With 0 the rate stays constant.",
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
        help="Trajectories per DAG in one collection. With --learn_from=deviations one of them is the policy's own "
        "plan.",
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
        help="Baseline of the advantages. value: the values (25). leave_one_out: the mean return of the other "
        "trajectories of the same DAG.",
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
        0.0, help="Weight of the entropy per step in the loss.", source="(27) has no entropy term", low=0.0
    )
    reward_scale: str = setting(
        "all_local",
        help="Scale of rewards. all_local: a DAG's rewards are divided by its all-local makespan. none: rewards are in "
        "seconds.",
        source="ours: without this scale the value loss in raw units hides the policy gradient",
        choices=REWARD_SCALES,
    )
    normalise_advantages: bool = setting(
        True,
        help="Whether advantages are scaled to mean 0 and standard deviation 1 over the steps of a learning task.",
        source="ours: as is usual with PPO",
    )
    meta_update: str = setting(
        "reptile",
        help="Step of the outer loop. reptile: the paper's averaged first-order update (29). reptile_adam: the same "
        "through Adam. fomaml: first-order MAML. maml: MAML. joint: no inner loop; joint training on the learning "
        "tasks of the meta-batch.",
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
    """How the work is laid out on devices. It changes the cost and, beyond rounding, no result.

    So it is no part of a run's settings: a run may be continued under another one. `learning.devices.resolve` says what
    the defaults stand for.
    """

    parallel: str = setting(
        "auto",
        help="How all devices share the learning tasks of a meta-batch. auto: shard_map if several devices are used, "
        "else single.",
        choices=PARALLEL,
        label=UNSAID,
    )
    num_devices: int = setting(
        0,
        help="Number of devices. Without a GPU each core of the host is a device. 0: as many as the learning tasks "
        "keep busy; with --parallel=single one.",
        low=0,
        label=UNSAID,
    )
    task_axis: str = setting(
        "auto",
        help="How a device runs its learning tasks. map: one after the other. vmap: side by side. auto: map on a CPU, "
        "else vmap.",
        choices=TASK_AXES,
        label=UNSAID,
    )
    metrics_every: int = setting(
        0,
        help="Iterations between two fetches of metrics. A fetch waits for the device. 0: 1 on a CPU, else 10.",
        low=0,
        label=UNSAID,
    )
    tensorboard: bool = setting(
        False,
        help="Also write the curves as an event file for TensorBoard into the run folder. Needs the extra tensorboard.",
        label=UNSAID,
    )

    def _check_together(self) -> None:
        if self.parallel == "single" and self.num_devices > 1:
            raise InputError(f"num_devices is {self.num_devices}; accepted with parallel single: 0 or 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig(_Settings):
    """One meta-training run: which data, which method, how long, from which seed."""

    experiment: str = setting(
        "exp2",
        help="Data set: exp1 (unseen topologies), exp2 (unseen numbers of tasks), exp3 (unseen rates), general (many "
        "applications and systems), or a data set of yours (made by make_data.py --from) in the folder --data.",
        source="Section V-C has the first three",
        label=UNSAID,
    )
    method: str = setting(  # which ones there are: methods/
        "mrlato",
        help="Method to train. A method brings settings of its own; other flags replace them.",
        source="Algorithm 1",
        label=UNSAID,
    )
    iterations: int = setting(2000, help="Meta-iterations of the whole run.", source="Table I", low=1, label=UNSAID)
    seed: int = setting(0, help="Seed of every random draw of the run.", low=0, high=2**32 - 1, label=UNSAID)
    channel: str = setting(
        "paper",
        help="Channel rules of the simulator, for sets whose system does not name its own.",
        source="Section III-C: (7)-(10)",
        choices=CHANNEL_NAMES,
        label=UNSAID,
    )
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None  # how theta is learned from demonstrations before the first iteration
    warm_start_iterations: int = setting(
        0,
        help="Iterations of imitating demonstrations before the first meta-iteration, if the method has a warm start. "
        "With 0 theta begins at random.",
        source="the paper has none",
        low=0,
    )

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


RECORDS: dict[str, type[_Settings]] = {  # those within a TrainConfig, by their names in files
    "policy": NetworkConfig,
    "learning": LearningConfig,
    "warm_start": LearningConfig,
}
