"""New ids: unique, and in the order of time, so that the store appends them at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

_ALPHABET = "0123456789abcdefghijklmnopqrstuv"
#: Digits are written two at a time.
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def _text(value: int, digits: int) -> str:
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(5 * (digits - 2), -1, -10)])


def new_ids() -> Iterator[str]:
    """Ids of 24 characters: 10 of milliseconds, 14 that start at random and count on."""
    prefix = _text(time.time_ns() // 1_000_000, 10)
    tail = int.from_bytes(os.urandom(8), "big")
    while True:
        high, low = divmod(tail, 1 << 20)
        start = prefix + _text(high, 10)
        for count in range(low, 1 << 20):
            yield start + _PAIRS[count >> 10] + _PAIRS[count & 1023]
        tail = (high + 1) << 20


def new_id() -> str:
    """One new id."""
    return next(new_ids())
