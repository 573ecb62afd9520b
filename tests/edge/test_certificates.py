"""Certificates: who holds one of the authority is known by it, and nobody else gets through the handshake."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import ssl
import stat
import threading
from pathlib import Path

import pytest

from mrlato_jax.errors import InputError

grpc = pytest.importorskip("grpc", reason="needs grpcio")
x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec", reason="needs cryptography")
certificates = pytest.importorskip("mrlato_jax.edge.certificates")

Identity, channel_credentials, identity = certificates.Identity, certificates.channel_credentials, certificates.identity
make, revoke, revoked, shown_by_host = (
    certificates.make, certificates.revoke, certificates.revoked, certificates.server_credentials
)  # fmt: skip
CLIENT, HOST = x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, x509.oid.ExtendedKeyUsageOID.SERVER_AUTH

SOON = 5.0  # seconds of a call
REFUSED = grpc.StatusCode.UNAVAILABLE  # what a client sees of a handshake that failed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys")
    make(path, ["alice", "localhost"])
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    path = tmp_path_factory.mktemp("other")
    make(path, ["alice"])
    return path


@pytest.fixture
def long_ago(monkeypatch):
    """Lets what is made be made 60 days ago, until it is called."""
    now = datetime.datetime.now(datetime.UTC)
    monkeypatch.setattr(certificates, "_now", lambda: now - datetime.timedelta(days=60))
    return lambda: monkeypatch.setattr(certificates, "_now", lambda: now)


def loaded(path: Path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def serial(path: Path) -> str:
    return f"{loaded(path).serial_number:x}"


def shown(folder: Path, name: str) -> tuple[bytes, bytes, bytes]:
    """The authority, and the key and the certificate with that name, unlooked at."""
    return tuple((folder / file).read_bytes() for file in ("ca.pem", f"{name}.key", f"{name}.pem"))


def calling(server_credentials, *clients, address="127.0.0.1"):
    """For each client what the server takes them for, or the status of the call."""

    async def who(request, context):
        found = identity(context.auth_context())
        return f"{found.user} {found.serial}".encode()

    async def main():
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        port = server.add_secure_port("127.0.0.1:0", server_credentials)
        await server.start()
        try:
            return [await one(client, port) for client in clients]
        finally:
            await server.stop(0)

    async def one(client, port):
        async with grpc.aio.secure_channel(f"{address}:{port}", client) as channel:
            try:
                user, number = (await channel.unary_unary("/test/Who")(b"", timeout=SOON)).decode().split()
                return Identity(user, number)
            except grpc.aio.AioRpcError as error:
                return error.code()

    return asyncio.run(main())


# --- at the handshake ---


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_a_user_is_known(folder, address):
    users = ["alice", "localhost"]
    expected = [Identity(user, serial(folder / f"users/{user}.pem")) for user in users]
    clients = [channel_credentials(folder, user) for user in users]
    assert calling(shown_by_host(folder), *clients, address=address) == expected


def test_strangers_are_refused(folder, other):
    authority = (folder / "ca.pem").read_bytes()
    _, key, certificate = shown(other, "users/alice")
    stranger = grpc.ssl_channel_credentials(authority, key, certificate)
    nobody = grpc.ssl_channel_credentials(authority)
    host = grpc.ssl_channel_credentials(*shown(folder, "server"))  # its certificate serves no user
    honest = channel_credentials(folder, "alice")
    answers = calling(shown_by_host(folder), stranger, nobody, host, honest)
    assert answers[:-1] == [REFUSED] * 3
    assert answers[-1].user == "alice"


def test_a_certificate_by_a_user_is_refused(folder):
    """Who has a key that the authority signed cannot sign for others with it."""
    authority, *_ = shown(folder, "users/alice")
    signing = certificates._Pair(certificates._read_key(folder / "users/alice.key"), loaded(folder / "users/alice.pem"))
    key = ec.generate_private_key(ec.SECP256R1())
    forged = certificates._issued("bob", key, signing, 1, CLIENT)
    chain = b"".join(one.public_bytes(certificates.serialization.Encoding.PEM) for one in (forged, signing.certificate))
    client = grpc.ssl_channel_credentials(authority, certificates._key_pem(key), chain)
    assert calling(shown_by_host(folder), client) == [REFUSED]


def test_what_has_ended_is_refused(tmp_path, long_ago):
    make(tmp_path, ["old"], days=30)
    long_ago()
    make(tmp_path, ["new"], days=30)  # the host's certificate, too, had ended
    old = grpc.ssl_channel_credentials(*shown(tmp_path, "users/old"))
    answers = calling(shown_by_host(tmp_path), old, channel_credentials(tmp_path, "new"))
    assert answers == [REFUSED, Identity("new", serial(tmp_path / "users/new.pem"))]
    with pytest.raises(InputError, match=r"old\.pem ended at .*; accepted"):
        channel_credentials(tmp_path, "old")


def test_a_host_that_has_ended_is_refused(tmp_path, long_ago):
    make(tmp_path, [], days=30)
    authority, key, certificate = shown(tmp_path, "server")
    long_ago()
    make(tmp_path, ["new"], days=30)
    old = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    assert calling(old, channel_credentials(tmp_path, "new")) == [REFUSED]


@pytest.mark.parametrize("name", ["users/localhost", "users/alice"])
def test_nothing_but_the_hosts_certificate_serves_as_a_hosts(folder, name):
    """For a name that is in no list of a certificate, gRPC takes its common name: a user may be called `localhost`."""
    authority, key, certificate = shown(folder, name)
    server = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    assert calling(server, channel_credentials(folder, "alice"), address="localhost") == [REFUSED]


def test_it_is_the_purpose_that_a_users_certificate_lacks(folder):
    """With that of a host, the user `localhost` would be taken for one."""
    signing = certificates._authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificates._issued("localhost", key, signing, 1, HOST)
    pem = made.public_bytes(certificates.serialization.Encoding.PEM)
    authority = (folder / "ca.pem").read_bytes()
    server = grpc.ssl_server_credentials([(certificates._key_pem(key), pem)], authority, require_client_auth=True)
    assert calling(server, channel_credentials(folder, "alice"), address="localhost")[0].user == "alice"


def test_the_host_of_another_authority_is_refused(folder, other):
    authority, key, certificate = shown(other, "server")
    server = grpc.ssl_server_credentials([(key, certificate)], authority)
    assert calling(server, channel_credentials(folder, "alice")) == [REFUSED]


def test_a_host_at_another_address_is_refused(tmp_path):
    make(tmp_path, ["alice"], ["edge.example"])
    assert calling(shown_by_host(tmp_path), channel_credentials(tmp_path, "alice")) == [REFUSED]


def test_a_revoked_one_is_known_as_revoked(tmp_path):
    make(tmp_path, ["alice", "bob"])
    assert revoked(tmp_path) == frozenset()
    revoke(tmp_path, "alice")
    clients = [channel_credentials(tmp_path, user) for user in ("alice", "bob")]
    found = calling(shown_by_host(tmp_path), *clients)
    assert [one.serial in revoked(tmp_path) for one in found] == [True, False]


# --- what they are ---


def test_certificates_say_what_they_serve_for(folder):
    def value(certificate, kind):
        return certificate.extensions.get_extension_for_class(kind)

    authority = loaded(folder / "ca.pem")
    assert value(authority, x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert value(authority, x509.KeyUsage).value.key_cert_sign
    for name, purpose in [
        ("server", HOST),
        ("users/alice", CLIENT),
    ]:
        certificate = loaded(folder / f"{name}.pem")
        certificate.verify_directly_issued_by(authority)
        assert isinstance(certificate.public_key().curve, ec.SECP256R1)
        assert value(certificate, x509.BasicConstraints).value == x509.BasicConstraints(False, None)
        usage = value(certificate, x509.KeyUsage)
        assert usage.critical
        assert usage.value.digital_signature
        assert not usage.value.key_cert_sign
        assert list(value(certificate, x509.ExtendedKeyUsage).value) == [purpose]
        own = value(authority, x509.SubjectKeyIdentifier).value.digest
        assert value(certificate, x509.AuthorityKeyIdentifier).value.key_identifier == own
        lasts = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=29) < lasts < datetime.timedelta(days=30)
    names = value(loaded(folder / "server.pem"), x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    (common,) = loaded(folder / "users/alice.pem").subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
    assert common.value == "alice"


def test_openssl_takes_them_at_its_strictest(folder):
    ends = []
    for side, name in [(ssl.PROTOCOL_TLS_CLIENT, "users/alice"), (ssl.PROTOCOL_TLS_SERVER, "server")]:
        context = ssl.SSLContext(side)
        context.load_verify_locations(folder / "ca.pem")
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        ends.append(context)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ends[0].wrap_bio(down, up, server_hostname="127.0.0.1")
    server = ends[1].wrap_bio(up, down, server_side=True)
    done = set()
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    assert done == {client, server}
    assert server.getpeercert()["subject"] == ((("commonName", "alice"),),)


def test_nobody_else_reads_a_key(folder):
    keys = sorted(folder.rglob("*.key"))
    assert len(keys) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    assert not list(folder.rglob(".*"))  # nothing is left of the writing


def test_nobody_else_reads_a_key_for_a_moment(tmp_path, monkeypatch):
    """At each step of the writing, whatever the process's mask is."""
    modes = []

    def look(call):
        def looking(*arguments, **options):
            result = call(*arguments, **options)
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.key*"))
            return result

        return looking

    for name in ("open", "fchmod", "fsync", "replace"):
        monkeypatch.setattr(os, name, look(getattr(os, name)))
    before = os.umask(0)
    try:
        make(tmp_path, ["alice"])
    finally:
        os.umask(before)
    assert set(modes) == {0o600}


