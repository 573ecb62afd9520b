"""Flags, flag files, help and errors, as a user of the scripts meets them."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
from absl import flags

from mrlato_jax import methods
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
sys.path.insert(0, str(LAUNCH))

from _cli import Argument, expand, help_text, parse  # noqa: E402
from _train_flags import LAYOUT_FLAGS, define_train_flags, execution_config, train_config  # noqa: E402

NESTED = ("network", "learning", "warm_start")
SETTINGS = {
    field.name: field
    for record in (TrainConfig, NetworkConfig, LearningConfig)
    for field in dataclasses.fields(record)
    if field.name not in NESTED
}


@pytest.fixture
def values() -> flags.FlagValues:
    found = flags.FlagValues()
    define_train_flags(found)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(values: flags.FlagValues, *arguments: str, base: TrainConfig | None = None) -> TrainConfig:
    assert parse(["prog", *arguments], values) == ["prog"]
    return train_config(base, values)


def error(values: flags.FlagValues, *arguments: str) -> str:
    with pytest.raises(InputError) as caught:
        config(values, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Every setting has a flag of its own name.


def test_settings_have_names_of_their_own() -> None:
    records = (TrainConfig, NetworkConfig, LearningConfig)
    assert len(SETTINGS) == sum(len(dataclasses.fields(record)) for record in records) - len(NESTED)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_flag(values: flags.FlagValues, name: str) -> None:
    assert name in values
    assert values[name].default == SETTINGS[name].default
    assert values[name].help.endswith(".")
    assert SETTINGS[name].metadata["setting"].help in values[name].help


def test_no_flags_are_the_defaults(values: flags.FlagValues) -> None:
    assert config(values) == TrainConfig()


OTHER: dict[str, Any] = {
    "experiment": "exp3", "iterations": 3, "seed": 4, "channel": "mrlco", "decoder_input": "task_sim", "units": 24,
    "layers": 1, "heads": 3, "neighbour_width": 9, "neighbours": "listed", "matmul": "bfloat16",
    "inner_lr": 0.25, "outer_lr": 0.125, "inner_steps": 2, "meta_batch": 6, "graphs_per_task": 7, "rollouts": 2,
    "gamma": 0.5, "gae_lambda": 0.75, "clip_epsilon": 0.3, "value_coef": 2.0, "entropy_coef": 0.01,
    "reward_scale": "none", "normalise_advantages": False, "meta_update": "reptile_adam", "baseline": "value",
    "learn_from": "deviations", "inner_lr_decay": 8, "outer_lr_decay": 9, "task_features": "outlook",
    "encoder": "bidirectional", "decides": "order", "lookahead_rules": 2, "servers": "any_servers",
}  # fmt: skip


def test_every_flag_reaches_its_setting(values: flags.FlagValues) -> None:
    assert OTHER.keys() == SETTINGS.keys() - {"method", "warm_start_iterations"}
    built = config(values, *(f"--{name}={value}" for name, value in OTHER.items()))
    flat = built.to_json()
    flat |= flat.pop("policy") | flat.pop("learning")
    assert flat == OTHER | {"method": "mrlato", "warm_start": None, "warm_start_iterations": 0}


def test_the_baseline_has_a_flag(values: flags.FlagValues) -> None:
    """Alone, since only samples are measured from it."""
    assert config(values, "--baseline=leave_one_out").learning.baseline == "leave_one_out"


def test_iterations_of_a_warm_start_are_for_methods_that_have_one(values: flags.FlagValues) -> None:
    said = error(values, "--warm_start_iterations=5")
    assert said == "warm_start_iterations is 5 with method mrlato, which is not warm-started; accepted: 0"
    base = TrainConfig(warm_start=LearningConfig(), warm_start_iterations=9)
    assert config(values, "--warm_start_iterations=5", base=base).warm_start_iterations == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--outer_lr_decay=5"],
            "outer_lr_decay is 5, after which the learning rate is 0; accepted: 0",
        ),
        (["--channel=mrlco"], "channel is mrlco with a warm start; accepted: paper, as in demonstrations"),
        (["--baseline=leave_one_out"], "baseline is leave_one_out with learn_from=deviations; accepted: value"),
    ],
)
def test_settings_that_do_not_go_with_mrlato_plus(values: flags.FlagValues, given: list[str], said: str) -> None:
    assert error(values, "--flagfile=exp1.flags", "--flagfile=mrlato_plus.flags", *given).startswith(said)


def test_the_warm_starts_rate_falls_over_all_of_it(values: flags.FlagValues) -> None:
    built = config(values, "--flagfile=exp1.flags", "--flagfile=mrlato_plus.flags", "--warm_start_iterations=7")
    assert built.warm_start_config is not None
    assert (built.warm_start_config.iterations, built.warm_start_config.learning.inner_lr_decay) == (7, 7)


def test_pooled_neighbours_are_named(values: flags.FlagValues) -> None:
    built = config(values, f"--flagfile={LAUNCH / 'exp2.flags'}", "--neighbours=pooled")  # whose width is the default
    assert built.network.neighbours == "pooled"
    assert methods.label(built) == "mrlato+pooled"
    assert methods.label(config(values, "--matmul=tf32")) == "mrlato+pooled+tf32"


def test_only_given_flags_replace_those_of_a_resumed_run(values: flags.FlagValues) -> None:
    stored = TrainConfig(seed=5, network=NetworkConfig(units=16), learning=LearningConfig(rollouts=2))
    assert config(values, "--iterations=9", base=stored) == dataclasses.replace(stored, iterations=9)


def test_layout_flags_reach_their_settings(values: flags.FlagValues) -> None:
    """How the work is laid out on devices is no part of a run's settings."""
    assert sorted(LAYOUT_FLAGS) == sorted(field.name for field in dataclasses.fields(ExecutionConfig))
    assert not set(LAYOUT_FLAGS) & SETTINGS.keys()
    assert execution_config(values) == ExecutionConfig()
    other = ExecutionConfig(parallel="pmap", num_devices=2, task_axis="vmap", metrics_every=7, tensorboard=True)
    parse(["prog", *(f"--{name}={value}" for name, value in other.to_json().items())], values)
    assert execution_config(values) == other


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (["--num_devices=-1"], "num_devices is -1; accepted: an integer"),
        (["--metrics_every=-1"], "metrics_every is -1; accepted: an integer"),
        (["--parallel=single", "--num_devices=2"], "num_devices is 2; accepted with parallel single: 0 or 1"),
    ],
)
def test_layouts_that_are_refused(values: flags.FlagValues, given: list[str], phrase: str) -> None:
    parse(["prog", *given], values)
    with pytest.raises(InputError, match=re.escape(phrase)):
        execution_config(values)


