"""The benchmark that comes with the package: its facts, its plans beside the oracle, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny_run
from oracle import Dag, Edge

import mrlato_jax as mj
from mrlato_jax.instances import applications, catalog
from mrlato_jax.instances.benchmark import write_problems, write_references
from mrlato_jax.instances.networks import NETWORKS
from mrlato_jax.instances.references import reference
from mrlato_jax.mec.system import OF_SERVERS, of_servers

ROOT = Path(__file__).resolve().parents[2]
INSTANCES = mj.load_benchmark()


def oracles(one: mj.Instance) -> tuple[Dag, Edge]:
    """An instance as the oracle takes it."""
    graph, system = one.graph, one.system
    dag = Dag(
        graph.cycles.tolist(), graph.upload_bytes.tolist(), graph.download_bytes.tolist(),
        [(parent, child) for parent, child in graph.edges.tolist()],
    )  # fmt: skip
    servers = (tuple(of_servers(system, name).tolist()) for name in OF_SERVERS)
    power = system.power
    powers = (power.compute_w, power.send_w, power.receive_w, power.idle_w)
    return dag, Edge(system.ue_hz, *servers, system.channel, system.radio, system.backhaul_bps, powers)


def test_what_it_has() -> None:
    assert len(INSTANCES) >= 40
    assert sum(one.proven for one in INSTANCES.values()) >= 30
    assert {one.group for one in INSTANCES.values()} == set(catalog.SOURCES)
    sizes = [one.graph.num_tasks for one in INSTANCES.values()]
    assert min(sizes) <= 6
    assert max(sizes) >= 100
    assert any(one.system.num_servers == 2 for one in INSTANCES.values())
    assert any(one.objective.energy_weight for one in INSTANCES.values())
    assert {name.rsplit("-energy", 1)[0].split("-")[1] for name in INSTANCES} == set(catalog.LINKS)
    with pytest.raises(TypeError):
        INSTANCES["mine"] = None  # type: ignore[index]


@pytest.mark.parametrize("one", INSTANCES.values(), ids=lambda one: one.name)
def test_the_oracle_agrees_with_each_best_known_plan(one: mj.Instance) -> None:
    """Costs, pins and orders of the stored plans, without the package's simulator."""
    dag, edge = oracles(one)
    assert oracle.is_linear_extension(dag, one.order.tolist())
    assert all(site in oracle.allowed_sites(edge, pin) for site, pin in zip(one.placement, one.graph.pins, strict=True))
    result = oracle.outcome(dag, edge, one.placement.tolist(), one.order.tolist())
    cost = result.makespan + one.objective.energy_weight * result.energy
    assert cost == pytest.approx(one.best_known, rel=1e-9)
    assert 0 < one.lower_bound <= one.best_known
    assert one.proven == (one.lower_bound >= one.best_known * (1 - 1e-5))


def test_no_bound_is_above_a_plan_that_others_find() -> None:
    """Random orders and placements, timed by the oracle, cost no less than the bounds."""
    rng = np.random.default_rng(0)
    for one in list(INSTANCES.values())[::4]:
        dag, edge = oracles(one)
        for _ in range(3):
            sites = [int(rng.choice(list(oracle.allowed_sites(edge, pin)))) for pin in one.graph.pins]
            order = oracle.take_ready(dag, rng.random(dag.num_tasks).tolist())
            result = oracle.outcome(dag, edge, sites, order)
            assert result.makespan + one.objective.energy_weight * result.energy >= one.lower_bound


def test_applications_are_as_their_facts_say() -> None:
    ran = tiny_run.run_here("make_benchmark.py", "--check", cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert f"{len(catalog.derived_applications())} applications" in ran.stdout


def test_published_figures_of_networks() -> None:
    """Multiply-accumulates in millions, as the literature has them; ours count pooling and sums too."""
    published = {
        "alexnet": 724,
        "vgg16": 15470,
        "mobilenet": 569,
        "resnet18": 1814,
        "squeezenet": 349,
        "googlenet": 1582,
    }
    for name, millions in published.items():
        assert NETWORKS[name]().macs == pytest.approx(1e6 * millions, rel=0.02), name
    assert NETWORKS["resnet18"]().layers["fc"].values == 1000
    assert NETWORKS["googlenet"]().layers["5b_concat"][1:3] == (7, 1024)


def test_published_figures_of_mobile_applications() -> None:
    graphs = applications.mobile_applications()
    one_round = {**applications.SLEIPNIR, "chess": applications.chess(1)}
    assert sum(len(parts) for parts in one_round.values()) == 30
    assert sum(part.stays for parts in one_round.values() for part in parts.values()) == 14
    assert graphs["facebook"].cycles.sum() == 2.4e9
    assert graphs["phone"].num_tasks == 46
    assert len(graphs["phone"].edges) == sum(len(graph.edges) for name, graph in graphs.items() if name != "phone")


def test_a_cluster_job_is_a_tree_of_levels() -> None:
    for size in (12, 30, 100):
        graph = applications.cluster_job(size, 0)
        assert graph == applications.cluster_job(size, 0)
        assert graph != applications.cluster_job(size, 1)
        ends = np.bincount(graph.edges.ravel(), minlength=size)
        assert (ends > 0).all()  # no task is alone
        assert size - 1 <= len(graph.edges) <= 1.4 * size


def test_changed_files_are_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "data" / "manifest.json", tmp_path)
    shutil.copytree(ROOT / "data" / "benchmark", tmp_path / "benchmark")
    assert mj.load_benchmark(tmp_path).keys() == INSTANCES.keys()
    for file, old, new in (
        ("references.json", '"cost": ', '"cost": 1'),
        ("applications/chess.json", "400000000", "400000001"),
    ):
        path = tmp_path / "benchmark" / file
        text = path.read_text()
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(mj.InputError, match="accepted: the benchmark as it was published"):
            mj.load_benchmark(tmp_path)
        path.write_text(text)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "experiments": {}}))
    with pytest.raises(mj.InputError, match="benchmark is None; accepted"):
        mj.load_benchmark(tmp_path)