# --- making more of them ---


def test_a_user_is_added(tmp_path):
    make(tmp_path, ["alice"], ["edge.example", "192.0.2.7", "::1"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    make(tmp_path, ["bob", "bob"], ["192.0.2.7"])
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(list((tmp_path / "users").iterdir())) == 4
    make(tmp_path, [], ["localhost"])  # a host more: those that were there stay
    names = loaded(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {"edge.example", "localhost"}
    assert len(names.get_values_for_type(x509.IPAddress)) == 2
    assert before[tmp_path / "ca.pem"] == (tmp_path / "ca.pem").read_bytes()


def test_a_user_is_not_overwritten(tmp_path):
    make(tmp_path, ["alice"])
    before = shown(tmp_path, "users/alice")
    with pytest.raises(InputError, match="user is 'alice', who has a certificate; accepted: a new name, or to renew"):
        make(tmp_path, ["bob", "alice"])
    assert shown(tmp_path, "users/alice") == before
    assert not (tmp_path / "users/bob.pem").exists()
    old = serial(tmp_path / "users/alice.pem")
    make(tmp_path, ["alice"], renew=True)
    assert shown(tmp_path, "users/alice")[1:] != before[1:]
    assert not revoked(tmp_path)  # who has it may use it until it ends
    channel_credentials(tmp_path, "alice")
    new = serial(tmp_path / "users/alice.pem")
    revoke(tmp_path, "alice")
    assert revoked(tmp_path) == {old, new}
    make(tmp_path, ["alice"], renew=True)  # comes back
    assert serial(tmp_path / "users/alice.pem") not in revoked(tmp_path)


def test_the_hosts_certificate_is_renewed_where_its_names_are_given(tmp_path):
    make(tmp_path, ["alice"], ["edge.example"])
    before = shown(tmp_path, "server")
    make(tmp_path, ["alice"], renew=True)
    make(tmp_path, ["bob"])
    assert shown(tmp_path, "server") == before
    make(tmp_path, [], ["edge.example"], renew=True)
    assert shown(tmp_path, "server")[0] == before[0]
    assert shown(tmp_path, "server")[1:] != before[1:]
    names = loaded(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [one.value for one in names] == ["edge.example"]
    with pytest.raises(InputError, match="renew is True, and neither users nor hosts are given; accepted"):
        make(tmp_path, [], renew=True)


def test_the_command_renews(tmp_path, capsys):
    command = pytest.importorskip("mrlato_jax.edge.command")
    words = ["certify", f"--credentials={tmp_path}", "--user=alice"]
    assert command.mec(words) == 0
    old, host = serial(tmp_path / "users/alice.pem"), serial(tmp_path / "server.pem")
    assert command.mec(words) == 2
    assert "or to renew it (--renew)" in capsys.readouterr().err
    assert command.mec([*words, "--renew"]) == 0
    assert serial(tmp_path / "users/alice.pem") != old
    assert serial(tmp_path / "server.pem") == host
    assert command.mec([*words, "--renew", "--host=localhost"]) == 0
    assert serial(tmp_path / "server.pem") != host


def test_making_that_was_interrupted_is_made_whole(tmp_path):
    make(tmp_path, ["alice"])
    key = (tmp_path / "ca.key").read_bytes()
    for name in ("ca.pem", "users/alice.pem", "server.key"):
        (tmp_path / name).unlink()
    make(tmp_path, ["alice"])
    assert (tmp_path / "ca.key").read_bytes() == key
    assert calling(shown_by_host(tmp_path), channel_credentials(tmp_path, "alice"))[0].user == "alice"


def test_no_certificate_outlives_its_authority(tmp_path, long_ago, monkeypatch):
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 100)
    make(tmp_path, [])
    long_ago()
    make(tmp_path, ["alice"], days=90)
    before = (tmp_path / "server.pem").read_bytes()
    make(tmp_path, ["bob"], days=90)
    assert (tmp_path / "server.pem").read_bytes() == before  # no later end can be had
    ends = [loaded(tmp_path / name).not_valid_after_utc for name in ("ca.pem", "users/alice.pem", "server.pem")]
    assert len(set(ends)) == 1


def test_an_authority_that_has_ended(tmp_path, long_ago, monkeypatch):
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 30)
    make(tmp_path, [])
    long_ago()
    with pytest.raises(InputError, match=r"ca\.pem ended at"):
        make(tmp_path, ["alice"])


# --- hostile and damaged ---

HOSTILE = [
    "", ".", "..", ".hidden", "../alice", "a/b", "a\\b", "/etc/passwd", "a\0b", "a\n", "a b", "ä", "а", "a" * 65,  # noqa: RUF001
    "a;rm", "CN=a", "*", "a,O=b", None, 3, b"alice", ["alice"],
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_of_users_are_refused(folder, tmp_path, name):
    for attempt in (
        lambda: make(tmp_path / "new", [name]),
        lambda: revoke(folder, name),
        lambda: channel_credentials(folder, name),
    ):
        with pytest.raises(InputError, match="accepted"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "A-b_c.d", "-", "_", "9", "a" * 64, "a.key", "a.pem"])
def test_names_of_users(name):
    certificates.check_user("user", name)


@pytest.mark.parametrize(
    "change",
    [
        {"users": "alice"}, {"users": None}, {"hosts": "localhost"}, {"hosts": []}, {"hosts": [""]}, {"hosts": [3]},
        {"hosts": ["a b"]}, {"hosts": ["*.example"]}, {"hosts": ["http://a"]}, {"hosts": ["300.1.1.1"]},
        {"hosts": ["10.0.0.0/8"]}, {"hosts": ["fe80::1%eth0"]}, {"hosts": ["a..b"]}, {"hosts": ["-a"]},
        {"hosts": ["a:80"]}, {"hosts": ["a." * 127 + "aa"]}, {"hosts": ["a\n"]}, {"hosts": ["ä"]}, {"days": 0},
        {"days": 1.5}, {"days": 10**6}, {"renew": 1}, {"hosts": [f"h{i}" for i in range(101)]},
    ],
    ids=str,
)  # fmt: skip
def test_what_make_refuses(tmp_path, change):
    with pytest.raises(InputError, match="accepted"):
        make(tmp_path / "new", **{"users": ["alice"], **change})
    assert not list(tmp_path.iterdir())


def test_hosts_do_not_grow_without_end(tmp_path):
    make(tmp_path, [], [f"h{i}" for i in range(100)])
    with pytest.raises(InputError, match="hosts would be 101"):
        make(tmp_path, [], ["one-more"])


@pytest.mark.parametrize(
    "data", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
@pytest.mark.parametrize("name", ["ca.pem", "server.key", "server.pem", "users/alice.key", "users/alice.pem"])
def test_damaged_files(tmp_path, name, data):
    make(tmp_path, ["alice"])
    (tmp_path / name).unlink()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    show = shown_by_host if not name.startswith("users") else lambda folder: channel_credentials(folder, "alice")
    with pytest.raises(InputError, match="accepted"):
        show(tmp_path)
    if data is not None and name.endswith("pem") and not name.startswith("users"):
        with pytest.raises(InputError, match="accepted"):
            make(tmp_path, ["bob"])


def test_files_that_do_not_fit_together(tmp_path, other):
    make(tmp_path, ["alice", "bob"])
    os.replace(tmp_path / "users/bob.key", tmp_path / "users/alice.key")
    with pytest.raises(InputError, match=r"alice\.key is not the key of users/alice\.pem"):
        channel_credentials(tmp_path, "alice")
    for ending in ("key", "pem"):
        (tmp_path / f"server.{ending}").write_bytes((other / f"server.{ending}").read_bytes())
    with pytest.raises(InputError, match=r"server\.pem is of another authority"):
        shown_by_host(tmp_path)
    make(tmp_path, [])  # another is made
    shown_by_host(tmp_path)
    (tmp_path / "ca.key").write_bytes((other / "ca.key").read_bytes())
    with pytest.raises(InputError, match=r"ca\.key is not the key of ca\.pem"):
        make(tmp_path, ["carol"])
    (tmp_path / "ca.key").unlink()
    with pytest.raises(InputError, match=r"ca\.key is missing"):
        make(tmp_path, ["carol"])


def test_a_link_leads_nowhere(tmp_path):
    """A key is written beside what a link leads to, never through it."""
    make(tmp_path / "keys", [])
    aim = tmp_path / "aim"
    aim.write_bytes(b"precious")
    (tmp_path / "keys/users/alice.key").symlink_to(aim)
    make(tmp_path / "keys", ["alice"])
    assert aim.read_bytes() == b"precious"
    assert not (tmp_path / "keys/users/alice.key").is_symlink()


# --- revoking ---


def test_revoking(tmp_path):
    make(tmp_path, ["alice", "bob"])
    with pytest.raises(InputError, match="user is 'carol', who has no certificate"):
        revoke(tmp_path, "carol")
    revoke(tmp_path, "alice")
    before = (tmp_path / "revoked.json").stat()
    revoke(tmp_path, "alice")
    assert (tmp_path / "revoked.json").stat() == before
    revoke(tmp_path, "bob")
    number = {user: serial(tmp_path / f"users/{user}.pem") for user in ("alice", "bob")}
    assert revoked(tmp_path) == set(number.values())
    assert json.loads((tmp_path / "revoked.json").read_text()) == {number[user]: user for user in number}
    with pytest.raises(InputError, match=r"no ca\.pem"):
        revoke(tmp_path / "users", "alice")


def test_the_list_is_read_only_when_it_has_changed(tmp_path, monkeypatch):
    make(tmp_path, ["alice"])
    reads = []
    read = certificates._read_serials
    monkeypatch.setattr(certificates, "_read_serials", lambda path: reads.append(path) or read(path))
    for _ in range(3):
        assert not revoked(tmp_path)
    assert len(reads) <= 1
    revoke(tmp_path, "alice")
    reads.clear()
    for _ in range(3):
        assert revoked(tmp_path) == {serial(tmp_path / "users/alice.pem")}
    assert len(reads) == 1


def test_none_is_lost_where_many_revoke_at_once(tmp_path):
    users = [f"u{i}" for i in range(8)]
    make(tmp_path, users)
    threads = [threading.Thread(target=revoke, args=(tmp_path, user)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert revoked(tmp_path) == {serial(tmp_path / f"users/{user}.pem") for user in users}


@pytest.mark.parametrize("data", [None, b"", b"[]", b'{"xyz": "alice"}', b'{"ab": 3}', b'{"ab": "../a"}', b"[" * 10**5])
def test_without_its_list_nobody_is_let_in(tmp_path, data):
    make(tmp_path, ["alice"])
    revoke(tmp_path, "alice")
    (tmp_path / "revoked.json").unlink()
    if data is not None:
        (tmp_path / "revoked.json").write_bytes(data)
    for attempt in (
        lambda: revoked(tmp_path),
        lambda: shown_by_host(tmp_path),
        lambda: make(tmp_path, ["bob"]),  # nor is an empty list put in its place
        lambda: revoke(tmp_path, "alice"),
    ):
        with pytest.raises(InputError, match="accepted"):
            attempt()


# --- who a peer is ---


def test_identity_needs_one_certificate_of_a_user(folder):
    pem = (folder / "users/alice.pem").read_bytes()
    good = {"x509_common_name": [b"alice"], "x509_pem_cert": [pem], "transport_security_type": [b"ssl"]}
    assert identity(good) == ("alice", serial(folder / "users/alice.pem"))
    server = (folder / "server.pem").read_bytes()
    for change in (
        {"x509_common_name": []},
        {"x509_common_name": [b"bob"]},
        {"x509_common_name": [b"alice", b"bob"]},
        {"x509_pem_cert": []},
        {"x509_pem_cert": [pem, pem]},
        {"x509_pem_cert": [b"nonsense"]},
        {"x509_pem_cert": [b""]},
        {"x509_common_name": [b"mrlato_jax host"], "x509_pem_cert": [server]},  # a space: no user's name
    ):
        with pytest.raises(InputError, match="accepted"):
            identity({**good, **change})
    with pytest.raises(InputError, match="accepted"):
        identity({})


def test_a_peer_whose_certificate_has_ended_since_the_handshake_is_nobody(folder, monkeypatch):
    certificate = loaded(folder / "users/alice.pem")
    shown = {"x509_common_name": [b"alice"], "x509_pem_cert": [(folder / "users/alice.pem").read_bytes()]}
    end = certificate.not_valid_after_utc
    monkeypatch.setattr(certificates, "_now", lambda: end - datetime.timedelta(seconds=1))
    assert identity(shown).user == "alice"
    monkeypatch.setattr(certificates, "_now", lambda: end)
    with pytest.raises(InputError, match=r"peer's certificate ended at .*; accepted: one that is valid"):
        identity(shown)
