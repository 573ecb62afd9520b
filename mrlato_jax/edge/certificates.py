"""TLS with a certificate for each user. The authority of a folder signs the certificates of the host and the users.

| file | content | needed by |
| --- | --- | --- |
| `ca.key` | the authority's key | the administrator |
| `ca.pem` | the authority's certificate | host and users |
| `server.key`, `server.pem` | the host's key and certificate | the host |
| `users/NAME.key`, `users/NAME.pem` | a user's key and certificate | that user |
| `revoked.json` | serial numbers of revoked certificates, each with its user | the host |
| `replaced.json` | serial numbers of users' replaced certificates | the administrator |

The common name of a certificate is the user's name. A user's certificate cannot serve as the host's, nor the host's as
a user's.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.files import check_writable, parse_json, read_regular, write_atomically, write_secret

DAYS = 30
HOSTS = ("localhost", "127.0.0.1")
AUTHORITY_DAYS = 3650  # validity of an authority; also the limit for certificates
MOST_USERS = 10_000  # in one call
MOST_HOSTS = 100
MOST_PEM_BYTES = 2**16
MOST_LIST_BYTES = 2**24
SKEW = datetime.timedelta(minutes=5)  # tolerated lag of another machine's clock

ACCEPTED_USER = "1 to 64 letters, digits, dots, underscores and hyphens, the first one no dot"
_USER = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")  # a last label that is a number would make it an address
_ACCEPTED_FOLDER = "what `mrlato-mec certify` writes"
_REVOKED = "revoked.json"
_REPLACED = "replaced.json"


class Identity(NamedTuple):
    """The identity of a peer."""

    user: str
    serial: str  # serial number of the certificate, in hexadecimal


class _Pair(NamedTuple):
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def check_user(field: str, name: object) -> None:
    """Raises InputError unless `name` can be a user's name, which is also used in file names."""
    if not isinstance(name, str) or _USER.fullmatch(name) is None:
        raise InputError(f"{field} is {shorten(name)}; accepted: {ACCEPTED_USER}")


def make(
    folder: Path,
    users: Sequence[str],
    hosts: Sequence[str] | None = None,
    days: int = DAYS,
    *,
    renew: bool = False,
) -> None:
    """Makes an authority, the host's certificate and one certificate for each user.

    An existing authority is used again, so users can be added later. The host's certificate is kept if it has all
    `hosts` and is valid for at least half of `days`. Otherwise a new certificate with the old and the new hosts
    replaces it; a running host uses it after a restart.

    Args:
        folder: folder for the files; created if missing, readable only by its owner.
        users: names of the users who get a certificate.
        hosts: names and IP addresses at which users reach the host; by default those of its present certificate, or
            `HOSTS`.
        days: validity of the certificates in days; limited by the authority's validity.
        renew: replace the certificates of `users`, and with `hosts` the host's. A user's former certificate is valid
            until it ends or the user is revoked.

    Raises:
        InputError: names, hosts or days are not usable, a user already has a certificate and `renew` is false, `renew`
            has neither users nor hosts, or the folder is damaged.
    """
    users = _listed("users", users, MOST_USERS)
    hosts = hosts if hosts is None else _listed("hosts", hosts, MOST_HOSTS)
    for user in users:
        check_user("user", user)
    if hosts is not None and not hosts:
        raise InputError("hosts is empty; accepted: at least one name or IP address of the host")
    addresses = [_general_name(host) for host in hosts or ()]
    check_number("days", days, low=1, high=AUTHORITY_DAYS, integer=True)
    check_type("renew", renew, bool)
    if renew and not users and hosts is None:
        raise InputError("renew is True, and neither users nor hosts are given; accepted: users or hosts to renew")
    with contextlib.suppress(OSError):  # `check_writable` reports what is wrong
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_writable(folder)
    with _locked(folder):
        former = {user: path for user in users if (path := _user_file(folder, user, "pem")).exists()}
        if former and not renew:
            raise InputError(
                f"user is {min(former)!r}, who has a certificate; accepted: a new name, or to renew it (--renew)"
            )
        if not (folder / "ca.pem").exists() and not (folder / _REVOKED).exists():
            write_atomically(
                folder / _REVOKED, b"{}\n"
            )  # only with a new authority; a lost list must not become an empty one
        _read_serials(folder / _REVOKED)
        authority = _authority(folder)
        _renew_server(folder, authority, addresses, days, renew and hosts is not None)
        # Before the replacement: a later revocation of the user finds the old serial number only here.
        _add_serials(
            folder / _REPLACED,
            _replaced(folder),
            {_serial(_read_certificate(path)): user for user, path in former.items()},
        )
        (folder / "users").mkdir(mode=0o700, exist_ok=True)
        for user in users:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _issued(user, key, authority, days, ExtendedKeyUsageOID.CLIENT_AUTH)
            _write_pair(folder, f"users/{user}", _Pair(key, certificate))


