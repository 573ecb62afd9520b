"""ONNX networks as applications: each task is a part of the network, which onnxruntime runs on one thread.

This module needs the packages onnx and onnxruntime. Operators are merged into parts as `read_onnx` merges them into
tasks (`Dataflow.coarsened`). Each part contains the weights and constants that it uses, so they are not sent. The
result of a task is the list of all arrays that other parts use; each of these picks its own arrays.

Each end cuts the network by itself. For a network from a file, the application's name has a hash of the network and its
parts, so ends with different networks or parts refuse each other.
"""

from __future__ import annotations

import hashlib
import inspect
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.dag.dataflow import OUTSIDE
from mrlato_jax.dag.formats.onnx_inference import take_branches
from mrlato_jax.dag.formats.onnx_model import (
    KIND,
    MAX_FILE_BYTES,
    RANDOM,
    _checked_sizes,
    _dataflow,
    _inferred,
    _Shapes,
)
from mrlato_jax.dag.formats.reading import MissingValuesError, read_bytes
from mrlato_jax.edge.application import Application
from mrlato_jax.errors import InputError, check_number, check_type, shorten

DEFAULT_PARTS = 20
LONGEST_STEM = 40  # characters of a file's name in the name of its application
HASH_LETTERS = 8
OLDEST_IR = 4  # first version of the format in which weights are constants
ERRORS_ALONE = 3  # log level of onnxruntime
OPTION = re.compile("(?:(?P<parts>[0-9]{1,9})|(?P<name>.+?)=(?P<size>[0-9]{1,9}))(?::(?=.)|$)")
OUTPUTS = "outputs"  # name of the task that picks the returned arrays, if no part has exactly these

Pick = tuple[int, int | None]  # index of an entry and of an array in it; None: the entry is the array


class Part(NamedTuple):
    """Some operators of a network.

    Attributes:
        nodes: indices of the operators in the network's list.
        inputs: tensors from other parts or from the caller.
        outputs: tensors for other parts or for the caller.
        session: onnxruntime's session, which runs the part.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    session: Any


class _Cut(NamedTuple):
    """A network cut into parts.

    Attributes:
        parts: the parts, producers before consumers.
        inputs: the caller's input tensors, with an example of each.
        outputs: the tensors returned to the caller.
    """

    parts: list[Part]
    inputs: dict[str, np.ndarray]
    outputs: list[str]


def application_of(path: Path, num_tasks: int, dimensions: Mapping[str, int] | None = None) -> Application:
    """Makes an application of a network in a file.

    The application's arguments are named after the network's inputs; _ replaces other characters than letters and
    digits. It returns a list of the network's outputs.

    Args:
        path: the file; at most 1 GiB with its weights, which may be in separate files.
        num_tasks: largest number of parts. If no part has exactly the returned arrays, one more task picks them.
        dimensions: sizes of the file's symbolic dimensions, such as {"batch": 1}.

    Raises:
        InputError: the file does not exist; `read_onnx` or onnxruntime refuses the network, or its results are random;
            or an argument is out of range.
        ImportError: onnx or onnxruntime is not installed.
    """
    _check_installed()
    data = read_bytes(path, KIND, MAX_FILE_BYTES)
    known = hashlib.sha256(data)
    try:
        model = _whole(data, Path(path).parent)
        del data  # a VM has little memory
        for weight in model.graph.initializer:
            known.update(weight.raw_data)  # includes weights of other files
        cut = _cut(model, num_tasks, dimensions)
        shapes = {name: array.shape for name, array in cut.inputs.items()}
        known.update(repr([shapes, [(part.nodes, part.inputs, part.outputs) for part in cut.parts]]).encode())
        stem = _identifiers([Path(path).stem[:LONGEST_STEM]])[0]
        return _application(f"{stem}_{known.hexdigest()[:HASH_LETTERS]}", cut)
    except MissingValuesError as error:
        raise error.in_file(path) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def application_of_model(
    model: Any, num_tasks: int, name: str, dimensions: Mapping[str, int] | None = None
) -> Application:
    """Makes an application named `name` of a network in memory, an `onnx.ModelProto`; see `application_of`."""
    _check_installed()
    import onnx

    check_type("model", model, onnx.ModelProto)
    return _application(name, _cut(model, num_tasks, dimensions))


def application_at(place: str, options: str = "") -> Application:
    """Makes an application of a network named on a command line.

    Args:
        place: the file.
        options: number of parts and sizes of dimensions, by their names or by input and axis: "12:batch=1:images:2=8",
            "12", "batch=1" or "".

    Raises:
        InputError: the options have another form, or as in `application_of`.
        ImportError: as in `application_of`.
    """
    num_tasks, dimensions, end = DEFAULT_PARTS, {}, 0
    while end < len(options):
        option = OPTION.match(options, end)
        if option is None:
            raise InputError(f"app is {shorten(f'{place}:{options}')}; accepted: FILE.onnx:PARTS:DIMENSION=SIZE")
        if option["name"]:
            dimensions[option["name"]] = int(option["size"])
        else:
            num_tasks = int(option["parts"])
        end = option.end()
    try:
        return application_of(Path(place), num_tasks, dimensions)
    except MissingValuesError as error:
        raise error.in_words("{}", ":") from None


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"running ONNX needs the packages onnx and onnxruntime (pip install 'mrlato-jax[edge,onnx]'): {error}"
        ) from None


def _whole(data: bytes, folder: Path) -> Any:
    """Reads the network with its weights, also those in other files."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        size = model.ByteSize()
    except Exception as error:  # protobuf, the checker and the system each raise other errors
        raise InputError(f"cannot be read ({shorten(str(error), 200)}); accepted: {KIND}") from None
    if size > MAX_FILE_BYTES:
        raise InputError(f"has {size} bytes with its weights; accepted: at most {MAX_FILE_BYTES}")
    return model


