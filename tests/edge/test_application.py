"""Applications as functions and calls: what is recorded, what is measured, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import measured

from mrlato_jax.edge.application import Application, Constant, Result, Several
from mrlato_jax.edge.codec import packed
from mrlato_jax.edge.installed import load
from mrlato_jax.edge.machine import local_executor
from mrlato_jax.edge.parser import Measured, measure, remaining
from mrlato_jax.errors import InputError


def diamond() -> Application:
    """load -> (half, twice) -> join, of which the join and the load are delivered."""
    app = Application("diamond")

    @app.task(pin="ue")
    def load(size: int) -> np.ndarray:
        return np.arange(size, dtype=np.float64)

    @app.task
    def half(values: np.ndarray, keep: int = 2) -> np.ndarray:
        return values[: len(values) // keep]

    @app.task(pin="server")
    def twice(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values])

    @app.task
    def join(parts: list[np.ndarray], scale: float) -> float:
        return scale * float(sum(part.sum() for part in parts))

    @app.flow
    def whole(size: int, scale: float) -> Any:
        values = load(size)
        return [join([half(values), twice(values)], scale), values]

    return app


def test_calls_are_recorded_with_where_their_inputs_come_from() -> None:
    program = diamond().program
    assert [call.name for call in program.calls] == ["size", "scale", "load", "half", "twice", "join", "returned"]
    assert [call.pin for call in program.calls] == ["ue", "ue", "ue", "any", "server", "any", "ue"]
    assert program.calls[3].inputs == (Result(2), Constant(2))
    assert program.calls[5].inputs == (Several((Result(3), Result(4))), Result(1))
    assert sorted(program.edges) == [(0, 2), (1, 5), (2, 3), (2, 4), (2, 6), (3, 5), (4, 5), (5, 6)]
    assert program.delivered == {2, 5}
    assert program.arguments == ("size", "scale")


def test_outside_of_the_flow_a_declared_function_is_the_function() -> None:
    app = Application("sums")

    @app.task
    def add(left: int, right: int = 1) -> int:
        return left + right

    @app.flow
    def sums(number: int) -> Any:
        return add(add(number), right=number)

    assert add(3) == 4
    assert [call.name for call in app.program.calls] == ["number", "add", "add_2"]
    assert app.program.calls[2].inputs == (Result(1), Result(0))
    assert measured(app, {"number": 5}, machine_hz=1e9).returned == 11


def test_bytes_are_those_of_the_inputs_and_of_the_result() -> None:
    found = measured(diamond(), {"size": 1000, "scale": 2.0}, machine_hz=1e9)
    total = np.arange(1000).sum()
    assert found.returned[0] == 2.0 * (np.arange(500).sum() + 2 * total)
    np.testing.assert_array_equal(found.returned[1], np.arange(1000.0))
    graph = found.graph
    assert graph.names == ("size", "scale", "load", "half", "twice", "join", "returned")
    assert graph.pins == ("ue", "ue", "ue", "any", "server", "any", "ue")
    header = graph.download_bytes[2] - 8000
    assert 0 < header < 40  # of an array: what it says of itself
    np.testing.assert_allclose(graph.download_bytes, [3, 9, 8000, 4000, 16000, 9, 0], atol=header)
    np.testing.assert_allclose(graph.upload_bytes, [0, 0, 3, 8000, 8000, 20009, 8009], atol=2 * header)


def at_a_machine(file: Path, given: dict[str, Any], machine_hz: float, runs: int) -> Measured:
    """What a local executor with a whole core measures of an application in a file."""

    async def there() -> Measured:
        machine = await local_executor([f"{file}:app"], 1.0)
        try:
            return await measure(machine, load(f"{file}:app"), given, machine_hz=machine_hz, runs=runs)
        finally:
            await machine.stop()

    return asyncio.run(asyncio.wait_for(there(), 60))


BURNERS = """
import time
from mrlato_jax.edge.application import Application

app = Application("burners")

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

@app.task
def short():
    burn(0.005)

@app.task
def long(_):
    burn(0.05)

@app.task
def wait(_):
    time.sleep(0.05)

@app.flow
def burners():
    return wait(long(short()))
