from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

pytest.importorskip("msgpack")

from tiny_run import CONFIG, ROOT, alive, dataset, flags_of, wait_until_gone

from mrlato_jax.config import LearningConfig
from mrlato_jax.dag.dataset import save
from mrlato_jax.edge import codec
from mrlato_jax.edge.federation import flower, global_trainer, messages
from mrlato_jax.edge.federation.aggregation import aggregated
from mrlato_jax.edge.federation.global_trainer import GlobalTrainer
from mrlato_jax.edge.federation.local_trainer import LocalTrainer
from mrlato_jax.edge.federation.one_process import in_one_process
from mrlato_jax.edge.federation.settings import Fault, Federation
from mrlato_jax.errors import InputError
from mrlato_jax.processes import free_port

UES, ROUNDS = 3, 3
needs_flower = pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="Flower is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federated") / "data"
    save(dataset(train=UES), folder)
    return folder


@pytest.fixture(scope="module")
def federation(data: Path) -> Federation:
    return Federation(dataclasses.replace(CONFIG, iterations=ROUNDS), UES, str(data))  # two of three UEs in a round


KEYS = [bytes([ue]) * messages.KEY_BYTES for ue in range(UES)]


@pytest.fixture(scope="module")
def trainers(federation: Federation) -> list[LocalTrainer]:
    return [LocalTrainer(federation, ue, key) for ue, key in enumerate(KEYS)]


@pytest.fixture(scope="module")
def answers(federation: Federation, trainers: list[LocalTrainer], tmp_path_factory: pytest.TempPathFactory):
    """Round 1: the server's message, and what each UE answers."""
    message = GlobalTrainer(federation, tmp_path_factory.mktemp("server") / "state", KEYS).message()
    return message, [trainer.answer(message) for trainer in trainers]


@pytest.fixture
def server(federation: Federation, tmp_path: Path) -> GlobalTrainer:
    return GlobalTrainer(federation, tmp_path / "state", KEYS)


def body_of(answer: bytes) -> dict[str, Any]:
    return codec.unpacked(codec.unpacked(answer)["body"])


def counted(server: GlobalTrainer) -> dict[str, int]:
    return {reason: count for reason, count in server.refused.items() if count}


# ---- the numbers


def test_three_rounds_are_those_of_one_process(
    federation: Federation, trainers: list[LocalTrainer], tmp_path: Path
) -> None:
    # The server is killed in round 2, after one UE has answered, and what it had is lost.
    server = GlobalTrainer(federation, tmp_path / "state", KEYS)
    took_part = set()
    while not server.finished:
        message = server.message()
        if server.round == 2:
            server.offer(trainers[server.asked[0]].answer(message))
            server = GlobalTrainer(federation, tmp_path / "state", KEYS)
            assert server.done == 1
            assert server.message() == message
        for trainer in trainers:
            assert server.offer(trainer.answer(message)).refused is None
        record = server.finish(1.0, UES)
        took_part |= set(record["ues"])
        assert len(record["ues"]) == federation.config.learning.meta_batch
    assert took_part == set(range(UES))  # else two learning tasks were looked at
    alone = messages.named(in_one_process(federation).params)
    assert messages.largest_difference(alone, server.params) <= 1e-5
    begun = messages.named(in_one_process(federation, 0).params)
    assert messages.largest_difference(alone, begun) > 1e-2
    report = server.report()
    assert [record["round"] for record in report["rounds"]] == [1, 2, 3]
    assert not counted(server)
    again = GlobalTrainer(federation, tmp_path / "state", KEYS).report()
    assert again == report


def test_a_repeated_round_has_the_same_answers(
    federation: Federation, answers: tuple[bytes, list[bytes]], server: GlobalTrainer
) -> None:
    message, given = answers
    ue = server.asked[0]
    fresh = LocalTrainer(federation, ue, KEYS[ue])
    assert fresh.answer(message) == given[ue]


