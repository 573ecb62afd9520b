"""The paper's parser: runs an application and makes a DAG of its measured cycles and bytes.

A task's cycles are its processor time times the clock of the machine. Its upload and download bytes are the sizes of
its inputs and of its result, encoded by `codec`.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrlato_jax.dag.dataflow import Dataflow, Item, distinct
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.application import Application, Program, moved, resolved
from mrlato_jax.edge.codec import packed, unpacked
from mrlato_jax.edge.machine import Machine, MachineLostError, RunOnMachine
from mrlato_jax.edge.vm import Order
from mrlato_jax.errors import InputError, check_number, check_type

RUNS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """The measurement of an application on one machine.

    Attributes:
        program: the program that ran.
        seconds: float64[runs, n], processor time of each task in each run.
        dataflow: the tasks with their cycles and the bytes between them.
        returned: the returned value of the last run.
    """

    program: Program
    seconds: np.ndarray
    dataflow: Dataflow
    returned: Any

    @property
    def graph(self) -> TaskGraph:
        """The DAG for planning."""
        pins = tuple(call.pin for call in self.program.calls)
        return dataclasses.replace(self.dataflow.to_task_graph(), pins=pins)

    @property
    def spread(self) -> np.ndarray:
        """float64[n], interquartile range of each task's times over their median; 0 for one run."""
        low, middle, high = np.percentile(self.seconds, (25, 50, 75), axis=0)
        return np.divide(high - low, middle, out=np.zeros_like(middle), where=middle > 0)


async def measure(
    machine: Machine, app: Application, arguments: Mapping[str, Any], *, machine_hz: float, runs: int = RUNS
) -> Measured:
    """Runs an application at a machine, such as a UE's local executor, and measures each task.

    The time of a task includes the decoding of its inputs and the encoding of its result. With a CPU quota, a machine
    finds its caches cold after each pause, so tasks need more processor time there than in a process without a quota.

    Args:
        machine: a machine that has loaded the application.
        app: an application with a flow.
        arguments: the flow's arguments by name.
        machine_hz: clock of the machine's processor without the quota; cycles are processor time times this clock.
        runs: number of measured runs, whose medians are taken; one run before them is not counted.

    Raises:
        InputError: the arguments do not fit the flow, a clock or number is out of range, a task raised an exception, a
            result cannot be sent, or the machine ended.
    """
    program, given = _checked(app, arguments, machine_hz, runs)
    seconds = np.zeros((runs + 1, len(program.calls)))
    results = dict(given)
    working = [task for task, call in enumerate(program.calls) if call.function is not None]
    order = Order.of(program.app, program.calls, working, frozenset(), working)
    for number in range(runs + 1):
        run = machine.open()
        bringing = asyncio.create_task(_bring(run, order, given))
        try:
            async for header, body in run.messages():
                match header:
                    case ["done", int(task), _, _, float(work), _]:
                        results[task], seconds[number, task] = body, work
                    case ["failed", int(task), text]:
                        name = program.calls[task].name if task >= 0 else "run"
                        raise InputError(f"{name} of {app.name} fails: {text}")
        except MachineLostError as lost:
            raise InputError(f"{app.name} cannot be measured: {lost}") from None
        finally:
            bringing.cancel()
            await asyncio.gather(bringing, return_exceptions=True)
            await run.close()
    return _measured(program, seconds[1:], results, machine_hz)


async def _bring(run: RunOnMachine, order: Order, given: Mapping[int, bytes]) -> None:
    await run.send("begin", body=order.packed())
    for task, body in given.items():
        await run.send("result", task, body=body)


def _checked(
    app: Application, arguments: Mapping[str, Any], machine_hz: float, runs: int
) -> tuple[Program, dict[int, bytes]]:
    """Checks the arguments; returns the program, and the packed arguments by their task."""
    check_type("app", app, Application)
    check_number("machine_hz", machine_hz, low=0.0, open_low=True)
    check_number("runs", runs, low=1, integer=True)
    app.program.check_arguments(arguments)
    return app.program, {place: packed(arguments[name]) for place, name in enumerate(app.program.arguments)}


def _measured(program: Program, seconds: np.ndarray, results: Mapping[int, bytes], machine_hz: float) -> Measured:
    """Returns the measurement with its DAG; a task without work has no bytes of its own."""
    users: dict[int, set[int]] = {task: set() for task in range(len(program.calls))}
    for parent, child in program.edges:
        users[parent].add(child)
    delivered = program.delivered
    items = [
        Item(len(results.get(task, b"")), task, frozenset(users[task]), task in delivered)
        for task in range(len(program.calls))
    ]
    cycles = machine_hz * np.median(seconds, axis=0)
    names = distinct(call.name for call in program.calls)
    dataflow = Dataflow(names, tuple(cycles.tolist()), tuple(items))
    returned = resolved(program.returned, {task: unpacked(results[task]) for task in delivered})
    return Measured(program, seconds, dataflow, returned)


def remaining(
    program: Program, graph: TaskGraph, there: Mapping[int, bytes]
) -> tuple[Program, TaskGraph, dict[int, int]]:
    """Returns the rest of an application when some results are already at the UE; these become arguments.

    Args:
        program: the application.
        graph: its DAG.
        there: packed results at the UE by task.

    Returns:
        The program of the tasks that are still needed, its DAG, and a map from task ids in `program` to the new ids.
    """
    wanted = [task for task, call in enumerate(program.calls) if call.function is None and task not in there]
    wanted += [task for task in program.delivered if task not in there]
    needed: set[int] = set()
    while wanted:
        task = wanted.pop()
        if task not in needed:
            needed.add(task)
            wanted += [parent for parent in program.calls[task].parents if parent not in there]
    used = {parent for task in needed for parent in program.calls[task].parents} | (program.delivered - needed)
    kept = sorted(used - needed) + sorted(needed)
    places = {task: place for place, task in enumerate(kept)}
    arguments = tuple(graph.names[task] for task in kept[: len(used - needed)])
    calls = [
        dataclasses.replace(program.calls[task], function=None, inputs=(), pin="ue") for task in kept[: len(arguments)]
    ]
    for task in kept[len(arguments) :]:
        call = program.calls[task]
        calls.append(dataclasses.replace(call, inputs=tuple(moved(source, places) for source in call.inputs)))
    rest = Program(program.app, tuple(calls), arguments, moved(program.returned, places))
    no_work = np.arange(len(kept)) < len(arguments)
    part = TaskGraph.from_edges(
        cycles=np.where(no_work, 0.0, graph.cycles[kept]),
        upload_bytes=np.where(no_work, 0.0, graph.upload_bytes[kept]),
        download_bytes=graph.download_bytes[kept],
        edges=rest.edges,
        names=[graph.names[task] for task in kept],
        pins=[call.pin for call in calls],
    )
    return rest, part, places
