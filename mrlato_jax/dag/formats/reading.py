"""Functions that all readers of application files share: limits before reading, and errors that name the place."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, escaped, shorten

MAX_TASKS = 20_000  # of any file: some thousand tasks are the most to plan, and a DAG's arrays are n x n
LONGEST_LIST = 600  # letters of a list in a message
MAX_VALUES = 1_000_000  # values of a JSON file, counted by commas: reading takes a second or two
MAX_TAGS = 1_000_000  # tags of an XML file, counted by brackets: the same
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


class AssumptionWarning(UserWarning):
    """A file leaves something open; the message says what its reader assumes."""


class MissingValuesError(InputError):
    """A file leaves values open that an argument of its reader, a mapping, must give.

    Attributes:
        found: the fault of the file, in words of an error.
        argument: the argument's name.
        keys: keys that are missing in the argument.
        value: placeholder of a value.
        meaning: meaning of the value, the end of the sentence; may be empty.
    """

    def __init__(self, found: str, argument: str, keys: Sequence[str], value: str, meaning: str = "") -> None:
        super().__init__(found, argument, tuple(keys), value, meaning)
        self.found, self.argument, self.keys, self.value, self.meaning = self.args

    def __str__(self) -> str:
        pairs = listed([f"{key!r}: {self.value}" for key in self.keys], ", ")
        return escaped(f"{self.found}; accepted: {self.argument}={{{pairs}}}{self.meaning}")

    def in_file(self, path: str | os.PathLike[str]) -> Self:
        """Returns the same error with the file's path."""
        return type(self)(f"{path}: {self.found}", *self.args[1:])

    def in_words(self, form: str, between: str = " ") -> InputError:
        """Returns the same error for a command whose words for a value have this form: "--dimension={}"."""
        words = [form.format(f"{shlex.quote(key)}={self.value}") for key in self.keys]
        return InputError(f"{self.found}; accepted: {listed(words, between)}{self.meaning}")


def listed(entries: Sequence[str], between: str = ", ", longest: int = LONGEST_LIST) -> str:
    """Returns the first entries within `longest` letters, and the number of the others."""
    ends = itertools.accumulate(len(entry) + len(between) for entry in entries)
    number = max(1, sum(end <= longest for end in ends))
    text = between.join(entries[:number])
    text = text if len(text) <= longest else text[:longest] + "..."
    return text if number >= len(entries) else f"{text}{between}... ({len(entries) - number} more)"


