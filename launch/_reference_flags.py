"""What the searching planners may spend: flags of the scripts that run them."""

from __future__ import annotations

from absl import flags

from mrlato_jax.errors import check_number
from mrlato_jax.methods import SearchBudget

_BUDGET = SearchBudget()


def define_reference_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Declares them."""
    flags.DEFINE_float(
        "optimum_s",
        _BUDGET.time_limit_s,
        "Seconds that a DAG's optimum may take to be proven.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "annealing_steps",
        _BUDGET.annealing_steps,
        "Changes that each of order search's chains tries.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "local_search_evaluations",
        [str(most) for most in _BUDGET.evaluations],
        "Simulated plans a DAG of local searches that stand beside learned policies: 100 updates with 5 rollouts spend "
        "170, with 10 rollouts 340; those of mrlato_plus 41260 with 25 tasks a DAG, 66835 with 40.",
        flag_values=flag_values,
    )


def search_budget(flag_values: flags.FlagValues = flags.FLAGS) -> SearchBudget:
    """The budget that the flags give.

    Raises:
        InputError: a value out of its range.
    """
    texts = flag_values["local_search_evaluations"].value
    evaluations = [int(text) if text.isdecimal() else text for text in texts]
    check_number("optimum_s", flag_values["optimum_s"].value, low=0.0)
    check_number("annealing_steps", flag_values["annealing_steps"].value, low=1, integer=True)
    for most in evaluations:
        check_number("local_search_evaluations", most, low=1, integer=True)
    return SearchBudget(flag_values["optimum_s"].value, flag_values["annealing_steps"].value, tuple(evaluations))