@pytest.mark.slow
def test_gradients_are_federated_as_well(data: Path, tmp_path: Path) -> None:
    learning = dataclasses.replace(CONFIG.learning, meta_update="fomaml", meta_batch=1)
    federation = Federation(dataclasses.replace(CONFIG, iterations=1, learning=learning), 1, str(data))
    server = GlobalTrainer(federation, tmp_path / "state", KEYS[:1])
    assert server.offer(LocalTrainer(federation, 0, KEYS[0]).answer(server.message())).refused is None
    server.finish(1.0, 1)
    alone = messages.named(in_one_process(federation).params)
    assert messages.largest_difference(alone, server.params) <= 1e-5


# ---- robust aggregation


def test_one_poisoned_ue_moves_the_mean_far_and_the_median_little(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, iterations=1, learning=dataclasses.replace(CONFIG.learning, meta_batch=UES))
    honest = Federation(config, UES, str(data))
    poisoned = dataclasses.replace(honest, faults=(Fault(1, 0, "poison"),))
    message = GlobalTrainer(honest, tmp_path / "state", KEYS).message()
    given = [LocalTrainer(honest, ue, key).answer(message) for ue, key in enumerate(KEYS)]
    bad = LocalTrainer(poisoned, 0, KEYS[0]).answer(message)

    def after(aggregation: str, first: bytes) -> dict[str, np.ndarray]:
        federation = dataclasses.replace(honest, aggregation=aggregation)
        server = GlobalTrainer(federation, tmp_path / f"{aggregation}{first is bad}", KEYS)
        for answer in (first, *given[1:]):
            assert server.offer(answer).refused is None  # its norm is one that an honest UE may have
        server.finish(1.0, UES)
        return server.params

    theta = codec.unpacked(message)["arrays"]
    mean, median = after("mean", given[0]), after("median", given[0])
    step = messages.update_norm(mean, theta)
    by_mean = messages.update_norm(after("mean", bad), mean)
    by_median = messages.update_norm(after("median", bad), median)
    assert by_mean > step / 4
    assert by_median < by_mean / 20


@pytest.mark.parametrize("aggregation", ["median", "trimmed_mean"])
def test_the_middle_of_what_ues_sent(aggregation: str) -> None:
    rows = np.array([[1, 9], [2, 8], [3, 1e6], [1e6, 7], [4, -1e6]], np.float32)
    if aggregation == "trimmed_mean":
        pytest.importorskip("flwr")
    middle = aggregated(aggregation, rows)
    assert middle.dtype == rows.dtype
    assert np.array_equal(middle, np.tile(np.array([3, 8], np.float32), (5, 1)))
    assert aggregated("mean", rows) is rows


# ---- what is refused


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("nan", "not_finite"),
        ("infinity", "not_finite"),
        ("tree", "tree"),
        ("shape", "shape"),
        ("dtype", "dtype"),
        ("norm", "norm"),
        ("stale", "stale_round"),
        ("stranger", "unknown_node"),
    ],
)
def test_what_is_wrong_is_refused_and_counted_and_then_the_right_answer_is_taken(
    federation: Federation, answers: tuple[bytes, list[bytes]], server: GlobalTrainer, what: str, reason: str
) -> None:
    message, given = answers
    ue = server.asked[0]
    trainer = LocalTrainer(dataclasses.replace(federation, faults=(Fault(1, ue, what),)), ue, KEYS[ue])
    before = server.params
    assert server.offer(trainer.answer(message)).refused == reason
    assert counted(server) == {reason: 1}
    assert ue in server.missing
    assert messages.largest_difference(server.params, before) == 0
    assert server.offer(given[ue]).refused is None
    assert ue not in server.missing


