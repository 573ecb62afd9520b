"""Makes the site of these pages: `mkdocs`, which `make docs` runs, calls the functions whose names begin with `on_`.

The pages are written for code-hosting sites, where a link may lead to any file of the checkout. Here every linked file
outside `docs/` becomes a part of the site, below `checkout/`: Markdown, notebooks, Python sources and folders as pages,
all else as it is. The menu has the pages in the order in which `docs/README.md` links them, under its headings.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INDEX, REFERENCE = "README.md", "reference.md"
ELSEWHERE = "checkout"  # in the site: files from outside docs/

# The first two alternatives are code, in which nothing is a link.
_LINK = re.compile(
    r"^ *(```+).*?^ *\1$|`(?:(?!\n\n)[^`])+`|\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)", re.DOTALL | re.MULTILINE
)
_DOCUMENTED = re.compile(r"`(mj|mrlato_jax)\.([\w.]+)`")
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)

_origins: dict[str, Path] = {}  # by its place in the site, the file or folder that a page from outside docs/ is made of


def on_config(config: Any) -> Any:
    """Sets the anchors of headings and the menu."""
    config.mdx_configs["toc"]["slugify"] = lambda text, separator: anchor_of(text)
    config.nav = menu((DOCS / INDEX).read_text(encoding="utf-8"))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to outside `docs/`, and what those pages link to."""
    _origins.clear()
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for target in linked(page):
            place = place_of(target)
            if target.is_relative_to(DOCS) or files.get_file_from_path(place):
                continue
            text = page_text(target)
            if text is None:
                files.append(File.generated(config, place, abs_src_path=str(target)))
            else:
                files.append(File.generated(config, place, content=text))
                _origins[place] = target
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links between files of the checkout into links between pages of the site, and names into docstrings."""
    place = page.file.src_uri
    folder = _folder_of(_origins.get(place, DOCS / place))

    def moved(link: re.Match[str]) -> str:
        target = _target(link, folder)
        if target is None:
            return link[0]
        relative = os.path.relpath(place_of(target), os.path.dirname(place) or ".")
        return f"]({relative}{link['anchor'] or ''})"

    text = _LINK.sub(moved, markdown)
    return with_docstrings(text) if place == REFERENCE else text


def anchor_of(heading: str) -> str:
    """The anchor of a heading, as code-hosting sites make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def menu(index: str) -> list[Any]:
    """The index's pages, each once, under the headings that they stand below."""
    found: list[Any] = [{"Home": INDEX}]
    seen = {INDEX}
    _, *parts = _SECTION.split(index)
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        pages = [link["target"] for link in _LINK.finditer(text) if link["target"] and not link["anchor"]]
        pages = [
            page for page in dict.fromkeys(pages) if page.endswith(".md") and ".." not in page and page not in seen
        ]
        seen.update(pages)
        if pages:
            found.append({title: pages})
    return found


def linked(page: Path) -> Iterator[Path]:
    """The files and folders of the checkout that a page links to."""
    for link in _LINK.finditer(page_text(page) or ""):
        target = _target(link, _folder_of(page))
        if target is not None:
            yield target


def place_of(path: Path) -> str:
    """Where a file or folder of the checkout is among the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    place = (Path(ELSEWHERE) / path.relative_to(ROOT)).as_posix()
    if path.is_dir():
        return f"{place}/index.md"
    return f"{place}.md" if path.suffix in (".ipynb", ".py") else place


def page_text(path: Path) -> str | None:
    """The Markdown of a page, from a file or folder; None of a file that is copied as it is."""
    name = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
        return "\n".join([f"# {name}\n", *(f"- [{entry}]({entry})" for entry in names), ""])
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return notebook_text(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".py":
        return f"# {name}\n\n{_fenced(path.read_text(encoding='utf-8'), 'python')}\n"
    return None


def notebook_text(notebook: dict[str, Any]) -> str:
    """A notebook as Markdown, with the outputs of its last run."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(_fenced(source, "python"))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                image = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="Output of the cell above" src="data:image/png;base64,{image}">')
            elif text := "".join(output.get("text", data.get("text/plain", []))):
                parts.append(_fenced(text, "text"))
    return "\n\n".join(parts) + "\n"


def with_docstrings(text: str) -> str:
    """The page of names with the docstrings of each section's names behind it."""
    first, *parts = re.split(r"(?=^## )", text, flags=re.MULTILINE)

    def documented(part: str) -> str:
        names = [f"mrlato_jax.{name}" for _, name in dict.fromkeys(_DOCUMENTED.findall(part))]
        return part.rstrip("\n") + "".join(f"\n\n::: {name}" for name in names) + "\n\n"

    return first + "".join(documented(part) for part in parts)


def _target(link: re.Match[str], folder: Path) -> Path | None:
    """What a link leads to; None of what is no link to something in the checkout."""
    if not link["target"] or ":" in link["target"]:
        return None
    target = Path(os.path.normpath(folder / link["target"]))
    return target if target.is_relative_to(ROOT) and target.exists() else None


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _fenced(text: str, language: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"
