"""The tables of a run in Markdown, and their place in README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.book import Book, check_outs, cpu, late, rate
from tests.bench.load import Measured
from tests.bench.targets import COMMAND, Target
from tests.process.daemon import REPOSITORY

README: Final = REPOSITORY / "README.md"


def target_rows(book: Book, wanted: list[Target]) -> Iterator[str]:
    """A row for each target: its bound, the figure, whether it is met, what it would be at most, and the command."""
    yield "| target | must | aim | measured | | without deciding | without transactions | command |"
    yield "|---|---|---|---|---|---|---|---|"
    for target in wanted:
        must = "" if target.bound is None else f"{'≤' if target.most else '≥'} {_number(target.bound)}"
        aim = "" if target.aim is None else _number(target.aim)
        if target.figure is None:
            measured, met = "", "not there yet"
        else:
            figure = target.figure(book)
            measured, met = _number(figure), "met" if target.met(figure) else "**not met**"
        bounds = ("" if bound is None else _number(bound(book)) for bound in (target.undecided, target.limit))
        command = COMMAND.format(part=target.part)
        yield f"| {target.text} | {must} | {aim} | {measured} | {met} | {' | '.join(bounds)} | `{command}` |"


def load_rows(book: Book) -> Iterator[str]:
    """A row for each load."""
    yield "| load | requests/s | p50 ms | p99 ms | server CPU µs/request | server cores | server MB | fdatasync ms |"
    yield "|---|---|---|---|---|---|---|---|"
    for title, found in book.loads.items():
        sync = book.median(title, _sync)
        memory = book.median(title, _memory)
        cells = (
            f"{book.median(title, rate):,.0f}" + _check_outs(book, title, found),
            f"{book.median(title, _p50):.2f}",
            f"{book.median(title, late):.2f}",
            f"{book.median(title, cpu):.0f}",
            f"{book.median(title, _cores):.2f}",
            f"{memory:.0f}" if memory else "",
            f"{sync:.2f}" if sync else "",
        )
        yield f"| {title} | {' | '.join(cells)} |"


def figure_rows(book: Book) -> Iterator[str]:
    """A row for each plain figure."""
    yield "| what | figure |"
    yield "|---|---|"
    for title in book.figures:
        yield f"| {title} | {_number(book.figure(title))} |"


def write(text: str, path: Path = README, *, name: str = "bench") -> None:
    """Puts the tables between the marks of that name in the manual."""
    old = path.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {name}: .*?-->\n).*?(\n<!-- end -->)", re.DOTALL)
    new, count = place.subn(lambda found: found[1] + text + found[2], old)
    if count != 1:
        raise SystemExit(f"{path} has {count} places for the tables of {name}")
    path.write_text(new, encoding="utf-8")


def _check_outs(book: Book, title: str, found: list[Measured]) -> str:
    """Of batches, how many check-outs that are."""
    if all(one.check_outs <= one.requests for one in found):
        return ""
    return f" ({book.median(title, check_outs):,.0f} check-outs/s)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def _p50(measured: Measured) -> float:
    return measured.p50


def _sync(measured: Measured) -> float:
    return measured.sync


def _memory(measured: Measured) -> float:
    return measured.memory


def _cores(measured: Measured) -> float:
    return measured.cores
