"""`against.py`: this checkout's `plan` beside another revision's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tiny_run import Workplace

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--revision=no-such-revision"], "--revision is 'no-such-revision'; accepted: a commit, tag or branch"),
        (["--revision=--output={folder}/file"], "file'; accepted: a commit, tag or branch that has"),
        (["--revision=HEAD", "--policy=exp9"], "source is 'exp9'; accepted"),
        (["--revision=HEAD", "--rounds=0"], "--rounds is 0"),
    ],
)
def test_refused(tmp_path: Path, arguments: list[str], phrase: str) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    assert phrase in Workplace(tmp_path).refused("against.py", *given, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_last_commit_is_as_fast_as_this_checkout(tmp_path: Path) -> None:
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("no git checkout")
    ran = Workplace(tmp_path).run("against.py", "--revision=HEAD", "--rounds=5")
    assert ran.returncode == 0, ran.stderr
    alone, together = (float(line.split()[-1]) for line in ran.stdout.splitlines()[-2:])
    assert 0.5 < alone < 2
    assert 0.5 < together < 2