def test_doubled_and_not_asked_and_of_an_earlier_round(
    answers: tuple[bytes, list[bytes]], server: GlobalTrainer
) -> None:
    _, given = answers
    idle = next(ue for ue in range(UES) if ue not in server.asked)
    first, second = server.asked
    assert server.offer(given[idle]) == (idle, None)  # it says that it has nothing to do
    forged = {**body_of(given[first]), "arrays": body_of(given[first])["arrays"]}
    assert server.offer(messages.signed(idle, KEYS[idle], forged)).refused == "not_asked"
    nothing = {**body_of(given[first]), "arrays": None, "metrics": None}
    assert server.offer(messages.signed(first, KEYS[first], nothing)).refused == "not_asked"
    assert server.offer(given[first]).refused is None
    assert server.offer(given[first]).refused == "doubled"
    assert server.offer(given[second]).refused is None
    server.finish(1.0, 2)
    assert server.offer(given[second]).refused == "stale_round"
    other_theta = {**body_of(given[second]), "round": 2}
    assert server.offer(messages.signed(second, KEYS[second], other_theta)).refused == "stale_round"
    assert counted(server) == {"not_asked": 2, "doubled": 1, "stale_round": 2}


def test_bytes_of_anybody(answers: tuple[bytes, list[bytes]], server: GlobalTrainer) -> None:
    _, given = answers
    ue = server.asked[0]
    for garbage in (b"", b"\xc1", b"x" * 100, codec.packed([]), codec.packed({"ue": 0}), b"x" * 10**6):
        assert server.offer(garbage).refused == "unreadable"
    for number in (-1, UES, 10**9):
        assert server.offer(messages.signed(number, KEYS[0], body_of(given[ue]))).refused == "unknown_node"
    assert server.offer(messages.signed(ue, KEYS[(ue + 1) % UES], body_of(given[ue]))).refused == "unknown_node"
    changed = bytearray(given[ue])
    changed[len(changed) // 2] ^= 1
    assert server.offer(bytes(changed)).refused == "unknown_node"
    for body in ({}, {**body_of(given[ue]), "more": 1}, {**body_of(given[ue]), "metrics": {}}):
        assert server.offer(messages.signed(ue, KEYS[ue], body)).refused == "unreadable"
    infinite = {**body_of(given[ue])["metrics"], "entropy": float("inf")}
    of_metrics = messages.signed(ue, KEYS[ue], {**body_of(given[ue]), "metrics": infinite})
    assert server.offer(of_metrics).refused == "not_finite"
    assert server.offer(given[ue]).refused is None


numbers = st_numpy.arrays(st.sampled_from(codec.DTYPES), st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0))
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary() | numbers
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


