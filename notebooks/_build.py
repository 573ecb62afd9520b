"""Makes each notebook of this folder from its source, NAME.py in jupytext's percent format, and runs it.

`make notebooks` calls it. With names of sources, it makes only those notebooks. The notebooks hold nothing that depends
on the machine (times of cells, the interpreter's version).
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SOURCES = tuple(sorted(FOLDER.glob("[0-9]_*.py")))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read_source(source: Path) -> NotebookNode:
    """Returns the notebook of a source, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws them at random, and every build would differ
    return notebook


def execute(notebook: NotebookNode, folder: Path, timeout_s: int) -> NotebookNode:
    """Runs all cells in a fresh kernel, in place.

    Args:
        notebook: notebook to run; its cells get their outputs.
        folder: folder in which the kernel runs.
        timeout_s: time limit of a cell, seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(names: list[str]) -> None:
    """Makes the notebooks of these sources, or of all."""
    for source in map(Path, names) if names else SOURCES:
        notebook = execute(read_source(source), FOLDER, timeout_s=1800)
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {source.with_suffix('.ipynb').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
