"""A UE's end of federated meta-training: a Flower `ClientApp`, and the UE's process that runs it.

    python -m mrlato_jax.edge.federation.flower_client FEDERATION UE SUPERLINK FOLDER

FOLDER has the UE's credentials and the files that its processes write:

    key.json         the key that signs the UE's answers
    node.key         the private key of its SuperNode
    ca.pem           the authority of SuperLink's certificate
    supernode.log    the output of SuperNode

A UE has two processes: Flower's SuperNode, which holds the connection, and this process, which runs the `ClientApp`.
SuperNode would start a new process for each message. This process stays, so the inner loop is compiled only once. It
runs the locally installed `ClientApp` and no code from the server; it does not use Flower's app bundle.
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

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"  # SuperNode requires its secret for this call
START_S = 300.0  # time limit for the start of SuperNode
# Files in a UE's folder.
KEY, NODE_KEY, AUTHORITY, RUNTIME_SECRET = "key.json", "node.key", "ca.pem", "runtime.secret"

app = ClientApp()
_trainers: dict[tuple[str, int], LocalTrainer] = {}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Steps (a) to (c) of Fig. 3: receives theta, runs the inner loop, returns theta'."""
    node = context.node_config
    return reply(trainer_of(str(node["federation"]), str(node["key"]), int(node["ue"])), message)


def reply(trainer: LocalTrainer, message: Message) -> Message:
    """Returns a UE's answer to a message, both as messages of Flower."""
    answer = trainer.answer(as_bytes(message.content, codec.MOST_BYTES))
    return Message(RecordDict({RECORD: as_record(answer)}), reply_to=message)


def trainer_of(federation: str, key: str, ue: int) -> LocalTrainer:
    """Returns the local trainer of this process; makes it at the first call.

    Args:
        federation: file with the shared settings.
        key: file with this UE's key.
        ue: index of this UE.
    """
    if (federation, ue) not in _trainers:
        _trainers[federation, ue] = LocalTrainer(Federation.read(Path(federation)), ue, read_keys(Path(key), 1)[0])
    return _trainers[federation, ue]


class _SuperNode:
    """Flower's SuperNode as a child process that ends with this one."""

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
    """Runs a UE until its process is ended; starts SuperNode again whenever it ends.

    Args:
        federation: file with the shared settings.
        ue: index of this UE.
        superlink: host:port of the server.
        folder: folder of this UE.

    Raises:
        InputError: settings or keys are not usable.
    """
    for name in (NODE_KEY, AUTHORITY):
        if not (folder / name).is_file():
            raise InputError(f"folder is {folder}, which has no {name}; accepted: a UE's folder of launch/federated.py")
    key = str(folder / KEY)
    poll_s = Federation.read(Path(federation)).poll_s
    trainer_of(federation, key, ue)  # reports bad settings at once
    node_config = f'federation="{federation}" key="{key}" ue={ue}'
    while True:
        node = _SuperNode(superlink, node_config, folder, poll_s)
        try:
            _run_tasks(node, poll_s)
        except (
            httpx.HTTPError,
            RuntimeError,
        ) as error:  # a message failed halfway, and SuperNode would wait for its answer
            print(f"SuperNode is started again: {error}", file=sys.stderr, flush=True)
        finally:
            node.end()
        time.sleep(poll_s)


def _run_tasks(node: _SuperNode, poll_s: float) -> None:
    """Runs SuperNode's tasks until SuperNode ends."""
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
    """Handles one message like Flower's `flwr-clientapp`, but in this lasting process."""
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
            except Exception as error:  # the error goes to the server, since SuperNode waits for an answer
                details = f"{type(error).__name__}: {error}"
                print(f"error: {details}", file=sys.stderr, flush=True)
                answer = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=details), reply_to=message)
            push_message(client, answer, context)
        finally:
            push_task_output(client, context, status, details)
            alive.stop()


def _client(node: _SuperNode, *interceptors: Any) -> RuntimeHttpClient:
    """Makes a client of SuperNode without retries, since a silent SuperNode is restarted; local, so without TLS."""
    return RuntimeHttpClient.from_server_address(
        server_address=node.address, insecure=True, root_certificates=None, interceptors=list(interceptors)
    )


def main() -> None:
    """Runs the command of this module."""
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