# What the command line may look like.


def test_forms_of_a_flag(values: flags.FlagValues) -> None:
    built = config(values, "--seed", "3", "-units=16", "--nonormalise_advantages", "--seed=4")
    assert (built.seed, built.network.units, built.learning.normalise_advantages) == (4, 16, False)
    assert config(values, "--normalise_advantages").learning.normalise_advantages
    assert not config(values, "--normalise_advantages=false").learning.normalise_advantages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--itertions=3"], "unknown flag --itertions; did you mean --iterations?"),
        (["--flagfil=a"], "unknown flag --flagfil; did you mean --flagfile?"),
        (["--zzz"], "unknown flag --zzz; --help lists what is accepted"),
        (["--noseed"], "unknown flag --noseed; did you mean --seed?"),
        (["--seed=x"], "--seed is 'x'; accepted: an integer"),
        (["--seed=1.5"], "--seed is '1.5'; accepted: an integer"),
        (["--gamma=high"], "--gamma is 'high'; accepted: a number"),
        (["--channel=ether"], "--channel is 'ether'; accepted: paper, mrlco, mrlco_code, resident"),
        (["--normalise_advantages=2"], "--normalise_advantages is '2'; accepted: true, false"),
        (["--nonormalise_advantages=1"], "--nonormalise_advantages is '1'; accepted: no value"),
        (["--seed"], "--seed has no value; accepted: an integer"),
        (["--flagfile"], "--flagfile has no value; accepted: the name of a flag file"),
        (["exp2.flags"], "argument is 'exp2.flags'; accepted: --name=value flags only"),
        (["--normalise_advantages", "false"], "argument is 'false'; accepted: --name=value flags only"),
        (["--"], "unknown flag --; --help lists what is accepted"),
        (["--iterations=0"], "iterations is 0; accepted: an integer in [1, inf)"),
        (["--gamma=nan"], "gamma is nan; accepted: a finite number in [0, 1]"),
        (["--heads=7"], "heads is 7; accepted: 0, or a divisor of units (128)"),
        (["--neighbours=some"], "--neighbours is 'some'; accepted: listed, pooled"),
        (
            ["--neighbours=pooled", "--neighbour_width=9"],
            "neighbour_width is 9 with neighbours=pooled, which has no width; accepted: the default, 32",
        ),
    ],
)
def test_wrong_flags(values: flags.FlagValues, arguments: list[str], message: str) -> None:
    assert error(values, *arguments) == message


