"""Runs all work that needs a GPU, in pieces of at most nine minutes, without supervision.

    python launch/on_gpu.py                       the next pieces, for nine minutes; the same command continues
    python launch/on_gpu.py --list                lists finished and remaining pieces
    python launch/on_gpu.py --only=compile,bench  only these groups or pieces
    python launch/on_gpu.py --carry=FOLDER        reads the state from FOLDER and writes it back, in a few small files
    python launch/on_gpu.py --tiny --minutes=30   the same at a tiny size, in minutes on a CPU

Groups: compile, the compile times of three training programs under several settings; bench, bench.py in full; plus,
mrlato_plus on each experiment; bare, the paper's method with twice Table I's trajectories, with validation; paper,
reproduce.py at the paper's settings; tables, the tables of all experiments.

Each piece is a command that can be stopped and continued. At the end of the time, the running command is asked to stop,
and killed if it does not, so a call never lasts longer. A failed piece is recorded with its error, and the others
continue; --retry tries it again. OUT/results has the records in the structure of data/results, and the end of a call
lists the complete ones. The exit status is 1 if a piece has failed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cli import LAUNCH, run
from _pieces import CACHE, FAILED, LEFT, RESULTS, RUNS, TABLE, Ledger, Piece, Step, pack, unpack, work
from absl import flags

import mrlato_jax
from mrlato_jax.bench import compiling
from mrlato_jax.bench.fresh import caching
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.progress import format_duration
from mrlato_jax.training import demonstrations
from mrlato_jax.training.run_folder import RunFolder

ROOT = LAUNCH.parent
EXPERIMENTS = ("exp2", "exp1", "exp3")  # shortest first
GROUPS = ("compile", "bench", "plus", "bare", "paper", "tables")
SECTIONS = {  # sections of bench.py: seconds that must be left to start, and rough total seconds
    "matmul": (30, 30), "simulator": (60, 60), "meta_iteration": (480, 900), "compile": (480, 480),
    "planning": (240, 300), "offloader": (240, 300), "growth": (480, 5400),
}  # fmt: skip
TINY_SECTIONS = ("matmul", "simulator")
COMPILE_S, TRAIN_S = 480, 240  # seconds that must be left to start a step
PLUS_ALONE = ("--methods=mrlato_plus",)
BARE = "exp2-bare-2000-seed0"
TINY, TINY_PLUS = "tiny.flags", "tiny_plus.flags"
TINY_SETTINGS = {"iterations": 8, "units": 16, "layers": 1, "meta_batch": 2, "graphs_per_task": 2, "rollouts": 2}
TINY_WARM_START = {"warm_start_iterations": 2}

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/on_gpu", "Folder of all output: records, runs, compiled programs, the ledger.")
flags.DEFINE_float("minutes", 9.0, "Time limit of this call, minutes.")
flags.DEFINE_list("only", list(GROUPS), "Groups or pieces, comma-separated.")
flags.DEFINE_bool("list", False, "Only list finished and remaining pieces.")
flags.DEFINE_bool("retry", False, "Try failed pieces again.")
flags.DEFINE_integer("seeds", 5, "Seeds 0, 1, ... of each learned method.")
flags.DEFINE_string(
    "carry",
    None,
    "Folder with the state, to continue on another machine: read if OUT has no state, written at the end.",
)
flags.DEFINE_float(
    "carry_mb", 40.0, "Size limit of the carried state, MiB; compiled programs use the space left by records and runs."
)
flags.DEFINE_bool("tiny", False, "Run everything at a tiny size, to test the script.")


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("minutes", FLAGS.minutes, low=0.0, open_low=True)
    check_number("carry_mb", FLAGS.carry_mb, low=0.0, open_low=True)
    check_number("seeds", FLAGS.seeds, low=1, integer=True)
    out = Path(FLAGS.out).absolute()
    carry = None if FLAGS.carry is None else Path(FLAGS.carry).absolute()
    if carry is not None and (carry == out or out in carry.parents):
        raise InputError(f"--carry is {carry}; accepted: a folder that is not in --out ({out})")
    check_writable(out)
    if carry is not None and unpack(carry, out):
        print(f"taken from {carry}: the state of earlier calls", flush=True)
    identity = {"version": mrlato_jax.__version__, "tiny": FLAGS.tiny, "seeds": FLAGS.seeds}
    ledger = Ledger(out, identity)
    everything = pieces(out)
    chosen = [piece for piece in everything if {piece.name, piece.group}.intersection(FLAGS.only)]
    unknown = set(FLAGS.only) - {name for piece in everything for name in (piece.name, piece.group)}
    if unknown:
        raise InputError(f"--only has {sorted(unknown)[0]!r}; accepted: {', '.join(GROUPS)}, or a piece of --list")
    if not FLAGS.list:
        prepare(out, any(piece.group == "plus" for piece in chosen))
        for entry in ledger.entries.values():
            if FLAGS.retry and entry["status"] == FAILED:
                entry["status"] = LEFT
        work(chosen, ledger, out, 60 * FLAGS.minutes, started)
        ledger.write()
    table = ledger.table(everything)
    print(f"\n{table}\n")
    if not FLAGS.list:
        write_atomically(out / TABLE, f"{table}\n".encode())
        if carry is not None:
            print(pack(out, carry, int(FLAGS.carry_mb * 2**20)))
    say_what_to_keep(out, ledger, everything)
    failed = [piece.name for piece in chosen if ledger.of(piece)["status"] == FAILED]
    if failed:
        print(f"failed: {', '.join(failed)}; see {out / 'logs'}, and --retry")
    left = len(ledger.left(chosen))
    print(f"pieces left: {left}; the same command continues" if left else "nothing left")
    print(f"total time {format_duration(time.monotonic() - started)}")
    return 1 if failed else 0


def pieces(out: Path) -> list[Piece]:
    """Returns all pieces in their order of work."""
    return [*compile_pieces(out), *bench_pieces(out), *plus_pieces(out), bare_piece(out), *paper_pieces(out)]


def compile_pieces(out: Path) -> list[Piece]:
    """Returns the pieces of compile times: one for each program and setting; cold and warm cache form one piece."""
    made = []
    for program, what in compiling.PROGRAMS.items():
        for variant, settings in compiling.VARIANTS.items():
            if variant == compiling.WARM_CACHE:
                continue
            together = [variant, compiling.WARM_CACHE] if variant == compiling.AS_IS else [variant]
            steps = tuple(compile_step(out, program, name) for name in together)
            made.append(
                Piece(
                    f"compile-{program}-{variant}",
                    f"compiling {what}, {settings.what}",
                    COMPILE_S,
                    steps,
                    ("compile-*.json",),
                )
            )
    return made


def compile_step(out: Path, program: str, variant: str) -> Step:
    """Returns the step of one measurement of `compiling`."""
    file, cache = out / RESULTS / "compile" / f"{program}-{variant}.json", out / CACHE / "measured" / program

    def gather(excuse: str) -> None:
        if excuse:
            write_json(file, {"not_measured": excuse})
        if variant == compiling.WARM_CACHE:
            shutil.rmtree(cache, ignore_errors=True)
        parts = {
            program: {
                name: json.loads(part.read_bytes())
                for name in compiling.VARIANTS
                if (part := file.with_name(f"{program}-{name}.json")).exists()
            }
            for program in compiling.PROGRAMS
        }
        measured = [part for of_program in parts.values() for part in of_program.values() if "environment" in part]
        if measured:
            write_json(out / RESULTS / f"compile-{measured[0]['environment']['platform']}.json", parts)

    return Step(
        lambda: compiling.command(program, variant, file, cache, FLAGS.tiny),
        with_package(compiling.variables(variant, cache)),
        needs(COMPILE_S if variant != compiling.WARM_CACHE else 120),
        compiling.UNKNOWN_FLAG if compiling.VARIANTS[variant].gpu_only else "",
        gather,
    )


def bench_pieces(out: Path) -> list[Piece]:
    """Returns the pieces of bench.py, one for each section."""
    folder = out / RESULTS / "bench"

    def gather(_: str) -> None:
        parts = [json.loads((folder / f"{name}.json").read_bytes()) for name in SECTIONS if known(folder, name)]
        record = {name: figures for part in parts for name, figures in part.items()}
        record["environment"]["peak_memory_gb"] = max(part["environment"]["peak_memory_gb"] for part in parts)
        write_json(out / RESULTS / f"bench-{record['environment']['platform']}.json", record)

    def step(name: str, needs_s: float) -> Step:
        words = [script("bench.py"), f"--only={name}", f"--json={folder / f'{name}.json'}"]
        words += [] if FLAGS.tiny else ["--full"]
        return Step(lambda: [sys.executable, *words], cached(out), needs(needs_s), after=gather)

    return [
        Piece(f"bench-{name}", f"bench.py, {name}", estimate, (step(name, needs_s),), ("bench-*.json",))
        for name, (needs_s, estimate) in SECTIONS.items()
        if not FLAGS.tiny or name in TINY_SECTIONS
    ]


def known(folder: Path, name: str) -> bool:
    """Returns whether a section of bench.py has its record."""
    return (folder / f"{name}.json").exists()


def plus_pieces(out: Path) -> list[Piece]:
    """Returns the pieces of mrlato_plus on each experiment."""
    return [
        Piece(
            f"plus-{name}",
            f"mrlato_plus on {name}, {FLAGS.seeds} seeds",
            2400,
            (reproduce_step(out, name, PLUS_ALONE),),
            (f"paper/{name}-mrlato_plus*-seed*.json",),
        )
        for name in EXPERIMENTS
    ]


def paper_pieces(out: Path) -> list[Piece]:
    """Returns the pieces of the paper's experiments, and of the tables of all three."""
    hours = {"exp2": 2, "exp1": 4, "exp3": 4}
    made = [
        Piece(
            f"paper-{name}",
            f"reproduce.py on {name}, {FLAGS.seeds} seeds",
            3600 * hours[name],
            (reproduce_step(out, name, ()),),
            (f"paper/{name}*",),
        )
        for name in EXPERIMENTS
    ]
    return [*made, Piece("tables", "all tables", 60, (reproduce_step(out, "all", (), 60),), ("paper/all*",))]


