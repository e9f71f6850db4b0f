"""Measures the daemon as it is shipped, beside what gRPC and PostgreSQL do at best: `tests/bench/run`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.bench import batches, calls, clusters, crashes, delays, expiries, heartbeats, leases, machine, storms, table
from tests.bench.bench import Bench, Part, say
from tests.bench.book import Book
from tests.bench.load import BUILT, BrokenBenchmark
from tests.bench.scale import FULL, SHORT, Scale
from tests.bench.targets import Target, targets

PARTS: Final[dict[str, Part]] = {
    "calls": calls.measure,
    "batches": batches.measure,
    "heartbeats": heartbeats.measure,
    "delays": delays.measure,
    "leases": leases.measure,
    "expiries": expiries.measure,
    "clusters": clusters.measure,
    "crashes": crashes.measure,
    "storms": storms.measure,
}


def main() -> int:
    """Measures, prints the tables, and puts those of a whole run into the manual."""
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--short", action="store_true", help="see in minutes that every measurement works; no figures")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; leaves the manual as it is")
    given = parser.parse_args()
    scale = SHORT if given.short else FULL
    parts = given.only or list(PARTS)
    before = os.getloadavg()[0]
    begun = datetime.now().astimezone()
    try:
        book, took = asyncio.run(_measured(scale, parts))
        wanted = [target for target in targets(scale) if target.part in parts]
        text = _text(book, wanted, head=_head(begun, before, scale))
    except BrokenBenchmark as error:
        say(f"tests/bench/run: {error}")
        return 1
    # What a short run has measured says nothing of speed, so nobody should read it.
    told = f"All {len(book.loads)} loads and {len(wanted)} targets can be measured." if given.short else text
    sys.stdout.write(told + "\n")
    name = "short" if given.short else "results" if not given.only else "-".join(parts)
    found = {"begun": begun.isoformat(), "machine": machine.described(), "seconds": took, "scale": repr(scale)}
    (BUILT / f"{name}.json").write_text(json.dumps(found | _figures(book, wanted) | book.raw(), indent=1))
    if not given.short and not given.only:
        table.write(text)
    return 0


async def _measured(scale: Scale, parts: list[str]) -> tuple[Book, dict[str, float]]:
    """What all parts have measured, and how long each took."""
    book = Book()
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="poolkeeper-bench-") as directory:
        bench = Bench(scale, Path(directory), book)
        for name in parts:
            begun = time.perf_counter()
            await PARTS[name](bench)
            took[name] = round(time.perf_counter() - begun, 1)
            say(f"{name}: {took[name]} s")
    return book, took


def _head(begun: datetime, before: float, scale: Scale) -> str:
    return (
        f"Measured on {begun:%Y-%m-%d} on {machine.described()}, daemon and generator on the same cores, medians of "
        f"{scale.rounds}; load average {before:.1f} before."
    )


def _text(book: Book, wanted: list[Target], *, head: str) -> str:
    """The tables. What a target needs and no part has measured is a fault of the benchmark."""
    try:
        parts = [head, "", *table.target_rows(book, wanted)]
        if book.loads:
            parts += ["", *table.load_rows(book)]
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise BrokenBenchmark(f"a figure is missing: {error!r}") from error
    if book.figures:
        parts += ["", *table.figure_rows(book)]
    return "\n".join(parts)


def _figures(book: Book, wanted: list[Target]) -> dict[str, object]:
    """Every target with its figure, and whether the generator was fit to measure it."""
    rows = [
        {
            "target": one.text,
            "bound": one.bound,
            "figure": figure,
            "met": one.met(figure),
            "undecided": one.undecided(book) if one.undecided else None,
            "limit": one.limit(book) if one.limit else None,
        }
        for one in wanted
        if one.figure is not None
        for figure in (one.figure(book),)
    ]
    return {"targets": rows}


if __name__ == "__main__":
    sys.exit(main())
