"""Aggregation of the UEs' updates for the outer step (29): their mean, elementwise median or trimmed mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TRIMMED = 0.2  # share of the UEs cut at each end, as in Flower's `FedTrimmedAvg`


class Aggregation(NamedTuple):
    """One method of aggregation.

    Attributes:
        least: least number of UEs in a round for which it differs from the mean.
        middle: function of rows, over the first axis; None keeps the rows.
    """

    least: int
    middle: Callable[[np.ndarray], np.ndarray] | None


def _median(rows: np.ndarray) -> np.ndarray:
    middle: np.ndarray = np.median(rows, axis=0)
    return middle


def _trimmed_mean(rows: np.ndarray) -> np.ndarray:
    from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

    return trim_mean(rows, TRIMMED)


AGGREGATIONS = {
    "mean": Aggregation(1, None),
    "median": Aggregation(3, _median),
    "trimmed_mean": Aggregation(5, _trimmed_mean),
}


def aggregated(aggregation: str, visited: np.ndarray) -> np.ndarray:
    """Replaces each UE's row by the median or trimmed mean of all rows; `mean` keeps the rows.

    (29) then averages equal rows. A UE with far-off numbers has little influence on a median or a trimmed mean.

    Args:
        aggregation: a name in AGGREGATIONS.
        visited: one row for each UE.
    """
    middle = AGGREGATIONS[aggregation].middle
    if middle is None:
        return visited
    return np.broadcast_to(middle(visited).astype(visited.dtype), visited.shape)
