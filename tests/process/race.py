"""More callers than seats, from several processes at once, round after round."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.figures import Figures
from tests.process.daemon import PRODUCT, Caller, Office, Processes, ask_all
from tests.process.history import Asked, Event, Granted, Left, Refused, Returned, problems
from tests.process.journal import lines_of, read_history

SEATS = 7
CALLERS = (67, 67, 66)


async def holders(processes: Processes, addresses: Sequence[str], office: Office, directory: Path) -> list[Caller]:
    """Three client processes, each a node of its own with an address of its own."""
    return [
        await Caller.start(
            processes,
            "holder",
            log=directory / f"{name}.log",
            POOLKEEPER_ADDRESS=address,
            POOLKEEPER_IDENTITY=str(await office.identity(name, directory)),
        )
        for name, address in zip(("studio-1", "studio-2", "studio-3"), addresses, strict=True)
    ]


async def race(callers: list[Caller], office: Office, figures: Figures, rounds: int) -> None:
    """Two hundred callers ask for the seven seats; seven get them and give them back, so often."""
    (line,) = await lines_of(office)
    events: list[Event] = []
    numbers = itertools.count()
    for round_ in range(rounds):
        for caller, count in zip(callers, CALLERS, strict=True):
            caller.tell("check_out", callers=count)
        told: list[tuple[int, Any]] = [(caller.pid, one) for caller in callers for one in await caller.hear()]
        granted = sum(bool(one["allocation"]) for _, one in told)
        reasons = [one["reason"] for _, one in told if not one["allocation"]]
        assert (granted, reasons) == (SEATS, ["NO_SEAT_AVAILABLE"] * (sum(CALLERS) - SEATS)), f"round {round_}"
        for pid, one in told:
            # The SDK makes its request ids itself; all that matters here is that each is another.
            request: Any = {"session": str(pid), "request_id": str(next(numbers))}
            when = {"sent": one["asked"], "told": one["told"]}
            events.append(Asked(**request, at=one["asked"]))
            if one["allocation"]:
                events.append(
                    Granted(**request, **when, until=one["until"], allocation=one["allocation"], lines={line: 1})
                )
            else:
                events.append(Refused(**request, **when, reason=one["reason"], product=PRODUCT))
        for caller, back in zip(callers, await ask_all(callers, "check_in"), strict=True):
            for one in back:
                request = {"session": str(caller.pid), "allocation": one["allocation"]}
                events.append(Left(**request, at=one["until"]))
                events.append(Returned(**request, request_id=str(next(numbers)), sent=one["until"], told=one["told"]))
    said = await read_history(office, ())
    history = replace(said, events=tuple(events))
    assert problems(history) == []
    assert len(history.of(Granted)) == len(history.of(Returned)) == rounds * SEATS
    figures.add("histories checked")
    figures.add("requests in them", len(history.of(Asked)))
    figures.add("answers", len(history.of(Asked)) + len(history.of(Returned)))
    figures.add("grants", len(history.of(Granted)))
    figures.add("ledger entries verified", len(history.steps))
