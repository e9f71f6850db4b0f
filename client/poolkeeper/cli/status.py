"""`poolkeeper status`: who this node is, and whether its daemon answers."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from poolkeeper.cli import name, phrase
from poolkeeper.cli.output import Printer
from poolkeeper.cli.problem import Problem, Status

if TYPE_CHECKING:
    from poolkeeper import AllocationRecord
    from poolkeeper.identity import Record

_PATIENCE_S = 2.0

_HEADINGS = (
    ("Allocation", False),
    ("Product", False),
    ("Seats", True),
    ("Kind", False),
    ("State", False),
    ("Holder", False),
    ("Since", False),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said, or why it said nothing."""

    problem: Problem | None = field(default=None)
    allocations: "tuple[AllocationRecord, ...]" = field(default=())


def status(
    *,
    identity: Annotated[Path | None, Parameter(help="The node's identity; else POOLKEEPER_IDENTITY.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> int:
    """Show this node, whether its daemon answers, and what it holds.

    Exits with 3 when no daemon answers, and with 1 when this machine is not enrolled or no longer accepted.
    """
    from poolkeeper.identity import Identity

    found = Identity(identity)
    record = found.load()
    answer = asyncio.run(_ask(identity))
    printer = Printer(as_json=json)
    if json:
        printer.json(_document(found.directory, record, answer))
    else:
        _show(printer, found.directory, record, answer)
    return Status.DONE if answer.problem is None else answer.problem.status


async def _ask(identity: Path | None) -> Answer:
    from poolkeeper.aio import AsyncClient
    from poolkeeper.cli import refusal
    from poolkeeper.errors import PoolkeeperError

    try:
        async with AsyncClient(identity=identity, timeout=_PATIENCE_S) as client:
            return Answer(allocations=await client.list_allocations())
    except PoolkeeperError as error:
        return Answer(problem=refusal.problem(error))


def _document(directory: Path, record: "Record", answer: Answer) -> dict[str, object]:
    return {
        "identity": str(directory),
        "node": record.node,
        "pool": record.pool,
        "domain": record.domain,
        "addresses": list(record.addresses),
        "pin": record.pin,
        "reachable": answer.problem is None or answer.problem.status != Status.UNREACHABLE,
        "problem": answer.problem.what if answer.problem else "",
        "allocations": [
            {
                "name": one.name,
                "product": one.product,
                "kind": one.kind,
                "state": one.state,
                "quantity": one.quantity,
                "demand": dict(one.demand),
                "consumer": one.consumer,
                "installation": one.installation,
                "user": one.user,
                "host": one.host,
                "allocate_time": one.allocate_time.isoformat() if one.allocate_time else None,
            }
            for one in answer.allocations
        ],
    }


def _show(printer: Printer, directory: Path, record: "Record", answer: Answer) -> None:
    lines = {
        "node": name.short(record.node),
        "pool": name.short(record.pool),
        "domain": record.domain,
        "daemon": ", ".join(record.addresses),
        "pin": record.pin,
        "identity": str(directory),
        "state": f"{answer.problem.what}" if answer.problem else "the daemon answers",
        "why": answer.problem.why if answer.problem else "",
        "hint": answer.problem.hint if answer.problem else "",
    }
    printer.table([("", False), ("", False)], [pair for pair in lines.items() if pair[1]], header=False)
    if answer.problem is not None:
        return
    printer.line()
    if not answer.allocations:
        printer.line("Nothing is checked out.")
        return
    printer.table(
        _HEADINGS,
        [
            (
                name.short(one.name),
                name.short(one.product),
                str(one.quantity),
                one.kind,
                one.state,
                one.consumer or one.installation or one.user or one.host,
                phrase.when(one.allocate_time) if one.allocate_time else "",
            )
            for one in answer.allocations
        ],
    )