def reproduce_step(out: Path, experiment: str, more: Sequence[str], needs_s: float = TRAIN_S) -> Step:
    """Returns a step of reproduce.py at the paper's settings."""
    words = [
        *("reproduce.py", f"--experiment={experiment}", "--preset=paper", f"--seeds={FLAGS.seeds}"),
        *(f"--out={out / RESULTS}", f"--runs={out / RUNS}", *more),
    ]
    if FLAGS.tiny:
        words += [f"--data={out / 'data'}", "--updates=2", "--annealing_steps=20", "--local_search_evaluations=20"]
        plus = more == PLUS_ALONE  # mrlato_plus alone has a warm start; other methods refuse the flag that shortens it
        words += [f"--settings={out / (TINY_PLUS if plus else TINY)}"]
        words += [] if plus else ["--methods=mrlato,mrlco,drl"]
    return Step(lambda: [sys.executable, script(words[0]), *words[1:]], cached(out), needs(needs_s))


def bare_piece(out: Path) -> Piece:
    """Returns the piece of the paper's method alone, with a long training and many trajectories."""
    folder = out / RUNS / "bare"
    data = [f"--data={out / 'data'}"] if FLAGS.tiny else []
    updates = 2 if FLAGS.tiny else 100

    def train() -> list[str]:
        words = [script("meta_train.py"), "--flagfile=exp2.flags", "--rollouts=20", f"--run={folder}", "--on=none"]
        if FLAGS.tiny:  # long enough to be interrupted
            words += [f"--flagfile={out / TINY}", "--iterations=400", *data]
        else:
            words += ["--validate=4", "--checkpoint_every=50"]
        return [sys.executable, *words, *(["--resume"] if RunFolder.begun(folder) else [])]

    def keep(_: str) -> None:
        copies = {f"evaluation-{updates}.{ending}": f"{BARE}.{ending}" for ending in ("json", "md")}
        for name in ("metrics", "validation"):
            if (folder / f"{name}.jsonl").exists():
                copies[f"{name}.jsonl"] = f"{BARE}-{name}.jsonl"
        for name, copy in copies.items():
            write_atomically(out / RESULTS / copy, (folder / name).read_bytes())

    evaluate = [sys.executable, script("evaluate.py"), f"--run={folder}", f"--updates={updates}", *data]
    steps = (
        Step(train, cached(out), needs(TRAIN_S)),
        Step(lambda: evaluate, cached(out), needs(TRAIN_S), after=keep),
    )
    return Piece("bare", "mrlato on exp2, 2000 iterations of 2000 trajectories a task", 5400, steps, (f"{BARE}*",))