def _cut(model: Any, num_tasks: int, dimensions: Mapping[str, int] | None) -> _Cut:
    check_number("num_tasks", num_tasks, low=1, integer=True)
    network = _Network(model, _checked_sizes(dimensions))
    parts = [network.part(number, nodes) for number, nodes in enumerate(network.clusters(num_tasks))]
    used = {name for part in parts for name in part.inputs}
    inputs = {value.name: network.example(value.name) for value in model.graph.input if value.name in used}
    return _Cut(parts, inputs, network.wanted)


class _Network:
    """Operators and tensors of a network. Tasks are the operators whose results depend on the input data.

    Attributes:
        wanted: tensors returned to the caller.
    """

    def __init__(self, model: Any, dimensions: Mapping[str, int]) -> None:
        model = _without_ifs(model, dimensions)
        self._model, self._nodes = model, list(model.graph.node)
        names = [node.name for node in self._nodes]
        try:
            for place, node in enumerate(self._nodes):
                node.name = f"{place} {node.name}"  # identifies the reader's tasks
            network = _inferred(model.SerializeToString(), dimensions)
            if network.elsewhere:
                found = shorten(sorted(network.elsewhere))
                raise InputError(f"model has the weights {found} in other files; accepted: weights of its own")
            self._flow = _dataflow(network, 1.0, {})
        except InputError:
            raise
        except (ArithmeticError, LookupError, ValueError) as error:  # as in `read_onnx`
            raise InputError(f"the work of an operator is unknown ({shorten(error)}); accepted: {KIND}") from None
        finally:
            for node, name in zip(self._nodes, names, strict=True):
                node.ClearField("name")
                if name:
                    node.name = name
        typed = network.model
        self._shapes = _Shapes(network)
        described = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
        self._types = {value.name: value.type.tensor_type.elem_type for value in described}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._sparse = {tensor.values.name: tensor for tensor in model.graph.sparse_initializer}
        self._maker = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._tasks = [int(name.partition(" ")[0]) for name in self._flow.names]  # indices of the tasks among the nodes
        given = {value.name for value in model.graph.input} - self._weights.keys() - self._sparse.keys()
        # Tensors that depend on the input data.
        self._moving = given | {name for place in self._tasks for name in self._nodes[place].output if name}
        self.wanted = [value.name for value in model.graph.output]
        self._live = self._needed()
        self._users: dict[str, set[int]] = {}
        for place in self._live:
            for name in self._taken(place):
                self._users.setdefault(name, set()).add(place)

    def _taken(self, place: int) -> list[str]:
        """Lists the tensors that an operator takes from tasks or from the caller."""
        return [name for name in self._nodes[place].input if name in self._moving]

    def _needed(self) -> set[int]:
        """Returns the tasks that the wanted tensors depend on."""
        for name in self.wanted:
            if name not in self._moving or name not in self._maker:
                raise InputError(f"output {shorten(name)} is computed from no input; accepted: outputs that are")
        waiting, needed = list(self.wanted), set()
        while waiting:
            place = self._maker.get(waiting.pop())
            if place is not None and place not in needed:
                needed.add(place)
                waiting += self._taken(place)
        for place in sorted(needed):
            if (kind := self._nodes[place].op_type) in RANDOM:
                raise InputError(f"node {place} is a {kind}, whose results are random; accepted: others")
        return needed

    def clusters(self, num_tasks: int) -> list[list[int]]:
        """Lists the operators of each of at most `num_tasks` parts, producers before consumers."""
        coarse = self._flow.coarsened(num_tasks)
        members: dict[int, set[int]] = {}
        for item, merged in zip(self._flow.items, coarse.items, strict=True):  # merging keeps the items' order
            if item.maker != OUTSIDE and self._tasks[item.maker] in self._live:
                members.setdefault(merged.maker, set()).add(self._tasks[item.maker])
        order = coarse.to_task_graph().topological_order().tolist()
        return [sorted(members[task]) for task in order if task in members]

    def part(self, number: int, nodes: Sequence[int]) -> Part:
        """Builds a part: a network of some tasks and of the constants that they use."""
        from onnx import helper

        inside = set(nodes)
        taken = dict.fromkeys(name for place in nodes for name in self._taken(place))
        inputs = [name for name in taken if self._maker.get(name) not in inside]
        made = [name for place in nodes for name in self._nodes[place].output if name]
        outputs = [name for name in dict.fromkeys(self.wanted) if name in made]
        outputs += [name for name in made if name not in outputs and self._users.get(name, inside) - inside]
        fixed, weights, sparse = self._constants(nodes)
        graph = helper.make_graph(
            [self._nodes[place] for place in sorted(inside | fixed)],
            "part",
            [self._described(name) for name in inputs],
            [self._described(name) for name in outputs],
            initializer=weights,
            sparse_initializer=sparse,
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=max(OLDEST_IR, self._model.ir_version)
        )
        return Part(tuple(nodes), tuple(inputs), tuple(outputs), _session(number, model.SerializeToString()))

    def _constants(self, nodes: Sequence[int]) -> tuple[set[int], list[Any], list[Any]]:
        """Returns the constant operators, weights and sparse weights that some tasks use."""
        from onnx import numpy_helper

        fixed: set[int] = set()
        weights: dict[str, Any] = {}
        sparse: dict[str, Any] = {}
        waiting = [name for place in nodes for name in self._nodes[place].input if name and name not in self._moving]
        while waiting:
            name = waiting.pop()
            if name in self._weights:
                weights[name] = self._weights[name]
            elif name in self._sparse:
                sparse[name] = self._sparse[name]
            elif self._taken(place := self._maker[name]):  # the shape or size of an input
                weights[name] = numpy_helper.from_array(self._extent(self._nodes[place]), name)
            elif place not in fixed:
                fixed.add(place)
                waiting += [entry for entry in self._nodes[place].input if entry]
        return fixed, list(weights.values()), list(sparse.values())

    def _extent(self, node: Any) -> np.ndarray:
        """Computes the result of a Shape or Size operator."""
        shape = self._shapes.shape(node.input[0])
        if node.op_type == "Size":
            return np.array(math.prod(shape), np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)

    def _described(self, name: str) -> Any:
        from onnx import helper

        return helper.make_tensor_value_info(name, self._types[name], self._shapes.shape(name))

    def example(self, name: str) -> np.ndarray:
        """Returns an example of an input: random numbers from 0 to 1, or zeros for integers."""
        from onnx import helper

        shape, dtype = self._shapes.shape(name), helper.tensor_dtype_to_np_dtype(self._types[name])
        if dtype.kind != "f":
            return np.zeros(shape, dtype)
        return np.random.default_rng(0).random(shape, np.float32).astype(dtype)