def read_bytes(path: str | os.PathLike[str], kind: str, max_bytes: int) -> bytes:
    """Reads a whole file, after a check of its size.

    Args:
        path: the file.
        kind: the accepted kind of file, for messages: "a daggen DOT file".
        max_bytes: most bytes of the file.

    Raises:
        InputError: there is no such regular file, or the file is empty or too large.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise InputError(f"path is {shorten(str(path))}, {found}; accepted: {kind}")
        if status.st_size > max_bytes:
            raise InputError(f"{path}: has {status.st_size} bytes; accepted: at most {max_bytes}")
        data = Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        named = str(path) if isinstance(path, os.PathLike) else path
        raise InputError(f"path is {shorten(named)}: {reason}; accepted: {kind} that can be read") from None
    if not data.strip():
        raise InputError(f"{path}: is empty; accepted: {kind}")
    return data


def read_text(path: str | os.PathLike[str], kind: str, max_bytes: int) -> str:
    """Reads a whole file as UTF-8; arguments and errors as `read_bytes`."""
    data = read_bytes(path, kind, max_bytes)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; accepted: {kind}, UTF-8 text") from None


def json_file(path: str | os.PathLike[str], kind: str, max_bytes: int) -> Node:
    """Reads a whole file as JSON; arguments and errors as `read_bytes`.

    Also refuses objects that have a key twice, and files of more than `MAX_VALUES` values.
    """
    text = read_text(path, kind, max_bytes)
    if text.count(",") > MAX_VALUES:
        raise InputError(f"{path}: has more than {MAX_VALUES} values; accepted: {kind} with fewer values")
    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, {error.msg}; accepted: {kind}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {shorten(str(error))}; accepted: {kind}") from None
    return Node(value, str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {shorten(key)} stands twice in one object")
            seen.add(key)
    return members


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def xml_file(path: str | os.PathLike[str], kind: str, max_bytes: int) -> ElementTree.Element:
    """Returns the root of an XML file; arguments and errors as `read_bytes`.

    Also refuses a DOCTYPE, and so all entities: nothing is fetched, and no short text expands to a long text. Also
    refuses a file of more than `MAX_TAGS` tags.
    """
    text = read_text(path, kind, max_bytes)
    if "<!DOCTYPE" in text:
        raise InputError(f"{path}: has a DOCTYPE; accepted: {kind} without a DOCTYPE")
    if text.count("<") > MAX_TAGS:
        raise InputError(f"{path}: has more than {MAX_TAGS} tags; accepted: {kind} with fewer tags")
    parser = ElementTree.XMLParser(encoding="utf-8")
    try:
        parser.feed(text.encode())
        return parser.close()
    except ElementTree.ParseError as error:
        line = error.position[0]
        raise InputError(f"{path}: line {line}, no XML ({error.msg.split(':')[0]}); accepted: {kind}") from None


def local_name(element: ElementTree.Element) -> str:
    """Returns the name of an XML element without its namespace."""
    return element.tag.rpartition("}")[2]


def number_of(value: Any) -> float | None:
    """Returns a number, or the text of a number, as a finite float; None for other values."""
    if isinstance(value, str):
        usable = _NUMBER.fullmatch(value) is not None
    else:
        usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        number = float(value) if usable else math.nan
    except OverflowError:  # an integer beyond float's range
        number = math.nan
    return number if math.isfinite(number) else None


class Node:
    """A value of a JSON file with its place, for errors."""

    def __init__(self, value: Any, place: str) -> None:
        self.value, self.place = value, place

    def refuse(self, accepted: str) -> InputError:
        """Returns the error with this value, its place and the accepted values."""
        return InputError(f"{self.place} is {shorten(self.value)}; accepted: {accepted}")

    def __getitem__(self, key: str) -> Node:
        """Returns a required member."""
        members = self._members()
        if key not in members:
            raise InputError(f"{self.place} lacks {key!r}; accepted: an object with this member")
        return Node(members[key], f"{self.place}: {key}" if ": " not in self.place else f"{self.place}.{key}")

    def get(self, key: str) -> Node | None:
        """Returns a member, or None where it is missing or null."""
        return self[key] if self._members().get(key) is not None else None

    def only(self, *keys: str) -> None:
        """Raises InputError where the object has other members."""
        for key in self._members():
            if key not in keys:
                raise InputError(f"{self.place} has {shorten(key)}; accepted: {', '.join(keys)}")

    def items(self) -> list[Node]:
        """Returns the entries of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        return [Node(value, f"{self.place}[{index}]") for index, value in enumerate(self.value)]

    def text(self) -> str:
        """Returns a string that is not empty."""
        if not isinstance(self.value, str) or not self.value:
            raise self.refuse("a string that is not empty")
        return self.value

    def number(self) -> float:
        """Returns a number >= 0."""
        number = None if isinstance(self.value, str) else number_of(self.value)
        if number is None or number < 0:
            raise self.refuse("a finite number >= 0")
        return number

    def _members(self) -> Mapping[str, Any]:
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        return self.value


def check_count(place: str, count: int) -> None:
    """Raises InputError where a file has more tasks than `MAX_TASKS`, or none."""
    if not 1 <= count <= MAX_TASKS:
        raise InputError(f"{place} has {count} tasks; accepted: 1 to {MAX_TASKS}")


def in_tasks(application: Dataflow | TaskGraph, num_tasks: int | None, path: str | os.PathLike[str]) -> TaskGraph:
    """Returns the application of a file in at most `num_tasks` tasks; None: without merging.

    Raises:
        InputError: as `coarsened` and `to_task_graph`; the message names the file.
    """
    try:
        coarse = application if num_tasks is None else application.coarsened(num_tasks)
        return coarse.to_task_graph() if isinstance(coarse, Dataflow) else coarse
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
