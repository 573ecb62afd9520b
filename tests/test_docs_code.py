"""What a reader copies from the docs works: Python runs, shell lines name scripts, flags and targets that exist."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_run
from test_docs import FENCED, PAGES, ROOT, text_of

# Pages whose Python trains or compiles a policy, or proves many optima; the others take a second or two.
SLOW = {"README.md", "docs/data.md", "docs/environment.md", "docs/offloader.md", "docs/system.md"} | {
    f"docs/tutorial/{name}.md" for name in ("method", "reproduce", "train")
}
SHELL = ("sh", "bash")
COMMAND = re.compile(r"(?:^|\s)(?:launch/)?\w+\.py\s+--|^launch/\w+\.py$|^make\b|\bmrlato-\w+\s")
CONSOLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
TARGETS = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced code of a page in these languages."""
    found = []
    for indent, language, code in FENCED.findall(text_of(page)):
        if language in languages:
            found.append("".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)))
    return found


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command of ours on a page: of a line of shell, or of code in a sentence or a table."""
    lines = [line for block in blocks(page, *SHELL) for line in block.replace("\\\n", " ").splitlines()]
    prose = FENCED.sub("", text_of(page))
    lines += [re.sub(r"\s+", " ", code) for code in re.findall(r"`([^`]+)`", prose) if COMMAND.search(code)]
    for line in lines:
        for command in re.split(r"&&|\|\||[|;]", line):
            words = shlex.split(command, comments=True)
            if words:
                yield words


@functools.cache
def flags_of(script: str) -> set[str]:
    """The flags that a script says it has."""
    ran = tiny_run.run_here(script, "--help", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return _flags_in(ran.stdout)


@functools.cache
def flags_of_command(name: str, *action: str) -> set[str]:
    """The flags of an installed command, or of one of its actions."""
    module, _, function = CONSOLE[name].partition(":")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        getattr(importlib.import_module(module), function)([*action, "--help"])
    return _flags_in(out.getvalue())


def _flags_in(text: str) -> set[str]:
    names = re.findall(r"--(\[no\])?([\w-]+)", text)
    return {name for _, name in names} | {f"no{name}" for negated, name in names if negated}


def unknown(words: list[str]) -> list[str]:
    """What is not there of a command of ours: script, target, action or flags. Other commands are not looked into."""
    for place, word in enumerate(words):
        name, rest = Path(word).name, words[place + 1 :]
        given = [flag[2:].partition("=")[0] for flag in rest if flag.startswith("--") and flag != "--"]
        if name == "make" and place == 0:
            return [target for target in rest if "=" not in target and target not in TARGETS]
        if name in CONSOLE:
            action = [word for word in rest[:1] if not word.startswith("-")]
            return [flag for flag in given if flag not in flags_of_command(name, *action)]
        if re.fullmatch(r"\w+\.py", name) and str(Path(word).parent) in (".", "launch"):
            if not (ROOT / "launch" / name).exists():
                return [word]
            return [flag for flag in given if flag not in flags_of(name)]
    return []


def test_what_is_not_there_is_found() -> None:
    assert unknown(shlex.split("python launch/evaluate.py --run=R --updates=0 --noheld_out")) == []
    assert unknown(shlex.split("python launch/evaluate.py --run=R --rounds=0")) == ["rounds"]
    assert unknown(shlex.split("launch/evaluated.py --run=R")) == ["launch/evaluated.py"]
    assert unknown(shlex.split(".venv/bin/mrlato-offload --graph=G --uplink=3")) == ["uplink"]
    assert unknown(shlex.split("make tests")) == ["tests"]
    assert unknown(shlex.split("git status --short")) == []


@pytest.mark.parametrize("page", PAGES)
def test_shell_lines_are_right(page: str) -> None:
    for block in blocks(page, *SHELL):
        parsed = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert parsed.returncode == 0, f"{page}: {parsed.stderr}{block}"
    wrong = {" ".join(words): missing for words in commands(page) if (missing := unknown(words))}
    assert wrong == {}, page


@pytest.mark.parametrize("page", PAGES)
def test_code_has_a_known_language(page: str) -> None:
    """What is to be run says so: a block without a language is looked at by nobody."""
    for _, language, code in FENCED.findall(text_of(page)):
        assert language in ("python", "json", "bibtex", "text", "", *SHELL), f"{page}: {language}"
        if not language:
            assert not COMMAND.search(code), f"{page}: a command in a block without a language: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_flag_files_on_a_page_have_known_flags(page: str) -> None:
    for block in blocks(page, "text"):
        lines = block.split()
        if all(line.startswith("--") for line in lines):
            assert {line[2:].partition("=")[0] for line in lines} <= flags_of("meta_train.py"), page


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_compiles(page: str) -> None:
    for block in blocks(page, "python"):
        compile(block, page, "exec")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES if blocks(page, "python")],
)
def test_python_runs(
    page: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block after the other, as a reader does, beside the files that the page speaks of."""
    for block in blocks(page, "json"):
        (tmp_path / "app.json").write_text(block, encoding="utf-8")
    shutil.copy(ROOT / "mrlato_jax" / "inference" / "portable.py", tmp_path)
    for weights in (ROOT / "data" / "weights").glob("general.*"):
        shutil.copy(weights, tmp_path)
    if "runs/mine" in "".join(blocks(page, "python")):
        shutil.copytree(tiny_run.make_workplace(tmp_path_factory).reference, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {"__name__": "page"}
    try:
        for number, block in enumerate(blocks(page, "python"), start=1):
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    finally:
        sys.modules.pop("portable", None)