def test_the_problems_of_version_1_stay_as_they_are() -> None:
    """Every field of the systems is stored, so the hash covers powers and rates that are defaults today."""
    manifest = json.loads((ROOT / "data" / "manifest.json").read_text())["benchmark"]
    assert manifest["version"] == catalog.VERSION == "1"
    assert manifest["problems.json"] == "d70cb2d6762f189bf1f7fd62395a01b502c2510ac53385f29566fd2179e38370"
    stored = json.loads((ROOT / "data" / "benchmark" / "problems.json").read_text())
    for fields in stored["systems"].values():
        assert fields.keys() == {field.name for field in dataclasses.fields(mj.System)}
        assert fields["power"].keys() == {field.name for field in dataclasses.fields(mj.Power)}


def test_a_benchmark_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mj.InputError, match=r"manifest.json: .* accepted: the benchmark as it was published"):
        mj.load_benchmark(tmp_path)
    shutil.copy(ROOT / "data" / "manifest.json", tmp_path)
    shutil.copytree(ROOT / "data" / "benchmark", tmp_path / "benchmark")
    problems = json.loads((tmp_path / "benchmark" / "problems.json").read_text())
    rows = json.loads((tmp_path / "benchmark" / "references.json").read_text())["instances"]
    graphs = {name: mj.read_json(tmp_path / "benchmark/applications" / f"{name}.json") for name in ("chess", "etl")}
    write_problems(tmp_path, problems, graphs)
    other = {**graphs, "etl": dataclasses.replace(graphs["etl"], cycles=graphs["etl"].cycles + 1)}
    with pytest.raises(mj.InputError, match=r"problems.json: has other problems of version 1; accepted: a new version"):
        write_problems(tmp_path, problems, other)
    before = (tmp_path / "manifest.json").read_bytes()
    write_references(tmp_path, {"chess-3g-near": rows["chess-3g-near"]})
    assert (tmp_path / "manifest.json").read_bytes() == before
    with pytest.raises(mj.InputError, match=r"references.json: has the hash"):
        mj.load_benchmark(tmp_path)
    write_references(tmp_path, rows)
    assert mj.load_benchmark(tmp_path).keys() == INSTANCES.keys()


def test_a_reference_gets_no_worse() -> None:
    pytest.importorskip("ortools")
    one = INSTANCES["antivirus-3g-near"]
    problem = one.problem
    stored = {
        "cost": one.best_known, "lower_bound": 0.9 * one.best_known, "proven": False, "found_by": "a friend",
        "placement": one.placement.tolist(), "order": one.order.tolist(),
    }  # fmt: skip
    again = reference(problem, stored, 1.0, 5.0, 1)
    assert again["proven"]
    assert again["cost"] == pytest.approx(one.best_known, rel=1e-9)
    assert again["found_by"] == "a friend"
    assert reference(problem, {**stored, "proven": True}, 1.0, 5.0, 1)["found_by"] == "a friend"
    slow = mj.all_local(*problem[:2])
    poor = {**stored, "cost": problem.cost(slow), "placement": slow.placement.tolist(), "order": slow.order.tolist()}
    for poor["found_by"] in ("optimum", "a friend"):
        better = reference(problem, poor, 1.0, 5.0, 1)
        assert better["cost"] == pytest.approx(one.best_known, rel=1e-9)
        assert better["found_by"] == "optimum"
    best = mj.Plan(one.placement, one.order, one.best_known, mj.simulate(*problem[:2], one.placement, one.order))
    for name in ("optimum", "before", "a friend"):
        known = reference(problem, poor, 1e-9, 1e-9, 1, {name: best})
        assert known["cost"] == pytest.approx(one.best_known, rel=1e-9)


def test_a_file_of_plans_is_checked_before_any_work(tmp_path: Path) -> None:
    shutil.copy(ROOT / "data" / "manifest.json", tmp_path)
    shutil.copytree(ROOT / "data" / "benchmark", tmp_path / "benchmark")
    before = (tmp_path / "benchmark" / "references.json").read_bytes()
    file, words = (
        tmp_path / "mine.json",
        ("make_benchmark.py", f"--out={tmp_path}", f"--plans={tmp_path / 'mine.json'}"),
    )
    for plans, said in (
        ({"chess": [0]}, "instance is 'chess'"),
        ({"antivirus-3g-near": [0]}, "antivirus-3g-near: placement is [0]"),
    ):
        file.write_text(json.dumps({"method": "mine", "plans": plans}))
        ran = tiny_run.run_here(*words, cwd=ROOT)
        assert ran.returncode == 2
        assert said in ran.stderr
    ran = tiny_run.run_here(*words, f"--wfinstances={tmp_path}", cwd=ROOT)
    assert ran.returncode == 2
    assert "with --wfinstances; accepted: plans of the stored problems" in ran.stderr
    file.write_text(json.dumps({"method": "mine", "plans": {}}))
    assert tiny_run.run_here(*words, cwd=ROOT).returncode == 0
    assert (tmp_path / "benchmark" / "references.json").read_bytes() == before
