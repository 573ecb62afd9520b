"""The server's end of federated meta-training: a Flower `ServerApp` whose strategy takes the outer step (29).

Flower transports the messages. This module decides which UEs to ask, and when; `global_trainer` decides which answers
to accept. The environment variable `MRLATO_FEDERATION` names the server's folder:

    federation.json   the shared settings
    keys.json         the key of each UE, in hexadecimal
    flower/           certificates, keys and secrets of Flower's programs (`flower`)
    state/            the state between rounds
    progress.json     the progress of this server, for observers
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Result

from mrlato_jax.edge.federation.global_trainer import GlobalTrainer, to_ask
from mrlato_jax.edge.federation.messages import read_keys
from mrlato_jax.edge.federation.settings import Federation
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.files import write_atomically
from mrlato_jax.processes import end_with_input

FOLDER = "MRLATO_FEDERATION"  # environment variable
FEDERATION, KEYS, STATE, PROGRESS = "federation.json", "keys.json", "state", "progress.json"
RECORD, ENTRY = "arrays", "message"  # names of the one array in a Flower message
FORMAT = "bytes"  # type of that array: its data are the message itself, without a header
LOOK_AROUND_S = 0.5  # seconds between two checks of the connected nodes
PROGRAM_FAILED = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.UNKNOWN)
PAUSE_S = 1.0  # seconds before a node is asked again after a refused answer
GIVE_UP_S = 900.0  # the server ends after this time without an accepted answer


def as_record(data: bytes) -> ArrayRecord:
    """Wraps a message for Flower as one array of bytes, which needs few requests."""
    return ArrayRecord({ENTRY: Array("uint8", (len(data),), FORMAT, data)})


def as_bytes(content: RecordDict, most_bytes: int) -> bytes:
    """Inverse of `as_record`.

    Raises:
        InputError: the message has other records, or too many bytes.
    """
    record = content.array_records.get(RECORD)
    array = None if record is None or set(record) != {ENTRY} else record[ENTRY]
    if array is None or array.stype != FORMAT or len(array.data) > most_bytes:
        raise InputError("message of Flower has other records, or too many bytes; accepted: one array of bytes")
    return array.data


class OuterStep(FedAvg):
    """Federated averaging with (29) in place of the average, always over all UEs of a round.

    A round ends when every UE of its meta-batch has answered. A UE that does not answer in time is asked again; after a
    refused answer, with a pause. A node that connects during a round is asked at once.
    """

    def __init__(self, trainer: GlobalTrainer, watch: Callable[[dict[str, Any]], None] = lambda progress: None) -> None:
        """Starts with the current round of `trainer`.

        Args:
            trainer: the global trainer, which judges the answers.
            watch: called with the server's progress at each change.
        """
        super().__init__(fraction_evaluate=0.0, min_train_nodes=0, min_available_nodes=0)
        self._trainer, self._watch = trainer, watch
        self._known: dict[int, int] = {}  # UE by node
        self._online: list[int] = []
        self._looked_s = -LOOK_AROUND_S
        self._begin()

    def _begin(self) -> None:
        self._due: dict[int, float] = {}  # when to ask each asked node again in this round
        self._newest: dict[int, str] = {}  # the last message to each node in this round
        self._sent = 0
        self._began_s = self._accepted_s = time.monotonic()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Returns the messages of a round to send now; see `to_ask`."""
        now = time.monotonic()
        if now - self._looked_s >= LOOK_AROUND_S:
            self._online, self._looked_s = list(grid.get_node_ids()), now
            # A killed UE returns as the same node but has lost its message.
            self._due = {node: when for node, when in self._due.items() if node in self._online}
        patience_s = self._trainer.federation.patience_s
        nodes = to_ask(self._online, self._known, self._trainer.missing, self._due, now)
        self._due.update(dict.fromkeys(nodes, now + patience_s))
        self._sent += len(nodes)
        content = RecordDict({RECORD: arrays})
        # A message that is not fetched expires when its node would be asked again.
        ttl = max(patience_s, 10.0)
        return [Message(content, node, MessageType.TRAIN, ttl=ttl, group_id=str(server_round)) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Passes each answer to the trainer; takes the outer step when all answers are there."""
        for reply in replies:
            self._offer(reply)
        if self._trainer.missing:
            return None, None
        record = self._trainer.finish(time.monotonic() - self._began_s, self._sent)
        self._begin()
        values = {name: value for name, value in record.items() if isinstance(value, float)}
        return as_record(self._trainer.message()), MetricRecord(values)

    def _offer(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            if reply.error.code in PROGRAM_FAILED:
                print(
                    f"round {self._trainer.round}: node {node} failed: {shorten(reply.error.reason, 200)}", flush=True
                )
                self._trainer.count("failed", self._known.get(node))
                self._ask_again(reply)
            return  # other errors: the message expired, or the node is gone and is asked when it returns
        try:
            data = as_bytes(reply.content, self._trainer.most_bytes)
        except InputError:
            self._trainer.count("unreadable", self._known.get(node))
            self._ask_again(reply)
            return
        verdict = self._trainer.offer(data)
        if verdict.refused is not None:
            print(
                f"round {self._trainer.round}: refused an answer of node {node}, UE {verdict.ue}: {verdict.refused}",
                flush=True,
            )
            self._ask_again(reply)
            return
        self._accepted_s = time.monotonic()
        if verdict.ue is not None:
            self._known[node] = verdict.ue

    def _ask_again(self, reply: Message) -> None:
        """Asks a node again after a pause, but only after its newest message, not for each older one."""
        node = reply.metadata.src_node_id
        if self._newest.get(node) == reply.metadata.reply_to_message_id:
            self._due[node] = time.monotonic() + PAUSE_S

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = GIVE_UP_S,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Runs the remaining rounds one after the other.

        This replaces Flower's own loop, which polls every three seconds and aggregates whatever has arrived when its
        time is over.

        Raises:
            InputError: no answer was accepted for `timeout` seconds, or as in `GlobalTrainer.offer`.
        """
        trainer, poll_s = self._trainer, self._trainer.federation.poll_s
        result, arrays = Result(), initial_arrays
        waiting: set[str] = set()
        self._begin()
        while trainer.done < num_rounds:
            number = trainer.round
            messages = list(self.configure_train(number, arrays, ConfigRecord(), grid))
            if messages:
                names = list(grid.push_messages(messages))
                self._newest.update(zip((message.metadata.dst_node_id for message in messages), names, strict=False))
                waiting.update(name for name in names if name)
                self._watch(self._progress())
            replies = list(grid.pull_messages(waiting)) if waiting else []
            waiting.difference_update(reply.metadata.reply_to_message_id for reply in replies)
            after, metrics = self.aggregate_train(number, replies)
            if after is not None and metrics is not None:
                result.arrays = arrays = after
                result.train_metrics_clientapp[number] = metrics
            if replies:
                self._watch(self._progress())
            else:
                time.sleep(poll_s)
            if time.monotonic() - self._accepted_s > timeout:
                raise InputError(
                    f"UEs {sorted(trainer.missing)} are missing in round {trainer.round}, and no answer was accepted "
                    f"for {timeout:g} s; accepted: answers of all"
                )
        return result

    def _progress(self) -> dict[str, Any]:
        trainer = self._trainer
        return {"round": trainer.round, "sent": self._sent, "missing": sorted(trainer.missing), "done": trainer.done}


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the server from its state on the disk to the last round."""
    end_with_input()  # the launcher holds the write end
    folder = Path(os.environ[FOLDER])

    def watch(progress: dict[str, Any]) -> None:
        write_atomically(folder / PROGRESS, json.dumps({"pid": os.getpid(), "error": None, **progress}).encode())

    try:
        federation = Federation.read(folder / FEDERATION)
        trainer = GlobalTrainer(federation, folder / STATE, read_keys(folder / KEYS, federation.ues))
        strategy = OuterStep(trainer, watch)
        watch({"round": trainer.round, "sent": 0, "missing": sorted(trainer.missing), "done": trainer.done})
        strategy.start(grid, as_record(trainer.message()), num_rounds=federation.config.iterations)
        trainer.save()
    except (InputError, OSError) as error:
        watch({"error": str(error)})
        raise