def test_whatever_can_be_packed_gets_a_verdict(
    answers: tuple[bytes, list[bytes]], server: GlobalTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(global_trainer, "MOST_REFUSED", 10**9)

    def partly(right: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        changes = st.dictionaries(st.sampled_from(sorted(right)), anything, min_size=1, max_size=2)
        return changes.map(lambda changed: {**right, **changed})

    ue = server.asked[0]
    right = codec.unpacked(answers[1][ue])
    body = codec.unpacked(right["body"])
    inner = [partly(body[name]).map(lambda part, name=name: {**body, name: part}) for name in ("arrays", "metrics")]

    @settings(max_examples=100)
    @given(anything | partly(right), st.one_of(anything, partly(body), *inner))
    def check(unsigned: Any, to_sign: Any) -> None:
        sent = codec.packed(unsigned)
        sender, _, wrong = messages.opened(sent, KEYS, server.most_bytes)
        assert (sender, wrong) in ((ue, None), (None, "unreadable"), (None, "unknown_node"))
        assert server.offer(sent).ue == sender
        sent = messages.signed(ue, KEYS[ue], to_sign)
        assert messages.opened(sent, KEYS, server.most_bytes)[::2] == (ue, None)
        verdict = server.offer(sent)
        assert verdict.ue == ue
        assert verdict.refused in (None, *messages.REFUSALS)

    check()


def test_types_are_looked_at_before_values(answers: tuple[bytes, list[bytes]], server: GlobalTrainer) -> None:
    _, given = answers
    ue = server.asked[0]
    for value in (np.zeros(3), [0], 1.5, "ue", None):
        assert messages.opened(codec.packed(value), KEYS, server.most_bytes) == (None, None, "unreadable")
    for changes in ({"round": np.ones(2)}, {"round": True}, {"round": 1.0}, {"start": np.ones(2)}, {"start": b""}):
        sent = messages.signed(ue, KEYS[ue], {**body_of(given[ue]), **changes})
        assert server.offer(sent) == (ue, "unreadable")


def test_metrics_whose_sum_is_infinite(answers: tuple[bytes, list[bytes]], server: GlobalTrainer) -> None:
    for ue in server.asked:
        body = body_of(answers[1][ue])
        body["metrics"]["entropy"] = sys.float_info.max
        assert server.offer(messages.signed(ue, KEYS[ue], body)).refused == "not_finite"
        assert server.offer(answers[1][ue]).refused is None
    server.finish(1.0, 2)


def test_a_ue_whose_answers_never_fit_ends_the_run(answers: tuple[bytes, list[bytes]], server: GlobalTrainer) -> None:
    _, given = answers
    ue = server.asked[0]
    body = body_of(given[ue])
    name = next(iter(body["arrays"]))
    body["arrays"][name] = np.full_like(body["arrays"][name], np.nan)
    bad = messages.signed(ue, KEYS[ue], body)
    for _ in range(global_trainer.MOST_REFUSED - 1):
        assert server.offer(bad).refused == "not_finite"
    with pytest.raises(InputError, match=f"UE {ue} sent 10 answers in round 1 that cannot be used"):
        server.offer(bad)


def test_the_outer_step_waits_for_all(answers: tuple[bytes, list[bytes]], server: GlobalTrainer) -> None:
    _, given = answers
    server.offer(given[server.asked[0]])
    with pytest.raises(InputError, match="have not answered; accepted: answers of all"):
        server.finish(1.0, 1)


def test_the_state_of_another_federation(
    federation: Federation, answers: tuple[bytes, list[bytes]], server: GlobalTrainer, tmp_path: Path
) -> None:
    for ue in server.asked:
        server.offer(answers[1][ue])
    server.finish(1.0, 2)
    other = dataclasses.replace(federation, config=dataclasses.replace(federation.config, seed=4))
    with pytest.raises(InputError, match=r"saved under other settings: config\.seed: stored 3, wanted 4"):
        GlobalTrainer(other, tmp_path / "state", KEYS)
    fewer = dataclasses.replace(federation, ues=2)
    with pytest.raises(InputError, match="ues: stored 3, wanted 2"):
        GlobalTrainer(fewer, tmp_path / "state", KEYS[:2])
    longer = dataclasses.replace(federation, config=dataclasses.replace(federation.config, iterations=9))
    assert GlobalTrainer(longer, tmp_path / "state", KEYS).done == 1


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_no_update_of_adam_is_larger_than_its_bound(steps: int) -> None:
    rng = np.random.default_rng(0)
    learning = LearningConfig(inner_lr=0.1, inner_steps=steps)
    adam = optax.adam(0.1)
    for gradients in (
        rng.normal(size=(steps, 50)) * 10.0 ** rng.integers(-6, 6, (steps, 1)),
        np.ones((steps, 50)),
        np.cumprod(np.full((steps, 50), 1.5), axis=0),
        np.cumprod(np.full((steps, 50), 0.5), axis=0),
    ):
        theta = jax.numpy.zeros(50)
        state = adam.init(theta)
        for gradient in gradients:
            updates, state = adam.update(jax.numpy.asarray(gradient, jax.numpy.float32), state)
            theta = optax.apply_updates(theta, updates)
        norm = float(jax.numpy.linalg.norm(theta))
        assert norm <= messages.norm_bound(learning, 50)
    assert messages.norm_bound(learning, 50) < 1.3 * 0.1 * steps * 50**0.5


def test_who_is_asked() -> None:
    known = {11: 0, 12: 1, 13: 2}
    now = 100.0
    assert global_trainer.to_ask([11, 12, 13], known, {0, 2}, {}, now) == [11, 13]
    assert global_trainer.to_ask([11, 12, 14], known, {0}, {11: 159.0}, now) == [14]  # a node that nobody knows yet
    assert global_trainer.to_ask([11, 14], known, {0}, {11: 100.0, 14: 101.0}, now) == [11]
    assert global_trainer.to_ask([], known, {0}, {}, now) == []


# ---- settings


@pytest.mark.parametrize(
    ("changes", "learning", "message"),
    [
        ({"ues": 1}, {}, "meta_batch is 2; accepted: at most 1"),
        ({"ues": 4}, {}, "ues is 4; accepted: at most 3, one for each training set"),
        ({"norm_bound": -1.0}, {}, "norm_bound is -1.0"),
        ({"patience_s": 0.0}, {}, "patience_s is 0.0"),
        ({"faults": (Fault(1, 0, "magic"),)}, {}, "fault is 1:0:'magic'; accepted"),
        ({"faults": (Fault(1, 3, "nan"),)}, {}, "fault is 1:3:'nan'; accepted"),
        ({"aggregation": "mode"}, {}, "aggregation is 'mode'; accepted: mean, median, trimmed_mean"),
        (
            {"aggregation": "median"},
            {},
            "aggregation is median over 2 UEs; accepted: mean, or a meta_batch of at least 3",
        ),
        ({}, {"meta_update": "joint"}, "meta_update is joint"),
        ({}, {"learn_from": "optimum"}, "learn_from is optimum"),
        ({}, {"graphs_per_task": 99}, "graphs_per_task is 99"),
    ],
)
def test_settings_that_do_not_go_together(
    federation: Federation, changes: dict[str, Any], learning: dict[str, Any], message: str
) -> None:
    config = dataclasses.replace(
        federation.config, learning=dataclasses.replace(federation.config.learning, **learning)
    )
    with pytest.raises(InputError, match=message):
        dataclasses.replace(federation, config=config, **changes).dataset()


def test_the_record_goes_through_json(federation: Federation) -> None:
    given = dataclasses.replace(federation, faults=(Fault(1, 0, "nan"),))
    assert Federation.from_json(json.loads(json.dumps(given.to_json()))) == given
    with pytest.raises(InputError, match="federation has"):
        Federation.from_json({"ues": 1})


def test_what_is_no_message_of_the_server(trainers: list[LocalTrainer], answers: tuple[bytes, list[bytes]]) -> None:
    message = codec.unpacked(answers[0])
    name = next(iter(message["arrays"]))
    for wrong in (
        [],
        {"round": 0, "arrays": message["arrays"]},
        {"round": 1, "arrays": {}},
        {"round": 1, "arrays": {**message["arrays"], name: np.full_like(message["arrays"][name], np.nan)}},
    ):
        with pytest.raises(InputError, match="accepted"):
            trainers[0].answer(codec.packed(wrong))


def test_one_hash_for_equal_arrays() -> None:
    arrays = {"b": np.arange(3.0), "a": np.zeros((2, 1), np.float32)}
    same = {"a": np.zeros((2, 1), np.float32), "b": np.arange(6.0)[:3]}
    assert messages.params_sha256(arrays) == messages.params_sha256(same)
    for other in (
        {**arrays, "b": np.arange(3)},
        {**arrays, "a": np.zeros((1, 2), np.float32)},
        {"b": arrays["b"], "c": arrays["a"]},
        {**arrays, "b": arrays["b"] + 1e-12},
    ):
        assert messages.params_sha256(arrays) != messages.params_sha256(other)


# ---- Flower


class Grid:
    """Nodes without a network: each may be away, answer more than once, fail, or answer wrongly."""

    def __init__(self, trainers: dict[int, LocalTrainer]) -> None:
        self.trainers, self.away, self.twice = trainers, set[int](), set[int]()
        self.fails, self.lies = dict[int, int](), dict[int, int]()  # how often a node still does
        self.sent: list[int] = []
        self._waiting: list[Any] = []

    def get_node_ids(self) -> list[int]:
        return list(self.trainers)

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            self._waiting.append(message)
            self.sent.append(message.metadata.dst_node_id)
        assert len(self.sent) < 100
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, names: Iterable[str]) -> list[Any]:
        ready = [message for message in self._waiting if message.metadata.dst_node_id not in self.away]
        self._waiting = [message for message in self._waiting if message not in ready]
        replies = []
        for message in ready:
            node = message.metadata.dst_node_id
            replies += [self._reply(node, message)] * (2 if node in self.twice else 1)
        return replies

    def _reply(self, node: int, message: Any) -> Any:
        from flwr.app import Error, Message, RecordDict
        from flwr.common.constant import ErrorCode

        from mrlato_jax.edge.federation.flower_client import reply
        from mrlato_jax.edge.federation.flower_server import RECORD, as_record

        if self.fails.get(node):
            self.fails[node] -= 1
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "out of memory"), reply_to=message)
        if self.lies.get(node):
            self.lies[node] -= 1
            wrong = messages.signed(0, b"another key", {})
            return Message(RecordDict({RECORD: as_record(wrong)}), reply_to=message)
        return reply(self.trainers[node], message)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower knows of the process that sends a message."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@needs_flower
