"""The commands and the testbed's script: what they print, and bad input as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mrlato_jax as mj
from mrlato_jax.edge import certificates, command
from mrlato_jax.edge.testbed import Bed
from mrlato_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SUMS = f"{Path(__file__).with_name('sums.py')}:app"


def test_certificates_are_made_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.mec(["certify", f"--credentials={tmp_path}", "--user=alice"]) == 0
    assert (tmp_path / "users" / "alice.pem").exists()
    assert command.mec(["revoke", f"--credentials={tmp_path}", "--user=alice"]) == 0
    assert len(certificates.revoked(tmp_path)) == 1
    assert "the certificate of alice is revoked" in capsys.readouterr().out


def test_an_application_is_parsed_and_runs_without_a_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sums.json"
    assert command.ue(["parse", f"--app={SUMS}", f"--out={file}"]) == 0
    assert [task["name"] for task in json.loads(file.read_text())["tasks"]][:2] == ["first", "second"]
    assert command.ue(["run", "--app=exp2:n10:0", "--mode=all_local", "--ue_ghz=10", "--trace", "--json=-"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(" UE " in line for line in said) == 10
    assert json.loads(said[-1])["runs"][0]["measured_s"] > 0


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        (["certify", "--credentials=keys", "--user=../eve"], "../eve"),
        (["revoke", "--credentials=keys", "--user=nobody"], "keys"),
        (["serve", "--credentials=keys", "--app=no.such.module", "--vm=process"], "no.such.module"),
        (["serve", "--credentials=keys", "--app=json", "--vm=process", "--rules=none.json"], "none.json"),
        (["serve", "--credentials=keys", "--app=json", "--core=0", "--dask=tcp://127.0.0.1:1"], "core is 0"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], phrase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    certificates.make(Path("keys"), ["alice"])
    assert command.mec(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert phrase in said


def test_the_testbed_ends_with_a_line_of_json() -> None:
    words = [
        "--link=paced", "--vm=process", "--runs=1", "--mode=all_offload", "--nocalibrate", "--uplink_mbps=50",
        "--downlink_mbps=50", "--json=-",
    ]  # fmt: skip
    ran = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "testbed.py"), f"--app={SUMS}", *words],
        capture_output=True, text=True, timeout=120, check=True, cwd=ROOT,
    )  # fmt: skip
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["link"] == "paced"
    assert [row["mode"] for row in found["runs"]] == ["all_offload"]
    assert found["runs"][0]["predicted_s"] > 0
    assert found["runs"][0]["measured_s"] > 0
    assert found["runs"][0]["events"] == []


def test_the_testbed_refuses_what_it_cannot_run_before_it_starts_anything() -> None:
    for name, phrase in (
        ("exp2:n11:5", "accepted: exp2:SET:NUMBER, SET one of n10"),
        ("no.such.module", "accepted: package.module:name or file.py:name"),
    ):
        with pytest.raises(InputError, match=phrase):
            Bed(mj.System(), ["exp2:n10:5", name])
    with pytest.raises(InputError, match="accepted: at most the VM"):
        Bed(mj.System(ue_hz=20e9), ["exp2:n10:5"])
    with pytest.raises(InputError, match="system has 2 servers; accepted: 1"):
        Bed(mj.System(vm_hz=[1e10, 1e10], uplink_bps=[1e6] * 2, downlink_bps=[1e6] * 2), ["exp2:n10:5"])
