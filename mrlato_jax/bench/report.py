"""Tables of a bench record, and ratios to a stored record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrlato_jax.errors import InputError
from mrlato_jax.files import load_json
from mrlato_jax.progress import format_table

_RATE = "matmul_gflop_per_second"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested numbers to dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def bench_table(record: Mapping[str, Any]) -> str:
    """Makes a table of every number in a record. Each axis has its own table, with one row for each value."""
    rows, grids = [], []
    for section, figures in record.items():
        for name, value in figures.items():
            if not isinstance(value, Mapping):
                rows.append([section, name, value if isinstance(value, str) else f"{value:.4g}"])
            elif all(isinstance(row, Mapping) for row in value.values()):
                grids.append(_grid(f"{section}: {name}", value))
            else:
                rows += [[section, f"{name}.{key}", f"{entry:.4g}"] for key, entry in value.items()]
    return "\n\n".join([format_table(["section", "figure", "value"], rows), *grids])


def _grid(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [[value, *(f"{row[name]:.4g}" if name in row else "" for name in columns)] for value, row in rows.items()]
    return format_table([title, *columns], cells)


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record that `bench.py` wrote.

    Raises:
        InputError: the file cannot be read, or is not such a record.
    """
    accepted = "a record that bench.py wrote"
    try:
        record: dict[str, Any] = load_json(path, accepted)
    except (FileNotFoundError, InputError) as error:
        raise InputError(f"record {path} cannot be read ({error}); accepted: {accepted}") from None
    usable = all(isinstance(figures, dict) for figures in record.values())
    if not usable or "environment" not in record:
        raise InputError(f"record {path} has no sections with an environment; accepted: {accepted}")
    return record


def compare(stored: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Compares the numbers of two records.

    Returns:
        A table of all numbers in both records: stored, now, now / stored, and the ratio scaled to equal matmul rates
        (each measured in the section's own process); and warnings about all other differences.
    """
    warnings = _environment_warnings(stored["environment"], now["environment"])
    rows = []
    for section, figures in now.items():
        if section == "environment" or section not in stored:
            continue
        before, after = flatten(stored[section]), flatten(figures)
        shared = [name for name in after if name in before and _is_number(before[name])]
        sizes = [name for name in shared if not _unit(name) and before[name] != after[name]]
        if sizes:
            changes = ", ".join(f"{name} {before[name]:g} -> {after[name]:g}" for name in sizes)
            warnings.append(f"{section} is left out, since its sizes differ ({changes})")
            continue
        rate = after[_RATE] / before[_RATE] if _is_number(before.get(_RATE)) and before[_RATE] > 0 else None
        for name in shared:
            if _unit(name):
                rows.append([f"{section}.{name}", *_ratio(name, before[name], after[name], rate)])
    return format_table(["figure", "stored", "now", "now / stored", "at equal matmul rate"], rows), warnings


def _ratio(name: str, before: float, after: float, rate: float | None) -> list[str]:
    cells = [f"{before:.4g}", f"{after:.4g}"]
    if before == 0:
        return [*cells, "", ""]
    ratio = after / before
    normalised = {"seconds": ratio * rate, "rate": ratio / rate} if rate else {}
    cells.append(f"{ratio:.2f}")
    return [*cells, f"{normalised[_unit(name)]:.2f}" if _unit(name) in normalised else ""]


def _unit(name: str) -> str:
    """Returns how a number depends on the machine's speed: seconds, rate, other; empty for a size."""
    last = name.rpartition(".")[2]
    if last.endswith("_per_second"):
        return "rate"
    if last == "seconds" or last.endswith(("_seconds", "_seconds_per_dag")):
        return "seconds"
    return "other" if last.endswith("_gb") or "fraction" in last or "speedup" in last else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _environment_warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = [name for name in after if not _unit(name) and before.get(name) != after[name]]
    return [f"{name} differs: {before.get(name)} in the stored record, {after[name]} now" for name in names]