@pytest.mark.usefixtures("task")
def test_the_strategy_ends_each_round_with_all(
    federation: Federation, trainers: list[LocalTrainer], server: GlobalTrainer
) -> None:
    from mrlato_jax.edge.federation import flower_server

    grid = Grid({100 + ue: trainer for ue, trainer in enumerate(trainers)})
    grid.fails, grid.lies = {101: 1}, {102: 1}

    def watch(progress: dict[str, Any]) -> None:
        if progress["round"] == 2 and progress["sent"] == 0:  # the node of UE 0 is gone, and comes back as another one
            grid.away.add(100)
            grid.twice.add(101)
        if progress["round"] == 2 and progress["sent"] and 200 not in grid.trainers:
            grid.trainers[200] = grid.trainers[100]

    fast = dataclasses.replace(federation, poll_s=0.01)
    server.federation = fast
    strategy = flower_server.OuterStep(server, watch)
    result = strategy.start(grid, flower_server.as_record(server.message()), num_rounds=ROUNDS)
    assert server.finished
    assert set(result.train_metrics_clientapp) == {1, 2, 3}
    alone = messages.named(in_one_process(federation).params)
    assert messages.largest_difference(alone, server.params) <= 1e-5
    assert counted(server)["failed"] == counted(server)["unknown_node"] == 1
    assert [record["ues"] for record in server.rounds] == [[0, 1], [1, 2], [0, 2]]
    assert grid.sent.count(100) == 2  # in round 3 in vain: the other node of UE 0 answers
    assert 200 in grid.sent


