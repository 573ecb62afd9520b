"""One flag for each setting of a training run, made from its field in `mrlato_jax.config`, which also checks its range.

If a setting has several values, the last of these sources wins: the default of its field, which is the paper's; the
method (`methods/`); flag files and the command line, from left to right. So a flag file has a setting only to replace
the method's value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from absl import flags

from mrlato_jax.config import (
    OURS,
    ExecutionConfig,
    LearningConfig,
    NetworkConfig,
    Setting,
    TrainConfig,
    settings_of,
)
from mrlato_jax.methods import METHODS, learned_method

RECORDS = (TrainConfig, NetworkConfig, LearningConfig, ExecutionConfig)
LAYOUT_FLAGS = tuple(settings_of(ExecutionConfig))


def define_train_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the flags, with the defaults of the records."""
    for record in RECORDS:
        for name, known in settings_of(record).items():
            _define(name, getattr(record, name), known, flag_values)


def choices_of(name: str, known: Setting) -> Collection[str]:
    """Returns the accepted values of a text setting; empty if they are unknown before a run."""
    return METHODS if name == "method" else known.choices


def execution_config(flag_values: flags.FlagValues = flags.FLAGS) -> ExecutionConfig:
    """Returns the distribution of the work over devices, given by the flags.

    Raises:
        InputError: a value is out of range.
    """
    return ExecutionConfig(**{name: flag_values[name].value for name in LAYOUT_FLAGS})


def train_config(base: TrainConfig | None = None, flag_values: flags.FlagValues = flags.FLAGS) -> TrainConfig:
    """Returns the settings of `base` (by default, those of `--method`) with the given flags applied.

    Raises:
        InputError: a value is out of range.
    """
    base = learned_method(flag_values["method"].value).config() if base is None else base

    def given(record: Any) -> dict[str, Any]:
        return {name: flag_values[name].value for name in settings_of(record) if flag_values[name].present}

    return dataclasses.replace(
        base,
        network=dataclasses.replace(base.network, **given(base.network)),
        learning=dataclasses.replace(base.learning, **given(base.learning)),
        **given(base),
    )


def _define(name: str, default: Any, known: Setting, flag_values: flags.FlagValues) -> None:
    text = known.help
    if known.kind in (int, float):
        text += f" Accepted: {known.accepted}."
    if known.source != OURS:
        text += f" Source: {known.source}."
    choices = choices_of(name, known)
    if choices:
        flags.DEFINE_enum(name, default, list(choices), text, flag_values=flag_values)
        return
    define = {
        str: flags.DEFINE_string,
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
    }[known.kind]
    define(name, default, text, flag_values=flag_values)