def test_required_flags_and_validators(values: flags.FlagValues) -> None:
    flags.DEFINE_string("run", None, "A run folder.", flag_values=values)
    flags.mark_flag_as_required("run", flag_values=values)
    assert "--run" in error(values)
    assert parse(["prog", "--run=a"], values) == ["prog"]
    assert values.run == "a"


@pytest.mark.parametrize("given", [["--run="], ["--run", ""], ["--seed="]])
def test_an_empty_value_is_refused(values: flags.FlagValues, given: list[str]) -> None:
    """As from a shell variable that is not set."""
    flags.DEFINE_string("run", None, "A run folder.", flag_values=values)
    assert "is empty; accepted: " in error(values, *given)


# Flag files.


def test_flag_file_is_what_it_says(values: flags.FlagValues, folder: Path) -> None:
    (folder / "a.flags").write_text(
        "# a comment\n// another\n\n   --seed=3  \n  # --seed=4\n-units=16\n--nonormalise_advantages\n"
    )
    built = config(values, "--flagfile=a.flags")
    assert (built.seed, built.network.units, built.learning.normalise_advantages) == (3, 16, False)


@pytest.mark.parametrize("form", [["--flagfile=a.flags"], ["--flagfile", "a.flags"], ["-flagfile=a.flags"]])
def test_the_last_wins(values: flags.FlagValues, folder: Path, form: list[str]) -> None:
    (folder / "a.flags").write_text("--seed=3\n--units=16\n")
    assert config(values, *form, "--seed=9").seed == 9
    assert config(values, "--seed=9", *form).seed == 3


def test_search_order_of_a_bare_name(values: flags.FlagValues, folder: Path) -> None:
    assert config(values, "--flagfile=exp3.flags").experiment == "exp3"  # beside the scripts
    (folder / "exp3.flags").write_text("--experiment=exp1\n")
    assert config(values, "--flagfile=exp3.flags").experiment == "exp1"  # the working directory first


def test_a_name_with_a_folder_is_not_looked_for_beside_the_scripts(values: flags.FlagValues, folder: Path) -> None:
    message = error(values, "--flagfile=./exp3.flags")
    assert message == f"--flagfile=./exp3.flags not found; searched: {folder / 'exp3.flags'}"
    assert config(values, f"--flagfile={LAUNCH / 'exp3.flags'}").experiment == "exp3"


