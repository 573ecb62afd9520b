"""The tree is the pipeline: imports point one way, from what is computed later to what is computed earlier."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mrlato_jax"
ORDER = (
    "errors", "files", "progress", "processes", "drawing", "config", "dag", "mec", "environment", "planners",
    "instances", "policy", "learning", "methods", "training", "inference", "edge", "results", "bench", "__init__",
)  # fmt: skip
FORBIDDEN = {"policy": {"mec", "dag", "planners"}}  # beyond the order: a policy sees arrays, never the model
SEEN_BY_POLICY = {"environment": {"actions", "interface"}}  # of a layer below, these modules alone
PORTABLE = "mrlato_jax.inference.portable"  # one file for programs without JAX and without this package
NUMPY_ONLY = ("errors", "files", "progress", "processes", "drawing", "config", "dag")
NOT_FOR_PLANNING = ("training", "edge", "results", "bench")

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
        if own == "policy" and other in SEEN_BY_POLICY:
            assert imported.split(".")[2] in SEEN_BY_POLICY[other], f"{name} imports {imported}"


def test_no_cycles() -> None:
    graph = {}
    for name in MODULES:
        found = {i if i in MODULES else f"{i}.__init__" for i in imports(name)}
        graph[name] = {i for i in found if i in MODULES and i != name}
    while graph:
        leaves = {name for name, targets in graph.items() if not targets & graph.keys()}
        assert leaves, f"these modules import each other: {sorted(graph)}"
        graph = {name: targets for name, targets in graph.items() if name not in leaves}


@pytest.mark.parametrize("name", [*(name for name in MODULES if layer(name) in NUMPY_ONLY), PORTABLE])
def test_host_side_modules_do_not_import_jax(name: str) -> None:
    heads = {imported.split(".")[0] for imported in imports(name)}
    assert not heads & {"jax", "jaxlib", "flax", "optax", "chex"}


@pytest.mark.parametrize("name", MODULES)
def test_flags_stay_in_launch(name: str) -> None:
    for imported in imports(name):
        assert imported.split(".")[0] != "absl", f"{name} imports {imported}: flags are the edge, read in launch/ only"


def test_importing_the_package_loads_nothing_of_training_and_results() -> None:
    program = "import sys, mrlato_jax; print(*(name for name in sys.modules if name.startswith('mrlato_jax.')))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "mrlato_jax.inference.offloader" in loaded
    assert not [name for name in loaded if layer(name) in NOT_FOR_PLANNING]


ONE_HOME = "mrlato_jax.environment.actions"


@pytest.mark.parametrize("name", [name for name in MODULES if name not in (ONE_HOME, PORTABLE)])
def test_actions_are_unpacked_in_one_place(name: str) -> None:
    """Elsewhere nothing is divided by, or taken modulo, the number of sides."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv | ast.Mod):
            assert "NUM_SIDES" not in ast.unparse(node.right), f"{name}:{node.lineno}"


def test_the_portable_policy_imports_numpy_alone() -> None:
    assert {name.split(".")[0] for name in imports(PORTABLE)} - sys.stdlib_module_names == {"numpy"}