def revoke(folder: Path, user: str) -> None:
    """Revokes all certificates that a user has had so far; this also takes effect at a running host.

    Raises:
        InputError: the user has no certificate.
    """
    check_user("user", user)
    _check_made(folder)
    with _locked(folder):
        path = _user_file(folder, user, "pem")
        if not path.exists():
            raise InputError(f"user is {user!r}, who has no certificate; accepted: one who has a file in {path.parent}")
        former = {serial: user for serial, name in _replaced(folder).items() if name == user}
        _add_serials(
            folder / _REVOKED, _read_serials(folder / _REVOKED), {**former, _serial(_read_certificate(path)): user}
        )


def revoked(folder: Path) -> frozenset[str]:
    """Returns the serial numbers of revoked certificates. The file is read again only when it has changed.

    Raises:
        InputError: the list is missing or damaged, so nobody can be admitted.
    """
    path = folder / _REVOKED
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: {_ACCEPTED_FOLDER}") from None
    return _revoked_of(path, status.st_mtime_ns, status.st_size, status.st_ino)


def server_credentials(folder: Path) -> grpc.ServerCredentials:
    """Returns the host's credentials. The host requires a certificate of the authority from each user.

    Raises:
        InputError: files are missing, damaged or do not fit together, or a certificate has ended.
    """
    revoked(folder)
    authority, key, certificate = _shown(folder, "server")
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)


def channel_credentials(folder: Path, user: str) -> grpc.ChannelCredentials:
    """Returns a user's credentials. The host's certificate must be of the same authority.

    Raises:
        InputError: as in `server_credentials`.
    """
    check_user("user", user)
    return grpc.ssl_channel_credentials(*_shown(folder, f"users/{user}"))


