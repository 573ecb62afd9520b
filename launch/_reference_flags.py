"""Flags for the budget of the searching planners."""

from __future__ import annotations

from absl import flags

from mrlato_jax.errors import check_number
from mrlato_jax.methods import SearchBudget

_BUDGET = SearchBudget()


def define_reference_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares the flags."""
    flags.DEFINE_float(
        "optimum_s",
        _BUDGET.time_limit_s,
        "Time limit for the proof of a DAG's optimum, seconds.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "annealing_steps",
        _BUDGET.annealing_steps,
        "Number of changes that each chain of order search tries.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "local_search_evaluations",
        [str(most) for most in _BUDGET.evaluations],
        "Numbers of simulated plans per DAG, one local search for each, for comparison with learned policies: 100 "
        "updates use 170 with 5 rollouts and 340 with 10; those of mrlato_plus use 41260 with 25 tasks per DAG and "
        "66835 with 40.",
        flag_values=flag_values,
    )


def search_budget(flag_values: flags.FlagValues = flags.FLAGS) -> SearchBudget:
    """Returns the budget given by the flags.

    Raises:
        InputError: a value is out of range.
    """
    texts = flag_values["local_search_evaluations"].value
    evaluations = [int(text) if text.isdecimal() else text for text in texts]
    check_number("optimum_s", flag_values["optimum_s"].value, low=0.0)
    check_number("annealing_steps", flag_values["annealing_steps"].value, low=1, integer=True)
    for most in evaluations:
        check_number("local_search_evaluations", most, low=1, integer=True)
    return SearchBudget(flag_values["optimum_s"].value, flag_values["annealing_steps"].value, tuple(evaluations))
