"""Pegasus DAX: bytes of files between jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.dag.formats.dax import read_dax
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

DAX = """\
<?xml version="1.0" encoding="UTF-8"?>
<!-- part 1: <job>s -->
<adag xmlns="http://pegasus.isi.edu/schema/DAX" version="2.1" name="test">
  <job id="A" namespace="Montage" name="m" runtime="2.0">
    <uses file="raw" link="input" size="500"/>
    <uses file="x" link="output" size="1000"/>
    <uses file="log" link="output" size="7"/>
    <uses file="program" link="none"/>
  </job>
  <job id="B" name="m" runtime="0.5">
    <uses name="x" link="input" size="990"/>
    <uses name="raw" link="input" size="450"/>
    <uses name="y" link="output" size="20"/>
  </job>
  <job id="C" name="m" runtime="1">
    <uses name="x" link="input" size="1000"/><uses name="y" link="inout" size="30"/>
  </job>
  <child ref="C"><parent ref="A"/><parent ref="B"/></child>
</adag>
"""


@pytest.fixture
def dax(tmp_path: Path) -> Any:
    def read(text: str, **given: Any) -> TaskGraph:
        (tmp_path / "w.xml").write_text(text)
        return read_dax(tmp_path / "w.xml", **({"machine_hz": 1e9} | given))

    return read


def test_files_are_what_passes(dax: Any) -> None:
    # A's x is one result for two jobs, as large as A says; its log is a result; C changes B's y and delivers its own.
    assert dax(DAX) == TaskGraph.from_edges(
        cycles=[2e9, 5e8, 1e9],
        upload_bytes=[500, 1450, 1020],
        download_bytes=[1007, 20, 30],
        edges=[(0, 1), (0, 2), (1, 2)],
        names=["A", "B", "C"],
    )


def test_merged_jobs_send_what_crosses(dax: Any) -> None:
    merged = dax(DAX, num_tasks=1)
    assert (merged.upload_bytes.tolist(), merged.download_bytes.tolist()) == ([950], [37])


TWO = """<adag>
  <job id="A" runtime="1"><uses file="x" link="output" size="10"/></job>
  <job id="B" runtime="1"><uses file="x" link="output" size="20"/></job>
  <job id="C" runtime="1"><uses file="x" link="input" size="10"/></job>
  <job id="D" runtime="1"><uses file="x" link="input" size="10"/></job>
  <child ref="C"><parent ref="A"/></child><child ref="D"><parent ref="A"/><parent ref="B"/></child>
</adag>"""


def test_of_files_of_one_name_a_job_reads_its_parents(dax: Any) -> None:
    found = dax(TWO)
    assert (found.upload_bytes.tolist(), found.download_bytes.tolist()) == ([0, 0, 10, 30], [10, 20, 0, 0])
    assert found.edges.tolist() == [[0, 2], [0, 3], [1, 3]]


JOB = '<job id="A" runtime="1"/>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO.replace('<child ref="C"><parent ref="A"/></child>', ""), "job 'C' reads 'x', which 2 jobs write; acc"),
        (DAX.replace(' runtime="0.5"', ""), "job 'B': runtime is missing; accepted: a number >= 0, seconds of the"),
        (DAX.replace("0.5", "-0.5"), "job 'B': runtime is '-0.5'; accepted: a number >= 0"),
        (DAX.replace('link="input" size="450"', 'link="input"'), "job 'B': file 'raw': size is missing"),
        (DAX.replace("990", "1 MB"), "job 'B': file 'x': size is '1 MB'; accepted: a number >= 0, bytes"),
        (DAX.replace("inout", "both"), "job 'C' has 'y' with link 'both'; accepted: input or output"),
        (DAX.replace('name="y" ', "", 1), "job 'B' uses a file without a name"),
        (DAX.replace('ref="A"', 'ref="Z"'), "ref is 'Z'; accepted: the id of a job"),
        (DAX.replace('ref="A"', 'ref="C"'), "job 'C' is its own parent"),
        (DAX.replace('id="B"', 'id="A"'), "job 'A' stands twice"),
        (DAX.replace('id="B" ', ""), "a <job> lacks id"),
        (f"<adag>{JOB}<dax/></adag>", "holds <dax>, a workflow within; accepted: jobs"),
        ("<adag/>", "the workflow has 0 tasks; accepted: 1 to"),
        ("<workflow/>", "is <workflow>; accepted: <adag>"),
        (f'<adag>{JOB}<job id="B" runtime="1"/><child ref="A"><parent ref="B"/></child>'
         '<child ref="B"><parent ref="A"/></child></adag>', "edges hold a cycle of 2 tasks"),
        ('<!DOCTYPE adag [<!ENTITY a "b">]>' + f"<adag>{JOB}</adag>", "has a DOCTYPE; accepted: a Pegasus DAX file"),
        (f"<adag>{JOB}", "line 1, no XML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(dax: Any, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"w\.xml: .*{message}"):
        dax(text)


@pytest.mark.parametrize("clock", [0, "recorded", None])
def test_the_clock_is_a_number(dax: Any, clock: Any) -> None:
    with pytest.raises(InputError, match=r"machine_hz is .*; accepted: a finite number in"):
        dax(DAX, machine_hz=clock)
