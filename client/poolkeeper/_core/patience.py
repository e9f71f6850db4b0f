"""How long to wait for a connection, and for an answer that does not come."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 20.0
"""Seconds that an answer is waited for at most, unless more was asked for from the beginning."""

QUICKEST: Final = 1.0
"""Seconds that an answer is waited for at least, however little time there is."""

FIRST: Final = 5.0
"""Seconds at first for a connection, and for an answer while nothing has come through the line yet."""

HANDSHAKE: Final = 4.0
"""Seconds of silence on a handshake, at first, after which another daemon is asked for one beside it.

A host takes connections for a daemon that hangs as well, and for one that has a crowd to greet. The longer this is, the
later the first is passed over; the shorter, the more often the second is asked for what nobody wants any more.
"""


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

    @property
    def first(self) -> float:
        """Seconds for a connection, or a first answer, this time: `FIRST` at first, never more than `LONGEST`."""
        # The exponent is bounded, or days of silence would end in an overflow.
        return min(FIRST * 2.0 ** min(self._silences, 32), LONGEST)

    @property
    def handshake(self) -> float:
        """Seconds for a handshake this time until another daemon is asked: always the same part of `first`.

        Who has met silence may stand in a crowd, which makes the next handshake slow as well.
        """
        return self.first * HANDSHAKE / FIRST
