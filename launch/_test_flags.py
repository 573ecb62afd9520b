"""Flags for the test sets, shared by training, which ends with an evaluation, and by evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.training.experiments import (
    TEST_RATES_BPS,
    TestSet,
    fresh_sets,
    unseen_sets,
    validation_sets,
)

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