def test_missing_file_lists_where_it_was_sought(values: flags.FlagValues, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.flags").write_text("--seed=1\n--flagfile=none.flags\n")
    places = [folder / "none.flags", LAUNCH / "none.flags"]
    assert error(values, "--flagfile=none.flags").endswith("searched: " + ", ".join(map(str, places)))
    nested = error(values, "--flagfile=sub/a.flags")
    assert nested.startswith(f"{folder / 'sub' / 'a.flags'}:2: --flagfile=none.flags not found")
    assert nested.endswith("searched: " + ", ".join(map(str, [folder / "sub" / "none.flags", *places])))


def test_nested_files_beside_their_parent_first(values: flags.FlagValues, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "outer.flags").write_text("--seed=1\n--flagfile=inner.flags\n--units=16\n")
    (folder / "inner.flags").write_text("--seed=2\n--units=24\n")
    assert config(values, "--flagfile=sub/outer.flags").seed == 2
    (folder / "sub" / "inner.flags").write_text("--seed=3\n")
    built = config(values, "--flagfile=sub/outer.flags")
    assert (built.seed, built.network.units) == (3, 16)


def test_a_file_may_come_twice_but_not_within_itself(values: flags.FlagValues, folder: Path) -> None:
    (folder / "a.flags").write_text("--flagfile=b.flags\n--flagfile=b.flags\n")
    (folder / "b.flags").write_text("--seed=2\n")
    assert config(values, "--flagfile=a.flags", "--flagfile=a.flags").seed == 2
    (folder / "b.flags").write_text("\n--flagfile=./a.flags\n")
    message = error(values, "--flagfile=a.flags")
    assert message == f"{folder / 'b.flags'}:2: --flagfile=./a.flags includes itself: a.flags -> b.flags -> a.flags"


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("seed=3", "line is 'seed=3'; accepted: --name=value"),
        ("--seed 3", "line is '--seed 3'; accepted: one --name=value and nothing after it"),
        ("--seed=3 # three", "nothing after it"),
        ("--seed=3 // three", "nothing after it"),
        ("--seed=3 --units=16", "nothing after it"),
        ("--seed=3 4", "--seed is '3 4'; accepted: an integer"),
        ("--seed", "--seed has no value; accepted: an integer"),
        ("--flagfile", "--flagfile has no value"),
        ("--sed=3", "unknown flag --sed; did you mean --seed?"),
        ("--channel=ether", "accepted: paper, mrlco"),
    ],
)
def test_wrong_lines_are_named_by_number(values: flags.FlagValues, folder: Path, line: str, phrase: str) -> None:
    (folder / "a.flags").write_text(f"# first\n--units=16\n{line}\n")
    message = error(values, "--flagfile=a.flags", "--seed=1")
    assert message.startswith(f"{folder / 'a.flags'}:3: ")
    assert phrase in message


def test_a_flag_file_that_is_no_text(values: flags.FlagValues, folder: Path) -> None:
    (folder / "a.flags").write_bytes(b"--seed=\xff\n")
    assert "cannot be read" in error(values, "--flagfile=a.flags")


def test_a_value_may_have_spaces(folder: Path) -> None:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "Folder.", flag_values=values)
    (folder / "a.flags").write_text("--out=my runs/exp 2\n")
    parse(["prog", "--flagfile=a.flags"], values)
    assert values.out == "my runs/exp 2"


# Flag files made to do harm: one line, soon.


def doubling(folder: Path) -> str:
    for i in range(23):
        (folder / f"{i}.flags").write_text(f"--flagfile={i + 1}.flags\n" * 2)
    (folder / "23.flags").write_text("--seed=1\n")
    return "0.flags"


def nested(folder: Path) -> str:
    for i in range(1200):
        (folder / f"{i}.flags").write_text(f"--flagfile={i + 1}.flags\n")
    return "0.flags"


def link_to_itself(folder: Path) -> str:
    (folder / "a.flags").symlink_to("b.flags")
    (folder / "b.flags").symlink_to("a.flags")
    return "a.flags"


