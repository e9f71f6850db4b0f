"""`poolkeeper ledger`: the record of every change of seats in a pool, and its proof."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._core.entry import EntryBody, Unreadable, instant, read_entry
from poolkeeper.cli import argument, export, name, phrase, screen, verification
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.cli.problem import usage
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import LedgerServiceStub

app = App(name="ledger", default_parameter=Parameter(negative=(), show_default=False))


def _read(entry: pb.LedgerEntry) -> EntryBody | None:
    try:
        return read_entry(entry.body)
    except Unreadable:
        return None


def _time(entry: pb.LedgerEntry) -> str:
    body = _read(entry)
    try:
        return phrase.when(instant(body.at)) if body is not None and body.at else ""
    except Unreadable:
        return ""


def _event(entry: pb.LedgerEntry) -> str:
    body = _read(entry)
    return body.event if body is not None else "(unreadable)"


def _allocation(entry: pb.LedgerEntry) -> str:
    body = _read(entry)
    told = body.allocation if body is not None else None
    return f"{told.id} {told.state} x{told.quantity}" if told is not None else ""


def _changes(entry: pb.LedgerEntry) -> str:
    body = _read(entry)
    changes = []
    for licence, deltas in body.lines if body is not None else ():
        words = [
            f"{delta:+d} {what}"
            for what, delta in zip(("count", "active", "quarantined"), deltas, strict=True)
            if delta
        ]
        changes.append(f"{name.short(licence)}: {', '.join(words) or 'nothing'}")
    return "; ".join(changes)


def _over(entry: pb.LedgerEntry) -> str:
    body = _read(entry)
    return ", ".join(body.over) if body is not None else ""


COLUMNS: tuple[Column[pb.LedgerEntry], ...] = (
    Column("Entry", lambda entry: str(entry.sequence), number=True),
    Column("Time", _time),
    Column("Event", _event),
    Column("Seats", _changes),
    Column("Allocation", _allocation),
    Column("Over", _over),
    Column("Hash", lambda entry: entry.hash.hex()[:12]),
)


@app.command
def show(
    pool: argument.Pool,
    /,
    *,
    newest_first: Annotated[bool, Parameter(help="The newest entry first.")] = False,
    paging: Paging = ALL,
    connection: Connection = HERE,
) -> None:
    """Show the entries of a pool's ledger."""
    parent = name.pool(pool)
    with connection.open() as admin:
        found = admin.pages(
            LedgerServiceStub(admin.channel).ListEntries,
            lambda size, token: pb.ListEntriesRequest(
                parent=parent, page_size=size, page_token=token, newest_first=newest_first
            ),
            lambda page: page.entries,
            paging,
        )
    connection.printer.many(
        found.items, COLUMNS, field="entries", next_page_token=found.next_page_token, empty="The ledger is empty."
    )


@app.command(name="export")
def export_(
    pool: argument.Pool,
    /,
    *,
    output: Annotated[Path | None, Parameter(help="File to write; standard output without it.")] = None,
    keys_out: Annotated[
        Path | None, Parameter(help="File for the installation's public keys, which a verification needs.")
    ] = None,
    connection: Connection = HERE,
) -> None:
    """Write a pool's whole ledger, an entry or a signed statement on each line, in JSON."""
    parent = name.pool(pool)
    with connection.open() as admin:
        if keys_out is not None:
            export.write(keys_out, export.keys_text(export.keys(admin)))
        lines = (export.line(item) for item in export.items(admin, parent))
        if output is None:
            screen.write_json(lines)
            return
        with export.progress("Exporting", export.head(admin, parent)) as shown:
            _write_lines(output, shown(lines))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise usage(f"{path} cannot be written: {error.strerror}") from error
    with file:
        file.writelines(lines)


@app.command
def keys(
    *,
    output: Annotated[Path | None, Parameter(help="File to write; standard output without it.")] = None,
    connection: Connection = HERE,
) -> None:
    """Write the installation's public keys; kept elsewhere, they prove an export without the daemon."""
    with connection.open() as admin:
        text = export.keys_text(export.keys(admin))
    if output is None:
        screen.write_json((text,))
    else:
        export.write(output, text)


@app.command
def verify(
    pool: Annotated[
        str, Parameter(help="The pool, for example acme/west; with --file, what the file must be about.")
    ] = "",
    /,
    *,
    file: Annotated[Path | None, Parameter(help="Verify this export, without asking any daemon.")] = None,
    keys: Annotated[
        Path | None, Parameter(help="The public keys, kept since `ledger keys` wrote them; needed with --file.")
    ] = None,
    connection: Connection = HERE,
) -> int:
    """Replay a ledger here and prove that no seat was ever held twice.

    Exits with 1 when anything does not fit. Nothing is believed that the keys do not prove; without --keys they are
    asked of the daemon itself, which then vouches for itself.
    """
    parent = name.pool(pool) if pool else ""
    if file is not None:
        if keys is None:
            raise usage("--file needs --keys", hint="`poolkeeper ledger keys` wrote them, or `export --keys-out`")
        verdict = verification.of_file(file, export.read_keys(keys), pool=parent)
    elif not parent:
        raise usage("neither a pool nor a --file to verify", hint="for example poolkeeper ledger verify acme/west")
    else:
        with connection.open() as admin:
            verdict = verification.of_daemon(admin, parent, export.read_keys(keys) if keys else None)
    return verification.show(connection.printer, verdict)