@needs_flower
def test_the_strategy_does_not_wait_for_ever(server: GlobalTrainer) -> None:
    from mrlato_jax.edge.federation import flower_server

    strategy = flower_server.OuterStep(server)
    with pytest.raises(InputError, match=r"are missing in round 1, and no answer was accepted for 0\.1 s"):
        strategy.start(Grid({}), flower_server.as_record(server.message()), num_rounds=1, timeout=0.1)


@needs_flower
@pytest.mark.usefixtures("task")
@pytest.mark.parametrize("wrong", ["fails", "lies"])
def test_who_never_answers_rightly_is_asked_seldom_and_not_for_ever(
    trainers: list[LocalTrainer], server: GlobalTrainer, wrong: str
) -> None:
    from mrlato_jax.edge.federation import flower_server

    grid = Grid({100: trainers[0]})
    setattr(grid, wrong, {100: 10**9})
    timeout = 1.5 * flower_server.PAUSE_S
    began_s = time.monotonic()
    with pytest.raises(InputError, match="no answer was accepted"):
        flower_server.OuterStep(server).start(grid, flower_server.as_record(server.message()), 1, timeout)
    assert time.monotonic() - began_s < timeout + 10
    assert grid.sent == [100, 100]
    assert counted(server) == {"failed" if wrong == "fails" else "unknown_node": 2}