def large(folder: Path) -> str:
    (folder / "a.flags").write_text("--seed=1\n" * 20_000)
    return "a.flags"


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (doubling, "is one flag file too many; accepted: at most 100, nested in at most 20 levels"),
        (nested, "is one flag file too many; accepted: at most 100, nested in at most 20 levels"),
        (link_to_itself, "--flagfile=a.flags "),
        (large, "a.flags is longer than 100000 bytes; accepted: at most this size"),
        (lambda _: "a" * 5000, "aaa... cannot be searched (File name too long); accepted: a file's name"),
        (lambda _: "a\0b", "--flagfile=a\\x00b cannot be searched"),
        (lambda _: "~nobody-of-that-name/a", "cannot be searched"),
        (lambda _: "/dev/zero", "--flagfile=/dev/zero not found"),
        (lambda _: "a\x1b[31m", "--flagfile=a\\x1b[31m not found; searched: "),
    ],
)
def test_harmful_flag_files(values: flags.FlagValues, folder: Path, make: Callable[[Path], str], phrase: str) -> None:
    message = error(values, f"--flagfile={make(folder)}")
    assert phrase in message
    assert message.isprintable()
    assert len(message) < 1000 + 2 * 5000


@pytest.mark.parametrize("argument", ["--\x1b[31mred", "\x1b[31mred", "--seed=\x1b[31m", "--no\x1b[31m=1"])
def test_what_is_quoted_is_escaped(values: flags.FlagValues, folder: Path, argument: str) -> None:
    message = error(values, argument)
    assert "\\x1b[31m" in message
    assert message.isprintable()
    (folder / "\x1b[32m.flags").write_text(f"{argument}\n")
    message = error(values, "--flagfile=\x1b[32m.flags")
    assert "\\x1b[32m.flags:1: " in message
    assert message.isprintable()


def test_a_long_name_of_a_flag_is_cut(values: flags.FlagValues) -> None:
    assert len(error(values, "--" + "a" * 5000)) < 300


# The flag files that are shipped.


def stated(name: str) -> list[str]:
    return [line.text.lstrip("-").partition("=")[0] for line in expand([Argument(f"--flagfile={LAUNCH / name}")])]


