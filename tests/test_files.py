"""Writers replace nothing but files, archives are not unpacked before they are known, and names print as one line."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag import dataset as dataset_module
from mrlato_jax.dag.dataset import build, load, save
from mrlato_jax.errors import InputError, escaped
from mrlato_jax.files import read_npz, write_atomically
from mrlato_jax.inference import command
from mrlato_jax.training import demonstrations

GRAPH = mj.daggen(3, 0.5, 0.5, np.random.default_rng(0))
BELL = "\x1b]0;mine\x07\n\u202egnp"  # sets a terminal's title, begins a line, turns the writing round


def zeros(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    """An array of zeros as a file, made a piece at a time and packed: a thousandth of its size."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def packed(path: Path, shapes: dict[str, tuple[str, tuple[int, ...]]], **others: bytes) -> Path:
    """A `.npz` of zeros, by types and shapes, and other members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (dtype, shape) in shapes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(zeros(shape, dtype))
                left = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
                while left:
                    size = min(left, 2**20)
                    member.write(bytes(size))
                    left -= size
        for name, data in others.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
        path = path if kind == "link to a pipe" else tmp_path / "pipe"
    before = path.lstat()
    for write in (lambda: write_atomically(path, b"x"), lambda: mj.write_json(GRAPH, path)):
        with pytest.raises(InputError, match=r"path is .*, (a folder|no regular file); accepted: a regular file"):
            write()
    assert path.lstat() == before


def test_a_link_left_at_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".out.{os.getpid()}.tmp").symlink_to(victim)
    write_atomically(tmp_path / "out", b"new")
    assert (victim.read_bytes(), (tmp_path / "out").read_bytes()) == (b"mine", b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "victim"]


def unwanted(_: object) -> None:
    raise InputError("these are other arrays; accepted: ours")


def test_arrays_are_looked_at_before_they_are_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", {"x": ("<f8", (2**23,))})  # 64 MiB in 64 KiB
    assert path.stat().st_size < 2**17
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="other arrays"):
            read_npz(path, unwanted, 2**30)
        with pytest.raises(
            InputError, match=r"members have 67108\d+ bytes when they are unpacked; accepted: at most 65"
        ):
            read_npz(path, lambda _: None, 65536)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()
    assert (read_npz(path, lambda _: None, 2**30)["x"] == np.zeros(2**23)).all()


def test_an_array_of_another_size_than_it_says(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.npz", {}, **{"x.npy": zeros((10**12,)) + bytes(80)})
    with pytest.raises(ValueError, match=r"x\.npy has \d+ bytes, another number than its header says"):
        read_npz(path, lambda _: None, 2**20)
    with pytest.raises(InputError, match="has 65 members; accepted: at most 64"):
        read_npz(packed(path, {}, **{f"x{i}": b"" for i in range(65)}), lambda _: None, 2**20)


def test_a_data_set_that_unpacks_to_much_more(tmp_path: Path) -> None:
    small = build("exp2", graphs_per_set=1)
    save(small, tmp_path)
    shapes = {name: (dtype.str, (small.num_sets, 30, 400)) for name, dtype in dataset_module._DTYPES.items()}
    shapes["adjacency"] = ("|b1", (small.num_sets, 30, 400, 399))
    metadata = {"metadata.npy": zeros((2,), "|u1") + b"{}"}
    packed(tmp_path / "exp2.npz", shapes, **metadata)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"exp2\.npz: adjacency has shape .*; accepted: \(9, 30, 400, 400\)"):
            load("exp2", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**23  # 43 MB of adjacency stay packed
    finally:
        tracemalloc.stop()


def test_a_data_set_beyond_bounds_is_refused_before_it_is_made() -> None:
    flat = mj.TaskGraph.from_edges(
        cycles=np.ones(20_000), upload_bytes=np.ones(20_000), download_bytes=np.ones(20_000), edges=[]
    )
    with pytest.raises(InputError, match=r"\(sets, graphs, tasks\) are \(1, 3, 20000\), .* bytes; accepted: at most"):
        dataset_module.DagDataset.from_graphs("mine", {"train_a": [flat] * 3}, ("train",), {})


def test_a_data_set_without_work_is_refused() -> None:
    """Latencies are divided by that of running everything locally."""
    idle = mj.TaskGraph.from_edges(cycles=[0, 0], upload_bytes=[1, 1], download_bytes=[1, 1], edges=[(0, 1)])
    busy = mj.TaskGraph.from_edges(cycles=[0, 1], upload_bytes=[1, 1], download_bytes=[1, 1], edges=[(0, 1)])
    with pytest.raises(InputError, match=r"cycles is wrong in set a, graph 1.*accepted: a task with cycles > 0"):
        dataset_module.DagDataset.from_graphs("mine", {"a": [busy, idle]}, ("train",), {})
    assert dataset_module.DagDataset.from_graphs("mine", {"a": [busy, busy]}, ("train",), {}).max_tasks == 2


def test_demonstrations_that_unpack_to_much_more(tmp_path: Path) -> None:
    names = {name: ("<f8", (8,) * count) for name, count in demonstrations._DIMENSIONS.items()}
    metadata = {"metadata.npy": zeros((2,), "|u1") + b"{}"}
    path = packed(tmp_path / "d.npz", names | {"offloaded": ("|u1", (8, 2**23))}, **metadata)
    with pytest.raises(InputError, match=r"members have 67\d+ bytes when they are unpacked"):
        demonstrations.load(path, "exp2")
    path = packed(tmp_path / "d.npz", names | {"offloaded": ("|u1", (9, 2**20))}, **metadata)
    with pytest.raises(InputError, match=r"offloaded has shape \(9, 1048576\)"):
        demonstrations.load(path, "exp2")


def test_what_a_terminal_could_take_for_a_command_is_escaped() -> None:
    assert escaped("träck ∆ a\\b") == "träck ∆ a\\b"
    assert escaped(BELL) == r"\x1b]0;mine\x07\n\u202egnp"
    assert escaped("\udcff\xa0") == r"\udcff\xa0"
    assert str(InputError(f"{BELL}: no")) == r"\x1b]0;mine\x07\n\u202egnp: no"
    assert str(InputError(f"x: {InputError(BELL)}")).count("\\") == 4  # once, however often it is passed on


def test_names_of_files_are_escaped(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """By readers, and by the command wherever it names its file."""

    def status(arguments: list[str]) -> object:
        try:
            return command.main(arguments)
        except SystemExit as ended:  # for what the parser of flags refuses
            return ended.code

    path = tmp_path / f"{BELL}.json"
    path.write_text("{")
    for arguments in (["--graph", str(path)], ["--graph", str(path.with_suffix(".x"))], ["--graph", "x", BELL]):
        assert status([*arguments, "--uplink_mbps=1", "--downlink_mbps=1"]) == 2
        said = capsysbinary.readouterr().err
        assert b"\\x1b]0;mine\\x07\\n\\u202egnp" in said
        assert said.replace(b"\n", b"").decode().isprintable()


def test_the_command_heads_its_tables_with_a_printable_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{BELL}.json"
    mj.write_json(GRAPH, path)

    class Learned:
        """Plans at once."""

        def plan(self, graph: mj.TaskGraph, system: mj.System, *_: object, **__: object) -> mj.Plan:
            return mj.greedy(graph, system)

    monkeypatch.setattr(command, "load_offloader", lambda _: Learned())
    monkeypatch.setattr(command, "png", lambda _: b"x")
    out = tmp_path / "\x1b[2J"
    assert command.main([f"--graph={path}", "--uplink_mbps=1", "--downlink_mbps=1", f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert r"\x1b]0;mine\x07\n\u202egnp.json: 3 tasks" in printed
    assert "drawn: " in printed
    assert r"\x1b[2J" in printed


def test_a_manifest_of_noise_gives_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\x00" * 2**20)
    with pytest.raises(InputError, match="is not JSON") as raised:
        load("exp2", tmp_path)
    assert len(str(raised.value)) < 1000
    path = tmp_path / "g.json"
    path.write_text(json.dumps({"format": "\x1b" * 2**20}))
    with pytest.raises(InputError) as raised:
        mj.read_json(path)
    assert len(str(raised.value)) < 1000


def test_arrays_of_an_archive_are_read_where_they_lie(tmp_path: Path) -> None:
    """In either order of axes, either order of bytes, and of no values; none can be changed."""
    values = np.arange(6.0).reshape(2, 3)
    wanted = {"c": values, "fortran": np.asfortranarray(values), "big": values.astype(">f8"), "none": np.zeros((0, 3))}
    np.savez(tmp_path / "arrays.npz", **wanted)
    found = read_npz(tmp_path / "arrays.npz", lambda _: None, 10_000)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].size or not found[name].flags.writeable
