"""The stored benchmark: its format, reading and writing.

A folder `benchmark/` beside the data sets has two JSON files and one file for each application:

    problems.json              systems, instances and sources; with the applications, this part never changes
    references.json            the best plan known for each instance, its cost and the lower bound
    applications/NAME.json     a `TaskGraph` in our format

`manifest.json` has a hash of the problems and one of the references.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from mrlato_jax.dag.dataset import MANIFEST, data_folder
from mrlato_jax.dag.formats.json_graph import read_json, write_json
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_type, shorten
from mrlato_jax.files import load_json, write_atomically
from mrlato_jax.instances.references import Problem
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import Power, System

FOLDER, PROBLEMS, REFERENCES, APPLICATIONS = "benchmark", "problems.json", "references.json", "applications"
FORMAT = "mrlato_jax.benchmark"
AS_WRITTEN = "the benchmark as it was published"


@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """One problem of the benchmark, and the best that is known of it.

    Attributes:
        name: application, link and place of the server, and "energy" if energy counts: "phone-wifi-near-energy".
        group: "mobile", "network", "stream", "workflow" or "job".
        graph: the application.
        system: the system.
        objective: the cost to minimise.
        source: where the application is from, and the rules of derived numbers.
        best_known: least known cost, seconds.
        lower_bound: lower bound of the cost of every plan in every order, seconds.
        proven: whether `best_known` is optimal over all placements and orders (within `any_order.TOLERANCE`).
        placement: the best known plan: int32[n], sites by task id.
        order: its scheduling order: int64[n], task ids.
    """

    name: str
    group: str
    graph: TaskGraph
    system: System
    objective: Objective
    source: str
    best_known: float
    lower_bound: float
    proven: bool
    placement: np.ndarray
    order: np.ndarray

    @property
    def problem(self) -> Problem:
        """The application, the system and the objective."""
        return Problem(self.graph, self.system, self.objective)


def load_benchmark(folder: str | os.PathLike[str] | None = None) -> Mapping[str, Instance]:
    """Reads the benchmark and checks it against its hashes.

    Args:
        folder: folder with `manifest.json`; by default the data that comes with the package.

    Returns:
        The instances by name, read-only.

    Raises:
        InputError: a file is missing, is malformed, or has another content than when it was published.
    """
    root = data_folder() if folder is None else Path(folder)
    try:
        return _loaded(root)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: {error.strerror}; accepted: {AS_WRITTEN}") from None


def _loaded(root: Path) -> Mapping[str, Instance]:
    manifest = load_json(root / MANIFEST, AS_WRITTEN)
    entry = manifest.get(FOLDER)
    check_type(f"{root / MANIFEST}: {FOLDER}", entry, dict)
    place = root / FOLDER
    problems, references = (load_json(place / name, AS_WRITTEN) for name in (PROBLEMS, REFERENCES))
    for name, content, found in (
        (PROBLEMS, problems, problems_hash(place, problems)),
        (REFERENCES, references, content_hash(references)),
    ):
        if content.get("format") != FORMAT or entry.get(name) != found:
            raise InputError(
                f"{place / name}: has the hash {shorten(found)}, and {MANIFEST} says {shorten(entry.get(name))};"
                f" accepted: {AS_WRITTEN}"
            )
    if missing := sorted(set(problems["instances"]) - set(references["instances"])):
        raise InputError(f"{place / REFERENCES}: lacks {missing[0]}; accepted: {AS_WRITTEN}")
    graphs = {name: read_json(_file(place, name)) for name in problems["applications"]}
    systems = {name: system_of(fields) for name, fields in problems["systems"].items()}
    return MappingProxyType(
        {
            name: _instance(name, fields, problems, graphs, systems, references["instances"][name])
            for name, fields in problems["instances"].items()
        }
    )


def _instance(
    name: str,
    fields: Mapping[str, Any],
    problems: Mapping[str, Any],
    graphs: Mapping[str, TaskGraph],
    systems: Mapping[str, System],
    reference: Mapping[str, Any],
) -> Instance:
    group = problems["applications"][fields["application"]]
    return Instance(
        name=name,
        group=group,
        graph=graphs[fields["application"]],
        system=systems[fields["system"]],
        objective=Objective(energy_weight=fields["energy_weight"]),
        source=problems["sources"][group],
        best_known=reference["cost"],
        lower_bound=reference["lower_bound"],
        proven=reference["proven"],
        placement=np.array(reference["placement"], np.int32),
        order=np.array(reference["order"], np.int64),
    )


def fields_of(system: System) -> dict[str, Any]:
    """Returns all fields of a system as JSON values, so that no default of `System` can change a problem."""
    fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(system)))
    return fields


def system_of(fields: Mapping[str, Any]) -> System:
    """Returns the system of `fields_of`."""
    return System(**{**fields, "power": Power(**fields["power"])})


def write_problems(root: Path, problems: Mapping[str, Any], graphs: Mapping[str, TaskGraph]) -> None:
    """Writes the problems and their applications, without their hash: `write_references` completes the benchmark.

    Raises:
        InputError: the folder has other problems of the same version.
    """
    place = root / FOLDER
    if (place / PROBLEMS).exists():
        before = load_json(place / PROBLEMS, AS_WRITTEN)
        same = before == problems and all(read_json(_file(place, name)) == graph for name, graph in graphs.items())
        if before.get("version") == problems["version"] and not same:
            raise InputError(
                f"{place / PROBLEMS}: has other problems of version {problems['version']}; accepted: a new version"
            )
    (place / APPLICATIONS).mkdir(parents=True, exist_ok=True)
    for name, graph in graphs.items():
        write_json(graph, _file(place, name))
    _write(place / PROBLEMS, problems)


def write_references(root: Path, instances: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the best known plans; once each instance has one, the hashes of problems and references too."""
    place = root / FOLDER
    problems = load_json(place / PROBLEMS, AS_WRITTEN)
    references = {"format": FORMAT, "version": problems["version"], "instances": dict(instances)}
    _write(place / REFERENCES, references)
    if set(instances) != set(problems["instances"]):
        return
    manifest = load_json(root / MANIFEST, AS_WRITTEN)
    manifest[FOLDER] = {
        "version": problems["version"],
        PROBLEMS: problems_hash(place, problems),
        REFERENCES: content_hash(references),
    }
    write_atomically(root / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with one line for each entry of the second level."""
    members = []
    for name, value in content.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in value.items())
            members.append(f" {json.dumps(name)}: {{\n{rows}\n }}")
        else:
            members.append(f" {json.dumps(name)}: {json.dumps(value)}")
    write_atomically(path, ("{\n" + ",\n".join(members) + "\n}\n").encode())


def content_hash(content: Any) -> str:
    """Returns the hash of a JSON value, whatever its layout in a file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def problems_hash(place: Path, problems: Mapping[str, Any]) -> str:
    """Returns the hash of the problems with their applications."""
    files = {name: load_json(_file(place, name), AS_WRITTEN) for name in problems.get("applications", {})}
    return content_hash([problems, files])


def _file(place: Path, application: str) -> Path:
    return place / APPLICATIONS / f"{application}.json"