@needs_flower
def test_an_array_that_claims_more_than_it_has() -> None:
    from flwr.app import Array, ArrayRecord, RecordDict

    from mrlato_jax.edge.federation import flower_server
    from mrlato_jax.edge.federation.flower_server import ENTRY, RECORD, as_bytes, as_record

    assert as_bytes(RecordDict({RECORD: as_record(b"message")}), 7) == b"message"
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**15,)})
    claiming = Array("uint8", (10**15,), "numpy.ndarray", file.getvalue())
    zipped = io.BytesIO()
    np.savez(zipped, np.zeros(1))
    for record in (
        ArrayRecord({ENTRY: claiming}),
        ArrayRecord({ENTRY: Array("uint8", (1,), "numpy.ndarray", zipped.getvalue())}),
        ArrayRecord({ENTRY: Array(np.zeros(3, np.uint8)), "more": Array(np.zeros(3, np.uint8))}),
        ArrayRecord(),
        as_record(b"x" * 1000),
    ):
        with pytest.raises(InputError, match="accepted: one array of bytes"):
            as_bytes(RecordDict({RECORD: record}), 999)
    same = Array("uint8", (10**15,), flower_server.FORMAT, b"message")  # what it claims does not matter
    assert as_bytes(RecordDict({RECORD: ArrayRecord({ENTRY: same})}), 999) == b"message"


def launch(data: Path, *flags: object) -> list[str]:
    learning = dataclasses.replace(CONFIG.learning, meta_batch=10)  # the default: all UEs
    given = [flag for flag in flags_of(dataclasses.replace(CONFIG, learning=learning)) if "iterations" not in flag]
    return [sys.executable, str(ROOT / "launch" / "federated.py"), *given, f"--data={data}", *map(str, flags)]


@needs_flower
@pytest.mark.slow
def test_flower_with_faults_and_kills(data: Path, tmp_path: Path) -> None:
    command = launch(
        data, "--ues=2", "--rounds=4", "--kill_every=2", "--faults=1:0:nan,3:1:tree", "--compare", "--json=-",
        f"--run={tmp_path / 'run'}", "--timeout_s=400",
    )  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout.splitlines()[-1])
    assert [record["round"] for record in result["rounds"]] == [1, 2, 3, 4]
    assert all(record["ues"] == [0, 1] for record in result["rounds"])
    assert [kill["killed"].split()[0] for kill in result["kills"]] == ["ue", "server"]
    assert (result["refused"]["not_finite"], result["refused"]["tree"]) == (1, 1)
    assert result["largest_difference"] <= 1e-5
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)  # all rounds are done
    assert json.loads(again.stdout.splitlines()[-1])["params_sha256"] == result["params_sha256"], again.stderr