def script(name: str) -> str:
    """Returns the path of a script in this folder."""
    return str(LAUNCH / name)


def needs(seconds: float) -> float:
    """Returns the seconds that must be left; 0 with --tiny, where all steps are short."""
    return 0.0 if FLAGS.tiny else seconds


def with_package(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns environment variables with which a command imports the package of this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, **variables}


def cached(out: Path) -> dict[str, str]:
    """Returns environment variables that cache compiled programs in OUT, unless the user has set a cache."""
    kept = "JAX_COMPILATION_CACHE_DIR" in os.environ
    return with_package({} if kept else caching(str(out / CACHE)))


def prepare(out: Path, demonstrated: bool) -> None:
    """Makes the inputs of the commands: the planners' records, which need no GPU, and with --tiny the data."""
    for name in ("bench", "compile"):
        (out / RESULTS / name).mkdir(parents=True, exist_ok=True)
    (out / RUNS).mkdir(exist_ok=True)
    if FLAGS.tiny:
        make_tiny(out, demonstrated)
        return
    for path in (ROOT / "data" / "results").glob("references-*.json"):
        if not (out / RESULTS / path.name).exists():
            shutil.copyfile(path, out / RESULTS / path.name)


def make_tiny(out: Path, demonstrated: bool) -> None:
    """Makes tiny settings, data sets and, if needed, demonstrations, so that every command takes seconds."""
    data = out / "data"
    data.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in EXPERIMENTS:
        sets = {set_name: [daggen(6, 0.6, 0.6, rng) for _ in range(4)] for set_name in ("train0", "train1", "test0")}
        datasets.save(DagDataset.from_graphs(name, sets, ("train", "train", "test"), {"tiny": 0}), data)
        if demonstrated and not demonstrations.find(name, data).exists():
            plans = demonstrations.load(demonstrations.find(name), name)
            few = [plan for plan in plans if len(plan.placement) == 25][:128]  # for two learning tasks
            demonstrations.save(demonstrations.find(name, data), name, few)
    for file, values in {TINY_PLUS: TINY_SETTINGS | TINY_WARM_START, TINY: TINY_SETTINGS}.items():
        lines = [f"--{name}={value}\n" for name, value in values.items()]
        write_atomically(out / file, "".join(lines).encode())


def write_json(path: Path, record: Any) -> None:
    """Writes a record on one line."""
    write_atomically(path, json.dumps(record).encode() + b"\n")


def say_what_to_keep(out: Path, ledger: Ledger, everything: Sequence[Piece]) -> None:
    """Prints which records are complete and where they belong."""
    results = out / RESULTS
    done = [piece for piece in everything if ledger.of(piece)["status"] == "done"]
    files = sorted({path for piece in done for pattern in piece.records for path in results.glob(pattern)})
    if files:
        print(f"complete in {results}, to be committed under the same names in data/results:")
        for path in files:
            print(f"  {path.relative_to(results)}")


if __name__ == "__main__":
    run(main)
