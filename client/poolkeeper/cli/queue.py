"""A place in the queue, kept up to date on a terminal's last line."""

import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from poolkeeper.cli import phrase, screen

if TYPE_CHECKING:
    from poolkeeper import Place


class Queue:
    """Tells where a check-out stands; on a terminal in place, elsewhere a line for each change."""

    def __init__(self, product: str) -> None:
        """Says nothing before the first news."""
        self._product = product
        self._live = sys.stderr.isatty()
        self._told = ""

    def __enter__(self) -> Self:
        """The display."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves a clean line."""
        if self._told and self._live:
            screen.show_live("")

    def moved(self, place: "Place") -> None:
        """The daemon told the place."""
        text = describe(self._product, place, now=datetime.now(UTC))
        if text == self._told:
            return
        self._told = text
        if self._live:
            screen.show_live(text)
        else:
            screen.tell(text)


def describe(product: str, place: "Place", *, now: datetime) -> str:
    """One line about a place in the queue."""
    text = f"poolkeeper: waiting for {product}, place {place.number}"
    if place.estimate is None:
        return f"{text}; nothing tells when a seat comes free"
    late = " (overdue)" if place.estimate < now else ""
    return f"{text}; a seat is expected at {phrase.when(place.estimate)}{late}"
