"""Meta-trains in a federation: a server and UEs as processes on this machine, with Flower's SuperLink and SuperNodes.

    python launch/federated.py --ues=5 --rounds=20 --json=-                   five UEs, one learning task each
    python launch/federated.py --ues=5 --rounds=20 --run=runs/one --json=-    continues an interrupted run
    python launch/federated.py --ues=5 --rounds=20 --kill_every=3 --json=-    with a kill in each third round

UE i has training set i of --experiment, and the server has none. In each round the server sends theta, the UEs of the
meta-batch (by default all) run the inner loop, and the server takes the outer step (29) over all of them. The
parameters are those of meta_train.py's meta-iteration on the same learning tasks; --compare checks this.

Learning settings are those of meta_train.py. By default, however, a collection has 10 DAGs with 4 trajectories each, so
that a machine with few cores can run all UEs.

This script needs Flower: pip install 'mrlato-jax[edge]'. All processes end with this one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from _cli import run
from _train_flags import define_train_flags, train_config
from absl import flags

from mrlato_jax.edge.federation.aggregation import AGGREGATIONS
from mrlato_jax.edge.federation.global_trainer import GlobalTrainer
from mrlato_jax.edge.federation.messages import largest_difference, named, new_keys, read_keys
from mrlato_jax.edge.federation.one_process import in_one_process
from mrlato_jax.edge.federation.settings import Fault, Federation
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.files import check_writable, parse_json, write_atomically, write_secret
from mrlato_jax.methods import learned_method
from mrlato_jax.processes import end, free_port, start_python

FLAGS = flags.FLAGS
define_train_flags()
flags.DEFINE_integer("ues", 5, "Number of UEs, each with its own training set.")
flags.DEFINE_integer("rounds", 20, "Number of rounds of the whole run; replaces --iterations.")
flags.DEFINE_string("run", None, "Folder of the server's state. Default: a temporary one, which is deleted.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the packaged ones.")
flags.DEFINE_string("json", None, "File for the result as one line of JSON; - is standard output.")
flags.DEFINE_float("patience_s", 60.0, "Seconds before a UE is asked again.")
flags.DEFINE_float("poll_s", 0.2, "Seconds between two polls for messages.")
flags.DEFINE_float("norm_bound", 0.0, "Largest accepted norm of an update. 0: derived from the settings.")
flags.DEFINE_enum(
    "aggregation",
    "mean",
    list(AGGREGATIONS),
    "Aggregation of the UEs' updates in the outer step: mean, or elementwise median or trimmed mean.",
)
flags.DEFINE_integer("kill_every", 0, "Kill a UE or the server, in turn, during every N-th round. 0: never.")
flags.DEFINE_list("faults", [], "Faults of UEs to inject, once each: ROUND:UE:WHAT, separated by commas.")
flags.DEFINE_bool("compare", False, "Also train in one process, and print the largest difference of the parameters.")
flags.DEFINE_float("timeout_s", 0.0, "Seconds after which the run ends with an error. 0: never.")

LIGHT = 10, 4  # DAGs of a collection, and trajectories of each
LOOK_S = 0.05  # seconds between two checks of the processes
START_S = 180.0  # time limit for the start of the server
MOST_STARTS = 5  # starts of one process in a round before the run fails
SERVER_KILL, UE_KILL = "server", "ue"

_UE = "from mrlato_jax.edge.federation.flower_client import main\nmain()\n"


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("rounds", FLAGS.rounds, low=1, integer=True)
    check_number("kill_every", FLAGS.kill_every, low=0, integer=True)
    check_number("timeout_s", FLAGS.timeout_s, low=0.0)
    if FLAGS.compare and FLAGS.aggregation != "mean":
        raise InputError(f"compare is true with aggregation {FLAGS.aggregation}; accepted: mean, as in one process")
    if importlib.util.find_spec("flwr") is None:
        raise InputError("Flower is not installed; accepted: pip install 'mrlato-jax[edge]'")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # several processes cannot share an accelerator
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    federation = _federation()
    federation.dataset()  # reports bad settings
    if FLAGS.json not in (None, "-"):
        check_writable(Path(FLAGS.json).resolve().parent)
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
    )  # exits normally, so that folders are deleted
    with contextlib.ExitStack() as opened:
        if FLAGS.run is None:
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="mrlato-federated-")))
        else:
            folder = Path(FLAGS.run).resolve()
            check_writable(folder)
        opened.enter_context(_alone_in(folder))
        keys = _keys_in(folder, federation.ues)
        kills: list[dict[str, Any]] = []
        if not GlobalTrainer(federation, folder / "state", keys).finished:
            host = _Host(federation, folder, keys)
            opened.callback(host.end)
            kills = host.run_to_the_end()
            host.end()
        server = GlobalTrainer(federation, folder / "state", keys)
        seconds = time.monotonic() - started
        result = server.report() | {"ues": federation.ues, "seconds": seconds, "kills": kills}
        if FLAGS.compare:
            alone = named(in_one_process(federation).params)
            result["largest_difference"] = largest_difference(alone, server.params)
    line = json.dumps(result)
    if FLAGS.json == "-":
        print(line, flush=True)
        return 0
    if FLAGS.json is not None:
        write_atomically(Path(FLAGS.json), line.encode() + b"\n")
    refused = sum(result["refused"].values())
    print(f"{server.done} rounds of {federation.ues} UEs, {len(kills)} kills, {refused} answers refused")
    if FLAGS.compare:
        print(f"largest difference to one process: {result['largest_difference']:g}")
    print(f"parameters: {result['params_sha256']}")
    return 0


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Context in which only this server has its state in `folder`.

    Raises:
        InputError: another server uses the folder.
    """
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"run is {folder}, which another process uses; accepted: another folder") from None
        yield


