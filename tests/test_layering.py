"""The tree is the pipeline: imports point one way, from what is computed later to what is computed earlier."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrlato_jax"
ORDER = (
    "portable", "errors", "files", "config", "dag", "mec", "planners", "policy", "learning", "methods", "experiments",
    "offloader", "artefact", "pictures", "command", "__init__",
)  # fmt: skip
FORBIDDEN = {"policy": {"mec", "dag", "planners"}}  # beyond the order: a policy sees arrays, never the model
NUMPY_ONLY = ("portable", "errors", "files", "config", "dag")

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(name: str) -> Iterator[str]:
    """Absolute dotted names that the module imports anywhere, also inside functions."""
    path = MODULES[name]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                if here[-1] == "__init__":
                    here = here[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, base] if base else here)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES or f"{full}.__init__" in MODULES else base


def layer(name: str) -> str:
    """The first name below the package: its sub-package or top-level module."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    own = layer(name)
    assert own in ORDER, f"{name} is in no layer of {ORDER}"
    for imported in imports(name):
        if imported.split(".")[0] != "mrlato_jax":
            continue
        other = layer(imported)
        assert other in ORDER, f"{name} imports {imported}, which is in no layer"
        assert other == own != "__init__" or ORDER.index(other) < ORDER.index(own), f"{name} imports {imported}"
        assert other not in FORBIDDEN.get(own, ()), f"{name} imports {imported}"


def test_no_cycles() -> None:
    graph = {}
    for name in MODULES:
        found = {i if i in MODULES else f"{i}.__init__" for i in imports(name)}
        graph[name] = {i for i in found if i in MODULES and i != name}
    while graph:
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"these modules import each other: {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in leaves}


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name) in NUMPY_ONLY])
def test_host_side_modules_do_not_import_jax(name: str) -> None:
    heads = {imported.split(".")[0] for imported in imports(name)}
    assert not heads & {"jax", "jaxlib", "flax", "optax", "chex"}


@pytest.mark.parametrize("name", MODULES)
def test_flags_stay_in_launch(name: str) -> None:
    for imported in imports(name):
        assert imported.split(".")[0] != "absl", f"{name} imports {imported}: flags are the edge, read in launch/ only"
