"""The program of a VM and of the UE's local executor: runs the tasks of deployed applications, one at a time.

Frames arrive on standard input and leave on standard output, each after four bytes with its length:

| in | meaning |
| --- | --- |
| `["begin", run]` | body: the `Order`, tasks in their order of running and results in their order of sending |
| `["own", run, task]` | body: all inputs of a task |
| `["result", run, task]` | body: a result computed elsewhere |
| `["end", run]` | forget the run |

| out | meaning |
| --- | --- |
| `["ready"]` | the applications are loaded |
| `["started", run, task]` | a task has started |
| `["done", run, task, start, end, work, sent]` | a task has ended, monotonic clock; `sent`: its result is the body |
| `["home", run, task]` | body: a result computed earlier |
| `["finished", run]` | all tasks are computed and all results sent |
| `["failed", run, task, text]` | a task raised an exception, or its inputs are invalid; the run is over |
| `["exhausted", run, task, text]` | a task lacked memory, storage or a process; another machine may have it |

`work` is seconds of processor time. As in the model, a task waits for all tasks before it in the order. This program
does not know the plan.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from mrlato_jax.edge.application import Application, Call, Constant, Result, Several, Source, resolved
from mrlato_jax.edge.codec import LENGTH, MOST_BYTES, framed, packed, unframed, unpacked
from mrlato_jax.edge.installed import load
from mrlato_jax.errors import InputError, accepted_numbers, check_type, escaped, shorten

MOST_FRAME_BYTES = MOST_BYTES + 2**16
PIECE = 2**18  # bytes read at once
LONGEST_TEXT = 300  # characters of an error
MOST_NUMBER = 2**31 - 1  # largest number of a task
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


@dataclasses.dataclass(frozen=True)
class Order:
    """A machine's order for a run: tasks to run and results to send.

    Attributes:
        app: name of the deployed application.
        tasks: (id, function, inputs, own) in the order of running. With `own`, a message has the task's inputs;
            otherwise they are results.
        sent: ids of the tasks whose results to send, in that order.
    """

    app: str
    tasks: tuple[tuple[int, str, tuple[Source, ...], bool], ...]
    sent: tuple[int, ...]

    @classmethod
    def of(
        cls, app: str, calls: Sequence[Call], tasks: Sequence[int], own: frozenset[int], sent: Sequence[int]
    ) -> Order:
        """Makes the order for some of a program's tasks; tasks without work are left out."""
        listed = [(task, calls[task].function, calls[task].inputs, task in own) for task in tasks]
        return cls(app, tuple((task, name, inputs, own) for task, name, inputs, own in listed if name), tuple(sent))

    def packed(self) -> bytes:
        """Encodes the order as the body of a "begin"."""
        tasks = [[task, function, [_listed(one) for one in inputs], own] for task, function, inputs, own in self.tasks]
        return packed([self.app, tasks, list(self.sent)])

    @classmethod
    def unpacked(cls, data: bytes) -> Order:
        """Decodes an order; raises InputError if `data` is not an order."""
        try:
            app, tasks, sent = unpacked(data)
            check_type("app", app, str)
            return cls(app, tuple(map(_task, tasks)), tuple(_number("sent task", task) for task in sent))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"order cannot be read ({shorten(str(error), 120)}); accepted: one of Order.packed"
            ) from None


def _number(field: str, value: Any) -> int:
    """Returns the number of a task or a kind of source; raises InputError for another value."""
    if type(value) is not int or not 0 <= value <= MOST_NUMBER:
        raise InputError(f"{field} is {shorten(value)}; accepted: {accepted_numbers(0, MOST_NUMBER, integer=True)}")
    return value


def _task(listed: Any) -> tuple[int, str, tuple[Source, ...], bool]:
    task, name, inputs, own = listed
    check_type("function", name, str)
    check_type("own", own, bool)
    return _number("task", task), name, tuple(map(_source, inputs)), own


def _listed(source: Source) -> list[Any]:
    match source:
        case Result(task):
            return [0, task]
        case Constant(value):
            return [1, value]
        case Several(entries):
            return [2, [_listed(entry) for entry in entries]]


def _source(listed: Any) -> Source:
    kind, value = listed
    kind = _number("kind of source", kind)
    if kind == 0:
        return Result(_number("input task", value))
    if kind == 1:
        return Constant(value)
    if kind == 2:
        return Several(tuple(map(_source, value)))
    raise ValueError(f"a source of kind {kind!r}")


def parts(inputs: Sequence[Source]) -> list[Source]:
    """Returns the inputs in an "own" message: all but constants."""
    return [source for source in inputs if not isinstance(source, Constant)]


class _Run:
    """State of a run: the remaining tasks, and the results and inputs received."""

    def __init__(self, order: Order) -> None:
        self.app = order.app
        self.tasks = deque(order.tasks)
        self.unsent = deque(order.sent)
        self.results: dict[int, bytes] = {}  # packed
        self.own: dict[int, bytes] = {}

    def is_ready(self) -> bool:
        """Returns whether the next task has its inputs."""
        if not self.tasks:
            return False
        task, _, inputs, own = self.tasks[0]
        return task in self.own if own else all(parent in self.results for parent in Call("", "", inputs).parents)

    def inputs(self) -> list[Any]:
        """Returns the inputs of the next task."""
        task, _, inputs, own = self.tasks[0]
        if own:
            brought = unpacked(self.own.pop(task))
            if not isinstance(brought, list) or len(brought) != len(parts(inputs)):
                raise InputError(f"inputs are {shorten(brought)}; accepted: {len(parts(inputs))} of them")
            rest = iter(brought)
            return [source.value if isinstance(source, Constant) else next(rest) for source in inputs]
        values = {parent: unpacked(self.results[parent]) for parent in Call("", "", inputs).parents}
        return [resolved(source, values) for source in inputs]


