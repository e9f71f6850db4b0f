"""Tables of holdings: the shares of licences in pools."""

from collections.abc import Sequence

from poolkeeper.cli import name, phrase
from poolkeeper.cli.output import Printer
from poolkeeper.v1 import admin_pb2 as pb

_HEADINGS = (
    ("Pool", False),
    ("Licence", False),
    ("Order", False),
    ("Products", False),
    ("Valid", False),
    ("Total", True),
    ("Allocated", True),
    ("Quarantine", True),
    ("Free", True),
)


def validity(first: str, last: str) -> str:
    """A licence's first and last day; empty when it has neither."""
    return f"{first or '…'} to {last or '…'}" if first or last else ""


def show(printer: Printer, holdings: Sequence[pb.Holding]) -> None:
    """One row for each holding, below what was printed before."""
    if printer.as_json or not holdings:
        return
    printer.line()
    printer.table(
        _HEADINGS,
        [
            (
                name.short(holding.pool),
                name.short(holding.licence),
                holding.order_number,
                phrase.names(holding.products),
                validity(holding.valid_from, holding.valid_until),
                str(holding.counts.total),
                phrase.allocated(holding.counts),
                str(holding.counts.quarantined),
                str(holding.counts.available),
            )
            for holding in holdings
        ],
    )