@needs_flower
@pytest.mark.slow
def test_strangers_are_refused_and_the_training_goes_on(data: Path, tmp_path: Path) -> None:
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.runtime import RuntimeHttpClient

    run, key, token = tmp_path / "run", tmp_path / "stranger.key", tmp_path / "token"
    key.write_bytes(flower.new_node_key())
    public = key.with_suffix(".pub")
    public.write_bytes(flower.public_of(key.read_bytes()))
    token.write_bytes(b"0" * 64)
    log = run / "processes" / "flower" / "superlink.log"
    authority = run / "flower" / "certificates" / "ca.pem"
    command = launch(data, "--ues=2", "--rounds=30", "--compare", "--json=-", f"--run={run}", "--timeout_s=400")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("server started"):
                break
        connection = (run / "processes" / "flower" / "config.toml").read_bytes()
        (tmp_path / "config.toml").write_bytes(connection)
        address = tomllib.loads(connection.decode())["superlink"]["here"]["address"]
        with (
            RuntimeHttpClient.from_server_address(
                address, False, authority.read_bytes(), [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
            ) as client,
            pytest.raises(httpx.HTTPStatusError, match="401"),
        ):
            client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"]))

        def node(*words: str) -> tuple[str, ...]:
            where = ["--superlink", address, "--host", "127.0.0.1", "--port", str(free_port())]
            return (flower.SUPERNODE, "0.2", *where, "--isolation", "process", "--max-retries", "2", *words)

        trusts = f"--root-certificates={authority}"
        strangers = {
            node(trusts, f"--auth-supernode-private-key={key}"): "Failed to activate SuperNode",
            node(trusts): "All SuperNodes must be registered",
            node("--insecure"): "Server disconnected",
            node(): "certificate verify failed",  # it does not trust SuperLink's authority
            (flower.SUBMIT, str(token), str(run / "flower" / "app"), str(public)): "Authentication failed",
        }
        environment = {**os.environ, "FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0"}
        started = [
            subprocess.Popen(
                [sys.executable, "-c", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**environment, "FLWR_DISABLE_UPDATE_CHECK": "1"},
            )
            for words in strangers
        ]  # fmt: skip
        for stranger, said in zip(started, strangers.values(), strict=True):
            output, _ = stranger.communicate(timeout=100)
            assert stranger.returncode == 1
            assert said in output
        rest = process.stderr.read()
        result = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 0, rest
    assert result["largest_difference"] == 0
    assert not any(result["refused"].values())
    assert log.read_text().count("Activated node_id") == 2


def test_who_has_which_file(tmp_path: Path) -> None:
    files = flower.ServerFiles(tmp_path, 2)
    contents = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    secrets = {path.name for path in contents if path.suffix in (".key", ".token", ".secret")}
    assert secrets == {"ca.key", "server.key", "ue0.key", "ue1.key", "operator.token", "superexec.secret"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in contents if path.name in secrets)
    assert len({contents[key] for key in files.node_keys}) == 2
    flower.ServerFiles(tmp_path, 2)
    assert all(path.read_bytes() == content for path, content in contents.items())


@needs_flower
@pytest.mark.slow
def test_nothing_outlives_the_launcher(data: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        launch(data, "--ues=2", "--rounds=500", f"--run={tmp_path / 'run'}"),
        stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 1/"):
                break
        pids = descendants(process.pid)
        assert len(pids) >= 7  # SuperLink, SuperExec, ServerApp, two UEs, two SuperNodes
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    wait_until_gone(pids, 10)


def test_a_process_ends_with_who_has_its_input() -> None:
    program = "import time; from mrlato_jax.processes import end_with_input; end_with_input(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 1


def descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and alive(int(path.name)):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


@needs_flower
def test_refusals_of_the_command(data: Path, tmp_path: Path) -> None:
    from tiny_run import run_here

    for flag, message in (
        ("--ues=9", "ues is 9; accepted: at most 3"),
        ("--rounds=0", "rounds is 0"),
        ("--faults=1:nan", "faults has '1:nan'; accepted: ROUND:UE:WHAT"),
        ("--meta_update=joint", "meta_update is joint"),
        ("--aggregation=mode", "aggregation is 'mode'; accepted: mean, median, trimmed_mean"),
        ("--aggregation=median", "aggregation is median over 2 UEs; accepted: mean, or a meta_batch of at least 3"),
    ):
        words = launch(data, "--ues=2", flag)[2:]
        ran = run_here("federated.py", *words, cwd=tmp_path)
        assert ran.returncode == 2, ran.stderr
        assert message in ran.stderr
