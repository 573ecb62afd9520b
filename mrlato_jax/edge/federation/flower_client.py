"""A UE's end of federated meta-training: a Flower `ClientApp`, and the process of a UE that keeps it.

    python -m mrlato_jax.edge.federation.flower_client FEDERATION UE SUPERLINK FOLDER

FOLDER has what the UE was given, and what its processes write:

    key.json         the key that it signs its answers with
    node.key         the private key of its SuperNode
    ca.pem           the authority that SuperLink's certificate is of
    supernode.log    what SuperNode wrote

A UE is two processes: Flower's SuperNode, which holds the connection, and this one, which runs the `ClientApp` for it.
SuperNode would start a new process for each message; this one stays, so that the inner loop is compiled once. It runs
the `ClientApp` that is installed here and nothing that the server sends: of Flower's app bundle not even a name.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from mrlato_jax.edge import codec
from mrlato_jax.edge.federation.flower import LOOPBACK, SECRET_BYTES, SUPERNODE, made
from mrlato_jax.edge.federation.flower_server import RECORD, as_bytes, as_record
from mrlato_jax.edge.federation.local_trainer import LocalTrainer
from mrlato_jax.edge.federation.messages import read_keys
from mrlato_jax.edge.federation.settings import Federation
from mrlato_jax.errors import InputError
from mrlato_jax.processes import end, free_port, start_python

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"  # which SuperNode does only for who has its secret
START_S = 300.0  # seconds that SuperNode may take to start
# What a UE has in its folder.
KEY, NODE_KEY, AUTHORITY, RUNTIME_SECRET = "key.json", "node.key", "ca.pem", "runtime.secret"

app = ClientApp()
_trainers: dict[tuple[str, int], LocalTrainer] = {}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Steps (a) to (c) of Fig. 3: theta comes, the inner loop runs, theta' goes."""
    node = context.node_config
    return reply(trainer_of(str(node["federation"]), str(node["key"]), int(node["ue"])), message)


def reply(trainer: LocalTrainer, message: Message) -> Message:
    """A UE's answer, as Flower carries it, to a message that Flower carried."""
    answer = trainer.answer(as_bytes(message.content, codec.MOST_BYTES))
    return Message(RecordDict({RECORD: as_record(answer)}), reply_to=message)


def trainer_of(federation: str, key: str, ue: int) -> LocalTrainer:
    """The local trainer of this process.

    Args:
        federation: the file that says what all know.
        key: the file with this UE's key.
        ue: which one this is.
    """
    if (federation, ue) not in _trainers:
        _trainers[federation, ue] = LocalTrainer(Federation.read(Path(federation)), ue, read_keys(Path(key), 1)[0])
    return _trainers[federation, ue]


class _SuperNode:
    """Flower's SuperNode as a process that ends with this one."""

    def __init__(self, superlink: str, node_config: str, folder: Path, poll_s: float) -> None:
        port = free_port(LOOPBACK)
        self.address = f"{LOOPBACK}:{port}"
        secret = made(folder / RUNTIME_SECRET, lambda: secrets.token_bytes(SECRET_BYTES))
        self.secret = secret.read_bytes()
        words = [
            *("--superlink", superlink, "--root-certificates", str(folder / AUTHORITY)),
            *("--auth-supernode-private-key", str(folder / NODE_KEY), "--node-config", node_config),
            *("--isolation", "process", "--host", LOOPBACK, "--port", str(port)),
            *("--superexec-auth-secret-file", str(secret)),
        ]
        self._process = start_python(SUPERNODE, str(poll_s), *words, log=folder / "supernode.log")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        end(self._process)


def serve(federation: str, ue: int, superlink: str, folder: Path) -> None:
    """A UE that takes part until its process is ended; SuperNode is started again where it ends.

    Args:
        federation: the file that says what all know.
        ue: which one this is.
        superlink: host:port of the server.
        folder: of this UE.

    Raises:
        InputError: settings or keys that cannot be used.
    """
    for name in (NODE_KEY, AUTHORITY):
        if not (folder / name).is_file():
            raise InputError(f"folder is {folder}, which has no {name}; accepted: what launch/federated.py gives a UE")
    key = str(folder / KEY)
    poll_s = Federation.read(Path(federation)).poll_s
    trainer_of(federation, key, ue)  # bad settings show here
    node_config = f'federation="{federation}" key="{key}" ue={ue}'
    while True:
        node = _SuperNode(superlink, node_config, folder, poll_s)
        try:
            _run_tasks(node, poll_s)
        except (httpx.HTTPError, RuntimeError) as error:  # in the middle of a message, for which SuperNode would wait
            print(f"SuperNode is started again: {error}", file=sys.stderr, flush=True)
        finally:
            node.end()
        time.sleep(poll_s)


def _run_tasks(node: _SuperNode, poll_s: float) -> None:
    """Runs what SuperNode has to do, until it ends."""
    may_ask = SuperExecAuthHttpInterceptor(master_secret=node.secret, protected_methods=[ACQUIRE])
    with _client(node, RuntimeVersionHttpInterceptor(component_name="SuperExec"), may_ask) as client:
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        until_s = time.monotonic() + START_S
        while node.runs:
            try:
                response = client.AcquireTask(request)
                until_s = float("inf")
                if response.HasField("task") and response.token:
                    _run_task(node, response.token)
                    continue
            except httpx.HTTPError as error:
                if time.monotonic() > until_s:
                    print(f"SuperNode does not answer ({error})", file=sys.stderr, flush=True)
                    return
            time.sleep(poll_s)


def _run_task(node: _SuperNode, token: str) -> None:
    """One message: what Flower's own `flwr-clientapp` does, in a process that stays."""
    versions = RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")
    with _client(node, versions, RuntimeTokenHttpInterceptor(token)) as client:
        alive = HeartbeatSender(make_task_heartbeat_fn_http(client))
        alive.start()
        context, status, details = None, SubStatus.FAILED, "not run"
        try:
            message, context, _, _ = pull_task_input(client)
            try:
                answer = app(message=message, context=context)
                status, details = SubStatus.COMPLETED, ""
            except Exception as error:  # what it is, the server is told; SuperNode waits for an answer of any kind
                details = f"{type(error).__name__}: {error}"
                print(f"error: {details}", file=sys.stderr, flush=True)
                answer = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=details), reply_to=message)
            push_message(client, answer, context)
        finally:
            push_task_output(client, context, status, details)
            alive.stop()


def _client(node: _SuperNode, *interceptors: Any) -> RuntimeHttpClient:
    """Without retries: where SuperNode does not answer, it is started again. It is on this machine, so without TLS."""
    return RuntimeHttpClient.from_server_address(
        server_address=node.address, insecure=True, root_certificates=None, interceptors=list(interceptors)
    )


def main() -> None:
    """The command of the module."""
    federation, ue, superlink, folder = sys.argv[1:]
    try:
        serve(federation, int(ue), superlink, Path(folder))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    main()
