"""What the docs point to exists, and the README is short and right."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.learning.inner import InnerMetrics
from mrlato_jax.learning.losses import LossMetrics
from mrlato_jax.learning.outer import MetaMetrics
from mrlato_jax.methods import planned_methods
from mrlato_jax.results import comparison
from mrlato_jax.results.paper import PAPER_MS
from mrlato_jax.training.loop import flatten

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md")} | {
    str(path.relative_to(ROOT)): path for path in sorted((ROOT / "docs").rglob("*.md"))
}
MOST_WORDS = 1000

FENCED = re.compile(r"^( *)```(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.-])(?:mrlato_jax|launch|tests|notebooks|data|docs)/[\w./*-]*")
FLAG_FILE = re.compile(r"(?<![\w/-])(?:launch/)?([\w-]+\.flags)\b")
SCRIPT = re.compile(r"(?<![\w/.-])([a-z_]+\.py) --")
ENVIRONMENT = "mrlato_jax/Offloading-v0"  # a name of Gymnasium's that looks like a path
PLACEHOLDER = re.compile(r"<[^<>\n|]+>|<<|>>|\bOWNER\b|\bTODO\b|\bTBD\b|\bFIXME\b")


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def rows_after(text: str, header: str) -> list[list[str]]:
    """The cells of the table that begins with a header; its rows without asterisks."""
    table = text[text.index(header) :].partition("\n\n")[0]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) >= 5
    return rows


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    made: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other) is not None for other in made)
        made.add(f"{anchor}-{repeated}" if repeated else anchor)
    return made


def test_anchors_are_those_of_the_site() -> None:
    text = "# `a_b`, c?\n## A 2 % gap\n## A 2 % gap\n```sh\n# no heading\n```\n"
    assert anchors(text) == {"a_b-c", "a-2--gap", "a-2--gap-1"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall(FENCED.sub("", text_of(page))):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert path.exists(), f"{page} links to {target}; accepted: files of the checkout"
        assert path.is_relative_to(ROOT), f"{page} links to {target}, which is outside the checkout"
        if anchor:
            accepted = anchors(path.read_text(encoding="utf-8"))
            assert anchor in accepted, f"{page} links to {target}; accepted: {sorted(accepted)}"


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    text = LINK.sub("]", text_of(page))  # links are relative to the page
    named = [path.rstrip("./") for path in PATH.findall(text)]
    yours = [name for other in PAGES for name in re.findall(r"`([\w-]+\.flags)` is a file of yours", text_of(other))]
    named += [f"launch/{name}" for name in (*FLAG_FILE.findall(text), *SCRIPT.findall(text)) if name not in yours]
    for path in named:
        # NAME and the like in capitals stand for what the reader writes there.
        if path == ENVIRONMENT:
            continue
        if re.search(r"\b[A-Z]{2,}\b", path) is None or (ROOT / path).exists():
            assert list(ROOT.glob(path)), f"{page} names {path}; accepted: files and folders of the checkout"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_fill_in(page: str) -> None:
    prose = FENCED.sub(lambda block: "" if block[2] == "python" else block[3], text_of(page))
    assert PLACEHOLDER.findall(prose) == [], page


def test_the_index_has_every_page() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(text_of("docs/README.md"))}
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert pages <= linked, f"docs/README.md does not link to {sorted(pages - linked)}"


def test_the_reference_has_every_public_name() -> None:
    assert set(re.findall(r"`mj\.(\w+)`", text_of("docs/reference.md"))) == set(mj.__all__)


def test_the_keys_of_metrics_are_explained() -> None:
    """The first table of the page has what `training.loop` writes, and no more."""
    section = text_of("docs/metrics.md").partition("## The keys of metrics.jsonl")[2].partition("\n## ")[0]
    zeros = [jnp.zeros(())] * 6
    inner = InnerMetrics(zeros[0], zeros[0], LossMetrics(*zeros), zeros[0], zeros[0])
    keys = ["iteration", *flatten(MetaMetrics(inner, zeros[0]))]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(keys)


def test_bibtex_and_citation_agree() -> None:
    """BibTeX escapes the underscore and protects capitals by braces."""
    (block,) = re.findall(r"```bibtex\n(.*?)```", text_of("docs/README.md"), re.DOTALL)
    paper, software = (
        dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE)) for entry in block.split("@")[1:]
    )
    plain = {name: re.sub(r"[{}\\]", "", value) for name, value in (paper | {"software": software["title"]}).items()}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for name in ("title", "journal", "year", "doi", "software"):
        assert plain[name] in citation, name
    authors = re.findall(r"family-names: (\w+), given-names: (\w+)", citation)
    assert plain["author"] == " and ".join(f"{family}, {given}" for family, given in authors)
    assert software["version"] == mj.__version__


def test_the_papers_figures_beside_ours() -> None:
    """The rows of the small table are the paper's module and the records of the cpu preset."""
    table = rows_after(text_of("docs/results.md"), "| mean latency, ms | 0.7, 0.4")
    rows = {name.replace("*", ""): [float(cell) for cell in cells] for name, *cells in table}
    assert rows["MRLATO in the paper, 100 updates"] == [figures["mrlato"][-1] for figures in PAPER_MS.values()]
    found: dict[str, list[float]] = {"mrlato here, 100 updates": [], "HEFT-based here": []}
    with (ROOT / "data" / "results" / "cpu" / "all.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (row["method"], row["updates"]) == ("mrlato", "100"):
                found["mrlato here, 100 updates"].append(round(float(row["latency_ms"]), 1))
            elif row["method"] == "HEFT-based":
                found["HEFT-based here"].append(round(float(row["latency_ms"]), 1))
    bounds, best = [], []
    for experiment in ("exp1", "exp2", "exp3"):
        record = json.loads((ROOT / "data" / "results" / f"references-{experiment}.json").read_bytes())
        for planners in record["rows"].values():
            bounds.append(round(float(np.mean(planners["optimum"]["lower_bound_ms"])), 1))
            best.append(round(float(np.min([row["makespan_ms"] for row in planners.values()], axis=0).mean()), 1))
    found |= {"optimum of the priority order here": bounds, "best plan known in any order here": best}
    for name, values in found.items():
        assert rows[name] == values, name


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").split()) <= MOST_WORDS


def test_the_readme_begins_with_its_two_commands() -> None:
    blocks = [block for _, language, block in FENCED.findall(text_of("README.md")) if language == "sh"]
    commands = [line for line in blocks[0].splitlines() if not line.startswith(("git clone", "cd "))]
    assert commands == ["make run", "make test"]
    recipe = subprocess.run(["make", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = recipe.splitlines()[-1].partition("python ")[2]
    assert command in text_of("README.md"), f"make run is {command}, which the README does not say"


@pytest.fixture(scope="module")
def mean_gaps() -> dict[tuple[str, str], list[str]]:
    """By method and number of updates, the gap in each experiment: the mean over its three settings, in %."""
    gaps: dict[tuple[str, str], dict[str, list[float]]] = {}
    with (ROOT / "data" / "results" / "cpu" / "all.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            of_row = gaps.setdefault((row["method"], row["updates"]), {})
            of_row.setdefault(row["experiment"], []).append(float(row["gap_percent"]))
    return {key: [f"{np.mean(of_row[name]):.1f}" for name in sorted(of_row)] for key, of_row in gaps.items()}


def test_the_readme_has_the_figures_of_the_records(mean_gaps: dict[tuple[str, str], list[str]]) -> None:
    for name, *shown, _ in rows_after(text_of("README.md"), "| plan |"):
        method, _, spent = name.replace("*", "").partition(", ")
        if method == "local search":
            key = (f"{method}, {spent.replace(',', '')}", "")
        else:
            key = (method, {"100 updates": "100", "no update": "0"}.get(spent, ""))
        assert shown == mean_gaps[key], name


def test_the_readme_has_the_table_that_reproduce_ends_with() -> None:
    """But for its words and rounder numbers of evaluations."""
    panels, folder = [], ROOT / "data" / "results"
    for experiment in ("exp1", "exp2", "exp3"):
        references = json.loads((folder / f"references-{experiment}.json").read_bytes())["rows"]
        records = {
            method: [
                json.loads((folder / "cpu" / f"{experiment}-{method}-seed{i}.json").read_bytes()) for i in range(3)
            ]
            for method in ("mrlato", "mrlco", "drl", "mrlato_plus")
        }
        rows = {method: [record["rows"] for record in seeds] for method, seeds in records.items()}
        steps = {method: seeds[0]["identity"]["config"]["learning"]["inner_steps"] for method, seeds in records.items()}
        panels += comparison.panels(experiment, references, list(planned_methods()), rows, 100, steps)
    _, _, cells = comparison.short_table(panels)
    for theirs, ours in zip(rows_after(text_of("README.md"), "| plan |"), cells, strict=True):
        assert theirs[0].replace("*", "").replace(",", "").removesuffix(" not learned") == ours[0].replace(",", "")
        assert theirs[1:4] == ours[1:4]
        counts = [[float(word.replace(",", "")) for word in row[4].split(" to ") if word] for row in (theirs, ours)]
        assert counts[0] == pytest.approx(counts[1], rel=0.01)


def test_the_papers_comparison_has_the_figures_of_the_records(mean_gaps: dict[tuple[str, str], list[str]]) -> None:
    method = ""
    for name, updates, *shown, _, evaluations in rows_after(text_of("docs/results.md"), "| plan | updates | Exp. 1"):
        method = name.replace("*", "") or method
        key = (f"{method}, {evaluations} evaluations", "") if method == "local search" else (method, updates)
        assert [cell.removeprefix("+") for cell in shown] == mean_gaps[key], (name, updates)
