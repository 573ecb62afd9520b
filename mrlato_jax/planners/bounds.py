"""What the bounds of the proof need to know of the tasks that remain; `branch_and_bound` describes the bounds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.system import CHANNELS

TOLERANCE = 1e-10  # relative: a plan that is better by less may be missed
ROUNDING = 1e-12  # relative: margin subtracted from bounds, since their sums round


class Split(NamedTuple):
    """The splits of the remaining tasks between the UE and a link, for each depth; leading axis N.

    Tasks are sorted by UE time over UE and link time, ascending. Entry r of the last axis keeps the first r on the UE.
    """

    kept: np.ndarray  # [N, N + 1], seconds of the UE for the tasks that stay
    ahead: np.ndarray  # [N, N + 1], `kept` minus the link's seconds for the other tasks; ascending


class Shared(NamedTuple):
    """A resource, or several of a kind counted as one, that shares the remaining work with the UE; leading axis N."""

    split: Split
    least: np.ndarray  # [N], least seconds of the steps before, or after, the work on this resource
    weights: np.ndarray  # [number of resources], weight of the time at which each is free


class Left(NamedTuple):
    """Data of the remaining tasks at each depth, for the bounds."""

    uplink: Shared
    downlink: Shared | None  # None unless downloads queue
    servers: Shared | None  # None unless results stay
    cheapest: np.ndarray | None  # [N + 1], total cost at the tasks' cheapest sites; None if the makespan alone counts


def work_left(dag: DagArrays) -> Left:
    """Returns the data for the bounds of one DAG that is backed by NumPy; N is its padded size."""
    rules, shared = CHANNELS[dag.channel], dag.radio == "shared"
    ue, uplink, vm, downlink = dag.ue, dag.uplink, dag.vm, dag.downlink
    if not rules.entry_uploads_queue:
        uplink = np.where(dag.parents.any(axis=-1)[:, None], uplink, 0)
    before, after = (dag.uplink + vm).min(axis=1), (vm + downlink).min(axis=1)
    if rules.results_stay:
        # Entry tasks are uploaded and exit tasks downloaded. The transfers of other tasks depend on the placement.
        entry, exit_ = ~dag.parents.any(axis=1), ~dag.parents.any(axis=0)
        uplink, downlink = np.where(entry[:, None], uplink, 0), np.where(exit_[:, None], downlink, 0)
        before, after = np.zeros_like(before), vm.min(axis=1)
    speeds = [_speeds(times) for times in (dag.uplink, dag.vm, dag.downlink)]
    never = 16 * (ue.sum() + uplink.sum() + vm.sum() + downlink.sum())  # seconds on a site that a pin forbids
    if dag.allowed is not None:
        pinned = ~dag.allowed[:, 1] & dag.mask
        uplink, vm, downlink = (np.where(pinned[:, None], never, times) for times in (uplink, vm, downlink))
        ue = np.where(dag.allowed[:, 0] | ~dag.mask, ue, never)

    def with_ue(times: np.ndarray, speeds: np.ndarray, least: np.ndarray, as_one: bool) -> Shared:
        weights = np.ones(1, times.dtype) if as_one else speeds / speeds.sum()
        joint = times.min(axis=1) if as_one else (times * weights[None]).min(axis=1)
        least_left = np.minimum.accumulate(np.where(dag.mask, least, np.inf)[::-1])[::-1]
        return Shared(_split(ue, joint), least_left, weights)

    cheapest = None
    if dag.prices is not None:
        away = dag.prices.send * uplink + dag.prices.receive * downlink
        cheap = np.minimum(dag.prices.compute * ue, away.min(axis=1))
        cheapest = np.append(np.cumsum(cheap[::-1])[::-1], 0.0)
    return Left(
        uplink=with_ue(uplink, speeds[0], after, shared),
        downlink=with_ue(downlink, speeds[2], before, shared) if rules.downloads_queue else None,
        servers=with_ue(vm, speeds[1], np.zeros_like(ue), False) if rules.results_stay else None,
        cheapest=cheapest,
    )


def _speeds(times: np.ndarray) -> np.ndarray:
    """Returns the relative speeds [K] of resources that serve task i in `times[i, k]` = work of i / speed of k."""
    longest = times[np.argmax(times[:, 0])]
    return np.where(longest > 0, 1 / np.where(longest > 0, longest, 1), 1)


def _split(ue: np.ndarray, link: np.ndarray) -> Split:
    size = ue.shape[0]
    both = ue + link
    by = np.argsort(np.where(both > 0, ue / np.where(both > 0, both, 1), 0), kind="stable")  # best kept first
    left = by[None, :] >= np.arange(size)[:, None]  # [depth, rank]; padding costs nothing
    none = np.zeros((size, 1), ue.dtype)
    kept = np.concatenate([none, np.cumsum(np.where(left, ue[by], 0), axis=1)], axis=1)
    # Summed from the other end: a difference of sums would inherit the rounding error of the largest entry.
    sent = np.flip(np.cumsum(np.flip(np.where(left, link[by], 0), axis=1), axis=1), axis=1)
    return Split(kept, kept - np.concatenate([sent, none], axis=1))