TABLE_I: dict[str, Any] = {  # the paper's settings in full, by dotted names as in a run's config.json
    "experiment": "exp1", "method": "mrlato", "iterations": 2000, "seed": 0, "channel": "paper",
    "policy.decides": "placement", "policy.servers": "one_server", "policy.decoder_input": "paper",
    "policy.lookahead_rules": 5, "policy.units": 128, "policy.layers": 2,
    "policy.heads": 8, "policy.neighbour_width": 32, "policy.neighbours": "listed",
    "policy.task_features": "paper", "policy.encoder": "forward", "policy.matmul": "float32",
    "learning.learn_from": "samples", "learning.inner_lr": 5e-4, "learning.inner_lr_decay": 0,
    "learning.outer_lr": 5e-4, "learning.outer_lr_decay": 0, "learning.inner_steps": 3, "learning.meta_batch": 10,
    "learning.graphs_per_task": 100, "learning.rollouts": 10, "learning.gamma": 0.99, "learning.gae_lambda": 0.95,
    "learning.baseline": "value", "learning.clip_epsilon": 0.2, "learning.value_coef": 0.5,
    "learning.entropy_coef": 0.0, "learning.reward_scale": "all_local", "learning.normalise_advantages": True,
    "learning.meta_update": "reptile", "warm_start": None, "warm_start_iterations": 0,
}  # fmt: skip
OF_EXPERIMENTS: dict[str, dict[str, Any]] = {
    "exp1": {},
    "exp2": {"experiment": "exp2", "learning.meta_batch": 5},
    "exp3": {"experiment": "exp3"},
}
TABLE = {"iterations": 300, "learning.graphs_per_task": 10, "learning.rollouts": 5}
PLUS: dict[str, Any] = {  # mrlato_plus but for what is spent
    "method": "mrlato_plus", "policy.decoder_input": "lookahead", "policy.neighbours": "pooled",
    "policy.task_features": "outlook", "policy.encoder": "bidirectional", "learning.learn_from": "deviations",
    "learning.inner_lr": 2e-4, "learning.outer_lr": 1e-4, "learning.value_coef": 0.0,
    "learning.meta_update": "reptile_adam", "warm_start_iterations": 1000,
    "warm_start": {
        "learn_from": "optimum", "inner_lr": 1e-3, "inner_lr_decay": 1000, "outer_lr": 5e-4, "outer_lr_decay": 0,
        "inner_steps": 1, "meta_batch": 2, "graphs_per_task": 64, "rollouts": 10, "gamma": 0.99, "gae_lambda": 0.95,
        "baseline": "value", "clip_epsilon": 0.2, "value_coef": 0.0, "entropy_coef": 0.0, "reward_scale": "all_local",
        "normalise_advantages": True, "meta_update": "joint",
    },
}  # fmt: skip
PLUS_ORDER = {
    **PLUS,
    "method": "mrlato_plus_order",
    "policy.decides": "order",
    "warm_start_iterations": 150,
    "warm_start": {**PLUS["warm_start"], "inner_lr_decay": 150},
}
PLUS_BUDGET = {"iterations": 150, "learning.outer_lr_decay": 150, "learning.graphs_per_task": 10}
ORDER_BUDGET = {**PLUS_BUDGET, "iterations": 30, "learning.outer_lr_decay": 30}
BEHIND_AN_EXPERIMENT: dict[str, dict[str, Any]] = {  # flag files and a method, and what they make of it
    "": {},
    "cpu": {
        "iterations": 120, "learning.graphs_per_task": 20, "learning.rollouts": 4, "policy.decoder_input": "task_sim",
        "learning.outer_lr": 1.5e-3,
    },
    "cpu_hour": {
        "iterations": 900, "learning.graphs_per_task": 10, "learning.rollouts": 20, "policy.decoder_input": "task_sim",
        "learning.outer_lr": 7e-4, "learning.entropy_coef": 0.01, "learning.meta_update": "reptile_adam",
    },
    "cpu_table": TABLE,
    "cpu_table --method=mrlato": TABLE,
    "cpu_table --method=mrlco": {**TABLE, "method": "mrlco", "policy.heads": 1},
    "cpu_table --method=drl": {**TABLE, "method": "drl", "policy.heads": 1, "learning.meta_update": "joint"},
    "cpu_table mrlato_plus --method=mrlato_plus": {**PLUS, **PLUS_BUDGET},  # as reproduce.py gives them
    "cpu_table mrlato_plus_order --method=mrlato_plus_order": {**PLUS_ORDER, **ORDER_BUDGET},
    "mrlato_plus": {**PLUS, **PLUS_BUDGET},
    "mrlato_plus_order": {**PLUS_ORDER, **ORDER_BUDGET},
    "first_run": {  # what `make run` trains
        **PLUS, **PLUS_BUDGET, "warm_start_iterations": 100, "iterations": 15, "learning.outer_lr_decay": 15,
    },
    "--method=mrlco": {"method": "mrlco", "policy.heads": 1},
    "--method=drl": {"method": "drl", "policy.heads": 1, "learning.meta_update": "joint"},
    "--method=mrlato_plus": PLUS,  # what an experiment's file leaves to the defaults replaces nothing of a method's
    "--method=mrlato_plus_order": PLUS_ORDER,
    "cpu_table --method=mrlato_plus": {**PLUS, **TABLE},
}  # fmt: skip


def dotted(config: TrainConfig) -> dict[str, Any]:
    values = config.to_json()
    nested = {f"{record}.{name}": v for record in ("policy", "learning") for name, v in values.pop(record).items()}
    return values | nested


@pytest.mark.parametrize("experiment", OF_EXPERIMENTS)
@pytest.mark.parametrize("behind", BEHIND_AN_EXPERIMENT)
def test_what_the_shipped_files_resolve_to(values: flags.FlagValues, experiment: str, behind: str) -> None:
    words = [word if word.startswith("--") else f"--flagfile={word}.flags" for word in behind.split()]
    built = config(values, f"--flagfile={experiment}.flags", *words)
    assert dotted(built) == TABLE_I | OF_EXPERIMENTS[experiment] | BEHIND_AN_EXPERIMENT[behind]