def _keys_in(folder: Path, ues: int) -> list[bytes]:
    """Returns the keys of the UEs; makes them if there are none."""
    path = folder / "keys.json"
    if not path.exists():
        write_secret(path, json.dumps([key.hex() for key in new_keys(ues)]).encode())
    return read_keys(path, ues)


def _federation() -> Federation:
    """Returns the settings given by the flags."""
    base = learned_method(FLAGS.method).config()
    learning = dataclasses.replace(base.learning, meta_batch=FLAGS.ues, graphs_per_task=LIGHT[0], rollouts=LIGHT[1])
    base = dataclasses.replace(base, iterations=FLAGS.rounds, learning=learning)
    config = dataclasses.replace(train_config(base), iterations=FLAGS.rounds)
    faults = []
    for text in FLAGS.faults:
        number, _, rest = text.partition(":")
        ue, _, what = rest.partition(":")
        if not (number.isdecimal() and ue.isdecimal()):
            raise InputError(f"faults has {text!r}; accepted: ROUND:UE:WHAT")
        faults.append(Fault(int(number), int(ue), what))
    data = None if FLAGS.data is None else str(Path(FLAGS.data).resolve())
    return Federation(
        config, FLAGS.ues, data, FLAGS.norm_bound, FLAGS.patience_s, FLAGS.poll_s, tuple(faults), FLAGS.aggregation
    )


