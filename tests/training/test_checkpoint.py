"""A checkpoint is whole and what was saved, or it is known to be neither."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrlato_jax.errors import InputError
from mrlato_jax.training import checkpoint

META = {"policy": {"units": 8, "layers": 2}, "data_hash": "abc"}


class State(NamedTuple):
    params: dict[str, Any]
    moments: tuple[np.ndarray, ...]
    count: jax.Array
    key: jax.Array


def state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    moments = (rng.normal(size=5), np.arange(3), np.array([True, False]))
    return State(
        {"params": {"dense": {"kernel": kernel}, "bias": jnp.zeros(0)}},
        moments,
        jnp.int32(seed),
        jax.random.split(jax.random.key(seed), 2),
    )


def assert_same(got: State, wanted: State) -> None:
    assert jax.tree_util.tree_structure(got) == jax.tree_util.tree_structure(wanted)
    for a, b in zip(jax.tree_util.tree_leaves(got), jax.tree_util.tree_leaves(wanted), strict=True):
        assert (a.dtype, a.shape, isinstance(a, np.ndarray)) == (b.dtype, b.shape, isinstance(b, np.ndarray))
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", 120, state(3), META)
    assert path == tmp_path / "checkpoints" / "step_00000120.npz"
    restored = checkpoint.restore(path.parent, state(), {"policy": {"units": 8}})
    assert (restored.step, restored.meta) == (120, META)
    assert_same(restored.tree, state(3))
    np.testing.assert_array_equal(jax.random.bits(restored.tree.key[1]), jax.random.bits(state(3).key[1]))


def test_restores_into_shapes_alone(tmp_path: Path) -> None:
    tree = {"w": jnp.arange(3.0), "key": jax.random.key(1, impl="rbg")}
    checkpoint.save(tmp_path, 1, tree, {})
    like = jax.eval_shape(lambda: {"w": jnp.zeros(3), "key": jax.random.key(0, impl="rbg")})
    restored = checkpoint.restore(tmp_path, like, {})
    assert isinstance(restored.tree["w"], jax.Array)
    assert jax.random.bits(restored.tree["key"]) == jax.random.bits(tree["key"])


def test_is_an_ordinary_npz_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path / "a", 7, state(1), META)
    with np.load(first) as archive:
        np.testing.assert_array_equal(archive["moments/1"], np.arange(3))
    assert first.read_bytes() == checkpoint.save(tmp_path / "b", 7, state(1), META).read_bytes()


def test_params_without_the_network(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, state(2), META)
    for place in (path, tmp_path):
        step, params, meta = dataclasses.astuple(checkpoint.read_params(place))
        assert (step, meta) == (5, META)
        assert jax.tree_util.tree_structure(params) == jax.tree_util.tree_structure(state().params)
        np.testing.assert_array_equal(params["params"]["dense"]["kernel"], state(2).params["params"]["dense"]["kernel"])


def test_params_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        checkpoint.read_params(tmp_path / "step_00000001.npz")
    with pytest.raises(InputError, match="holds no checkpoint"):
        checkpoint.read_params(tmp_path)
    path = checkpoint.save(tmp_path, 1, {"weights": np.zeros(2)}, {})
    with pytest.raises(InputError, match=r"no params among its arrays \['weights'\]"):
        checkpoint.read_params(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="is broken"):
        checkpoint.read_params(path)


def test_nothing_saved_yet(tmp_path: Path) -> None:
    assert checkpoint.restore(tmp_path / "none", state(), {}) is None
    assert checkpoint.restore(tmp_path, state(), {}) is None


def test_keeps_the_newest_and_removes_stale_temporaries(tmp_path: Path) -> None:
    stale = tmp_path / ".step_00000001.npz.123.tmp"
    stale.write_bytes(b"half")
    (tmp_path / "notes.txt").touch()
    for step in (1, 2, 30, 4, 5):
        checkpoint.save(tmp_path, step, {"w": np.arange(step)}, {}, keep=2)
    # 30 was not yet reached when 4 and 5 were saved: it is no older checkpoint of theirs.
    names = [f"step_{step:08d}.npz" for step in (4, 5, 30)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", *names]


def test_deletes_nothing_when_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"w": np.zeros(2)}, {}, keep=1)

    def full(source: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"w": np.ones(2)}, {}, keep=1)
    assert checkpoint.restore(tmp_path, {"w": np.zeros(2)}, {}).step == 1


@functools.cache
def _small() -> bytes:
    tree = {"params": {"w": np.arange(6, dtype=np.float32)}, "n": np.int64(4)}
    return checkpoint._pack(9, tree, META)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    whole = _small()
    place = draw(st.integers(0, len(whole) - 1))
    if draw(st.booleans()):
        return whole[:place]
    return whole[:place] + bytes([whole[place] ^ (1 << draw(st.integers(0, 7)))]) + whole[place + 1 :]


@settings(max_examples=200)
@given(damaged())
def test_any_cut_or_flipped_bit_shows(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "step_00000009.npz"
    path.write_bytes(data)
    with pytest.raises(checkpoint._BrokenError):
        checkpoint._read(path)
    path.write_bytes(_small())
    assert checkpoint._read(path)[0]["step"] == 9


@pytest.mark.parametrize("cut", [0, 1, 63, 64, 500, -1])
def test_uses_the_one_before_a_torn_one(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    checkpoint.save(tmp_path, 10, state(1), META)
    torn = checkpoint.save(tmp_path, 20, state(2), META)
    torn.write_bytes(torn.read_bytes()[:cut])
    with caplog.at_level(logging.WARNING):
        restored = checkpoint.restore(tmp_path, state(), META)
    assert restored.step == 10
    assert_same(restored.tree, state(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(torn) in caplog.text


def test_an_older_one_under_a_newer_name_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = checkpoint.save(tmp_path, 10, state(1), META)
    wrong = tmp_path / "step_00000020.npz"
    wrong.write_bytes(old.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert checkpoint.restore(tmp_path, state(), META).step == 10
    assert f"checkpoint {wrong} is broken (it holds step 10); using the one before it" in caplog.text
    with pytest.raises(InputError, match=r"is broken \(it holds step 10"):
        checkpoint.read_params(wrong)
    kept = tmp_path / "best.npz"
    wrong.rename(kept)
    assert checkpoint.read_params(kept).step == 10  # a name that says no step
    old.rename(wrong)
    with pytest.raises(InputError, match="all 1 are broken"):
        checkpoint.restore(tmp_path, state(), META)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file whose digest is right, whatever it holds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.comment = b" " * 64
        for name, content in members.items():
            file.writestr(name, content)
    contents = buffer.getvalue()[:-64]
    return contents + checkpoint._digest(contents)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


HEADER = {"format": 1, "step": 20, "keys": {}, "meta": META}


@pytest.mark.parametrize(
    "data",
    [
        b"no archive" + checkpoint._digest(b"no archive"),
        archive({}),
        archive({"header.json": b"{"}),
        archive({"header.json": b"[]"}),
        archive({"header.json": b"[" * 100_000}),
        archive({"header.json": b'{"format": 1}'}),
        *(archive({"header.json": json.dumps({**HEADER, name: None}).encode()}) for name in ("step", "keys", "meta")),
        archive({"header.json": json.dumps(HEADER).encode(), "w.npy": npy(np.array([{}], object))}),
        archive({"header.json": json.dumps(HEADER).encode(), "w.npy": npy(np.zeros(1)), "w/v.npy": npy(np.zeros(1))}),
        archive({"header.json": json.dumps(HEADER).encode(), "w.npy": npy(np.zeros(9))}, zipfile.ZIP_DEFLATED),
    ],
    ids=[  # an archive says when it was made: workers would name a test by its bytes differently
        "no archive",
        "empty",
        "half an object",
        "a list",
        "nested",
        "no keys",
        "step",
        "keys",
        "meta",
        "objects",
        "a leaf and its branch",
        "packed",
    ],
)
def test_what_no_run_wrote_is_broken_whatever_its_digest(tmp_path: Path, data: bytes) -> None:
    checkpoint.save(tmp_path, 10, state(1), META)
    (tmp_path / "step_00000020.npz").write_bytes(data)
    assert checkpoint.restore(tmp_path, state(), META).step == 10


def test_keys_of_no_kind_are_refused(tmp_path: Path) -> None:
    for kind in ("none", 3, []):
        header = {**HEADER, "keys": {"key": kind}}
        members = {"header.json": json.dumps(header).encode(), "key.npy": npy(np.zeros(2, np.uint32))}
        (tmp_path / "step_00000020.npz").write_bytes(archive(members))
        with pytest.raises(InputError, match="is no PRNG key of kind"):
            checkpoint.restore(tmp_path, {"key": jax.random.key(0)}, {})


def test_all_broken_is_no_fresh_start(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, state(), META).write_bytes(b"")
    with pytest.raises(InputError, match="all 1 are broken"):
        checkpoint.restore(tmp_path, state(), META)


def test_another_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    checkpoint.save(tmp_path, 1, state(), META)
    monkeypatch.undo()
    with pytest.raises(InputError, match="is 2; accepted: 1"):
        checkpoint.restore(tmp_path, state(), META)


def test_other_settings_are_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(), META)
    expected = {"policy": {"units": 16, "layers": 2, "heads": 1}, "data_hash": "xyz"}
    with pytest.raises(InputError) as caught:
        checkpoint.restore(tmp_path, state(), expected)
    for phrase in (
        "policy.units: stored 8, wanted 16",
        "policy.heads: stored nothing, wanted 1",
        "'abc', wanted 'xyz'",
    ):
        assert phrase in str(caught.value)
    assert "layers" not in str(caught.value)


def test_tuples_are_lists_in_json() -> None:
    assert checkpoint.differing_fields({"rates": [4, 7]}, {"rates": (4, 7)}) == []


@pytest.mark.parametrize(
    ("like", "phrase"),
    [
        ({"w": np.zeros(3, np.float32)}, r"w: stored float32\[2\], wanted float32\[3\]"),
        ({"w": np.zeros(2, np.float64)}, r"w: stored float32\[2\], wanted float64\[2\]"),
        ({"v": np.zeros(2, np.float32)}, r"stored but not wanted \['w'\], wanted but not stored \['v'\]"),
        ({"w": jax.random.split(jax.random.key(0), 2)}, r"wanted key<fry>\[2\]"),
    ],
)
def test_another_tree_is_named(tmp_path: Path, like: dict[str, Any], phrase: str) -> None:
    checkpoint.save(tmp_path, 1, {"w": np.zeros(2, np.float32)}, {})
    with pytest.raises(InputError, match=phrase):
        checkpoint.restore(tmp_path, like, {})


def test_another_kind_of_key_is_named(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"key": jax.random.key(0)}, {})
    with pytest.raises(InputError, match=r"key: stored key<fry>\[\], wanted key<rbg>\[\]"):
        checkpoint.restore(tmp_path, {"key": jax.random.key(0, impl="rbg")}, {})


@pytest.mark.parametrize(
    ("step", "tree", "meta", "keep", "phrase"),
    [
        (-1, {}, {}, 3, "step is -1"),
        (1.0, {}, {}, 3, "step is 1.0"),
        (1, {}, {}, 0, "keep is 0"),
        (1, {"w": 1.0}, {}, 3, "leaf w is 1.0"),
        (1, {"w": np.array(["text"])}, {}, 3, "leaf w is"),
        (1, {"w": jnp.zeros(1, jnp.bfloat16)}, {}, 3, "leaf w is"),
        (1, {"a/b": np.zeros(1)}, {}, 3, "without a slash"),
        (1, np.zeros(1), {}, 3, "leaves below keys"),
        (1, {"w": np.zeros(1)}, {"when": object()}, 3, "meta is"),
    ],
)
def test_what_cannot_be_stored(tmp_path: Path, step: Any, tree: Any, meta: Any, keep: int, phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        checkpoint.save(tmp_path, step, tree, meta, keep=keep)
    assert list(tmp_path.iterdir()) == []


# Forks writers and kills them at random moments. No array is a jax array, so no backend runs in the forked process.
_KILLED_WRITERS = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import numpy as np
from mrlato_jax.training import checkpoint

warnings.simplefilter("ignore", RuntimeWarning)  # jax warns of any fork
folder, draw = Path(sys.argv[1]), random.Random(0)
tree = {"params": {"w": np.zeros(200_000)}}
checkpoint.save(folder, 0, tree, {})
newest, interrupted, trials, deadline = 0, 0, 0, time.monotonic() + 90
while trials < 40 or not (newest and interrupted) and time.monotonic() < deadline:  # a busy machine needs more trials
    trials += 1
    child = os.fork()
    if not child:
        for step in range(newest + 1, 10**6):
            checkpoint.save(folder, step, {"params": {"w": np.full(200_000, float(step))}}, {}, keep=2)
    time.sleep(draw.uniform(0.001, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    interrupted += any(folder.glob("*.tmp"))
    steps = [(step, *checkpoint._read(path)) for step, path in checkpoint._list(folder)]
    assert all((arrays["params/w"] == step).all() for step, _, arrays in steps)
    restored = checkpoint.restore(folder, tree, {})
    assert restored.step >= newest, (restored.step, newest)
    newest = restored.step
print(newest, interrupted)
"""


def test_kill_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    run = subprocess.run(
        [sys.executable, "-c", _KILLED_WRITERS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    newest, interrupted = map(int, run.stdout.split())
    assert newest > 0, "no writer got as far as one checkpoint: nothing was tested"
    assert interrupted > 0, "no writer was killed while writing: nothing was tested"
