"""What the outer step (29) is over: the updates of all UEs, or number by number the middle of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TRIMMED = 0.2  # of the UEs, at either end: as Flower's `FedTrimmedAvg`


class Aggregation(NamedTuple):
    """One way to aggregate.

    Attributes:
        least: UEs in a round from which it makes a difference.
        middle: of rows, over the first axis; None: the rows stay.
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
    """What UEs sent, with each row replaced by the middle of all; `mean` leaves the rows as they are.

    (29) is then over equal rows. A UE whose numbers are far off moves a median or a trimmed mean little.

    Args:
        aggregation: a name in AGGREGATIONS.
        visited: a row for each UE.
    """
    middle = AGGREGATIONS[aggregation].middle
    if middle is None:
        return visited
    return np.broadcast_to(middle(visited).astype(visited.dtype), visited.shape)