def identity(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """Returns the identity of a call's peer, from the certificate of the TLS handshake.

    Args:
        auth_context: result of gRPC's `context.auth_context()`.

    Raises:
        InputError: there is no certificate, it is not a user's, or it has ended since the handshake.
    """
    names, certificates = (list(auth_context.get(field, ())) for field in ("x509_common_name", "x509_pem_cert"))
    if len(certificates) != 1:
        raise InputError(f"peer shows {len(certificates)} certificates; accepted: one")
    try:
        certificate = x509.load_pem_x509_certificate(certificates[0])
        common = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError):
        raise InputError(f"peer shows a damaged certificate; accepted: one of {_ACCEPTED_FOLDER}") from None
    if len(common) != 1 or names != [common[0].encode() if isinstance(common[0], str) else common[0]]:
        raise InputError(f"peer's names are {shorten(common)}; accepted: one, equal to gRPC's")
    check_user("peer's name", common[0])
    if (end := certificate.not_valid_after_utc) <= _now():
        raise InputError(f"peer's certificate ended at {_shown_time(end)}; accepted: one that is valid: renew it")
    return Identity(str(common[0]), _serial(certificate))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _shown_time(time: datetime.datetime) -> str:
    return time.isoformat(" ", "seconds")


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def _listed(field: str, values: Sequence[str], most: int) -> list[str]:
    """Returns the distinct values in their order."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise InputError(f"{field} is {shorten(values)}; accepted: a sequence of names")
    if len(values) > most:
        raise InputError(f"{field} has {len(values)} names; accepted: at most {most}")
    for value in values:
        check_type(f"name in {field}", value, str)
    return list(dict.fromkeys(values))


def _general_name(host: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        if "%" not in host:  # the zone of an address has a meaning only on one machine
            return x509.IPAddress(ipaddress.ip_address(host))
    if len(host) > 253 or _HOST.fullmatch(host) is None:
        raise InputError(f"host is {shorten(host)}; accepted: a name of a host, or an IP address")
    return x509.DNSName(host.lower())


def _user_file(folder: Path, user: str, ending: str) -> Path:
    return folder / "users" / f"{user}.{ending}"


def _check_made(folder: Path) -> None:
    if not (folder / "ca.pem").is_file():
        raise InputError(f"folder is {folder}, which has no ca.pem; accepted: {_ACCEPTED_FOLDER}")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks the folder for writing: two concurrent additions to one list would lose one of them."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _authority(folder: Path) -> _Pair:
    """Returns the authority of the folder; makes one if there is none."""
    key_file, certificate_file = folder / "ca.key", folder / "ca.pem"
    if certificate_file.exists():
        authority = _Pair(_read_key(key_file), _read_certificate(certificate_file))
        _check_pair(folder, "ca", authority)
        return authority
    # A key without a certificate is left by an interrupted call.
    key = _read_key(key_file) if key_file.exists() else ec.generate_private_key(ec.SECP256R1())
    authority = _Pair(key, _issued("mrlato_jax authority", key, None, AUTHORITY_DAYS, None))
    _write_pair(folder, "ca", authority)
    return authority


def _renew_server(
    folder: Path, authority: _Pair, addresses: Sequence[x509.GeneralName], days: int, renew: bool
) -> None:
    """Replaces the host's certificate if it lacks a host, ends soon, or does not fit its key or authority."""
    known: list[x509.GeneralName] = []
    path = folder / "server.pem"
    if path.exists():
        certificate = _read_certificate(path)
        try:
            known = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (ValueError, x509.ExtensionNotFound):
            raise InputError(f"{path} names no host; accepted: {_ACCEPTED_FOLDER}") from None
        end = certificate.not_valid_after_utc
        lasts = end - _now() >= datetime.timedelta(days=days) / 2 or end >= _end(authority, days)
        fits = _issued_by(certificate, authority.certificate) and set(addresses) <= set(known)
        with contextlib.suppress(InputError):  # an interrupted call can leave a missing or wrong key
            _check_pair(folder, "server", _Pair(_read_key(folder / "server.key"), certificate))
            if fits and lasts and not renew:
                return
    names = list(dict.fromkeys([*known, *addresses])) or [_general_name(host) for host in HOSTS]
    if len(names) > MOST_HOSTS:
        raise InputError(f"hosts would be {len(names)}, with those of {path}; accepted: at most {MOST_HOSTS}")
    key, hosts = ec.generate_private_key(ec.SECP256R1()), x509.SubjectAlternativeName(names)
    certificate = _issued("mrlato_jax host", key, authority, days, ExtendedKeyUsageOID.SERVER_AUTH, hosts)
    _write_pair(folder, "server", _Pair(key, certificate))


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # differing names, algorithms and signatures each raise another error
        return False
    return True


def _end(authority: _Pair | None, days: int) -> datetime.datetime:
    """Returns the end of a certificate that is made now."""
    end = _now() + datetime.timedelta(days=days)
    return end if authority is None else min(end, authority.certificate.not_valid_after_utc)


