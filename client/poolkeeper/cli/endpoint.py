"""Where the daemon is, and what shows that it is the right one and that we may call it."""

import json
import os
import shlex
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poolkeeper._core.address import Address, parse_addresses
from poolkeeper.cli.problem import Problem, Status, usage
from poolkeeper.errors import InvalidRequest

_START = "start it with `poolkeeper serve`, or say where it is with --address or POOLKEEPER_ADDRESS"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One daemon and the admin's credential for it."""

    address: str
    """HOST:PORT to call."""
    advertised: str
    """HOST:PORT for others to call."""
    tls: bool
    ca: bytes | None
    """The installation's CA in PEM; None: what the machine trusts publicly."""
    token: str


def default_data() -> Path:
    """The data directory of a daemon that was given none."""
    if os.geteuid() == 0:
        return Path("/var/lib/poolkeeper")
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if state.startswith("/") else Path.home() / ".local" / "state") / "poolkeeper"


def find(*, address: str, token_file: Path | None, ca: Path | None, data: Path | None) -> Endpoint:
    """The endpoint that options and environment name, else the daemon whose data directory is on this machine.

    Of several addresses, as clients may be given, the first serves. The local operator's token is never sent to an
    address that is not the local daemon's.
    """
    directory = data or default_data()
    local = _local(directory, required=not address)
    given = _parsed(address) if address else None
    if local is not None and (given is None or given.target == _text(local, "grpc")):
        token = _token(directory, token_file)
        return _of_this_machine(directory, local, ca, token)
    if given is None:
        raise usage("no address of a daemon was given")
    if token_file is None and not os.environ.get("POOLKEEPER_TOKEN", "").strip():
        raise Problem(
            f"no credential for the daemon at {given.target}",
            why="it is not the one of this machine, so the local operator's token is not for it",
            hint="make one there with `poolkeeper token create`, and give it as POOLKEEPER_TOKEN or --token-file",
            status=Status.FORBIDDEN,
        )
    return Endpoint(
        address=given.target,
        advertised=str(given),
        tls=not given.plain,
        ca=_pem(ca) if ca and not given.plain else None,
        token=_token(directory, token_file),
    )


def _parsed(address: str) -> Address:
    try:
        return parse_addresses(address)[0]
    except InvalidRequest as error:
        raise usage(error.message.removesuffix("."), hint=error.hint) from error


def _of_this_machine(directory: Path, local: dict[str, Any], ca: Path | None, token: str) -> Endpoint:
    listening, tls = _text(local, "grpc"), bool(local.get("tls"))
    host, _, port = listening.rpartition(":")
    # 0.0.0.0 and [::] are places to listen at, none to call.
    everywhere = ("0.0.0.0", "", "[::]")  # noqa: S104  # listening everywhere, here as elsewhere
    advertised = f"{socket.getfqdn() if host in everywhere else host}:{port}"
    return Endpoint(
        # However many connections its port has, this one is kept for its operator.
        address=_text(local, "local"),
        advertised=advertised if tls else f"plain://{advertised}",
        tls=tls,
        ca=_pem(ca) if ca and tls else _local_ca(directory, local),
        token=token,
    )


def _local(directory: Path, *, required: bool) -> dict[str, Any] | None:
    path = directory / "endpoint.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise Problem(
                "no daemon found",
                why=f"{path} does not exist, so none is running with that data directory",
                hint=_START,
                status=Status.UNREACHABLE,
            ) from None
        return None
    except PermissionError:
        if required:
            raise _forbidden(path) from None
        return None
    except (OSError, ValueError) as error:
        raise Problem(
            "the daemon's address cannot be read", why=f"{path}: {error}", hint=_START, status=Status.UNREACHABLE
        ) from error
    if not isinstance(found, dict) or not _text(found, "grpc"):
        raise Problem(
            "the daemon's address cannot be read",
            why=f"{path} holds no gRPC address",
            hint=_START,
            status=Status.UNREACHABLE,
        )
    return found


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _token(directory: Path, token_file: Path | None) -> str:
    given = os.environ.get("POOLKEEPER_TOKEN", "").strip()
    if given and token_file is None:
        return given
    path = token_file or directory / "operator.token"
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            # A pipe that a shell made for this command is nobody else's.
            if stat.S_ISREG(mode) and mode & 0o077:
                raise _exposed(path, stat.S_IMODE(mode))
            token = file.read().strip()
    except PermissionError:
        raise _forbidden(path) from None
    except (OSError, ValueError) as error:
        raise Problem(
            "no credential",
            why=f"{path}: {getattr(error, 'strerror', None) or 'it does not hold a token'}",
            hint="give one as POOLKEEPER_TOKEN or with --token-file",
            status=Status.FORBIDDEN,
        ) from error
    if not token:
        raise Problem("no credential", why=f"{path} is empty", status=Status.FORBIDDEN)
    return token


def _exposed(path: Path, mode: int) -> Problem:
    return Problem(
        "a credential that others can read is not used",
        why=f"{path} is open to others than its owner (mode {mode:04o})",
        hint=f"chmod 600 {shlex.quote(str(path))}\nand if somebody may have read it: `poolkeeper token revoke`",
        status=Status.FORBIDDEN,
    )


def _forbidden(path: Path) -> Problem:
    try:
        owner = path.parent.owner()
    except (OSError, KeyError):
        owner = "root"
    return Problem(
        "not permitted to use the local daemon as its operator",
        why=f"{path} may not be read by this user",
        hint=f"run it as the daemon's user (sudo -u {owner} poolkeeper …),\n"
        "or use a token of your own: POOLKEEPER_TOKEN or --token-file, with --address",
        status=Status.FORBIDDEN,
    )


def _local_ca(directory: Path, local: dict[str, Any]) -> bytes | None:
    text = _text(local, "ca")
    if not text or not local.get("tls"):
        return None
    return text.encode() if "-----BEGIN" in text else _pem(directory / text)


def _pem(path: Path) -> bytes:
    try:
        found = path.read_bytes()
    except OSError as error:
        raise usage(f"the CA certificate {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise usage(f"{path} holds no certificate", hint="--ca takes a certificate in PEM form")
    return found
