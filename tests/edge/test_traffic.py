"""Traffic rules: never more than they say, never a user who starves, and nothing that grows with strangers."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrlato_jax.errors import InputError

pytest.importorskip("grpc", reason="needs grpcio")
pytest.importorskip("cryptography", reason="needs cryptography")
traffic = pytest.importorskip("mrlato_jax.edge.traffic")
Admission, Meter, RefusedError, Rules = traffic.Admission, traffic.Meter, traffic.RefusedError, traffic.Rules

# --- rules ---


def test_defaults():
    rules = Rules()
    assert dataclasses.asdict(rules) == {
        "users": None, "most_users": 64, "most_runs": 4, "most_tasks": 10_000, "most_message_bytes": 2**26,
        "messages_per_s": 5000.0, "bytes_per_s": 1e9, "burst_s": 1.0, "task_s": 60.0, "run_s": 3600.0, "idle_s": 600.0,
        "memory_bytes": 2**29, "processes": 64, "cpus": 1.0,
    }  # fmt: skip


def test_quotas_are_those_of_a_sandbox():
    rules = Rules()
    assert traffic.Quota() == traffic.Quota(rules.memory_bytes, rules.processes, rules.cpus)
    for name, value in (("memory_bytes", 1), ("processes", 0), ("cpus", 0.0), ("cpus", "1")):
        with pytest.raises(InputError, match=rf"Quota\.{name} is"):
            Rules(**{name: value})


def test_rules_of_a_file(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text("{}")
    assert Rules.read(path) == Rules()
    changed = {"users": ["alice", "bob"], "most_runs": 2, "messages_per_s": 10, "cpus": 0.5}
    path.write_text(json.dumps(changed))
    assert Rules.read(path) == Rules(users=("alice", "bob"), most_runs=2, messages_per_s=10, cpus=0.5)
    path.write_text('{"users": null}')
    assert Rules.read(path).users is None
    path.write_text('{"users": []}')  # nobody
    assert Rules.read(path).users == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"most_user": 3, "x": 1}', "has 'most_user, x'; accepted: users, most_users, most_runs"),
        ('{"users": "alice"}', "users is 'alice'; accepted: a list"),
        ('{"users": {"alice": 1}}', "users is .*; accepted: a list"),
        ('{"users": ["../a"]}', "name in Rules.users is '../a'; accepted"),
        ('{"users": [3]}', "name in Rules.users is 3; accepted"),
        ('{"most_runs": 1.5}', "most_runs is 1.5; accepted: an integer"),
        ('{"most_runs": true}', "most_runs is True; accepted: an integer"),
        ('{"burst_s": -1}', "burst_s is -1; accepted"),
        ('{"bytes_per_s": NaN}', "bytes_per_s is nan; accepted"),
        ('{"bytes_per_s": 1e999}', "bytes_per_s is inf; accepted"),
        ('{"task_s": null}', "task_s is None; accepted"),
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nests too deeply"),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_are_refused(tmp_path, text, said):
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"rules\.json.*{said}"):
        Rules.read(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"rules\.json is missing; accepted: a JSON object"):
        Rules.read(tmp_path / "rules.json")
    with pytest.raises(InputError, match="no regular file"):
        Rules.read(tmp_path)


NUMBERS = [field.name for field in dataclasses.fields(Rules) if field.name != "users"]


@given(
    st.sampled_from(NUMBERS),
    st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans(), st.lists(st.none()), st.just(10**400)),
)
def test_any_number_is_checked(name, value):
    """It is refused by its name, or it is a number that a meter can live with."""
    try:
        rules = Rules(**{name: value})
    except InputError as error:
        said = str(error)
    else:
        assert type(value) is not bool
        assert math.isfinite(value)
        assert value > 0
        assert Meter(rules).wait_s(1, 10, 5.0) == 0
        return
    assert f".{name} is " in said
    assert "; accepted: " in said


@pytest.mark.parametrize("users", ["alice", 3, (3,), ("a/b",), {"alice"}, ("a",) * 100_001], ids=lambda u: str(u)[:9])
def test_users_are_checked(users):
    with pytest.raises(InputError, match="users"):
        Rules(users=users)


# --- a meter ---

RATES = st.tuples(st.floats(0.01, 1e5), st.floats(1.0, 1e10), st.floats(1e-9, 100.0))
STARTS = st.floats(0.0, 1e7)
COMINGS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 10**7), st.floats(0.0, 10.0) | st.floats(0.0, 1e-3)),
    min_size=1,
    max_size=60,
)


def meter_of(rates):
    return Meter(Rules(messages_per_s=rates[0], bytes_per_s=rates[1], burst_s=rates[2]))


@given(RATES, STARTS, COMINGS, st.booleans())
def test_no_more_passes_than_the_rules_say(rates, start, comings, patient):
    """In every span of time: rate * t + burst, or one message that is larger than the burst."""
    meter, now, passed = meter_of(rates), start, []
    for messages, size, pause in comings:
        now += pause
        wait = meter.wait_s(messages, size, now)
        if wait and patient:
            now += wait
            assert meter.wait_s(messages, size, now) == 0  # it then passes
            wait = 0.0
        if not wait:
            passed.append((now, messages, size))
    for index, rate in ((1, rates[0]), (2, rates[1])):
        for first in range(len(passed)):
            total, largest = 0, 0
            for one in passed[first:]:
                total += one[index]
                largest = max(largest, one[index])
                time = one[0] - passed[first][0]
                allowed = rate * time + max(rate * rates[2], largest)
                rounding = rate * math.ulp(one[0]) * 2 * len(passed)
                assert total <= allowed * (1 + 1e-9) + rounding


@given(RATES, STARTS, COMINGS, st.integers(0, 100), st.integers(0, 10**8))
def test_a_wait_shrinks_with_time_and_grows_with_size(rates, start, comings, messages, size):
    def filled():
        meter, now = meter_of(rates), start
        for count, amount, pause in comings:
            now += pause
            meter.wait_s(count, amount, now)
        return meter, now

    now = filled()[1]

    def wait(messages, size, later):
        return filled()[0].wait_s(messages, size, now + later)

    here = wait(messages, size, 0.0)
    near = 1e-9 * (1 + here) + 8 * math.ulp(now)
    assert here <= wait(messages + 1, size, 0.0) + near
    assert here <= wait(messages, size + 1000, 0.0) + near
    for later in (1e-3, 0.5, 10.0):
        assert wait(messages, size, later) == pytest.approx(
            max(0.0, here - later), abs=near + 8 * math.ulp(now + later)
        )


@given(RATES, STARTS, st.integers(0, 10**6), st.integers(0, 10**12))
def test_anything_passes_a_meter_that_rested(rates, start, messages, size):
    """However large it is: refusing it is not what a meter is for."""
    meter = meter_of(rates)
    assert meter.wait_s(messages, size, start) == 0
    wait = meter.wait_s(1, 0, start)
    longest = max(messages / rates[0], size / rates[1]) + 1 / rates[0]
    assert wait <= longest * (1 + 1e-9) + 8 * math.ulp(start + longest)
    if wait:
        assert meter.wait_s(1, 0, start + wait) == 0


def test_who_waits_is_not_counted():
    meter = Meter(Rules(messages_per_s=10.0, burst_s=1.0))
    assert [meter.wait_s(1, 0, 0.0) for _ in range(10)] == [0.0] * 10
    waits = {meter.wait_s(1, 0, 0.0) for _ in range(1000)}
    assert len(waits) == 1
    assert waits.pop() == pytest.approx(0.1)
    assert meter.wait_s(1, 0, 0.1001) == 0


def test_a_rate_is_reached():
    """Who sends as fast as they may gets the whole rate, by the message and by the byte."""
    for rules, size in ((Rules(messages_per_s=1000.0), 1), (Rules(bytes_per_s=1e6), 1000)):
        meter, now, count = Meter(rules), 1e6, 0
        while now < 1e6 + 10:
            if wait := meter.wait_s(1, size, now):
                now += wait
            else:
                count += 1
        assert count == pytest.approx(11_000, abs=3)


def test_time_that_goes_back_earns_nothing():
    meter = Meter(Rules(messages_per_s=1.0, burst_s=1.0))
    assert meter.wait_s(1, 0, 100.0) == 0
    wait = meter.wait_s(1, 0, 40.0)
    assert wait == pytest.approx(61.0)
    assert meter.wait_s(1, 0, 40.0 + wait) == 0
    meter = Meter(Rules(messages_per_s=1.0, burst_s=2.0))
    assert [meter.wait_s(1, 0, now) for now in (100.0, 40.0)] == [0, 0]
    assert meter.wait_s(1, 0, 100.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments", [(-1, 0, 0.0), (0, -1, 0.0), (1, 1, math.nan), (1, 1, math.inf), (math.nan, 1, 0.0)], ids=str
)
def test_what_a_meter_refuses(arguments):
    with pytest.raises(InputError, match="accepted"):
        Meter(Rules()).wait_s(*arguments)


def test_a_meter_does_not_grow():
    meter = Meter(Rules())
    before = sys.getsizeof(meter.__dict__) + sum(map(sys.getsizeof, meter.__dict__.values()))
    for step in range(10_000):
        meter.wait_s(1, 1000, step * 1e-4)
    assert sys.getsizeof(meter.__dict__) + sum(map(sys.getsizeof, meter.__dict__.values())) == before


def test_what_has_come_already_is_paid_for_later():
    meter = Meter(Rules(bytes_per_s=100.0, burst_s=1.0))
    assert meter.is_at_rest(0.0)
    meter.charge(1, 300, 0.0)
    assert not meter.is_at_rest(2.9)
    assert meter.wait_s(1, 0, 0.0) == pytest.approx(2.0)
    assert meter.is_at_rest(3.0)


def test_a_meter_is_kept_while_its_user_owes():
    meters = traffic.Meters(Rules(most_users=2, messages_per_s=1.0, burst_s=10.0))
    meters.of("alice", 0.0).charge(5, 0, 0.0)
    for number in range(1000):
        assert meters.of(f"u{number}", 1.0).wait_s(0, 0, 1.0) == 0
    assert len(meters._meters) <= 2
    assert not meters.of("alice", 1.0).is_at_rest(1.0)
    meters.of("bob", 6.0)
    meters.of("carol", 6.0)
    assert "alice" not in meters._meters


# --- admission ---


def refusal(admission, user, now=0.0):
    try:
        admission.enter(user, now)
    except RefusedError as refused:
        return refused.reason
    return None


def test_who_comes_in():
    admission = Admission(Rules(users=("alice", "bob", "carol"), most_users=2, most_runs=2))
    assert [refusal(admission, user) for user in ("alice", "alice", "alice")] == [None, None, "too many runs"]
    assert refusal(admission, "mallory") == "unknown user"
    assert refusal(admission, "bob") is None
    assert refusal(admission, "carol") == "too many users"
    admission.leave("alice")
    assert refusal(admission, "carol") == "too many users"  # alice has one run more
    admission.leave("alice")
    assert refusal(admission, "carol") is None
    with pytest.raises(RefusedError) as caught:
        admission.refuse("revoked")
    assert caught.value.reason == "revoked"
    assert admission.refused == {"too many runs": 1, "unknown user": 1, "too many users": 2, "revoked": 1}
    assert (admission.users, admission.runs("alice"), admission.runs("bob")) == (2, 0, 1)


def test_everyone_or_nobody():
    assert refusal(Admission(Rules()), "anyone") is None
    assert refusal(Admission(Rules(users=())), "anyone") == "unknown user"


def test_a_vm_that_is_kept_counts():
    admission = Admission(Rules(most_users=2, idle_s=600.0))
    for user in ("alice", "bob"):
        admission.enter(user, 0.0)
    admission.leave("alice", 10.0)
    admission.leave("bob", 20.0)
    assert refusal(admission, "carol", 609.0) == "too many users"
    assert refusal(admission, "bob", 609.0) is None  # who has one may use it
    assert refusal(admission, "carol", 610.0) is None
    assert refusal(admission, "alice", 611.0) == "too many users"
    admission.leave("bob")
    assert refusal(admission, "alice", 612.0) is None


def test_who_left_cannot_leave_again():
    admission = Admission(Rules())
    admission.enter("alice", 0.0)
    admission.leave("alice", 1.0)
    for user in ("alice", "bob"):
        with pytest.raises(InputError, match="who has no run"):
            admission.leave(user)


def test_reasons_are_a_fixed_set():
    assert traffic.REASONS == ("unknown user", "revoked", "too many users", "too many runs")
    admission = Admission(Rules())
    for reason in ("", "anything", None):
        with pytest.raises(InputError, match="accepted"):
            admission.refuse(reason)
    assert not admission.refused


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2), st.floats(0.0, 10.0)), max_size=100))
def test_the_books_agree_with_a_list_of_what_happened(steps):
    rules = Rules(users=tuple("abcde"), most_users=3, most_runs=2, idle_s=5.0)
    admission, now = Admission(rules), 0.0
    running, kept = [], {}
    for user, kind, pause in steps:
        now += pause
        if kind:
            kept = {one: since for one, since in kept.items() if now - since < 5.0}
            present = {*running, *kept}
            expected = None
            if user == "f":
                expected = "unknown user"
            elif running.count(user) == 2:
                expected = "too many runs"
            elif user not in present and len(present) == 3:
                expected = "too many users"
            assert refusal(admission, user, now) == expected
            if expected is None:
                running.append(user)
                kept.pop(user, None)
        elif user in running:
            running.remove(user)
            keep = now if int(now) % 2 else None
            admission.leave(user, keep)
            if keep is not None and user not in running:
                kept[user] = now
        assert admission.runs(user) == running.count(user)
        assert len(set(running)) <= admission.users <= 3


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param(Rules(users=("alice",)), id="unknown", marks=pytest.mark.slow),
        pytest.param(Rules(most_users=1), id="full"),
    ],
)
def test_a_million_strangers_leave_nothing_behind(rules):
    admission = Admission(rules)
    admission.enter("alice", 0.0)

    def knock(first, count):
        for number in range(first, first + count):
            try:
                admission.enter(f"stranger{number}", 1.0)
            except RefusedError:
                continue
            raise AssertionError(number)

    knock(0, 10)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        knock(10, 10_000)  # what grows is seen after few; the others are not traced, which takes long
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 2000
    knock(10_010, 989_990)
    assert sum(admission.refused.values()) == 1_000_000
    assert len(admission.refused) == 1
    assert (admission.users, len(admission._runs), len(admission._idle)) == (1, 1, 0)
