"""DOT text: graphs of daggen, of MRLCO and of SimGrid, and others whose attributes `attributed` knows.

The parser reads the whole language: named, numbered, quoted and HTML ids, subgraphs and clusters, edges between groups
(`{a b} -> {c d}`), ports, defaults (`node [..]`) for later statements of their subgraph, repeated statements of a node,
comments, `strict`. Attributes for drawing (labels, colours) are ignored. A numeral may have an exponent (`8e3`).

The parser is our own, since pydot and pygraphviz do not bound the time and memory for a file, and do not give the line
of a wrong value.

Source: https://graphviz.org/doc/info/lang.html.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn

from mrlato_jax.dag.formats.attributed import AttributedGraph, Scales, set_defaults
from mrlato_jax.dag.formats.reading import MAX_TASKS, read_text
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, shorten

KIND = "a DOT file"
MAX_FILE_BYTES = 8 * 2**20
MAX_TOKENS = 1_200_000  # words and marks: some 150,000 edges, a second or two
MAX_EDGES = 200_000  # a short text with groups can state many edges
MAX_DEPTH = 64  # depth of subgraphs

# Every alternative is linear in the text that it consumes (all loops are possessive), so no input causes backtracking.
# No letter may follow a numeral: Graphviz splits `5a` in two, this parser refuses it.
_TOKEN = re.compile(
    r"""(?: [\s\ufeff]++ | //[^\n]*+ | \#[^\n]*+ | /\*(?:[^*]++|\*(?!/))*+\*/ )*+
    (?: "(?P<quoted> (?: [^"\\]++ | \\. )*+ )"
      | (?P<arrow> -> | --(?![0-9.]) )
      | (?P<word> [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+
          | [-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?(?![A-Za-z0-9_.\x80-\U0010ffff]) )
      | (?P<mark> [{}\[\]=,;:+] )
      | (?P<html> <[^<>]*+> )
      | (?P<end> \Z )
      | (?P<other> . ) )""",
    re.VERBOSE | re.DOTALL,
)
_BRACKET = re.compile("[<>]")
_NUMBERED = re.compile(r"[0-9]{1,18}", re.ASCII)
_OF_STRINGS = re.compile(r'\\(?:(")|\r?\n)')  # the only escapes that DOT itself knows
_VALUES = ("word", "quoted", "html")
_DEFAULTS = ("node", "edge", "graph")
_KEYWORDS = (*_DEFAULTS, "digraph", "subgraph", "strict")


def read_dot(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a DOT file.

    The attributes determine how the file is read (`mrlato_jax.dag.formats.attributed`). Where nodes have `size` and
    `expect_size`, as in MRLCO's files, `size` gives a task's upload bytes and, times `cycles_per_byte`, its cycles.
    `expect_size` gives its download bytes. The sizes on edges repeat the parent's `expect_size` and are not read. Where
    no node has `expect_size` and edges have `size`, as daggen's own `--dot` writes and SimGrid reads, a task's `size`
    is FLOP, and an edge's `size` is the bytes that pass along the edge. `alpha` is never read. A repeated edge counts
    once, since daggen itself writes such files.

    Args:
        path: the file, UTF-8, at most 8 MiB and some 150,000 edges.
        **scales: `cycles_per_byte` (1000), `cycles_per_flop` (1), `cycles_per_unit`, `bytes_per_unit` and
            `result_bytes`, where the file's attributes need them.

    Returns:
        The graph. If all ids are digits (at most 18), tasks are sorted by id; else they have the order in which the
        file first names them. `.names` holds the ids, or the nodes' `name` if all have one and all differ.

    Raises:
        InputError: there is no such regular file; the file is too large, not UTF-8, no digraph (the message has the
            line), or describes no valid application; or a scale is out of range, missing, or not taken by the file.
    """
    given = Scales(**scales)
    text = read_text(path, KIND, MAX_FILE_BYTES)
    parser = _DotParser(text, str(path))
    parser.parse()
    ids = list(parser.nodes)
    if all(map(_NUMBERED.fullmatch, ids)):
        ids.sort(key=lambda name: (int(name), name))
    graph = AttributedGraph(
        str(path),
        {name: parser.nodes[name] for name in ids},
        [(edge.parent, edge.child, edge.values) for edge in parser.edges],
        node_place=lambda name: parser.place(name, parser.starts[name]),
        edge_place=lambda number: parser.place(parser.edges[number].text(), parser.edges[number].start),
        name_attributes=("name",),
    )
    return graph.to_task_graph(given)


# (kind, text, offset in the file); the kind is word, quoted, html, arrow, end, or the mark itself. A plain tuple, since
# a file has a million tokens.
_Token = tuple[str, str, int]


class _Edge(NamedTuple):
    parent: str
    child: str
    values: Mapping[str, str]
    start: int

    def text(self) -> str:
        return f"{self.parent} -> {self.child}"


class _Scope:
    """A graph or subgraph: its default attributes and its nodes."""

    def __init__(self, parent: _Scope | None = None) -> None:
        self.parent = parent
        self.nodes: dict[str, None] = {}
        self.subgraphs: dict[str, _Scope] = {}
        self._stated: dict[str, dict[str, str]] = {}
        self._defaults: dict[str, dict[str, str]] = {}

    def enter(self) -> None:
        """Begins the subgraph: its own defaults override the current defaults of the graph around it."""
        self._defaults = {}
        for kind, values in self._stated.items():
            self._set(kind, values)

    def state(self, kind: str, values: Mapping[str, str]) -> None:
        """Adds a default statement."""
        set_defaults(self._stated.setdefault(kind, {}), values)
        self._set(kind, values)

    def defaults(self, kind: str) -> Mapping[str, str]:
        """Returns the default attributes of a node or an edge made now."""
        scope: _Scope | None = self
        while scope is not None:
            if kind in scope._defaults:
                return scope._defaults[kind]
            scope = scope.parent
        return {}

    def _set(self, kind: str, values: Mapping[str, str]) -> None:
        own = dict(self.defaults(kind))
        set_defaults(own, values)
        self._defaults[kind] = own

    def add(self, name: str) -> None:
        """Adds a node to this graph and the graphs around it; the outermost graph keeps no list."""
        scope: _Scope | None = self
        while scope is not None and scope.parent is not None and name not in scope.nodes:
            scope.nodes[name] = None
            scope = scope.parent


class _DotParser:
    """A recursive-descent parser of one file; `parse` fills the attributes.

    Attributes:
        nodes: attributes by id, in the order in which ids first occur.
        starts: offset of each node's last statement, or of the edge that first names the node.
        edges: edges as stated; in a strict graph, each edge once.
    """

    def __init__(self, text: str, path: str) -> None:
        self.nodes: dict[str, dict[str, str]] = {}
        self.starts: dict[str, int] = {}
        self.edges: list[_Edge] = []
        self._places: dict[tuple[str, str], int] = {}  # index in `edges` of the last edge between two nodes
        self._text = text
        self._path = path
        self._strict = False
        self._tokens = self._scan()
        self._next = next(self._tokens)

    def parse(self) -> None:
        self._strict = self._take_word("strict")
        if not self._take_word("digraph"):
            self._fail(self._next, "accepted: digraph")
        if self._next[0] in _VALUES:
            self._value("the graph's name")
        self._expect("{")
        self._statements(_Scope(), 0)
        if self._next[0] != "end":
            self._fail(self._next, "accepted: nothing after the closing }")

    def place(self, name: str, start: int) -> str:
        """Returns a place in the file, for messages."""
        return f"{self._path}: line {self._text.count(chr(10), 0, start) + 1}, at {shorten(name)}"

    def _statements(self, scope: _Scope, depth: int) -> None:
        """Reads statements up to and with the closing brace."""
        if depth > MAX_DEPTH:
            self._fail(self._next, f"subgraphs are nested deeper than {MAX_DEPTH}; accepted: fewer levels")
        while not self._take_mark("}"):
            if not self._take_mark(";"):
                self._statement(scope, depth)

    def _statement(self, scope: _Scope, depth: int) -> None:
        first = self._next
        if first[0] == "word" and first[1].lower() in _DEFAULTS:
            self._advance()
            scope.state(first[1].lower(), self._attributes())
            return
        if self._starts_subgraph():
            group = self._subgraph(scope, depth)
        else:
            name = self._value("a node, or } at the end")
            if self._take_mark("="):
                self._value("a value")
                return
            group = self._node(name, scope, first[2])
            if self._next[0] != "arrow":
                self.nodes[name].update(self._attributes())
                self.starts[name] = first[2]
                return
        groups = [group]
        while self._next[0] == "arrow":
            if self._next[1] != "->":
                self._fail(self._next, "accepted: ->, an edge with a direction")
            self._advance()
            groups.append(self._end(scope, depth))
        if len(groups) > 1:
            own: dict[str, str] = {}
            set_defaults(own, self._attributes())
            values = {**scope.defaults("edge"), **own}
            for parents, children in itertools.pairwise(groups):
                self._connect(parents, children, values, own, first)

    def _end(self, scope: _Scope, depth: int) -> Mapping[str, None]:
        if self._starts_subgraph():
            return self._subgraph(scope, depth)
        start = self._next[2]
        return self._node(self._value("a node"), scope, start)

    def _starts_subgraph(self) -> bool:
        kind, text, _ = self._next
        return kind == "{" or (kind == "word" and text.lower() == "subgraph")

    def _subgraph(self, scope: _Scope, depth: int) -> Mapping[str, None]:
        """Reads a subgraph and returns its nodes; a repeated name continues the subgraph of that name."""
        inner = _Scope(scope)
        if self._take_word("subgraph") and self._next[0] in _VALUES:
            inner = scope.subgraphs.setdefault(self._value("a name"), inner)
        inner.enter()
        self._expect("{")
        self._statements(inner, depth + 1)
        return inner.nodes

    def _node(self, name: str, scope: _Scope, start: int) -> Mapping[str, None]:
        """Returns a node as the end of an edge; its first occurrence makes it, with the defaults of its graph."""
        for _ in range(2):  # a port and a compass point, which matter only for drawing
            if self._take_mark(":"):
                self._value("a port")
        if name not in self.nodes:
            if len(self.nodes) == MAX_TASKS:
                raise InputError(f"{self._path}: has more than {MAX_TASKS} tasks; accepted: 1 to {MAX_TASKS}")
            self.nodes[name] = dict(scope.defaults("node"))
            self.starts[name] = start
        scope.add(name)
        return {name: None}

    def _connect(
        self,
        parents: Mapping[str, None],
        children: Mapping[str, None],
        values: Mapping[str, str],
        own: Mapping[str, str],
        first: _Token,
    ) -> None:
        """Adds edges from each parent to each child; in a strict graph, an existing edge gets the own attributes."""
        if len(self.edges) + len(parents) * len(children) > MAX_EDGES:
            self._fail(first, f"has more than {MAX_EDGES} edges; accepted: a smaller graph")
        for parent in parents if children else ():
            for child in children:
                if parent == child:
                    self._fail(first, f"task {shorten(child)} depends on itself; accepted: two different tasks")
                place = self._places.get((parent, child)) if self._strict else None
                if place is not None:
                    before = self.edges[place]
                    self.edges[place] = before._replace(values={**before.values, **own})
                    continue
                self._places[parent, child] = len(self.edges)
                self.edges.append(_Edge(parent, child, values, first[2]))

    def _attributes(self) -> dict[str, str]:
        """Reads zero or more bracketed lists `[name = value, ...]`; the last value of a name counts."""
        values: dict[str, str] = {}
        while self._take_mark("["):
            while not self._take_mark("]"):
                name = self._value("an attribute's name, or ]")
                self._expect("=")
                values[name] = self._value("an attribute's value")
                if not self._take_mark(","):
                    self._take_mark(";")
        return values

    def _value(self, accepted: str) -> str:
        """Reads an id: a name, a number, strings with + between them, or HTML with its brackets."""
        token = self._next
        if token[0] not in _VALUES or (token[0] == "word" and token[1].lower() in _KEYWORDS):
            self._fail(token, f"accepted: {accepted}")
        self._advance()
        if token[0] != "quoted":
            return token[1]
        parts = [token[1]]
        while self._take_mark("+"):
            if self._next[0] != "quoted":
                self._fail(self._next, 'accepted: a string in " behind +')
            parts.append(self._next[1])
            self._advance()
        return _OF_STRINGS.sub(lambda match: match[1] or "", "".join(parts))

    def _take_word(self, word: str) -> bool:
        found = self._next[0] == "word" and self._next[1].lower() == word
        if found:
            self._advance()
        return found

    def _take_mark(self, mark: str) -> bool:
        if self._next[0] != mark:
            return False
        self._next = next(self._tokens)
        return True

    def _expect(self, mark: str) -> None:
        if not self._take_mark(mark):
            self._fail(self._next, f"accepted: {mark}")

    def _advance(self) -> None:
        self._next = next(self._tokens)

    def _scan(self) -> Iterator[_Token]:
        position, left = 0, MAX_TOKENS
        while position >= 0:
            matches, position = _TOKEN.finditer(self._text, position), -1
            for match in matches:
                kind = match.lastgroup or ""
                start = match.start(kind)
                left -= 1
                if left < 0:
                    raise InputError(
                        f"{self._path}: has more than {MAX_TOKENS} words and marks; accepted: a smaller graph"
                    )
                if kind == "other":
                    position = self._end_of_html(start)
                    yield "html", self._text[start:position], start
                    break
                text = match[kind] if kind != "end" else "the end of the file"
                yield (text if kind == "mark" else kind), text, start

    def _end_of_html(self, start: int) -> int:
        """Returns the end of `<...>` with paired brackets."""
        depth = 0
        for match in _BRACKET.finditer(self._text, start) if self._text[start] == "<" else ():
            depth += 1 if match[0] == "<" else -1
            if not depth:
                return match.end()
        noise = self._text[start : start + 200]
        self._fail(("noise", noise, start), "not DOT text; accepted: a digraph, with ids of other letters in quotes")

    def _fail(self, token: _Token, message: str) -> NoReturn:
        raise InputError(f"{self.place(token[1], token[2])}: {message}")
