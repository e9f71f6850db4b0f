"""`poolkeeper enrol`: this machine becomes a node."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from poolkeeper.cli import argument, name, screen
from poolkeeper.cli.output import Printer
from poolkeeper.cli.problem import Problem, usage

if TYPE_CHECKING:
    from poolkeeper.identity import Record

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


def enrol(
    address: Annotated[str, Parameter(help="HOST:PORT of the daemon; several with commas between.")],
    /,
    *,
    pool: argument.Pool,
    code: Annotated[str, Parameter(help="The eight digits.")],
    pin: Annotated[str | None, Parameter(help="What the daemon is known by, as K7QF-2M4D-XR3P.")] = None,
    trust_first_use: Annotated[
        bool, Parameter(help="Without a pin: believe whoever answers at the address now.")
    ] = False,
    identity: Annotated[
        Path | None, Parameter(help="Directory for this node's key and record; else POOLKEEPER_IDENTITY.")
    ] = None,
    domain: Annotated[
        str | None, Parameter(help="The code is for this domain of the node, which keeps its key.")
    ] = None,
    wait: Annotated[bool, Parameter(help="When an admin must approve this node: wait for that.")] = False,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> None:
    """Enrol this machine with a code that an admin issued."""
    if pin and trust_first_use:
        raise usage("--pin and --trust-first-use were both given", hint="a pin is enough; leave the other out")
    record = asyncio.run(
        _enrol(
            address,
            code,
            pool=name.pool(pool),
            pin=pin,
            trust_first_use=trust_first_use,
            identity=identity,
            domain=domain,
            wait=wait,
        )
    )
    printer = Printer(as_json=json)
    if json:
        printer.json({"node": record.node, "pool": record.pool, "domain": record.domain, "pin": record.pin})
        return
    domain = f", domain {record.domain}" if record.domain else ""
    printer.line(f"Enrolled as {name.short(record.node)} in {name.short(record.pool)}{domain}.")


async def _enrol(
    address: str,
    code: str,
    *,
    pool: str,
    pin: str | None,
    trust_first_use: bool,
    identity: Path | None,
    domain: str | None,
    wait: bool,
) -> "Record":
    from poolkeeper import aio
    from poolkeeper.errors import EnrolmentPending, TooManyAttempts, Unreachable

    pause, told = _FIRST_PAUSE_S, False
    while True:
        try:
            return await aio.enrol(
                address,
                code,
                pool=pool,
                pin=pin,
                trust_first_use=trust_first_use,
                identity=identity,
                domain=domain,
            )
        except EnrolmentPending as pending:
            if not wait:
                raise Problem(
                    "an admin must approve this node",
                    why="enrolment into this pool waits for an admin at the moment; the code is kept for it",
                    hint=f"read this fingerprint to the admin: {grouped(pending.fingerprint)}\n"
                    "and type the same line again after the approval, or now with --wait",
                ) from pending
            if not told:
                told = True
                screen.tell(
                    "poolkeeper: waiting for an admin to approve this node; its fingerprint is",
                    f"  {grouped(pending.fingerprint)}",
                )
        except (TooManyAttempts, Unreachable) as error:
            # Once it waits for a person, it waits through what a daemon may go through meanwhile.
            if not told:
                raise
            pause = max(pause, error.retry_after or 0.0)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def grouped(fingerprint: str) -> str:
    """A fingerprint in groups of four, as it is read aloud."""
    return " ".join(fingerprint[start : start + 4] for start in range(0, len(fingerprint), 4))
