"""An application as deployed functions and the calls between them.

Functions are declared with `Application.task`. `Application.flow` calls its function once, with placeholders: each call
of a declared function becomes a task, and each placeholder that the call is given becomes an edge. Outside of that call
a declared function is the function that it was, so that it can be tested.

    app = Application("sums")

    @app.task(pin="ue")
    def read(folder): ...

    @app.task
    def add(left, right): ...

    @app.flow
    def sums(folder):
        return add(read(folder), read(folder))

A task may run twice, at either end: where a machine is lost, what it had is computed again. So functions must give
equal results for equal inputs, and must not count on what an earlier call left behind.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

from mrlato_jax.dag.task_graph import PINS
from mrlato_jax.edge.codec import MOST_DEPTH, packed
from mrlato_jax.errors import InputError, check_choice, shorten

MOST_TASKS = 10_000
MOST_INPUTS = 10_000  # of one task, entries of lists counted
LONGEST_NAME = 100
RETURNED = "returned"  # the task that gathers what the caller gets


class Result(NamedTuple):
    """What a task gives, by its place in `Program.calls`."""

    task: int


class Constant(NamedTuple):
    """What the description itself says; it is at both ends before anything runs."""

    value: Any


class Several(NamedTuple):
    """A list of inputs, given as one."""

    entries: tuple[Source, ...]


Source = Result | Constant | Several


@dataclasses.dataclass(frozen=True)
class Call:
    """One task: a function and where its inputs come from.

    Attributes:
        name: of the task: the function's, with a number where the function is called again.
        function: name of the deployed function; None where there is no work: an argument, which is at the UE from the
            beginning, or the gathering of what the caller gets.
        inputs: in the order of the function's parameters.
        pin: "any", "ue" or "server", as in `TaskGraph.pins`.
        fills: bytes that are sent up for the task in place of its inputs; None: its inputs are. For tasks that stand
            for those of a `TaskGraph`, which has these bytes for each task and not for each edge.
    """

    name: str
    function: str | None
    inputs: tuple[Source, ...] = ()
    pin: str = "any"
    fills: int | None = None

    @property
    def parents(self) -> list[int]:
        """Ascending ids of the tasks whose results it uses."""
        return sorted({source.task for entry in self.inputs for source in within(entry) if isinstance(source, Result)})


@dataclasses.dataclass(frozen=True)
class Program:
    """The tasks of one application, as they are run.

    Attributes:
        app: name of the deployed application that has the functions.
        calls: the tasks, each after those whose results it uses; arguments come first.
        arguments: names of what the caller gives, in the order of the first calls.
        returned: where what the caller gets comes from.
    """

    app: str
    calls: tuple[Call, ...]
    arguments: tuple[str, ...]
    returned: Source

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(parent, child) of tasks, each once."""
        return [(parent, child) for child, call in enumerate(self.calls) for parent in call.parents]

    @property
    def delivered(self) -> frozenset[int]:
        """The tasks whose results the caller gets."""
        return frozenset(source.task for source in within(self.returned) if isinstance(source, Result))

    @property
    def given(self) -> range:
        """The tasks that stand for arguments."""
        return range(len(self.arguments))

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises InputError unless `arguments` has a value for each argument, and no other."""
        if set(arguments) != set(self.arguments):
            raise InputError(f"arguments are {sorted(arguments)}; accepted: {sorted(self.arguments)}")


class _Placeholder:
    """What stands for a value while an application is described."""

    def __init__(self, source: Result) -> None:
        self.source = source

    def _refused(self, *_: Any) -> Any:
        raise InputError(
            "flow computes with a value that is not there yet; accepted: declared functions called with it, and lists "
            "of it"
        )

    __getattr__ = __call__ = __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = _refused
    __bool__ = __int__ = __float__ = __complex__ = __index__ = __str__ = __format__ = _refused
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refused
    __neg__ = __pos__ = __abs__ = __invert__ = __round__ = __trunc__ = __floor__ = __ceil__ = _refused
    __add__ = __sub__ = __mul__ = __matmul__ = __truediv__ = __floordiv__ = __mod__ = __divmod__ = __pow__ = _refused
    __radd__ = __rsub__ = __rmul__ = __rmatmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rdivmod__ = _refused
    __rpow__ = __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _refused
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _refused
    __hash__ = object.__hash__


class Deployed:
    """A declared function of an application."""

    def __init__(self, app: Application, function: Callable[..., Any], pin: str) -> None:
        self.name, self.function, self.pin, self._app = function.__name__, function, pin, app
        self.parameters = inspect.signature(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A task, while its application is described; else what the function returns."""
        if self._app._recorded is None:
            return self.function(*args, **kwargs)
        try:
            bound = self.parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self.name} is called otherwise than it is declared: {error}") from None
        bound.apply_defaults()
        if bound.kwargs:
            raise InputError(f"{self.name} has parameters that are given by name alone; accepted: ones that are not")
        return self._app._record(self, bound.args)