def _issued(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: _Pair | None,
    days: int,
    purpose: x509.ObjectIdentifier | None,
    hosts: x509.SubjectAlternativeName | None = None,
) -> x509.Certificate:
    """Makes a certificate.

    Args:
        name: common name of the holder.
        key: key of the holder.
        authority: the signing authority; None makes a self-signed authority.
        days: validity in days.
        purpose: the extended key usage; None for an authority.
        hosts: names and addresses of a host.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer, issuer_key, issuer_id = subject, key, own
    if authority is not None:
        issuer, issuer_key = authority.certificate.subject, authority.key
        issuer_id = x509.SubjectKeyIdentifier.from_public_key(authority.key.public_key())
    signs = purpose is None
    usage = x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - SKEW)
        .not_valid_after(_end(authority, days))
        .add_extension(x509.BasicConstraints(ca=signs, path_length=0 if signs else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(own, critical=False)
        .add_extension(identifier, critical=False)
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
    if hosts is not None:
        builder = builder.add_extension(hosts, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write_pair(folder: Path, name: str, pair: _Pair) -> None:
    """Writes the key first, since a pair counts as made only when its certificate exists."""
    write_secret(folder / f"{name}.key", _key_pem(pair.key))
    write_atomically(folder / f"{name}.pem", pair.certificate.public_bytes(serialization.Encoding.PEM))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read(path: Path, most_bytes: int = MOST_PEM_BYTES) -> bytes:
    try:
        return read_regular(path, most_bytes, _ACCEPTED_FOLDER)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; accepted: {_ACCEPTED_FOLDER}") from None


def _read_certificate(path: Path) -> x509.Certificate:
    data = _read(path)
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError:
        raise InputError(f"{path} holds no certificate; accepted: {_ACCEPTED_FOLDER}") from None


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data, key = _read(path), None
    with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{path} holds no usable key; accepted: {_ACCEPTED_FOLDER}")
    return key


def _check_pair(folder: Path, name: str, pair: _Pair) -> None:
    if pair.certificate.public_key() != pair.key.public_key():
        raise InputError(f"{folder / name}.key is not the key of {name}.pem; accepted: {_ACCEPTED_FOLDER}")
    if pair.certificate.not_valid_after_utc <= _now():
        end = _shown_time(pair.certificate.not_valid_after_utc)
        raise InputError(f"{folder / name}.pem ended at {end}; accepted: one that is valid: make it again")


def _shown(folder: Path, name: str) -> tuple[bytes, bytes, bytes]:
    """Returns authority, key and certificate for gRPC. Checks that they fit, since gRPC's own errors say little."""
    _check_made(folder)
    authority, certificate = _read_certificate(folder / "ca.pem"), _read_certificate(folder / f"{name}.pem")
    key = _read_key(folder / f"{name}.key")
    _check_pair(folder, name, _Pair(key, certificate))
    if not _issued_by(certificate, authority):
        raise InputError(f"{folder / name}.pem is of another authority than ca.pem; accepted: {_ACCEPTED_FOLDER}")
    pem = serialization.Encoding.PEM
    return authority.public_bytes(pem), _key_pem(key), certificate.public_bytes(pem)


def _read_serials(path: Path) -> dict[str, str]:
    """Reads a list that maps serial numbers of certificates to users."""
    users = parse_json(_read(path, MOST_LIST_BYTES), str(path), _ACCEPTED_FOLDER)
    for serial, user in users.items():
        if re.fullmatch(r"[0-9a-f]{1,40}", serial) is None:
            raise InputError(f"{path} has {shorten(serial)}; accepted: serial numbers, in small hexadecimal digits")
        check_user(f"{path}: user", user)
    return dict(users)


@functools.lru_cache(maxsize=16)
def _revoked_of(path: Path, *version: int) -> frozenset[str]:
    """Returns the serial numbers in this version of the file; each later version has more entries, so another size."""
    return frozenset(_read_serials(path))


def _replaced(folder: Path) -> dict[str, str]:
    """Maps serial numbers of replaced certificates to users. Without a replacement, the list does not exist."""
    return _read_serials(folder / _REPLACED) if (folder / _REPLACED).exists() else {}


def _add_serials(path: Path, known: Mapping[str, str], serials: Mapping[str, str]) -> None:
    """Adds serial numbers with their users to the list at `path`, which already has `known`."""
    if serials.keys() <= known.keys():
        return
    data = json.dumps({**known, **serials}, indent=0).encode() + b"\n"
    if len(data) > MOST_LIST_BYTES:
        raise InputError(f"{path} would have {len(data)} bytes; accepted: at most {MOST_LIST_BYTES}")
    write_atomically(path, data)
