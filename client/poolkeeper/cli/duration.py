"""Spans of time as people type them: 30s, 5m, 1h30m, 7d."""

import re
from datetime import timedelta
from itertools import starmap

from google.protobuf.duration_pb2 import Duration

from poolkeeper.cli.problem import usage

_UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_LONGEST = timedelta(days=36_500)


def parse(text: str, *, option: str = "") -> timedelta:
    """The span that `text` means: numbers with ms, s, m, h or d, in any combination, as 1h30m; 0 means no time."""
    compact = text.strip().lower().replace(" ", "")
    parts = _PART.findall(compact)
    if compact == "0":
        return timedelta()
    if not parts or "".join(starmap(str.__add__, parts)) != compact:
        raise _refusal(text, option)
    microseconds = sum(round(float(number) * _UNITS[unit]) for number, unit in parts)
    if microseconds > _LONGEST // timedelta(microseconds=1):
        raise _refusal(text, option)
    return timedelta(microseconds=microseconds)


def message(text: str, *, option: str = "") -> Duration:
    """As `parse`, in the protocol's form."""
    span = Duration()
    span.FromTimedelta(parse(text, option=option))
    return span


def phrase(span: timedelta) -> str:
    """The shortest text that `parse` reads back as the same span, to the millisecond."""
    rest = max(0, round(span / timedelta(milliseconds=1)))
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts) or "0s"


def _refusal(text: str, option: str) -> Exception:
    return usage(
        f"{text!r} is not a span of time{f' for {option}' if option else ''}",
        hint="write numbers with ms, s, m, h or d, for example 30s, 5m, 24h, 7d or 1h30m",
    )
