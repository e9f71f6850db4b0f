"""How long to wait for a connection, and for an answer that does not come."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 20.0
"""Seconds that an answer is waited for at most, unless more was asked for from the beginning."""

QUICKEST: Final = 1.0
"""Seconds that an answer is waited for at least, however little time there is."""

FIRST: Final = 5.0
"""Seconds at first for a connection, and for an answer while nothing has come through the line yet."""


class Patience:
    """Of one who has heard nothing yet: twice as much after each silence, and half of that again after each answer.

    A daemon that a crowd asks at once answers one after the other. Whoever gives up and asks again goes to the end of
    the line, and what was done for it already is lost. When all do so after the same few seconds, the daemon works for
    those who have just gone, and nobody is served any more (the simulation of tests/bench/growth shows it).
    """

    __slots__ = ("_silences",)

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._silences = 0

    def heard(self) -> None:
        """A daemon has answered, were it with a refusal.

        It may have been slow to, so patience goes as it came: a step at a time.
        """
        self._silences = max(0, self._silences - 1)

    def unheard(self) -> None:
        """Something was waited for in vain. A connection that is refused or breaks is not silence."""
        self._silences += 1

    def of(self, least: float) -> float:
        """Seconds to wait this time: at first `least`, and later never more than `LONGEST`."""
        # The exponent is bounded, or days of silence would end in an overflow.
        return min(least * 2.0 ** min(self._silences, 32), LONGEST)
