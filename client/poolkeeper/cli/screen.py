"""The screen of whoever typed a command: every line for people goes through here and comes out as a line of text.

Names, reasons and refusals come from nodes, from other admins, from a daemon that may be hostile, and from files. None
of that may move the cursor, colour or hide what stands beside it, write a line of its own, or reorder it.
"""

import json
import logging
import sys
from collections.abc import Iterable
from typing import TextIO

_STRANGE = "\N{REPLACEMENT CHARACTER}"


def plain(text: str) -> str:
    """The text in one line, and nothing in it that a terminal obeys: no control, format or unknown character."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else " " if char.isspace() and char > "\x7f" else _STRANGE for char in text
    )


def exact(text: str) -> str:
    """JSON text that says just the same with what a terminal might obey written as escapes."""
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def say(*lines: str) -> None:
    """Lines on standard output."""
    _write(sys.stdout, lines)


def tell(*lines: str) -> None:
    """Lines on standard error, at once."""
    _write(sys.stderr, lines)
    sys.stderr.flush()


def write_json(texts: Iterable[str]) -> None:
    """JSON on standard output, with its own line breaks."""
    for text in texts:
        _encoded(sys.stdout, exact(text))


def show_live(text: str) -> None:
    """Replaces the last line of standard error, which must be a terminal; an empty text clears it."""
    sys.stderr.write(f"\r\x1b[2K{plain(text)}")
    sys.stderr.flush()


def speak_warnings() -> None:
    """Has what libraries log said like everything else, unless somebody has arranged for it already."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_Spoken())


class _Spoken(logging.Handler):
    """Tells what was logged as a line of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        first, *others = self.format(record).split("\n")
        tell(f"poolkeeper: {first}", *(f"  {line}" for line in others))


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    for line in lines:
        _encoded(stream, f"{plain(line)}\n")


def _encoded(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:
        # A terminal of another language gets what it has no letters for as numbers, rather than nothing.
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