class Application:
    """Functions that are deployed together, and the calls between them.

    Attributes:
        name: of the application: letters, digits and _.
        functions: the declared functions by name.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME:
            raise InputError(f"name is {shorten(name)}; accepted: letters, digits and _, no digit first")
        self.name = name
        self.functions: dict[str, Deployed] = {}
        self._recorded: list[Call] | None = None
        self._program: Program | None = None
        self._example: Callable[[], dict[str, Any]] | None = None

    @property
    def program(self) -> Program:
        """The tasks of the flow.

        Raises:
            InputError: there is no flow.
        """
        if self._program is None:
            raise InputError(f"application {self.name} has no flow; accepted: one that calls its tasks")
        return self._program

    @overload
    def task(self, function: Callable[..., Any]) -> Deployed: ...

    @overload
    def task(self, *, pin: str = "any") -> Callable[[Callable[..., Any]], Deployed]: ...

    def task(self, function: Callable[..., Any] | None = None, *, pin: str = "any") -> Any:
        """Declares a function, as a decorator.

        Args:
            function: its result and its arguments must be what `codec` takes.
            pin: where it may run: "any", "ue" or "server".

        Raises:
            InputError: an unknown pin, or a name that the application has.
        """
        check_choice("pin", pin, PINS)
        if function is None:
            return lambda function: self._declared(function, pin)
        return self._declared(function, pin)

    def _declared(self, function: Callable[..., Any], pin: str) -> Deployed:
        if not callable(function) or not hasattr(function, "__name__"):
            raise InputError(f"task is {shorten(function)}; accepted: a function")
        if function.__name__ in self.functions:
            raise InputError(f"application {self.name} has a function {function.__name__}; accepted: another name")
        deployed = Deployed(self, function, pin)
        self.functions[deployed.name] = deployed
        return deployed

    def flow(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Describes the calls, as a decorator: `function` is called once with placeholders for its parameters.

        Each parameter becomes a task without work at the UE, where the caller's values are. If a result that the caller
        gets is used by other tasks, too, a last task without work brings what the caller gets to the UE.

        Raises:
            InputError: a flow that is there already, that calls no task, computes with what is not there yet, gives a
                task what cannot be sent, or returns what no task gives.
        """
        if self._program is not None:
            raise InputError(f"application {self.name} has a flow; accepted: one")
        arguments = tuple(inspect.signature(function).parameters)
        self._recorded = [Call(name, None, pin="ue") for name in arguments]
        try:
            returned = function(*(_Placeholder(Result(place)) for place in range(len(arguments))))
            calls = tuple(self._recorded)
        finally:
            self._recorded = None
        if len(calls) == len(arguments):
            raise InputError(f"flow {function.__name__} calls no task; accepted: at least one declared function")
        source = _source("what the flow returns", returned)
        program = Program(self.name, calls, arguments, source)
        if not program.delivered - set(program.given):
            raise InputError(f"flow {function.__name__} returns {shorten(returned)}; accepted: results of tasks")
        used = {parent for parent, _ in program.edges}
        if program.delivered & used:
            program = dataclasses.replace(program, calls=(*calls, Call(RETURNED, None, (source,), "ue")))
        unused = sorted(set(program.given) - {parent for parent, _ in program.edges})
        if unused:
            raise InputError(
                f"flow {function.__name__} does not use {arguments[unused[0]]}; accepted: arguments in use"
            )
        self._program = program
        return function

    def example(self, function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        """Declares what gives arguments for a run, as a decorator."""
        self._example = function
        return function

    def example_arguments(self) -> dict[str, Any]:
        """Arguments for a run.

        Raises:
            InputError: the flow has arguments, and no example was declared.
        """
        if self._example is None and self.program.arguments:
            accepted = "accepted: one declared with the decorator `example`"
            raise InputError(
                f"application {self.name} has no example of {', '.join(self.program.arguments)}; {accepted}"
            )
        return self._example() if self._example is not None else {}

    def _record(self, deployed: Deployed, args: Sequence[Any]) -> _Placeholder:
        assert self._recorded is not None
        if len(self._recorded) == MOST_TASKS:
            raise InputError(f"flow calls more than {MOST_TASKS} tasks; accepted: at most so many")
        inputs = tuple(_source(f"an argument of {deployed.name}", arg) for arg in args)
        names = {call.name for call in self._recorded}
        again = sum(call.function == deployed.name for call in self._recorded)
        name = f"{deployed.name}_{again + 1}" if again else deployed.name
        while name in names or name == RETURNED:
            name += "_"
        if sum(1 for entry in inputs for _ in within(entry)) > MOST_INPUTS:
            raise InputError(f"{name} has more than {MOST_INPUTS} inputs; accepted: at most so many")
        self._recorded.append(Call(name, deployed.name, inputs, deployed.pin))
        return _Placeholder(Result(len(self._recorded) - 1))


def resolved(source: Source, results: Mapping[int, Any]) -> Any:
    """The value of a source, where the results that it needs are there."""
    match source:
        case Result(task):
            return results[task]
        case Constant(value):
            return value
        case Several(entries):
            return [resolved(entry, results) for entry in entries]


def within(source: Source) -> Iterator[Result | Constant]:
    """A source, or what is in it where it is several."""
    if isinstance(source, Several):
        for entry in source.entries:
            yield from within(entry)
    else:
        yield source


def moved(source: Source, places: Mapping[int, int]) -> Source:
    """The same source where tasks have other ids."""
    match source:
        case Result(task):
            return Result(places[task])
        case Several(entries):
            return Several(tuple(moved(entry, places) for entry in entries))
    return source


def _source(what: str, value: Any, place: str = "") -> Source:
    """Where an input comes from.

    Args:
        what: it is, for a message.
        value: placeholders, constants, or lists of these.
        place: of the value in the input, as it is indexed.

    Raises:
        InputError: a placeholder in something else than lists, or a constant that cannot be sent.
    """
    if isinstance(value, _Placeholder):
        return value.source
    holds = _has_placeholder(value, MOST_DEPTH - place.count("["))
    if isinstance(value, list | tuple) and holds:
        return Several(tuple(_source(what, entry, f"{place}[{index}]") for index, entry in enumerate(value)))
    where = f"{what}{place and f', at {place},'}"
    if holds:
        kind = f"a {type(value).__name__} that holds results of tasks"
        raise InputError(f"{where} is {kind}; accepted: the results themselves, or a list")
    try:
        packed(value)
    except InputError as error:
        raise InputError(f"{where} is {shorten(value)}: {error}") from None
    return Constant(value)


def _has_placeholder(value: Any, depth: int) -> bool:
    """Whether there is a placeholder in a value, not deeper than what can be sent."""
    if isinstance(value, _Placeholder):
        return True
    if not isinstance(value, list | tuple | dict | set | frozenset) or depth < 0:
        return False
    entries = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return any(_has_placeholder(entry, depth - 1) for entry in entries)
