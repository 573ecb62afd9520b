"""Every method of a table under one interface (`face.Method`). Each learned method is a record in its own file."""

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
"""Every learned method by its name, read-only. Its record has the settings that differ from the paper's."""

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
    """Returns the learned method called `name`.

    Raises:
        InputError: the method is unknown.
    """
    check_choice("method", name, METHODS)
    return METHODS[name]


def label(config: TrainConfig) -> str:
    """Returns the label of a run in tables: its method and the settings that differ from the method's.

    Raises:
        InputError: the method is unknown.
    """
    return learned_method(config.method).label(config)
