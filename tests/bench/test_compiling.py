"""Compile times: of the programs that are trained with, in processes of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from mrlato_jax.bench import compiling
from mrlato_jax.bench.compiling import PLUS, TABLE_I, WARM_START
from mrlato_jax.config import completed

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "data" / "results" / "cpu"


def trained(method: str) -> dict[str, Any]:
    """The settings that reproduce.py has trained with."""
    record = json.loads((RECORDS / f"exp1-{method}-seed0.json").read_bytes())
    return completed(record["identity"]["config"])


def test_the_programs_are_those_that_are_trained_with() -> None:
    assert compiling.config(PLUS).to_json() == trained(PLUS)
    smaller = trained(TABLE_I)
    learning = {**smaller["learning"], "graphs_per_task": 100, "rollouts": 10}  # Table I's, which take a GPU
    assert compiling.config(TABLE_I).to_json() == {**smaller, "learning": learning, "iterations": 2000}
    warm = compiling.config(PLUS).warm_start_config
    assert warm is not None
    assert compiling.config(WARM_START) == warm
    assert warm.learning.learn_from == "optimum"


def test_tiny_programs_are_of_the_same_kind() -> None:
    for program in compiling.PROGRAMS:
        whole, tiny = compiling.config(program), compiling.config(program, tiny=True)
        sizes = {"meta_batch": 2, "graphs_per_task": 2, "rollouts": 2}
        assert tiny.learning == dataclasses.replace(whole.learning, **sizes)
        assert tiny.network.units < whole.network.units


def measured(variant: str, folder: Path) -> dict[str, Any]:
    file, cache = folder / f"{variant}.json", folder / "cache"
    settings = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    environment = {**os.environ, **settings, **compiling.variables(variant, cache)}
    subprocess.run(compiling.command(TABLE_I, variant, file, cache, tiny=True), env=environment, check=True)
    return json.loads(file.read_bytes())


@pytest.mark.slow  # compiles Table I's program in processes of its own
def test_the_persistent_cache_saves_compiling_and_nothing_else(tmp_path: Path) -> None:
    cold, warm = measured(compiling.AS_IS, tmp_path), measured(compiling.WARM_CACHE, tmp_path)
    for figures in (cold, warm):
        assert min(figures[f"{name}_seconds"] for name in ("trace", "lower", "compile", "iteration")) > 0
        assert figures["environment"]["jax"] == jax.__version__
    assert warm["compile_seconds"] < cold["compile_seconds"] / 2
    for name in ("stablehlo_operations", "hlo_instructions"):
        assert warm[name] == cold[name] > 1000


def test_a_gpu_flag_is_not_measured_elsewhere(tmp_path: Path) -> None:
    assert measured("autotune_level_0", tmp_path)["not_measured"] == "not applicable on cpu"


def test_flags_go_behind_those_that_are_there(tmp_path: Path) -> None:
    values = compiling.variables("autotune_level_0", tmp_path, {"XLA_FLAGS": "--xla_one=1"})
    assert values["XLA_FLAGS"] == "--xla_one=1 --xla_gpu_autotune_level=0"
    assert values["JAX_ENABLE_COMPILATION_CACHE"] == "false"


@pytest.mark.parametrize(("program", "variant"), [("nothing", "as_is"), ("mrlato", "nothing")])
def test_only_what_there_is_is_measured(program: str, variant: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'nothing'; accepted: "):
        compiling.write(program, variant, str(tmp_path / "file.json"), str(tmp_path / "cache"))
