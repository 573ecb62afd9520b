"""Flower's programs for a federation: connections use TLS, and each caller of SuperLink is authenticated.

| caller of SuperLink | credential |
| --- | --- |
| a SuperNode | a private key, whose public half the operator registered |
| `flwr`, which registers keys and starts the training | the operator's token |
| SuperExec, which runs the server | a secret shared with SuperLink |

Flower itself does not authenticate `flwr`, so anyone who reaches SuperLink could register a key or run a program there.
Therefore SuperLink is started with a check of our own token.

The programs are source texts, run by `processes.start_python`. They load neither this package nor JAX.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mrlato_jax.edge import certificates
from mrlato_jax.files import write_atomically, write_secret

LOOPBACK = "127.0.0.1"
DAYS = 365  # validity of SuperLink's certificate; with half of it left, the certificate is used again
SECRET_BYTES = 32
CONNECTION = "here"  # name of SuperLink in `flwr`'s configuration file

# Arguments: a file with the operator's token, then those of `flower-superlink`.
SUPERLINK = """
import hmac, importlib, sys
from flwr.common.constant import ACCESS_TOKEN_KEY
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
program = importlib.import_module("flwr.superlink.cli.flower_superlink")
token = open(sys.argv.pop(1), "rb").read()

class OperatorOnly(NoOpControlAuthnPlugin):
    def validate_tokens_in_metadata(self, metadata):
        known = hmac.compare_digest(str(dict(metadata).get(ACCESS_TOKEN_KEY, "")).encode(), token)
        return known, super().validate_tokens_in_metadata(metadata)[1] if known else None

    def refresh_tokens(self, metadata):
        return None, None

program.load_control_authn_plugin = OperatorOnly
sys.argv[0] = "flower-superlink"
program.flower_superlink()
"""
SUPEREXEC = """
import sys
from flwr.supercore.cli import flower_superexec
sys.argv[0] = "flower-superexec"
flower_superexec()
"""

# Arguments: a file with the operator's token, the folder of the app, then files with the public keys of SuperNodes.
SUBMIT = f"""
import sys
from click import ClickException
from flwr.cli import utils
from flwr.cli.app import app
from flwr.cli.auth_plugin.noop_auth_plugin import NoOpCliAuthPlugin
from flwr.common.constant import ACCESS_TOKEN_KEY
token, folder, *keys = sys.argv[1:]
token = open(token).read()

class Operator(NoOpCliAuthPlugin):
    def write_tokens_to_metadata(self, metadata):
        return [*metadata, (ACCESS_TOKEN_KEY, token)]

utils.load_cli_auth_plugin_from_connection = lambda host, authn_type=None: Operator(host)
try:
    for key in keys:
        app(["supernode", "register", key, "{CONNECTION}"], standalone_mode=False)
except ClickException as error:
    sys.exit("error: " + error.format_message())
app(["run", folder, "{CONNECTION}"])
"""

# Arguments: the polling interval in seconds, then those of `flower-supernode`. By itself, that program sleeps three
# seconds without messages, and up to twenty without a server. After a node was killed, SuperLink takes the node for
# alive and refuses its key for two heartbeats; the shortest heartbeat that it accepts is ten seconds.
SUPERNODE = """
import sys, time, types
poll_s = float(sys.argv.pop(1))
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supercore.retry import http_retry
from flwr.supernode.cli import flower_supernode
start_client_internal.time = types.SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, poll_s)))
http_retry.MAX_RETRY_DELAY = 1
heartbeat.HEARTBEAT_DEFAULT_INTERVAL = fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL = 10
sys.argv[0] = "flower-supernode"
flower_supernode()
"""

_APP = """[project]
name = "mrlato-federated"
version = "1.0.0"
description = "names of what is installed at both ends"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "mrlato"

[tool.flwr.app.components]
serverapp = "mrlato_jax.edge.federation.flower_server:app"
clientapp = "mrlato_jax.edge.federation.flower_client:app"
"""


class ServerFiles:
    """Files of SuperLink, SuperExec and the operator in the server's folder; missing ones are made."""

    def __init__(self, folder: Path, ues: int) -> None:
        """Makes the files.

        Args:
            folder: folder of the server; the files are in its subfolder `flower/`.
            ues: number of SuperNodes to register.

        Raises:
            InputError: the folder is damaged, as in `certificates.make`.
        """
        self._folder = folder / "flower"
        self.app = self._folder / "app"
        self.app.mkdir(parents=True, exist_ok=True)
        write_atomically(self.app / "pyproject.toml", _APP.encode())
        tls = self._folder / "certificates"
        certificates.make(tls, [], [LOOPBACK], DAYS)
        self.authority, self._certificate, self._key = (tls / name for name in ("ca.pem", "server.pem", "server.key"))
        self._token = made(self._folder / "operator.token", lambda: secrets.token_hex(SECRET_BYTES).encode())
        self._secret = made(self._folder / "superexec.secret", lambda: secrets.token_bytes(SECRET_BYTES))
        self.node_keys = [made(self._folder / f"ue{ue}.key", new_node_key) for ue in range(ues)]
        for key in self.node_keys:
            write_atomically(key.with_suffix(".pub"), public_of(key.read_bytes()))

    def superlink(self, port: int) -> list[str]:
        """Returns the arguments of `SUPERLINK`."""
        return [
            *(str(self._token), "--host", LOOPBACK, "--port", str(port), "--isolation", "process"),
            *("--ssl-ca-certfile", str(self.authority), "--ssl-certfile", str(self._certificate)),
            *("--ssl-keyfile", str(self._key), "--superexec-auth-secret-file", str(self._secret)),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        ]

    def superexec(self, port: int) -> list[str]:
        """Returns the arguments of `SUPEREXEC`."""
        return [
            *("--runtime-api-address", f"{LOOPBACK}:{port}", "--root-certificates", str(self.authority)),
            *("--superexec-auth-secret-file", str(self._secret)),
        ]

    def submit(self) -> list[str]:
        """Returns the arguments of `SUBMIT`."""
        return [str(self._token), str(self.app), *(str(key.with_suffix(".pub")) for key in self.node_keys)]

    def connection(self, port: int) -> bytes:
        """Returns the contents of `flwr`'s configuration file, `config.toml`."""
        lines = ["[superlink]", f'default = "{CONNECTION}"', "", f"[superlink.{CONNECTION}]"]
        lines += [f'address = "{LOOPBACK}:{port}"', f"root-certificates = {json.dumps(str(self.authority))}", ""]
        return "\n".join(lines).encode()


def new_node_key() -> bytes:
    """Makes a private key of a SuperNode, in Flower's format."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def public_of(key: bytes) -> bytes:
    """Returns the public half of a `new_node_key`, in the format of `flwr supernode register`."""
    public = serialization.load_ssh_private_key(key, None).public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"


def made(path: Path, make: Callable[[], bytes]) -> Path:
    """Makes a file that only its owner may read, if the file is missing; returns its path."""
    if not path.exists():
        write_secret(path, make())
    return path
