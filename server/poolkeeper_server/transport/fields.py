"""Single fields of requests, read with a refusal that names the field where they are not as they should be."""

import datetime as dt
import hashlib
import re
from collections.abc import Mapping

from google.protobuf.message import Message

from poolkeeper_server.domain.records import Pairs
from poolkeeper_server.domain.refusal import invalid
from poolkeeper_server.services.contract import PageRequest
from poolkeeper_server.transport.texts import text

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAY = 86_400_000_000
_EPOCH = dt.date(1970, 1, 1).toordinal()
_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1_000
_LARGEST_UNIT = 1_000_000_000
_MOST_UNITS = 64


def digest_of(request: Message) -> bytes:
    """A digest of everything that a request says, by which a repetition is told from a different request."""
    return hashlib.sha256(
        request.DESCRIPTOR.full_name.encode() + b"\0" + request.SerializeToString(deterministic=True)
    ).digest()


def page_of(size: int, token: str) -> PageRequest:
    """The page asked for: 100 items when 0, never more than 1,000."""
    if size < 0:
        raise invalid("page_size", f"page_size is {size}.", hint="It must be 0 or more.")
    return PageRequest(min(size or _DEFAULT_PAGE, _LARGEST_PAGE), token)


def count_of(value: int, field: str, *, most: int, least: int = 1) -> int:
    """A count from `least` to `most`."""
    if not least <= value <= most:
        raise invalid(field, f"{field} is {value}.", hint=f"It must be from {least} to {most:,}.")
    return value


def units_of(units: Mapping[str, int], field: str, *, least: int = 1) -> Pairs:
    """Units by name, sorted; each at least `least`, and not so many that a list of products were too long to read."""
    if len(units) > _MOST_UNITS:
        raise invalid(field, f"{field} has {len(units):,} units.", hint=f"It may have {_MOST_UNITS} at most.")
    found = {}
    for name, value in units.items():
        unit = text(name, field, required=True)
        found[unit] = count_of(value, f"{field}[{unit}]", least=least, most=_LARGEST_UNIT)
    return tuple(sorted(found.items()))


def first_moment(date: str, field: str) -> int | None:
    """The first microsecond of a day written YYYY-MM-DD, in UTC; None when it is empty."""
    if not date:
        return None
    try:
        # By itself fromisoformat takes weeks and dates without hyphens too.
        day = dt.date.fromisoformat(date if _DATE.fullmatch(date) else "")
    except ValueError as error:
        raise invalid(field, f"{field} is no date.", hint="Write it as 2031-12-31.") from error
    return (day.toordinal() - _EPOCH) * _DAY


def end_of(date: str, field: str) -> int | None:
    """The first microsecond after a day; None when it is empty."""
    first = first_moment(date, field)
    return None if first is None else first + _DAY


def date_of(moment: int | None) -> str:
    """The day in UTC to which a moment belongs; empty for None."""
    return "" if moment is None else dt.date.fromordinal(_EPOCH + moment // _DAY).isoformat()


def last_date_before(moment: int | None) -> str:
    """The last day before a moment; empty for None."""
    return date_of(None if moment is None else moment - 1)
