"""An application as deployed functions and the calls between them.

`Application.task` declares a function. `Application.flow` calls its function once, with placeholders: each call of a
declared function becomes a task, and each placeholder among its arguments becomes an edge. Outside the flow, a declared
function is an ordinary function, so it can be tested.

    app = Application("sums")

    @app.task(pin="ue")
    def read(folder): ...

    @app.task
    def add(left, right): ...

    @app.flow
    def sums(folder):
        return add(read(folder), read(folder))

A task may run twice, at either end: after the loss of a machine, its results are computed again. So functions must
return equal results for equal inputs and must not depend on earlier calls.
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
MOST_INPUTS = 10_000  # limit of one task's inputs, with the entries of lists
LONGEST_NAME = 100
RETURNED = "returned"  # name of the task that gathers the returned results


class Result(NamedTuple):
    """The result of a task, by the task's index in `Program.calls`."""

    task: int


class Constant(NamedTuple):
    """A constant in the application's description; both ends have it before the run."""

    value: Any


class Several(NamedTuple):
    """A list of inputs that forms one argument."""

    entries: tuple[Source, ...]


Source = Result | Constant | Several


@dataclasses.dataclass(frozen=True)
class Call:
    """One task: a function and the sources of its inputs.

    Attributes:
        name: name of the task: the function's name, with a number if the function is called again.
        function: name of the deployed function. None for a task without work: an argument, which is at the UE from the
            beginning, or the task that gathers the returned results.
        inputs: sources of the inputs, in the order of the function's parameters.
        pin: "any", "ue" or "server", as in `TaskGraph.pins`.
        fills: number of bytes to upload for the task in place of its inputs; None uploads the inputs. This is for tasks
            of a `TaskGraph`, which has upload bytes for each task and not for each edge.
    """

    name: str
    function: str | None
    inputs: tuple[Source, ...] = ()
    pin: str = "any"
    fills: int | None = None

    @property
    def parents(self) -> list[int]:
        """Ascending ids of the tasks whose results this task uses."""
        return sorted({source.task for entry in self.inputs for source in within(entry) if isinstance(source, Result)})


@dataclasses.dataclass(frozen=True)
class Program:
    """The tasks of one application, ready to run.

    Attributes:
        app: name of the deployed application with the functions.
        calls: the tasks, parents before children; the tasks of arguments come first.
        arguments: names of the caller's arguments, in the order of the first calls.
        returned: source of the value returned to the caller.
    """

    app: str
    calls: tuple[Call, ...]
    arguments: tuple[str, ...]
    returned: Source

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(parent, child) pairs of tasks, each once."""
        return [(parent, child) for child, call in enumerate(self.calls) for parent in call.parents]

    @property
    def delivered(self) -> frozenset[int]:
        """The tasks whose results are returned to the caller."""
        return frozenset(source.task for source in within(self.returned) if isinstance(source, Result))

    @property
    def given(self) -> range:
        """The tasks that stand for arguments."""
        return range(len(self.arguments))

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Raises InputError unless `arguments` has exactly one value for each argument of the program."""
        if set(arguments) != set(self.arguments):
            raise InputError(f"arguments are {sorted(arguments)}; accepted: {sorted(self.arguments)}")


class _Placeholder:
    """A placeholder for a value while the flow is described."""

    def __init__(self, source: Result) -> None:
        self.source = source

    def _refused(self, *_: Any) -> Any:
        raise InputError(
            "flow computes with a placeholder; accepted: arguments of declared functions, alone or in lists"
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
        """Records a task while the flow is described; otherwise calls the function."""
        if self._app._recorded is None:
            return self.function(*args, **kwargs)
        try:
            bound = self.parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self.name} is called with other arguments than it declares: {error}") from None
        bound.apply_defaults()
        if bound.kwargs:
            raise InputError(f"{self.name} has keyword-only parameters; accepted: positional ones")
        return self._app._record(self, bound.args)


class Application:
    """Functions that are deployed together, and the calls between them.

    Attributes:
        name: name of the application: letters, digits and _.
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
            function: the function; `codec` must accept its arguments and its result.
            pin: where it may run: "any", "ue" or "server".

        Raises:
            InputError: the pin is unknown, or the application already has a function of this name.
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
        """Describes the calls, as a decorator: calls `function` once with placeholders for its parameters.

        Each parameter becomes a task without work at the UE, where the caller's values are. If other tasks use a
        returned result, too, a last task without work brings the returned results to the UE.

        Raises:
            InputError: the application already has a flow; or the flow calls no task, computes with a placeholder,
                passes an argument that cannot be sent, or returns a value that is not a task's result.
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
        """Declares, as a decorator, the function that returns example arguments for a run."""
        self._example = function
        return function

    def example_arguments(self) -> dict[str, Any]:
        """Returns example arguments for a run.

        Raises:
            InputError: the flow has arguments, but no example is declared.
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
            raise InputError(f"flow calls more than {MOST_TASKS} tasks; accepted: at most this number")
        inputs = tuple(_source(f"an argument of {deployed.name}", arg) for arg in args)
        names = {call.name for call in self._recorded}
        again = sum(call.function == deployed.name for call in self._recorded)
        name = f"{deployed.name}_{again + 1}" if again else deployed.name
        while name in names or name == RETURNED:
            name += "_"
        if sum(1 for entry in inputs for _ in within(entry)) > MOST_INPUTS:
            raise InputError(f"{name} has more than {MOST_INPUTS} inputs; accepted: at most this number")
        self._recorded.append(Call(name, deployed.name, inputs, deployed.pin))
        return _Placeholder(Result(len(self._recorded) - 1))


def resolved(source: Source, results: Mapping[int, Any]) -> Any:
    """Returns the value of a source, given the results that the source needs."""
    match source:
        case Result(task):
            return results[task]
        case Constant(value):
            return value
        case Several(entries):
            return [resolved(entry, results) for entry in entries]


def within(source: Source) -> Iterator[Result | Constant]:
    """Yields the source itself, or for `Several` all sources in it."""
    if isinstance(source, Several):
        for entry in source.entries:
            yield from within(entry)
    else:
        yield source


def moved(source: Source, places: Mapping[int, int]) -> Source:
    """Returns the source with new task ids, given by `places`."""
    match source:
        case Result(task):
            return Result(places[task])
        case Several(entries):
            return Several(tuple(moved(entry, places) for entry in entries))
    return source


def _source(what: str, value: Any, place: str = "") -> Source:
    """Returns the source of an input.

    Args:
        what: name of the input in error messages.
        value: placeholders, constants, or lists of these.
        place: index expression of the value within the input.

    Raises:
        InputError: a placeholder is inside something other than lists, or a constant cannot be sent.
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
    """Returns whether a value contains a placeholder, down to the depth that can be sent."""
    if isinstance(value, _Placeholder):
        return True
    if not isinstance(value, list | tuple | dict | set | frozenset) or depth < 0:
        return False
    entries = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return any(_has_placeholder(entry, depth - 1) for entry in entries)
