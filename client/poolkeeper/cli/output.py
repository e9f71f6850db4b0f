"""What a command prints: a table for people, JSON for programs.

A terminal gets headings in bold and colour; a pipe gets the same columns without either, never folded or cut.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Generic, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from poolkeeper.cli import screen

M = TypeVar("M", bound=Message)

# A pipe has no width; this is more than any row.
_UNBOUNDED = 100_000


@dataclass(frozen=True, slots=True)
class Column(Generic[M]):
    """One column of a listing and one line of a single resource's description."""

    heading: str
    text: Callable[[M], str]
    number: bool = False


def document(message: Message) -> dict[str, object]:
    """The proto JSON mapping of a message, with proto field names and with the fields that have no value."""
    found: dict[str, object] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def table(headings: Iterable[tuple[str, bool]], rows: Iterable[Sequence[str]], *, width: int = 0) -> str:
    """Rows under headings (each with whether it holds numbers) as plain text; `width` 0 folds nothing."""
    sink = StringIO()
    console = Console(
        file=sink, width=width or _UNBOUNDED, color_system=None, highlight=False, markup=False, emoji=False
    )
    console.print(_grid(headings, rows), soft_wrap=not width)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _grid(headings: Iterable[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, number in headings:
        grid.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        # As Text: rich looks for markup, links and the names of emoji in what is only a string.
        grid.add_row(*(Text(screen.plain(text)) for text in row))
    return grid


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Printer:
    """Writes results to standard output, as JSON or for people."""

    as_json: bool

    def one(self, message: M, columns: Sequence[Column[M]], *, extra: Mapping[str, str] | None = None) -> None:
        """One resource: its JSON, or a line for each column that has something to say, and then `extra`."""
        if self.as_json:
            self.json(document(message))
            return
        lines = {column.heading: column.text(message) for column in columns} | dict(extra or {})
        self.table(
            [("", False), ("", False)],
            [(heading.lower(), text) for heading, text in lines.items() if text],
            header=False,
        )

    def many(
        self,
        messages: Sequence[M],
        columns: Sequence[Column[M]],
        *,
        field: str,
        next_page_token: str = "",
        empty: str,
    ) -> None:
        """A listing: one JSON object with the array and `next_page_token`, or a row for each message."""
        if self.as_json:
            self.json({field: [document(message) for message in messages], "next_page_token": next_page_token})
            return
        if messages:
            self.table(
                [(column.heading, column.number) for column in columns],
                [[column.text(message) for column in columns] for message in messages],
            )
        else:
            self.line(empty)
        if next_page_token:
            self.line(f"More: --page-token={shlex.quote(next_page_token)}")

    def table(
        self, headings: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], *, header: bool = True
    ) -> None:
        """Rows under headings, each with whether it holds numbers."""
        if sys.stdout.isatty():
            # Width is scarce here, and what no row has needs no column; a pipe gets the same columns every time.
            wanted = [number for number in range(len(headings)) if any(row[number] for row in rows)]
            grid = _grid([headings[number] for number in wanted], [[row[number] for number in wanted] for row in rows])
            grid.show_header = header
            _console().print(grid)
        else:
            screen.say(*table(headings, rows).split("\n")[0 if header else 1 :])

    def line(self, text: str = "", *, style: str = "") -> None:
        """One line for people; its style shows on a terminal."""
        if style and sys.stdout.isatty():
            _console().print(Text(screen.plain(text), style=style), soft_wrap=True)
        else:
            screen.say(text)

    def json(self, found: object) -> None:
        """One JSON document."""
        screen.write_json((f"{json.dumps(found, indent=2, ensure_ascii=False)}\n",))


def warn(text: str) -> None:
    """A line on standard error, in yellow on a terminal."""
    _console(stderr=True).print(Text(screen.plain(text), style="yellow"), soft_wrap=True)
