"""Ledgers on their way from the daemon, or from a file, with a bar that shows how far they are."""

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from poolkeeper.cli.connection import Admin
from poolkeeper.cli.problem import usage
from poolkeeper.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def items(admin: Admin, pool: str) -> Iterator[pb.ExportLedgerResponse]:
    """The whole ledger of a pool, as the daemon sends it."""
    from poolkeeper.v1.admin_pb2_grpc import LedgerServiceStub

    return admin.stream(LedgerServiceStub(admin.channel).ExportLedger, pb.ExportLedgerRequest(name=pool))


def head(admin: Admin, pool: str) -> int:
    """The number of a ledger's last entry; 0 when it has none."""
    from poolkeeper.v1.admin_pb2_grpc import LedgerServiceStub

    newest = admin.call(
        LedgerServiceStub(admin.channel).ListEntries,
        pb.ListEntriesRequest(parent=pool, page_size=1, newest_first=True),
    )
    return newest.entries[0].sequence if newest.entries else 0


def keys(admin: Admin) -> dict[str, bytes]:
    """The installation's public keys by key id, as the daemon tells them."""
    from poolkeeper.v1.licensing_pb2 import GetServerInfoRequest
    from poolkeeper.v1.licensing_pb2_grpc import LicensingServiceStub

    info = admin.call(LicensingServiceStub(admin.channel).GetServerInfo, GetServerInfoRequest())
    return {key.key_id: key.public_key for key in info.signing_keys}


def keys_text(found: dict[str, bytes]) -> str:
    """Public keys as the text of a key file: base64 by key id, in JSON."""
    encoded = {key_id: base64.b64encode(key).decode() for key_id, key in found.items()}
    return f"{json.dumps(encoded, indent=2)}\n"


def read_keys(path: Path) -> dict[str, bytes]:
    """The public keys in a key file."""
    from poolkeeper.ledger import parse_keys

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return parse_keys(found)
    except RecursionError as error:
        raise usage(f"the keys in {path} are nested too deeply", hint="`poolkeeper ledger keys` writes them") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise usage(
            f"the keys cannot be read from {path}: {error}", hint="`poolkeeper ledger keys` writes them"
        ) from error


def line(item: pb.ExportLedgerResponse) -> str:
    """One item as a line of an export file."""
    from google.protobuf.json_format import MessageToJson

    text: str = MessageToJson(item, preserving_proto_field_name=True, indent=None)
    return f"{text}\n"


def write(path: Path, text: str) -> None:
    """Replaces a file that the user named."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise usage(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def progress(words: str, total: int | None) -> "Iterator[Callable[[Iterable[T]], Iterator[T]]]":
    """Wraps an iteration so that a terminal sees how far it is; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield iter
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:
        task = bar.add_task(words, total=total)

        def shown(iterable: Iterable[T]) -> Iterator[T]:
            for item in iterable:
                yield item
                bar.advance(task)

        yield shown
