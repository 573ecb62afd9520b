"""Every method of a table under one face (`face.Method`): a learned one is a record in a file here, listed below."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mrlato_jax.config import TrainConfig
from mrlato_jax.errors import check_choice
from mrlato_jax.methods import drl, mrlato, mrlato_plus, mrlco
from mrlato_jax.methods.face import Method, Prepared
from mrlato_jax.methods.learned import LearnedMethod
from mrlato_jax.methods.planned import COUNTED_SEARCH, QUICK_PLANNERS, PlannedMethod, SearchBudget, planned_methods

METHODS: Mapping[str, LearnedMethod] = MappingProxyType(
    {
        method.name: method
        for method in (mrlato.METHOD, mrlco.METHOD, drl.METHOD, mrlato_plus.METHOD, mrlato_plus.METHOD_THAT_ORDERS)
    }
)
"""Every learned method by its name, read-only: a record of the settings in which it differs from the paper's."""

__all__ = [
    "COUNTED_SEARCH",
    "METHODS",
    "QUICK_PLANNERS",
    "LearnedMethod",
    "Method",
    "PlannedMethod",
    "Prepared",
    "SearchBudget",
    "label",
    "learned_method",
    "planned_methods",
]


def learned_method(name: str) -> LearnedMethod:
    """The learned method called `name`.

    Raises:
        InputError: there is none.
    """
    check_choice("method", name, METHODS)
    return METHODS[name]


def label(config: TrainConfig) -> str:
    """The method of a run with everything that its settings add, as its row in a table says it.

    Raises:
        InputError: an unknown method.
    """
    return learned_method(config.method).label(config)