def test_what_the_general_policy_is_trained_with(values: flags.FlagValues) -> None:
    built = config(values, f"--flagfile={LAUNCH / 'general.flags'}")
    spent = {"warm_start_iterations": 2000, "iterations": 240, "learning.outer_lr_decay": 240}
    wide = {"experiment": "general", "policy.servers": "any_servers"}
    assert dotted(built) == TABLE_I | PLUS | PLUS_BUDGET | spent | wide


def test_a_setting_is_the_defaults_then_the_methods_then_what_is_given_last(
    values: flags.FlagValues, folder: Path
) -> None:
    (folder / "mine.flags").write_text("--inner_lr=0.5\n--rollouts=7\n")
    built = config(values, "--flagfile=exp1.flags", "--method=mrlato_plus", "--flagfile=mine.flags", "--rollouts=8")
    assert built.learning.gamma == LearningConfig.gamma
    assert built.learning.outer_lr == methods.METHODS["mrlato_plus"].learning.outer_lr != LearningConfig.outer_lr
    assert (built.learning.inner_lr, built.learning.rollouts) == (0.5, 8)
    assert methods.label(built) == "mrlato_plus+inner_lr=0.5"


@pytest.mark.parametrize("name", OF_EXPERIMENTS)
def test_an_experiments_file_states_what_differs(name: str) -> None:
    assert stated(f"{name}.flags") == ["experiment", "method", "meta_batch"]


def test_the_methods_files_state_what_is_spent() -> None:
    spent = {"method", "iterations", "outer_lr_decay", "graphs_per_task", "rollouts"}
    assert set(stated("mrlato_plus.flags")) == set(stated("mrlato_plus_order.flags")) == spent


@pytest.mark.parametrize(("method", "heads", "meta_update"), [("mrlco", 1, "reptile"), ("drl", 1, "joint")])
def test_a_method_brings_its_settings(values: flags.FlagValues, method: str, heads: int, meta_update: str) -> None:
    full = config(values, "--flagfile=exp1.flags")
    built = config(values, "--flagfile=exp1.flags", f"--method={method}")
    assert (built.method, methods.label(built)) == (method, method)
    own = {
        "network": dataclasses.replace(full.network, heads=heads),
        "learning": dataclasses.replace(full.learning, meta_update=meta_update),
    }
    assert built == dataclasses.replace(full, method=method, **own)  # all else alike
    assert methods.label(config(values, "--heads=2")) == f"{method}+heads=2"


def test_an_unknown_method_is_told_the_known_ones(values: flags.FlagValues) -> None:
    with pytest.raises(InputError, match=re.escape("--method is 'ppo'; accepted: mrlato, mrlco, drl")):
        config(values, "--method=ppo")
    with pytest.raises(InputError, match=re.escape("method is 'ppo'; accepted: mrlato, mrlco, drl")):
        methods.label(TrainConfig(method="ppo"))


@pytest.mark.parametrize(
    ("name", "beyond", "label"),
    [
        ("cpu", {"decoder_input", "outer_lr"}, "mrlato+task_sim+outer_lr=0.0015"),
        (
            "cpu_hour",
            {"decoder_input", "outer_lr", "entropy_coef", "meta_update"},
            "mrlato+task_sim+outer_lr=0.0007+entropy_coef=0.01+reptile_adam",
        ),
    ],
)
def test_cpu_presets_are_smaller_and_say_what_they_add(
    values: flags.FlagValues, name: str, beyond: set[str], label: str
) -> None:
    full = config(values, "--flagfile=exp2.flags")
    less = config(values, "--flagfile=exp2.flags", f"--flagfile={name}.flags")
    assert set(stated(f"{name}.flags")) == {"iterations", "graphs_per_task", "rollouts"} | beyond
    assert methods.label(less) == label
    assert less.iterations < full.iterations
    fewer, more = (made.learning.graphs_per_task * made.learning.rollouts for made in (less, full))
    assert fewer < more


