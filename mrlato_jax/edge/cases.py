"""Applications by name: the packaged examples, DAGs of data/, files of DAGs, and a user's own applications."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from mrlato_jax.dag import dataset
from mrlato_jax.dag.formats.any_format import ENDINGS, FORMATS, Unsaid, kind_of, read_any
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.application import Application, Program
from mrlato_jax.edge.dags import program_of
from mrlato_jax.edge.installed import load
from mrlato_jax.edge.machine import local_executor
from mrlato_jax.edge.parser import Measured, measure
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.mec.system import System

DAGS = "mrlato_jax.edge.dags:app"
APPLICATIONS = {name: f"mrlato_jax.edge.apps.{name}:app" for name in ("ar", "map_reduce", "navigate", "network")}
DAG_FILES = ENDINGS.keys() - {".onnx"}  # a network runs, as an application
T = TypeVar("T")
EXPERIMENTS = ("exp1", "exp2", "exp3", "general")


class Case(NamedTuple):
    """An application to run.

    Attributes:
        name: name of the application.
        app: location of the functions, as in `installed.load`.
        program: its tasks.
        graph: its DAG.
        arguments: values for the program's arguments.
        system: the system to plan for.
    """

    name: str
    app: str
    program: Program
    graph: TaskGraph
    arguments: Mapping[str, Any]
    system: System


class Place(NamedTuple):
    """A machine on which an application is measured."""

    share: float = 1.0  # share of a core's time
    core: int | None = None  # processor core; None: any


def case(
    name: str,
    system: System,
    arguments: Mapping[str, Any] | None = None,
    *,
    ue: Place | None = None,
    vm: Place | None = None,
) -> Case:
    """Prepares an application by its name. An application of functions runs a few times on a machine like the UE.

    With `vm`, the application also runs on a machine like the VM. Then its cycles are measured there, and the UE's
    clock is estimated for this application: under a CPU quota, the effective clock is slower than its share, since
    caches are cold after each pause.

    Args:
        name: one of `APPLICATIONS`; EXPERIMENT:SET:NUMBER, a DAG of `data/`, such as exp2:n20:5; a file of a DAG; or an
            application with an example of its arguments, as in `installed.load`.
        system: the system, with the clocks.
        arguments: arguments of the application; by default those of its example.
        ue: a machine like the UE; by default this machine at the ratio of the UE's clock to the VM's.
        vm: a machine like the VM, with its full clock; None measures only at `ue`.

    Raises:
        InputError: the application does not exist, the arguments do not fit, or a task fails.
    """
    ue = ue or Place(min(1.0, one(system.ue_hz) / one(system.vm_hz)))
    machine_hz = one(system.ue_hz) / ue.share
    where, application = _deployed(name)
    if isinstance(application, TaskGraph):
        shown = name if _is_of_data(name) else Path(name).stem
        return Case(shown, where, program_of(application, machine_hz), application, {}, system)
    app, given = application, application.example_arguments() if arguments is None else arguments

    def measured(place: Place) -> Measured:
        return apart(lambda: asyncio.run(_measured(where, app, given, machine_hz, place)))

    here = measured(ue)
    if vm is not None:
        slow, here = here, measured(vm)
        pause = float(np.median(slow.seconds, axis=0).sum() / np.median(here.seconds, axis=0).sum())
        system = dataclasses.replace(system, ue_hz=one(system.ue_hz) / pause)
    return Case(app.name, where, here.program, here.graph, given, system)


async def _measured(
    where: str, app: Application, arguments: Mapping[str, Any], machine_hz: float, place: Place
) -> Measured:
    machine = await local_executor([where], place.share, place.core)
    try:
        return await measure(machine, app, arguments, machine_hz=machine_hz)
    finally:
        await machine.stop()


def deployed(name: str) -> str:
    """Returns the location of an application's functions, as in `installed.load`.

    Args:
        name: as in `case`.

    Raises:
        InputError: the application does not exist.
    """
    return _deployed(name)[0]


def _deployed(name: str) -> tuple[str, TaskGraph | Application]:
    if _is_of_data(name):
        return DAGS, _of_data(name)
    if Path(name).suffix.lower() in DAG_FILES:
        return DAGS, _of_file(Path(name))
    where = APPLICATIONS.get(name, name)
    return where, load(where)


def _is_of_data(name: str) -> bool:
    experiment, _, rest = name.partition(":")
    return experiment in EXPERIMENTS and bool(rest)


def _of_file(path: Path) -> TaskGraph:
    kind = kind_of(path)
    if needed := FORMATS[kind].needs:
        raise InputError(
            f"app is {path}, {kind}, which does not say {' and '.join(needed)}; accepted: a file that says all, such "
            "as mj.write_json writes of the graph that mj's reader returns"
        )
    return read_any(path, Unsaid())


def _of_data(name: str) -> TaskGraph:
    experiment, _, rest = name.partition(":")
    data = dataset.load(experiment)
    chosen, _, number = rest.rpartition(":")
    if chosen not in data.set_names or not number.isdecimal() or int(number) >= data.graphs_per_set:
        accepted = f"{experiment}:SET:NUMBER, SET one of {', '.join(data.set_names[:8])}, ..., NUMBER below"
        raise InputError(f"app is {shorten(name)}; accepted: {accepted} {data.graphs_per_set}")
    return data.graphs(chosen)[int(number)]


def apart(work: Callable[[], T]) -> T:
    """Does work that runs an event loop; in another thread if this thread already runs a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def one(value: float | tuple[float, ...]) -> float:
    """Returns the value of the only server."""
    return float(value[0] if isinstance(value, tuple) else value)
