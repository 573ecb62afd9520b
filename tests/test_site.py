"""The site that `make docs` makes: its strict build, every link and anchor, the docstring of every public name."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mrlato_jax as mj

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow  # ten seconds; test_docs.py follows the links of the pages themselves

NOT_LISTS = re.compile(r"<p>[^<]*\n(?:[-*]|\d+\.) ")  # Markdown that only code-hosting sites take for a list


class Page(HTMLParser):
    """The links and anchors of a page, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("script", "img", "iframe") and "src" in values:
            self.loaded.append(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return {path: Page(path) for path in folder.rglob("*.html")}


def test_links_and_anchors(site: dict[Path, Page]) -> None:
    wrong = []
    for path, page in site.items():
        if path.name == "404.html":  # its links begin at a root that is known only where the site is hosted
            continue
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("https", "http", "mailto", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{path.name}: {link}")
            elif parts.fragment and target in site and unquote(parts.fragment) not in site[target].anchors:
                wrong.append(f"{path.name}: {link} has no such anchor")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    loaded = {link for page in site.values() for link in page.loaded}
    assert [link for link in loaded if urlsplit(link).scheme not in ("", "data")] == []


def test_every_public_name_has_its_docstring(site: dict[Path, Page]) -> None:
    (reference,) = [page for path, page in site.items() if path.name == "reference.html"]
    assert {f"mrlato_jax.{name}" for name in mj.__all__} <= reference.anchors
    text = unescape(re.sub(r"<[^>]+>", "", reference.text))
    for name in ("heft", "load_offloader", "System", "look_ahead_order"):
        assert getattr(mj, name).__doc__.splitlines()[0].replace("`", "") in text


def test_lists_and_tables_are_some(site: dict[Path, Page]) -> None:
    for path, page in site.items():
        if "checkout" not in path.parts:
            assert NOT_LISTS.findall(page.text) == [], path.name
            assert "<p>| " not in page.text, path.name


def test_what_pages_link_to_outside_docs_is_there(site: dict[Path, Page]) -> None:
    folder = next(path.parent for path in site if path.name == "404.html")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert "checkout/data/results/cpu/all.html" in names  # a record as a page
    assert "checkout/data/results/cpu/all.csv" in names
    assert "checkout/notebooks/1_latency_and_optimum.ipynb.html" in names
    assert "checkout/mrlato_jax/inference/portable.py.html" in names
    assert "checkout/data/results/fresh/index.html" in names  # a folder