class _Child:
    """A child process that ends with this one."""

    def __init__(self, name: str, program: str, words: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._process = start_python(program, *words, log=log, environment=environment)

    @property
    def ended(self) -> int | None:
        """Returns its exit status; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        end(self._process)

    def last_words(self) -> str:
        """Returns the last error line of its output."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("error:")] or [line for line in lines if line.strip()]
        return said[-1].removeprefix("error: ") if said else "no output"


class _Host:
    """The machine of the server and all UEs: starts, restarts and kills them."""

    def __init__(self, federation: Federation, folder: Path, keys: Sequence[bytes]) -> None:
        """Prepares the folders.

        Args:
            federation: the shared settings.
            folder: folder of the server; also contains the files of all processes.
            keys: keys of the UEs.

        Raises:
            InputError: as in `ServerFiles`.
        """
        from mrlato_jax.edge.federation import flower  # needs Flower; `main` has checked for it

        self._federation, self._folder, self._keys = federation, folder, keys
        self._work = folder / "processes"
        self._programs = flower
        self._files = flower.ServerFiles(folder, federation.ues)
        self._port = free_port(flower.LOOPBACK)
        self._ues: list[_Child | None] = [None] * federation.ues
        self._server: list[_Child] = []
        self._server_since = 0.0
        self._starts: dict[str, int] = {}
        write_atomically(folder / "federation.json", json.dumps(federation.to_json()).encode())
        (folder / "progress.json").unlink(missing_ok=True)

    def run_to_the_end(self) -> list[dict[str, Any]]:
        """Waits until all rounds are done; returns the kills.

        Raises:
            InputError: a process ended repeatedly by itself, or the server reported an error.
        """
        until = time.monotonic() + FLAGS.timeout_s if FLAGS.timeout_s else float("inf")
        kills: list[dict[str, Any]] = []
        shown = -1
        for ue in range(self._federation.ues):
            self._start_ue(ue)
        self._start_server()
        while True:
            progress = self._progress()
            if progress.get("error"):
                raise InputError(f"server: {progress['error']}")
            done = progress.get("done", 0)
            if done > shown:
                print(f"round {done}/{FLAGS.rounds} done", file=sys.stderr, flush=True)
                shown = done
                self._starts.clear()
            if done >= FLAGS.rounds:
                return kills
            if time.monotonic() > until:
                raise InputError(
                    f"timeout_s is {FLAGS.timeout_s:g}, and round {done + 1} is not done; accepted: longer"
                )
            self._maybe_kill(progress, kills)
            self._start_again()
            time.sleep(LOOK_S)

    def end(self) -> None:
        """Ends all processes."""
        self._end_server()
        for child in self._ues:
            if child is not None:
                child.kill()
        self._ues = [None] * self._federation.ues

    def _progress(self) -> dict[str, Any]:
        try:
            data = (self._folder / "progress.json").read_bytes()
        except FileNotFoundError:
            return {}
        values: dict[str, Any] = parse_json(data, "progress.json", "what the server wrote")
        return values

    def _start_ue(self, ue: int) -> None:
        """Starts a UE, with its keys and the authority in its folder."""
        folder = self._work / f"ue{ue}"
        folder.mkdir(parents=True, exist_ok=True)
        write_secret(folder / "key.json", json.dumps([self._keys[ue].hex()]).encode())
        write_secret(folder / "node.key", self._files.node_keys[ue].read_bytes())
        write_atomically(folder / "ca.pem", self._files.authority.read_bytes())
        words = [str(self._folder / "federation.json"), str(ue), f"{self._programs.LOOPBACK}:{self._port}", str(folder)]
        self._ues[ue] = _Child(f"UE {ue}", _UE, words, self._environment(folder), folder / "ue.log")

    def _start_server(self) -> None:
        """Starts SuperLink and the ServerApp."""
        folder = self._work / "flower"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.toml", self._files.connection(self._port))
        environment = self._environment(folder) | {"MRLATO_FEDERATION": str(self._folder)}
        started = time.monotonic()

        def start(name: str, program: str, words: Sequence[str]) -> _Child:
            log = folder / f"{name.replace(' ', '-').lower()}.log"
            self._server.append(_Child(name, program, words, environment, log))
            return self._server[-1]

        link = start("SuperLink", self._programs.SUPERLINK, self._files.superlink(self._port))
        _wait_for_port(self._programs.LOOPBACK, self._port, link)
        start("SuperExec", self._programs.SUPEREXEC, self._files.superexec(self._port))
        submit = start("flwr run", self._programs.SUBMIT, self._files.submit())
        if submit.wait(START_S):
            raise InputError(f"flwr run failed: {submit.last_words()}")
        self._server_since = time.monotonic()
        print(f"server started in {self._server_since - started:.1f} s", file=sys.stderr, flush=True)

    def _end_server(self) -> None:
        """Kills SuperLink, SuperExec and ServerApp at once, like a power cut."""
        for child in self._server:
            child.kill()
        self._server = []
        pid = self._progress().get("pid")
        if pid is not None and _is_serverapp(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start_again(self) -> None:
        """Restarts processes that ended by themselves."""
        for ue, child in enumerate(self._ues):
            if child is not None and child.ended is not None:
                self._count_start(child)
                self._start_ue(ue)
        ended = [child for child in self._server[:2] if child.ended is not None]
        pid = self._progress().get("pid")
        silent = pid is None and time.monotonic() - self._server_since > START_S
        gone = silent or (pid is not None and not _is_serverapp(pid))
        if ended or gone:
            self._count_start(ended[0] if ended else self._server[1])
            self._restart_server()

    def _restart_server(self) -> None:
        self._end_server()
        (self._folder / "progress.json").unlink(missing_ok=True)
        self._start_server()

    def _count_start(self, child: _Child) -> None:
        self._starts[child.name] = self._starts.get(child.name, 0) + 1
        print(f"{child.name} ended; it is started again", file=sys.stderr, flush=True)
        if child.ended == 2 or self._starts[child.name] >= MOST_STARTS:
            raise InputError(f"{child.name} ended {self._starts[child.name]} times in one round: {child.last_words()}")

    def _maybe_kill(self, progress: dict[str, Any], kills: list[dict[str, Any]]) -> None:
        """Kills a UE or the server during every `kill_every`-th round."""
        number, missing = progress.get("round", 0), progress.get("missing", [])
        every = FLAGS.kill_every
        if not every or number % every or not progress.get("sent") or not missing:
            return
        if any(kill["round"] == number for kill in kills):
            return
        count = len(kills)
        if count % 2:
            victim: str = SERVER_KILL
            self._restart_server()
        else:
            ue = missing[(count // 2) % len(missing)]
            victim = f"{UE_KILL} {ue}"
            child = self._ues[ue]
            assert child is not None
            child.kill()
            self._start_ue(ue)
        kills.append({"round": number, "killed": victim, "missing": missing})
        print(f"round {number}: killed {victim}", file=sys.stderr, flush=True)

    def _environment(self, folder: Path) -> dict[str, str]:
        """Returns the environment of Flower's processes: no telemetry, and files only in `folder`."""
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(self._work / "programs"))
        return {
            **os.environ,
            "PATH": programs,
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(max(FLAGS.poll_s, 0.1)),
            "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }


def _wait_for_port(host: str, port: int, child: _Child) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and child.ended is None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(LOOK_S)
    raise InputError(f"{child.name} does not answer: {child.last_words()}")


def _is_serverapp(pid: int) -> bool:
    """Returns whether a running process is Flower's ServerApp, since process ids are reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return stat not in "ZX" and b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    run(main)