class Worker:
    """The loop of the program.

    Args:
        apps: deployed applications by name.
        pace: factor >= 1 by which a task takes longer than its processor time, to imitate a slower clock.
        watched: whether to report the start of a task, so that a time limit can be enforced.
        source: file descriptor to read frames from.
        target: file descriptor to write frames to.
    """

    def __init__(self, apps: Mapping[str, Application], pace: float, watched: bool, source: int, target: int) -> None:
        self._apps, self._pace, self._watched, self._source, self._target = apps, pace, watched, source, target
        self._runs: dict[int, _Run] = {}
        self._buffer = bytearray()

    def serve(self) -> None:
        """Runs the received tasks until standard input ends."""
        self._send(["ready"])
        while True:
            ready = next((number for number, run in self._runs.items() if run.is_ready()), None)
            if not self._receive(wait=ready is None):
                return
            if ready is not None and ready in self._runs:
                self._advance(ready)

    def _receive(self, wait: bool) -> bool:
        """Receives the available frames; returns False after the other end has closed."""
        while wait or select.select([self._source], [], [], 0)[0]:
            piece = os.read(self._source, PIECE)
            if not piece:
                return False
            self._buffer += piece
            while len(self._buffer) >= LENGTH.size:
                (length,) = LENGTH.unpack_from(self._buffer)
                if len(self._buffer) < LENGTH.size + length:
                    break
                frame = bytes(memoryview(self._buffer)[LENGTH.size : LENGTH.size + length])
                del self._buffer[: LENGTH.size + length]
                self._take(*unframed(frame))
                wait = False
        return True

    def _take(self, header: list[Any], body: bytes) -> None:
        kind, number, *rest = header
        if kind == "begin":
            try:
                order = Order.unpacked(body)
                app = self._apps.get(order.app)
                if app is None:
                    raise InputError(f"app is {shorten(order.app)}; accepted: {', '.join(self._apps)}")
                for _, name, _, _ in order.tasks:
                    if name not in app.functions:
                        raise InputError(f"function is {shorten(name)}; accepted: {', '.join(app.functions)}")
            except InputError as error:
                self._send(["failed", number, -1, shorten(str(error), LONGEST_TEXT)])
                return
            self._runs[number] = _Run(order)
            self._finish(number)
        elif number not in self._runs:
            return  # the run is already over
        elif kind == "own":
            self._runs[number].own[rest[0]] = body
        elif kind == "result":
            self._runs[number].results[rest[0]] = body
        elif kind == "end":
            del self._runs[number]

    def _advance(self, number: int) -> None:
        """Runs the next task of a run."""
        run = self._runs[number]
        task, name, _, _ = run.tasks[0]
        if self._watched:
            self._send(["started", number, task])
        start, begin = time.monotonic(), time.process_time()
        try:
            result = packed(self._apps[run.app].functions[name].function(*run.inputs()))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            del self._runs[number]
            has_room = not isinstance(error, MemoryError) and getattr(error, "errno", None) not in NO_ROOM
            text = escaped(f"{type(error).__name__}: {error}")[:LONGEST_TEXT]
            self._send(["failed" if has_room else "exhausted", number, task, text])
            return
        work = time.process_time() - begin
        if self._pace > 1:
            time.sleep(max(0.0, start + self._pace * work - time.monotonic()))
        end = time.monotonic()
        run.tasks.popleft()
        run.results[task] = result
        is_next = bool(run.unsent) and run.unsent[0] == task
        if is_next:
            run.unsent.popleft()
        self._send(["done", number, task, start, end, work, is_next], result if is_next else b"")
        self._finish(number)

    def _finish(self, number: int) -> None:
        """Sends the results that are due."""
        run = self._runs[number]
        while run.unsent and run.unsent[0] in run.results:
            task = run.unsent.popleft()
            self._send(["home", number, task], run.results[task])
        if not run.tasks and not run.unsent:
            del self._runs[number]
            self._send(["finished", number])

    def _send(self, header: list[Any], body: bytes = b"") -> None:
        head = framed(header)
        pieces = [LENGTH.pack(len(head) + len(body)) + head, body]
        left = sum(map(len, pieces))
        written = os.writev(self._target, pieces)
        if written < left:
            data = memoryview(b"".join(pieces))[written:]
            while data:
                data = data[os.write(self._target, data) :]


def main(words: Sequence[str]) -> None:
    """Runs the program.

    Args:
        words: locations of the applications as a JSON list; the pace; `watched` as 0 or 1.
    """
    source, target = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # tasks print to standard error, since standard output is for frames
    apps = [load(spec) for spec in json.loads(words[0])]
    Worker({app.name: app for app in apps}, float(words[1]), words[2] == "1", source, target).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
