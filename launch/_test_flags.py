"""Flags for the test sets, shared by training, which ends with an evaluation, and by evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import InputError
from mrlato_jax.training.experiments import (
    TEST_RATES_BPS,
    TestSet,
    fresh_sets,
    unseen_sets,
    validation_sets,
)
from mrlato_jax.training.run_folder import RunFolder

RECORDS = {"test": "evaluation", "fresh": "fresh", "validation": "validation"}  # what files of each are called
_DEFAULT = ",".join(f"{rate / 1e6:g}" for rate in TEST_RATES_BPS["exp3"])


class _NumbersParser(flags.ArgumentParser[list[float]]):
    syntactic_help = "numbers, with commas between them"

    def parse(self, argument: str | Sequence[float]) -> list[float]:
        parts = argument.split(",") if isinstance(argument, str) else argument
        return [float(part) for part in parts]


def define_test_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the flags."""
    flags.DEFINE(
        _NumbersParser(),
        "test_rates_mbps",
        None,
        f"Test rates, Mbit/s; only for Experiment 3. Default: {_DEFAULT}; the paper's text has 13.5 as the third.",
        flag_values=flag_values,
        serializer=flags.CsvListSerializer(","),
    )


def define_measuring_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares them for scripts that measure runs that have ended."""
    flags.DEFINE_integer(
        "updates",
        100,
        "Gradient steps of the adaptation to each test set; 0 only measures.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "on",
        "test",
        list(RECORDS),
        "Which DAGs: the test sets, fresh ones like them, or of the training families.",
        flag_values=flag_values,
    )
    define_test_flags(flag_values)
    flags.DEFINE_string(
        "data", None, "Folder of the data set. Default: the one that the run was trained on.", flag_values=flag_values
    )


def data_of(run: RunFolder, flag_values: flags.FlagValues = flags.FLAGS) -> DagDataset:
    """The data set of a run, in the folder of `--data` or in the one that the run was begun with.

    Raises:
        InputError: no such data set, or another one.
    """
    given = flag_values["data"].value
    dataset = datasets.load(run.config.experiment, Path(given) if given else run.data_folder)
    stored = run.record["data_hash"]
    if stored != dataset.content_hash:
        raise InputError(
            f"data has hash {dataset.content_hash[:12]}; accepted: {stored[:12]}, what run {run.path} was trained on"
        )
    return dataset


def sets_on(name: str, dataset: DagDataset, channel: str, flag_values: flags.FlagValues = flags.FLAGS) -> list[TestSet]:
    """Returns the test sets of `--on=name`: test, fresh, validation or none.

    Raises:
        InputError: rates are not positive, or are given for another experiment.
    """
    rates = flag_values["test_rates_mbps"].value
    rates_bps = None if rates is None else [1e6 * rate for rate in rates]
    if name in ("test", "fresh"):
        return (unseen_sets if name == "test" else fresh_sets)(dataset, channel, rates_bps)
    return validation_sets(dataset, channel) if name == "validation" else []