"""


def test_cycles_are_processor_time_by_the_clock(tmp_path: Path) -> None:
    """A task that computes ten times as long as another; one that waits computes nothing."""
    (tmp_path / "burners.py").write_text(BURNERS)
    found = at_a_machine(tmp_path / "burners.py", {}, machine_hz=2e9, runs=3)
    assert found.seconds.shape == (3, 3)
    cycles = found.graph.cycles
    assert cycles[0] == pytest.approx(0.005 * 2e9, rel=0.2)
    assert cycles[1] == pytest.approx(0.05 * 2e9, rel=0.2)
    assert cycles[2] < 0.2 * cycles[0]
    assert (found.spread[:2] < 0.5).all()


def test_a_machine_measures_what_this_process_measures(tmp_path: Path) -> None:
    """With arguments that are more than pipes and queues hold."""
    file = tmp_path / "wide.py"
    file.write_text(
        "from mrlato_jax.edge.application import Application\n\napp = Application('wide')\n\n\n"
        "@app.task\ndef piece(data, number):\n    return data[: 1000 * number]\n\n\n"
        "@app.task\ndef total(pieces, more):\n    return sum(map(len, pieces)) + len(more)\n\n\n"
        "@app.flow\ndef wide(data, more):\n    return total([piece(data, n) for n in range(12)], more)\n"
    )
    given = {"data": bytes(2**20), "more": bytes(30 * 2**20)}
    found = at_a_machine(file, given, machine_hz=1e9, runs=2)
    here = measured(load(f"{file}:app"), given, machine_hz=1e9)
    assert found.returned == here.returned == 66_000 + 30 * 2**20
    assert found.graph.edges.tolist() == here.graph.edges.tolist()
    assert found.graph.download_bytes.tolist() == here.graph.download_bytes.tolist()
    assert found.graph.upload_bytes.tolist() == here.graph.upload_bytes.tolist()
    assert (found.seconds[:, 2:] > 0).all()
    assert (found.seconds[:, :2] == 0).all()


def test_what_is_at_the_ue_becomes_an_argument_of_what_is_left() -> None:
    app = diamond()
    found = measured(app, {"size": 100, "scale": 1.0}, machine_hz=1e9)
    program, graph = found.program, found.graph
    there = {0: packed(100), 1: packed(1.0), 2: packed(np.arange(100.0)), 4: b""}
    rest, part, places = remaining(program, graph, there)
    assert [call.name for call in rest.calls] == ["scale", "load", "twice", "half", "join", "returned"]
    assert [call.function for call in rest.calls] == [None, None, None, "half", "join", None]
    assert rest.arguments == ("scale", "load", "twice")
    assert rest.calls[4].inputs == (Several((Result(3), Result(2))), Result(0))
    assert rest.returned == Several((Result(4), Result(1)))
    assert part.pins == ("ue", "ue", "ue", "any", "any", "ue")
    assert part.cycles[:3].tolist() == [0, 0, 0]
    assert part.cycles[3] == graph.cycles[3]
    assert part.download_bytes.tolist() == graph.download_bytes[[1, 2, 4, 3, 5, 6]].tolist()
    assert sorted(places) == [1, 2, 3, 4, 5, 6]
    again, same, _ = remaining(program, graph, {0: packed(100), 1: packed(1.0)})
    assert again == program
    assert same.edges.tolist() == graph.edges.tolist()


def test_an_application_is_found_by_its_module_or_file(tmp_path: Path) -> None:
    assert load("mrlato_jax.edge.dags:app").name == "dag"
    assert load("mrlato_jax.edge.dags").name == "dag"
    file = tmp_path / "mine.py"
    file.write_text("from mrlato_jax.edge.application import Application\nother = Application('mine')\n")
    assert load(f"{file}:other").name == "mine"
    for spec in (
        f"{file}:app",
        f"{file}",
        "no.such.module",
        "json:loads",
        "",
        tmp_path / "none.py",
        f"{tmp_path}/n.py",
    ):
        with pytest.raises(InputError, match=r"app is .*; accepted: package\.module:name or file\.py:name"):
            load(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source",
    ["raise RuntimeError('own')", "def f(:", "1 / 0", "{}['key']", "import no_such_module", "assert False", "x" * 10],
)
def test_an_application_whose_code_fails_is_refused_by_what_it_raises(source: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source + "\n")
    with pytest.raises(
        InputError, match=r"app is .*, which cannot be loaded \(\w+(Error|found): ?.*\); accepted: package"
    ):
        load(f"{file}")


@pytest.mark.parametrize(
    "compute",
    [
        lambda v: v > 1, lambda v: v >= 1, lambda v: v < 1, lambda v: v <= 1, lambda v: v != 1, lambda v: v == 1,
        lambda v: v / 2, lambda v: v // 2, lambda v: v % 2, lambda v: v**2, lambda v: v @ v, lambda v: v | v,
        lambda v: 2 * v, lambda v: 2 - v, lambda v: 2 / v, lambda v: 2**v, lambda v: np.float64(2) * v,
        lambda v: np.arange(2) * v, lambda v: -v, lambda v: +v, lambda v: ~v, lambda v: abs(v), lambda v: v.shape,
        lambda v: v(), lambda v: 1 in v, lambda v: int(v), lambda v: range(v), lambda v: f"{v}", lambda v: round(v),
    ],
)  # fmt: skip
def test_a_flow_computes_with_nothing_that_is_not_there_yet(compute: Callable[[Any], Any]) -> None:
    app = Application("wrong")
    app.task(lambda value: value)
    with pytest.raises(InputError, match="flow computes with a placeholder; accepted: arguments"):
        app.flow(lambda x: compute(x))


def test_what_is_described_wrongly_is_refused() -> None:
    app = Application("wrong")

    @app.task
    def one(value: Any) -> Any:
        return value

    cases: list[tuple[Any, str]] = [
        (lambda x: x + 1, "flow computes with a placeholder"),
        (lambda x: one(x) if x else x, "flow computes with a placeholder"),
        (lambda x: x, "calls no task"),
        (lambda x: [one(x), 3][1], "returns 3; accepted: results of tasks"),
        (lambda x: one(x, x), "one is called with other arguments than it declares: too many positional arguments"),
        (lambda x: one({"key": x}), "an argument of one is a dict that holds results of tasks"),
        (lambda x: one({"key": {"more": [x]}}), "an argument of one is a dict that holds results of tasks"),
        (lambda x: one([1, [{"a": x}]]), r"an argument of one, at \[1\]\[0\], is a dict that holds results of tasks"),
        (lambda x: one([{1, x}]), r"an argument of one, at \[0\], is a set that holds results of tasks"),
        (lambda x: one([x, object()]), r"an argument of one, at \[1\], is <object.*>: value cannot be sent"),
        (lambda x: one([x, {"a": {1}}]), r"an argument of one, at \[1\], is \{'a': \{1\}\}: value cannot be sent"),
        (
            lambda x: [one(x), 2**70],
            r"what the flow returns, at \[1\], is 1180591620717411303424: value cannot be sent",
        ),
        (lambda x, y: one(x), "does not use y; accepted: arguments in use"),
    ]
    for flow, phrase in cases:
        with pytest.raises(InputError, match=phrase):
            app.flow(flow)
        with pytest.raises(InputError, match="application wrong has no flow"):
            _ = app.program
    with pytest.raises(InputError, match="pin is 'phone'; accepted: any, ue, server"):
        app.task(pin="phone")
    with pytest.raises(InputError, match="application wrong has a function one; accepted: another name"):
        app.task(one.function)
    with pytest.raises(InputError, match="name is 'two words'; accepted: letters"):
        Application("two words")
    app.flow(lambda x: one(x))
    with pytest.raises(InputError, match="application wrong has a flow; accepted: one"):
        app.flow(lambda x: one(x))
    with pytest.raises(InputError, match=r"arguments are \['y'\]; accepted: \['x'\]"):
        measured(app, {"y": 1}, machine_hz=1e9)
    with pytest.raises(InputError, match="machine_hz is 0; accepted"):
        measured(app, {"x": 1}, machine_hz=0)
    with pytest.raises(InputError, match=r"value cannot be sent \(.*object.*\); accepted: None, bool"):
        measured(app, {"x": object()}, machine_hz=1e9)