def test_the_cpu_preset_moves_to_the_mean_of_the_adapted(values: flags.FlagValues) -> None:
    learning = config(values, "--flagfile=exp2.flags", "--flagfile=cpu.flags").learning
    assert learning.meta_update == "reptile"
    assert learning.outer_lr == pytest.approx(learning.inner_lr * learning.inner_steps)


# Whole programs.

SCRIPT = '''"""Trains a toy.

python toy.py --out=FOLDER
"""
import sys
sys.path.insert(0, {launch!r})
from _cli import run
from _train_flags import define_train_flags, train_config
from absl import flags
from mrlato_jax.errors import InputError

OUT = flags.DEFINE_string("out", None, "Folder to write to.")
define_train_flags()

def main(argv):
    config = train_config()
    if OUT.value == "bad":
        raise InputError("out is 'bad'; accepted: good")
    if OUT.value == "missing":
        open("/missing/file")
    if OUT.value == "interrupted":
        raise KeyboardInterrupt
    print(config.iterations, argv[1:])
    return 3 if OUT.value == "three" else None

if __name__ == "__main__":
    run(main)
'''


def toy(folder: Path, *arguments: str, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    script = folder / "toy.py"
    script.write_text(SCRIPT.format(launch=str(LAUNCH)))
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(script), *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )


def test_program_runs_with_a_shipped_file_from_anywhere(tmp_path: Path) -> None:
    ran = toy(tmp_path, "--flagfile=exp2.flags", "--flagfile=cpu.flags", "--iterations=7", "--out=three")
    assert (ran.returncode, ran.stdout) == (3, "7 []\n"), ran.stderr


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param(
            "--iteratons=3", "error: unknown flag --iteratons; did you mean --iterations?\n", marks=pytest.mark.slow
        ),
        ("--out=bad", "error: out is 'bad'; accepted: good\n"),
    ],
)
def test_program_ends_with_one_line(tmp_path: Path, argument: str, message: str) -> None:
    ran = toy(tmp_path, argument)
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", message)


@pytest.mark.parametrize(
    ("out", "status", "message"),
    [
        pytest.param(
            "missing", 1, "error: [Errno 2] No such file or directory: '/missing/file'\n", marks=pytest.mark.slow
        ),
        ("interrupted", 130, "interrupted\n"),
    ],
)
def test_what_the_system_refuses_is_one_line(tmp_path: Path, out: str, status: int, message: str) -> None:
    ran = toy(tmp_path, f"--out={out}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", message)


def test_help_of_a_program(tmp_path: Path) -> None:
    ran = toy(tmp_path, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Trains a toy.\n\npython toy.py --out=FOLDER\n\nflags:\n")
    listed = [line.split("=")[0].split()[0] for line in ran.stdout.splitlines() if line.startswith("  --")]
    yes_or_no = ("normalise_advantages", "tensorboard")
    own = [f"--[no]{name}" if name in yes_or_no else f"--{name}" for name in (*SETTINGS, *LAYOUT_FLAGS)]
    assert sorted(listed) == sorted(["--out", "--flagfile", *own])
    assert "  --channel=<paper, mrlco, mrlco_code, resident>  (default: paper)\n      Channel rules" in ran.stdout
    assert "beside the scripts" in " ".join(ran.stdout.split())


@pytest.mark.parametrize("argument", ["--help", "--iterations=7"])
def test_a_reader_that_leaves_ends_it_without_a_word(tmp_path: Path, argument: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as left:
        ran = toy(tmp_path, argument, stdout=left)
    assert (ran.returncode, ran.stderr) == (1, "")


def test_help_keeps_the_order_of_the_declarations(values: flags.FlagValues) -> None:
    text = help_text("About.", "prog", values)
    places = [
        text.index(f"{name}") for name in ("--experiment", "--iterations", "--units", "--inner_lr", "--task_axis")
    ]
    assert places == sorted(places)
