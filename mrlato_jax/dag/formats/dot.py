"""The DOT text that the daggen tool writes with --dot.

What is understood of DOT: `digraph name { ... }` holding node statements `1 [size="..", expect_size=".."]` and edge
statements `1 -> 2 -> 3 [..]` in any order, quoted or bare words, the three kinds of comment, optional semicolons, and
default statements (`node [..]`, `rankdir = LR`), which are skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from mrlato_jax.dag.formats.reading import check_count, read_text
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

KIND = "a daggen DOT file"
MAX_FILE_BYTES = 8 * 2**20
MAX_PIECES = 2_000_000  # words, marks and what stands between them: some 150,000 edges, a second or two

# Every alternative is linear in what it consumes (the loops over a string are possessive): no input makes it backtrack.
_TOKEN = re.compile(
    r"""(?P<skip> [\s\ufeff]+ | //[^\n]* | \#[^\n]* | /\*.*?\*/ )
      | "(?P<quoted> (?: [^"\\]++ | \\. )*+ )"
      | (?P<arrow> -> )
      | (?P<mark> [{}\[\]=,;] )
      | (?P<word> [A-Za-z_][A-Za-z0-9_]* | [-+]?[0-9.]+(?:[eE][-+]?[0-9]+)? )""",
    re.VERBOSE | re.DOTALL,
)
_TASK_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_DEFAULT_STATEMENTS = ("graph", "node", "edge")


def read_dot(path: str | os.PathLike[str], *, cycles_per_byte: float = 1000.0) -> TaskGraph:
    """Reads one application from a daggen DOT file.

    A task's `size` gives its upload bytes and, times `cycles_per_byte`, its cycles; `expect_size` its download
    bytes. The sizes on edges repeat the parent's `expect_size` and are not read, nor is `alpha`. An edge stated
    more than once counts once: daggen itself writes such files.

    Args:
        path: the file, UTF-8, at most 8 MiB and some 150,000 edges.
        cycles_per_byte: CPU cycles for each byte of `size`, > 0.

    Returns:
        The graph; the file's task ids sorted numerically are 0..n-1, and `.names` holds them as written.

    Raises:
        InputError: if there is no such regular file, or it is too large, not UTF-8, no daggen DOT (with the line),
            or describes no valid graph.

    Source: daggen's `outputDOT`, and the files that MRLCO's authors published.
    """
    check_number("cycles_per_byte", cycles_per_byte, low=0.0, open_low=True)
    text = read_text(path, KIND, MAX_FILE_BYTES)
    parser = _DotParser(text, str(path))
    parser.parse()
    ids = sorted(parser.tasks)
    index = {task: i for i, task in enumerate(ids)}
    sizes = [parser.tasks[task] for task in ids]
    try:
        return TaskGraph.from_edges(
            cycles=[task.size * cycles_per_byte for task in sizes],
            upload_bytes=[task.size for task in sizes],
            download_bytes=[task.expect_size for task in sizes],
            edges=[(index[parent], index[child]) for parent, child in parser.edges],
            names=[task.name for task in sizes],
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


class _Token(NamedTuple):
    kind: str  # quoted, arrow, mark, word or end
    text: str
    start: int  # offset in the file's text


class _Task(NamedTuple):
    name: str
    size: float  # bytes
    expect_size: float  # bytes


class _DotParser:
    """Recursive descent over one file's tokens; `parse` fills `tasks` by their number and `edges`."""

    def __init__(self, text: str, path: str) -> None:
        self.tasks: dict[int, _Task] = {}
        self.edges: dict[tuple[int, int], int] = {}  # to the offset, for messages
        self._text = text
        self._path = path
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def parse(self) -> None:
        if self._is_word("strict"):
            self._advance()
        if not self._is_word("digraph"):
            self._fail(self._next, "accepted: digraph")
        self._advance()
        if self._next.kind in ("word", "quoted"):
            self._advance()
        self._expect("{")
        while self._next.text != "}" or self._next.kind != "mark":
            self._statement()
        self._advance()
        if self._next.kind != "end":
            self._fail(self._next, "accepted: nothing after the closing }")
        check_count(self._path, len(self.tasks))
        for (parent, child), start in self.edges.items():
            for task in (parent, child):
                if task not in self.tasks:
                    self._fail(
                        _Token("edge", f"{parent} -> {child}", start),
                        f"task {task} is declared nowhere; accepted: edges between declared tasks",
                    )

    def _statement(self) -> None:
        if self._take_mark(";"):
            return
        first = self._take_value("a task number, or } at the end")
        if first.kind == "word" and first.text.lower() in _DEFAULT_STATEMENTS:
            self._attributes()
        elif self._take_mark("="):
            self._take_value("a value")
        elif self._next.kind == "arrow":
            self._edge_statement(first)
        else:
            self._node_statement(first)

    def _edge_statement(self, first: _Token) -> None:
        parent = self._task_id(first)
        while self._next.kind == "arrow":
            self._advance()
            end = self._take_value("a task number")
            child = self._task_id(end)
            if parent == child:
                self._fail(end, f"task {child} depends on itself; accepted: two different tasks")
            self.edges.setdefault((parent, child), first.start)
            parent = child
        self._attributes()

    def _node_statement(self, first: _Token) -> None:
        task = self._task_id(first)
        if task in self.tasks:
            self._fail(first, f"task {task} is declared twice; accepted: each task once")
        attributes = self._attributes()
        self.tasks[task] = _Task(
            first.text, self._bytes(first, attributes, "size"), self._bytes(first, attributes, "expect_size")
        )

    def _attributes(self) -> dict[str, _Token]:
        """Zero or more bracketed lists `[name = value, ...]`."""
        values: dict[str, _Token] = {}
        while self._take_mark("["):
            while not self._take_mark("]"):
                name = self._take_value("an attribute's name, or ]")
                self._expect("=")
                value = self._take_value("an attribute's value")
                if name.text in values:
                    self._fail(name, "the attribute is repeated; accepted: each attribute once")
                values[name.text] = value
                if not self._take_mark(","):
                    self._take_mark(";")
        return values

    def _bytes(self, task: _Token, attributes: dict[str, _Token], name: str) -> float:
        if name not in attributes:
            self._fail(task, f"{name} is missing; accepted: size and expect_size for every task")
        token = attributes[name]
        value = float(token.text) if _NUMBER.fullmatch(token.text) else float("nan")
        if not 0.0 <= value < float("inf"):
            self._fail(token, f"{name} is {shorten(token.text)}; accepted: a finite number of bytes >= 0")
        return value

    def _task_id(self, token: _Token) -> int:
        if not _TASK_ID.fullmatch(token.text):
            self._fail(token, "accepted: a task number, digits only (at most 18)")
        return int(token.text)

    def _take_value(self, accepted: str) -> _Token:
        token = self._next
        if token.kind not in ("word", "quoted"):
            self._fail(token, f"accepted: {accepted}")
        self._advance()
        return token

    def _take_mark(self, mark: str) -> bool:
        found = self._next.kind == "mark" and self._next.text == mark
        if found:
            self._advance()
        return found

    def _expect(self, mark: str) -> None:
        if not self._take_mark(mark):
            self._fail(self._next, f"accepted: {mark}")

    def _is_word(self, word: str) -> bool:
        return self._next.kind == "word" and self._next.text.lower() == word

    def _advance(self) -> None:
        self._next = next(self._tokens)

    def _scan(self) -> Iterator[_Token]:
        position = pieces = 0
        while position < len(self._text):
            pieces += 1
            if pieces > MAX_PIECES:
                raise InputError(f"{self._path}: has more than {MAX_PIECES} words and marks; accepted: a smaller graph")
            match = _TOKEN.match(self._text, position)
            if match is None:
                self._fail(
                    _Token("noise", self._text[position : position + 200], position),
                    "not DOT text; accepted: what daggen --dot writes",
                )
            kind = match.lastgroup or ""
            if kind != "skip":
                yield _Token(kind, match[kind], position)
            position = match.end()
        yield _Token("end", "the end of the file", position)

    def _fail(self, token: _Token, message: str) -> NoReturn:
        line = self._text.count("\n", 0, token.start) + 1
        raise InputError(f"{self._path}: line {line}, at {shorten(token.text)}: {message}")
