"""One flag for each setting of a training run. Ranges are checked by `mrlato_jax.config`, not here."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from mrlato_jax.config import (
    BASELINES,
    DECIDES,
    DECODER_INPUTS,
    ENCODERS,
    LEARN_FROM,
    LOOKAHEAD_RULES,
    MATMULS,
    META_UPDATES,
    NEIGHBOURS,
    PARALLEL,
    REWARD_SCALES,
    TASK_AXES,
    TASK_FEATURES,
    ExecutionConfig,
    TrainConfig,
)
from mrlato_jax.mec.system import CHANNELS
from mrlato_jax.methods import LEARNED, learned_method

LAYOUT_FLAGS = tuple(ExecutionConfig().to_json())


def define_train_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the flags, with the defaults of the records."""
    run = TrainConfig()
    policy, learning = run.network, run.learning

    def choice(name: str, default: str, choices: Any, text: str) -> None:
        flags.DEFINE_enum(name, default, list(choices), text, flag_values=flag_values)

    def text(name: str, default: str, what: str) -> None:
        flags.DEFINE_string(name, default, what, flag_values=flag_values)

    def integer(name: str, default: int, text: str) -> None:
        flags.DEFINE_integer(name, default, text, flag_values=flag_values)

    def number(name: str, default: float, text: str) -> None:
        flags.DEFINE_float(name, default, text, flag_values=flag_values)

    text(
        "experiment",
        run.experiment,
        "Data and split: exp1 (unseen topologies), exp2 (task numbers), exp3 (rates), general (anything), or a set of "
        "yours (make_data.py --from) in --data.",
    )
    choice("method", run.method, LEARNED, "What is trained; it has --heads and --meta_update of its own.")
    integer("iterations", run.iterations, "Meta-iterations of the whole run.")
    integer("seed", run.seed, "Of every random draw of the run.")
    integer(
        "warm_start_iterations",
        run.warm_start_iterations,
        "Iterations of imitating demonstrations before, where the method is warm-started; 0: not at all.",
    )
    choice("channel", run.channel, CHANNELS, "Channel rules of the simulator.")

    choice(
        "decides",
        policy.decides,
        DECIDES,
        "What an action settles: the placement of the next task in the priority order, or also which task is next.",
    )
    integer(
        "candidates",
        policy.candidates,
        "Of the tasks whose parents are placed, so many of the highest priority may be next. Of --decides=order only.",
    )
    choice(
        "decoder_input",
        policy.decoder_input,
        DECODER_INPUTS,
        "What the decoder sees beside its own state: as in the paper nothing; the task that it decides; the "
        "simulator's queues, too; and what either decision leads to if quick rules decide the rest.",
    )
    integer(
        "lookahead_rules",
        policy.lookahead_rules,
        f"Quick rules, at most {LOOKAHEAD_RULES}, the best of which speaks for a decision. Of "
        "--decoder_input=lookahead only.",
    )
    integer("units", policy.units, "LSTM units a layer, embedding width and width of the attention.")
    integer("layers", policy.layers, "LSTM layers in the encoder and in the decoder.")
    integer("heads", policy.heads, "Attention heads, a divisor of --units; 0: no attention.")
    integer(
        "neighbour_width",
        policy.neighbour_width,
        "Most parents, and most children, that a task may have. Of --neighbours=listed only.",
    )
    choice(
        "neighbours",
        policy.neighbours,
        NEIGHBOURS,
        "A task's parents and children as lists of positions, or pooled: in summaries that hold any number of them.",
    )
    choice(
        "task_features",
        policy.task_features,
        TASK_FEATURES,
        "What the encoder is told of a task itself: as in the paper, or also what comes after it (ways to the end, "
        "work left).",
    )
    choice("encoder", policy.encoder, ENCODERS, "Which way the encoder reads the scheduling order.")
    choice(
        "matmul",
        policy.matmul,
        MATMULS,
        "How precisely the policy's matrix products multiply. tf32 means it on NVIDIA GPUs since Ampere, else float32; "
        "bfloat16 sums in float32.",
    )

    choice(
        "learn_from",
        learning.learn_from,
        LEARN_FROM,
        "What is learned from: samples; or, imitated, the best of a DAG's samples, or demonstrations; or the policy's "
        "own plan and what comes of single decisions taken the other way.",
    )
    integer("inner_lr_decay", learning.inner_lr_decay, "Adam steps over which --inner_lr falls to 0; 0: it stays.")
    number("inner_lr", learning.inner_lr, "alpha: learning rate of Adam in the inner loop.")
    number("outer_lr", learning.outer_lr, "beta: learning rate of the outer loop.")
    integer("outer_lr_decay", learning.outer_lr_decay, "Iterations over which --outer_lr falls to 0; 0: it stays.")
    integer("inner_steps", learning.inner_steps, "m: gradient steps of the inner loop on one collection.")
    integer("meta_batch", learning.meta_batch, "Learning tasks a meta-iteration, drawn without replacement.")
    integer("graphs_per_task", learning.graphs_per_task, "DAGs of a learning task in one collection.")
    integer(
        "rollouts", learning.rollouts, "Trajectories per DAG in one collection, the own plan of deviations among them."
    )
    number("gamma", learning.gamma, "Discount per step, in [0, 1].")
    number("gae_lambda", learning.gae_lambda, "lambda of the advantage estimate, in [0, 1].")
    choice(
        "baseline",
        learning.baseline,
        BASELINES,
        "What advantages are measured from: the values (25), or the other trajectories of the same DAG.",
    )
    number("clip_epsilon", learning.clip_epsilon, "Clipping of the probability ratio, in (0, 1].")
    number("value_coef", learning.value_coef, "c1: weight of the value loss.")
    number("entropy_coef", learning.entropy_coef, "Weight of the entropy per step; the paper has none.")
    choice(
        "reward_scale",
        learning.reward_scale,
        REWARD_SCALES,
        "Divide a DAG's rewards by its all-local makespan, or not at all: seconds.",
    )
    flags.DEFINE_bool(
        "normalise_advantages",
        learning.normalise_advantages,
        "Bring advantages to mean 0 and deviation 1 over a learning task's steps.",
        flag_values=flag_values,
    )
    choice("meta_update", learning.meta_update, META_UPDATES, "Step of the outer loop.")

    execution = ExecutionConfig()
    choice(
        "parallel",
        execution.parallel,
        PARALLEL,
        "How the tasks of a meta-batch are spread over all devices; auto is shard_map where there are several.",
    )
    integer(
        "num_devices",
        execution.num_devices,
        "Devices used, on a host without a GPU its cores; 0 is all that the learning tasks keep busy.",
    )
    choice("task_axis", execution.task_axis, TASK_AXES, "How a device batches its tasks: auto maps on CPU, else vmaps.")
    integer(
        "metrics_every",
        execution.metrics_every,
        "Iterations from one fetch of metrics to the next, which waits for the device; 0 is 1 on CPU, else 10.",
    )


def execution_config(flag_values: flags.FlagValues = flags.FLAGS) -> ExecutionConfig:
    """How the work is laid out.

    Raises:
        InputError: a value out of its range.
    """
    return ExecutionConfig(**{name: flag_values[name].value for name in LAYOUT_FLAGS})


def train_config(base: TrainConfig | None = None, flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """The settings of `base` (by default, those of `--method`), with each flag that was given in its place.

    Raises:
        InputError: a value out of its range.
    """
    base = learned_method(flag_values["method"].value).config() if base is None else base

    def given(record: Any) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(record) if field.name in flag_values]
        return {name: flag_values[name].value for name in names if flag_values[name].present}

    return dataclasses.replace(
        base,
        network=dataclasses.replace(base.network, **given(base.network)),
        learning=dataclasses.replace(base.learning, **given(base.learning)),
        **given(base),
    )
