"""What client processes write down as it happens, a line of JSON for each event, so that even a killed one tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.process.daemon import POOL, Office, now
from tests.process.history import (
    Asked,
    Event,
    Granted,
    History,
    Left,
    Line,
    Lost,
    Queued,
    Refused,
    Renewed,
    Returned,
    step_of,
)

_KINDS: Final = {kind.__name__: kind for kind in (Asked, Granted, Left, Lost, Queued, Refused, Renewed, Returned)}


class Journal:
    """Where one client process writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, event: Event) -> None:
        """Keeps an event, whatever becomes of this process."""
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": type(event).__name__, **asdict(event)}) + "\n")


def read_journal(path: Path) -> list[Event]:
    """The events so far; a line that is being written is none yet."""
    *lines, _ = path.read_text().split("\n")
    told = (json.loads(line) for line in lines)
    return [_KINDS[one.pop("kind")](**one) for one in told]


async def read_history(office: Office, journals: Iterable[Path], *, pool: str = POOL) -> History:
    """What the daemon says of a pool, whose clients are at rest but for renewals, and what they have written down."""
    lines = await lines_of(office, pool)
    held = await office.held(pool)
    steps = tuple(step_of(body, pool) for body in await office.ledger(pool))
    read_at = now()
    events = tuple(event for path in journals for event in read_journal(path))
    return History(lines=lines, events=events, steps=steps, held=frozenset(held), read_at=read_at)


async def lines_of(office: Office, pool: str = POOL) -> dict[str, Line]:
    """The licence lines of a pool, by licence id."""
    return {
        short(one.licence): Line(seats=one.counts.total, product=short(one.products[0]))
        for one in (await office.pool(pool)).holdings
    }


def short(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2]
