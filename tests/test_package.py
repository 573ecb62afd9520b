"""The built package works where the checkout is not."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mrlato_jax as mj

ROOT = Path(__file__).resolve().parents[1]

EXTRAS = ("matplotlib", "pytest", "hypothesis", "hatchling", "ortools", "onnx", "gymnasium")
USE = """
import json
import sys

sys.path.insert(0, sys.argv[1])
import mrlato_jax as mj
from mrlato_jax.dag.dataset import load

sets = {name: load(name) for name in ("exp1", "exp2", "exp3", "general")}
graph = sets["exp2"].graph(0, 0)
print(json.dumps({
    "file": mj.__file__,
    "version": mj.__version__,
    "hashes": {name: data.content_hash for name, data in sets.items()},
    "makespan": mj.heft(graph, mj.System()).makespan,
    "modules": [module.__file__ for name, module in sys.modules.items() if name.startswith("mrlato_jax")],
    "extras": [name for name in sys.argv[2].split(",") if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "-w", str(folder)], capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", USE, str(unpacked), ",".join(EXTRAS)]
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert Path(found["file"]) == unpacked / "mrlato_jax" / "__init__.py"
    assert all(Path(file).is_relative_to(unpacked) for file in found["modules"])
    assert found["version"] == mj.__version__
    manifest = json.loads((ROOT / "data" / "manifest.json").read_text())["experiments"]
    assert found["hashes"] == {name: manifest[name]["content_hash"] for name in ("exp1", "exp2", "exp3", "general")}
    assert 0.01 < found["makespan"] < 10
    assert found["extras"] == []  # what only tests and figures need is not asked for
    assert list(tmp_path.iterdir()) == []


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = f"mrlato_jax-{mj.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"mrlato_jax", info}
    assert sorted(name for name in names if name.startswith("mrlato_jax/data/")) == [
        f"mrlato_jax/data/{name}"
        for name in (
            *(str(path.relative_to(ROOT / "data")) for path in sorted((ROOT / "data" / "benchmark").rglob("*.json"))),
            "demonstrations-exp1.npz",
            "demonstrations-exp2.npz",
            "demonstrations-exp3.npz",
            "demonstrations-general.npz",
            "exp1.npz",
            "exp2.npz",
            "exp3.npz",
            "general.npz",
            "manifest.json",
            *(f"weights/{path.name}" for path in sorted((ROOT / "data" / "weights").iterdir())),
        )
    ]
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "mrlato_jax").rglob("*.py")}
    assert code <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".tmp"))]
    assert len(names) == len(set(names))


def test_metadata(wheel: Path) -> None:
    info = f"mrlato_jax-{mj.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in licence
    assert metadata["Version"] == mj.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    required = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.match(r"[A-Za-z-]+", line)[0] for line in required}
    assert names == {"jax", "jaxlib", "flax", "optax", "chex", "numpy", "networkx", "absl-py"}
    extras = {"docs", "edge", "exact", "export", "fast", "gym", "notebooks", "onnx", "plots", "tensorboard", "test"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    assert metadata.get_payload().startswith("# ")  # the README


def test_citation_has_the_version() -> None:
    assert f"\nversion: {mj.__version__}\n" in (ROOT / "CITATION.cff").read_text().replace('"', "")