def _without_ifs(model: Any, dimensions: Mapping[str, int]) -> Any:
    """A network with the branches that its Ifs take in their places, where their conditions are settled."""
    if not any(node.op_type == "If" for node in model.graph.node):
        return model
    taken = type(model)()
    taken.CopyFrom(model)
    for branches in _inferred(model.SerializeToString(), dimensions).branches:
        take_branches(taken, branches)
    return taken


def _session(number: int, model: bytes) -> Any:
    """Makes the session of a part. It is made with the application, so that no task waits for it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ALONE
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many kinds of errors
        raise InputError(
            f"part {number} is not run by onnxruntime ({shorten(str(error), 200)}); accepted: operators that it has"
        ) from None


def _application(name: str, cut: _Cut) -> Application:
    app = Application(name)
    home: dict[str, tuple[int, int]] = {}
    for number, part in enumerate(cut.parts):
        home |= {tensor: (number, place) for place, tensor in enumerate(part.outputs)}
    sources = [_sources(part.inputs, home) for part in cut.parts]
    tasks = [
        app.task(_runner(f"part_{number}", part, picks))
        for number, (part, (_, picks)) in enumerate(zip(cut.parts, sources, strict=True))
    ]
    last, picks = _sources(cut.outputs, home)
    just_that = [(0, place) for place in range(len(cut.parts[-1].outputs))]
    gather = None if last == [len(cut.parts) - 1] and picks == just_that else app.task(_picker(OUTPUTS, picks))

    def flow(*given: Any) -> Any:
        there: dict[str | int, Any] = dict(zip(cut.inputs, given, strict=True))
        for number, (entries, _) in enumerate(sources):
            there[number] = tasks[number]([there[entry] for entry in entries])
        return gather([there[entry] for entry in last]) if gather is not None else there[last[0]]

    arguments = _identifiers(cut.inputs)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    flow.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(argument, positional) for argument in arguments]
    )
    app.flow(flow)
    app.example(lambda: dict(zip(arguments, cut.inputs.values(), strict=True)))
    return app


def _sources(tensors: Iterable[str], home: Mapping[str, tuple[int, int]]) -> tuple[list[str | int], list[Pick]]:
    """Finds the sources of tensors: part numbers, or names of the caller's inputs; and the pick of each tensor."""
    entries: dict[str | int, int] = {}
    picks: list[Pick] = []
    for tensor in tensors:
        key, place = home.get(tensor, (tensor, None))
        picks.append((entries.setdefault(key, len(entries)), place))
    return list(entries), picks


def _picked(given: Sequence[Any], picks: Iterable[Pick]) -> list[Any]:
    return [given[entry] if place is None else given[entry][place] for entry, place in picks]


def _picker(name: str, picks: Sequence[Pick]) -> Callable[[list[Any]], list[Any]]:
    def task(given: list[Any]) -> list[Any]:
        return _picked(given, picks)

    task.__name__ = name
    return task


def _runner(name: str, part: Part, picks: Sequence[Pick]) -> Callable[[list[Any]], list[Any]]:
    def task(given: list[Any]) -> list[Any]:
        feeds = dict(zip(part.inputs, _picked(given, picks), strict=True))
        return [np.asarray(array) for array in part.session.run(list(part.outputs), feeds)]

    task.__name__ = name
    return task


def _identifiers(names: Iterable[str]) -> list[str]:
    """Converts names to distinct Python identifiers."""
    identifiers: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        if plain[0].isdigit() or keyword.iskeyword(plain):
            plain = f"_{plain}"
        while plain in identifiers:
            plain += "_"
        identifiers.append(plain)
    return identifiers
