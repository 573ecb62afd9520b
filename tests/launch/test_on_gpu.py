"""`on_gpu.py`: bounded calls that go on where the one before was, and what they carry from machine to machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from tiny_run import Workplace

from mrlato_jax.bench import compiling
from mrlato_jax.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launch"))

import _pieces
from _pieces import DONE, FAILED, LEFT, Ledger, Piece, Step, carried, pack, unpack, work

COUNTER = """
import json, signal, sys, time
from pathlib import Path
path, limit, asked = Path(sys.argv[1]), int(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
start = n = json.loads(path.read_text())["n"] if path.exists() else 0
while n < limit and not asked:
    time.sleep(0.02)
    n += 1
path.write_text(json.dumps({"n": n}))
with open(path.with_suffix(".starts"), "a") as file:
    file.write(f"{start} {n}\\n")
print(f"counted to {n}")
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def piece(name: str, program: str, *arguments: object, needs_s: float = 0.0, excuse: str = "") -> Piece:
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return Piece(name, "", 1.0, (Step(lambda: words, needs_s=needs_s, excuse=excuse),), ())


def call(out: Path, pieces: list[Piece], budget_s: float) -> dict[str, dict[str, object]]:
    """One call; returns the entries as the file then has them."""
    (out / "results").mkdir(parents=True, exist_ok=True)
    ledger = Ledger(out, {"of": "a test"})
    started = time.monotonic()
    work(pieces, ledger, out, budget_s, started)
    assert time.monotonic() - started < budget_s + 10
    return json.loads((out / "pieces.json").read_text())["pieces"]


def test_a_piece_that_the_budget_ends_goes_on_where_it_was_and_is_done_once(tmp_path: Path) -> None:
    record = tmp_path / "results" / "count.json"
    pieces = [piece("count", COUNTER, record, 100), piece("then", COUNTER, record.with_name("then.json"), 1)]
    entries = call(tmp_path, pieces, budget_s=1.2)
    assert entries["count"]["status"] == LEFT
    assert "then" not in entries
    calls = 1
    while entries.get("then", {}).get("status") != DONE:
        entries = call(tmp_path, pieces, budget_s=1.2)
        calls += 1
        assert calls < 20
    assert entries["count"]["status"] == DONE
    assert entries["count"]["last"] == "counted to 100"
    spans = [[int(word) for word in line.split()] for line in record.with_suffix(".starts").read_text().splitlines()]
    assert len(spans) == entries["count"]["calls"] >= 2
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    before = (tmp_path / "pieces.json").read_bytes()
    call(tmp_path, pieces, budget_s=1.2)
    assert (tmp_path / "pieces.json").read_bytes() == before
    assert len(record.with_suffix(".starts").read_text().splitlines()) == len(spans)


def test_a_failure_is_recorded_and_stops_no_other_piece(tmp_path: Path) -> None:
    good = piece("good", COUNTER, tmp_path / "results" / "good.json", 1)
    entries = call(tmp_path, [piece("bad", "raise SystemExit('boom: no such thing')"), good], budget_s=20.0)
    assert entries["bad"]["status"] == FAILED
    assert entries["bad"]["last"] == "exit status 1: boom: no such thing"
    assert entries["good"]["status"] == DONE


def test_what_gets_nowhere_in_a_whole_call_is_killed_and_has_failed(tmp_path: Path) -> None:
    deaf = piece("deaf", DEAF)
    entries = call(tmp_path, [deaf], budget_s=1.5)
    assert entries["deaf"]["status"] == FAILED
    assert str(entries["deaf"]["last"]).startswith("no progress in ")
    assert str(entries["deaf"]["last"]).endswith("deaf")


def test_what_needs_more_than_is_left_waits_for_the_next_call(tmp_path: Path) -> None:
    first = piece("first", COUNTER, tmp_path / "results" / "first.json", 25)
    greedy = piece("greedy", COUNTER, tmp_path / "results" / "greedy.json", 1, needs_s=1e6)
    entries = call(tmp_path, [first, greedy], budget_s=3.0)
    assert entries["first"]["status"] == DONE
    assert not (tmp_path / "results" / "greedy.json").exists()
    entries = call(tmp_path, [first, greedy], budget_s=3.0)
    assert entries["greedy"]["status"] == DONE


def test_a_flag_that_this_xla_does_not_know_is_no_failure(tmp_path: Path) -> None:
    words = compiling.command("mrlato", "low_effort", tmp_path / "file.json", tmp_path / "cache", tiny=True)
    variables = {**compiling.variables("low_effort", tmp_path / "cache"), "XLA_FLAGS": "--xla_gpu_no_such_flag=1"}
    excuses: list[str] = []
    step = Step(lambda: words, variables, 0.0, compiling.UNKNOWN_FLAG, excuses.append)
    entries = call(tmp_path, [Piece("flag", "", 1.0, (step,), ())], budget_s=60.0)
    assert entries["flag"]["status"] == DONE
    assert str(entries["flag"]["last"]).startswith("not on this machine: ")
    assert excuses == [entries["flag"]["last"]]
    assert not (tmp_path / "file.json").exists()


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_carried_are_the_checkpoints_that_going_on_needs(tmp_path: Path) -> None:
    Ledger(tmp_path, {}).write()
    root = tmp_path / "runs" / "reproduce-paper"
    for seed in (0, 1):
        for step in (1, 2):
            write(root / f"exp1-a/seed{seed}/checkpoints/step_0000000{step}.npz")
            write(root / f"exp1-a/seed{seed}/warm_start/checkpoints/step_0000000{step}.npz")
            write(root / f"exp1-b/seed{seed}/warm_start/checkpoints/step_0000000{step}.npz")
        write(root / f"exp1-c/seed{seed}/checkpoints/step_00000002.npz")
        write(root / f"exp1-c/seed{seed}/config.json")
    write(root / "exp1-a/seed0/checkpoints/step_00000003.npz")  # not seed 1's: it was killed in between
    write(root / "exp1-a/seed0/.lock")
    record = {"identity": {"settings": ["n20"]}, "rows": {"training": {}, "n20": {"all": {}, "half": {}}}}
    half = write(tmp_path / "results/paper/exp1-c-seed1.json", json.dumps(record).encode())
    record["rows"]["n20"]["planning"] = {}
    whole = write(tmp_path / "results/paper/exp1-c-seed0.json", json.dumps(record).encode())
    names = {str(path.relative_to(tmp_path)) for path in carried(tmp_path)}
    assert names == {
        "pieces.json",
        *(str(path.relative_to(tmp_path)) for path in (half, whole)),
        *(f"runs/reproduce-paper/exp1-a/seed{seed}/checkpoints/step_00000002.npz" for seed in (0, 1)),
        *(f"runs/reproduce-paper/exp1-b/seed{seed}/warm_start/checkpoints/step_00000002.npz" for seed in (0, 1)),
        "runs/reproduce-paper/exp1-c/seed1/checkpoints/step_00000002.npz",
        "runs/reproduce-paper/exp1-c/seed1/config.json",
    }


def test_the_state_comes_back_from_several_files_with_the_compiled_programs_that_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pieces, "PART_BYTES", 1000)
    here, there, folder = tmp_path / "here", tmp_path / "there", tmp_path / "carry"
    write(here / "pieces.json", json.dumps({"identity": {}, "pieces": {}}).encode())
    run = write(here / "runs/bare/checkpoints/step_00000001.npz", os.urandom(2500))
    old, new = (write(here / f"cache/{name}-cache", os.urandom(3000)) for name in ("old", "new"))
    os.utime(old, (1, 1))
    assert "with 1 of 2 files of the cache" in pack(here, folder, 7500)
    parts = sorted(folder.iterdir())
    assert len(parts) > 4
    assert all(part.stat().st_size <= 1000 for part in parts)
    assert unpack(folder, there)
    for path in (run, new):
        assert (there / path.relative_to(here)).read_bytes() == path.read_bytes()
    assert not (there / old.relative_to(here)).exists()
    assert not unpack(folder, there)  # what is there already is newer
    parts[1].unlink()
    with pytest.raises(InputError, match="accepted: all of them"):
        unpack(folder, tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_training_goes_on_on_another_machine(tmp_path: Path) -> None:
    """The command itself: asked to end in the middle of a training, its state carried, then run to the end."""
    place = Workplace(tmp_path)
    first, second, carry = tmp_path / "first", tmp_path / "second", f"--carry={tmp_path / 'carry'}"
    flags = ["--tiny", "--only=bare", "--minutes=5", "--seeds=1"]
    metrics = first / "runs" / "bare" / "metrics.jsonl"
    with place.start("on_gpu.py", *flags, f"--out={first}", carry) as process:
        try:
            deadline = time.monotonic() + 200
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            printed, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "pieces left: 1; the same command continues" in printed
    done = metrics.read_text().splitlines()
    assert 5 <= len(done) < 400

    ran = place.run("on_gpu.py", *flags, f"--out={second}", carry)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "taken from" in ran.stdout
    assert "nothing left" in ran.stdout
    record = second / "results" / "exp2-bare-2000-seed0.json"
    assert f"  {record.name}" in ran.stdout
    assert json.loads(record.read_text())["iteration"] == 400
    lines = (second / "runs" / "bare" / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(done)] == done
    assert [json.loads(line)["iteration"] for line in lines] == list(range(1, 401))


def test_refused_before_anything_is_done(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    said = place.refused("on_gpu.py", "--only=compile,knitting", f"--out={tmp_path / 'out'}")
    assert said.startswith("--only has 'knitting'; accepted: compile, bench, plus, bare, paper, tables")
    assert "accepted: a folder that is not in --out" in place.refused(
        "on_gpu.py", f"--out={tmp_path / 'out'}", f"--carry={tmp_path / 'out' / 'carry'}"
    )
