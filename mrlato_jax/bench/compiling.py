"""Compilation times of the training programs: trace, lower and compile, under default and other settings.

Each measurement needs its own process, since XLA reads its flags once. `command` returns the command of the process,
`variables` its environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from mrlato_jax.bench.fresh import caching
from mrlato_jax.bench.iteration import Prepared, iteration_seconds
from mrlato_jax.bench.timing import environment
from mrlato_jax.config import ExecutionConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import check_choice
from mrlato_jax.files import write_atomically
from mrlato_jax.learning import devices
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import init_states, meta_iteration
from mrlato_jax.methods import learned_method
from mrlato_jax.training import demonstrations
from mrlato_jax.training.experiments import training_pools

EXPERIMENT = "exp1"
WARM_START, PLUS, TABLE_I = "warm_start", "mrlato_plus", "mrlato"
PROGRAMS = {
    WARM_START: "an iteration of mrlato_plus's warm start",
    PLUS: "a meta-iteration of mrlato_plus",
    TABLE_I: "a meta-iteration of Table I's mrlato",
}
UNKNOWN_FLAG = "Unknown flag"
"""XLA's message on standard error before it aborts because of an unknown flag; some versions add an s."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """Settings of the compiler.

    Attributes:
        what: description of the settings.
        xla_flags: flags in addition to those of the environment.
        gpu_only: whether the flags have an effect only on GPUs.
        cache: "" for no persistent cache, "cold" for a new empty one, "warm" for the one filled before.
        jax_config: JAX's settings by name.
    """

    what: str
    xla_flags: str = ""
    gpu_only: bool = False
    cache: str = ""
    jax_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


AS_IS, WARM_CACHE = "as_is", "warm_cache"
VARIANTS = {
    AS_IS: Variant("default settings, empty persistent cache", cache="cold"),
    WARM_CACHE: Variant("default settings, persistent cache filled by the variant before", cache="warm"),
    "autotune_level_0": Variant("no autotuning of matrix products", "--xla_gpu_autotune_level=0", gpu_only=True),
    "no_fusion_autotuner": Variant(
        "no autotuning of fusions", "--xla_gpu_experimental_enable_fusion_autotuner=false", gpu_only=True
    ),
    "low_effort": Variant(
        "lower compiler effort",
        jax_config={
            "jax_optimization_level": "O0",
            "jax_exec_time_optimization_effort": -1.0,
            "jax_memory_fitting_effort": -1.0,
        },
    ),
}

_MAIN = "import sys; from mrlato_jax.bench import compiling; compiling.write(*sys.argv[1:])"


def command(program: str, variant: str, file: Path, cache: Path, tiny: bool = False) -> list[str]:
    """Returns the command of a process that measures and writes the result.

    Args:
        program: one of `PROGRAMS`.
        variant: one of `VARIANTS`.
        file: output file, a JSON object.
        cache: folder of the persistent cache, if the variant has one.
        tiny: measure a program of the same kind that compiles in seconds.
    """
    return [sys.executable, "-c", _MAIN, program, variant, str(file), str(cache), "tiny" if tiny else ""]


def variables(variant: str, cache: Path, outer: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the environment variables of that process, in addition to `outer`."""
    settings = VARIANTS[variant]
    values = caching(str(cache)) if settings.cache else {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if settings.xla_flags:
        values["XLA_FLAGS"] = " ".join(filter(None, [outer.get("XLA_FLAGS"), settings.xla_flags]))
    return values


def write(program: str, variant: str, file: str, cache: str, tiny: str = "") -> None:
    """Runs in the separate process: writes the measurement to `file`, or the reason why there is none.

    Raises:
        InputError: the program or the variant is unknown.
    """
    check_choice("program", program, PROGRAMS)
    check_choice("variant", variant, VARIANTS)
    settings = VARIANTS[variant]
    if settings.cache == "cold":
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(cache)
    unknown = [name for name in settings.jax_config if not hasattr(jax.config, name)]
    if settings.gpu_only and jax.default_backend() != "gpu":
        figures: dict[str, Any] = {"not_measured": f"not applicable on {jax.default_backend()}"}
    elif unknown:
        figures = {"not_measured": f"JAX {jax.__version__} has no {', '.join(unknown)}"}
    else:
        for name, value in settings.jax_config.items():
            jax.config.update(name, value)
        before = set(Path(cache).glob("*-cache"))
        figures = measure(program, tiny=bool(tiny))
        if settings.cache == "warm" and set(Path(cache).glob("*-cache")) - before:
            figures = {"not_measured": "the persistent cache did not hold the program"}
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    write_atomically(Path(file), json.dumps({**figures, "environment": environment()}).encode() + b"\n")


def measure(program: str, *, tiny: bool = False) -> dict[str, float]:
    """Traces, lowers, compiles and runs a program under the settings of this process.

    Returns:
        `trace_seconds`, `lower_seconds`, `compile_seconds`; `stablehlo_operations` and `hlo_instructions`, before and
        after XLA's optimisation; `iteration_seconds`, the fastest of three.
    """
    network, learning, execution, states, pool = prepared(program, tiny=tiny)
    times = [time.perf_counter()]
    traced = meta_iteration.trace(network, learning, execution, states, pool)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    figures = {
        f"{name}_seconds": round(end - start, 3)
        for name, start, end in zip(("trace", "lower", "compile"), times, times[1:], strict=False)
    }
    return {
        **figures,
        "stablehlo_operations": lowered.as_text().count(" = "),
        "hlo_instructions": (compiled.as_text() or "").count(" = "),
        "iteration_seconds": iteration_seconds(lambda states: compiled(states, pool), states, repeats=3),
    }


def config(program: str, *, tiny: bool = False) -> TrainConfig:
    """Returns the settings of a program's training, on Experiment 1 (`exp1.flags`, `mrlato_plus.flags`)."""
    plus = learned_method(PLUS).config(experiment=EXPERIMENT, iterations=150)
    sized = dataclasses.replace(plus.learning, graphs_per_task=10, rollouts=10, outer_lr_decay=150)
    plus = dataclasses.replace(plus, learning=sized)
    warm = plus.warm_start_config
    assert warm is not None
    chosen = {WARM_START: warm, PLUS: plus, TABLE_I: learned_method(TABLE_I).config(experiment=EXPERIMENT)}[program]
    if not tiny:
        return chosen
    small: dict[str, Any] = {"units": 16, "layers": 1, "heads": 2}
    return dataclasses.replace(
        chosen,
        network=NetworkConfig(**{**dataclasses.asdict(chosen.network), **small}),
        learning=dataclasses.replace(chosen.learning, meta_batch=2, graphs_per_task=2, rollouts=2),
    )


def prepared(program: str, *, tiny: bool = False) -> Prepared:
    """Prepares the inputs of a program: one seed's learner and the learning tasks of its training, on one device."""
    settings = config(program, tiny=tiny)
    network, learning = settings.network, settings.learning
    execution = devices.resolve(ExecutionConfig(parallel="single", metrics_every=1), learning.meta_batch)
    if program == WARM_START:
        plans = demonstrations.load(demonstrations.find(EXPERIMENT), EXPERIMENT)
        (pool,) = demonstrations.demonstration_pools(
            EXPERIMENT, plans[: 2 * learning.graphs_per_task] if tiny else plans, network, learning.graphs_per_task
        )
    else:
        (pool,) = training_pools(datasets.load(EXPERIMENT), network, settings.channel)
        pool = _few(pool, tiny)
    states = init_states(network, learning, [0])
    return Prepared(network, learning, execution, devices.place(states, execution), devices.place(pool, execution))


def _few(pool: TaskPool, tiny: bool) -> TaskPool:
    """Returns the pool, with `tiny` only its first four sets."""
    return TaskPool(jax.tree.map(lambda leaf: leaf[:4], pool.learning_tasks), pool.sizes[:4]) if tiny else pool
