"""The clocks of an installation whose daemons share one database (architecture section 3a)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.services.clock import (
    FAR,
    FAR_AFTER_BOOT,
    JITTER,
    LONGEST_STEP,
    Standstill,
    TimeSource,
    frozen,
    span,
)
from poolkeeper_server.storage.store import Mark

#: How many microseconds lease time may be ahead of the time that has passed, in all; and what the reading of another
#: daemon may have taken.
_READING: Final = 20_000


class SharedClock:
    """Both clocks, from the mark in the database and the clock of the database's server.

    No daemon's host says what time it is: one that is an hour ahead changes nothing. Lease time advances from one
    commit to the next, whichever daemon makes it, by what the server's clock says, and by `LONGEST_STEP` at most: an
    outage takes no lease from anybody, and neither does a clock that was set (CC-26, CC-27). Civil time freezes as it
    does on one host, with this daemon's own clocks for a witness of how much time has passed.

    A daemon answers for the time in which it takes renewals, and for no other: its first commit moves lease time on by
    nothing, for nobody may have served before, and those after `stop` move it on to that instant at most. So no daemon
    has to know whether it is the only one: while another serves, that one moves lease time on (CC-35).
    """

    def __init__(self, source: TimeSource, mark: Mark, *, on_freeze: Callable[[str], object] | None = None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._last = self._next = mark
        self._monotonic = self._began = source.monotonic()
        self._asked = self._asked_last = source.boot_time()
        #: By how much lease time has been behind the time since the boot at least, as far as this daemon has seen; None
        #: before its first commit.
        self._behind: int | None = None
        self._boot_id = source.boot_id()
        self._newly = ""
        self._accepted = self._accepting = False
        self._on_freeze = on_freeze
        self._stopped = False

    def ask(self) -> None:
        """The server's clock is about to be read."""
        self._asked = self._source.boot_time()

    def moment(self, stored: Mark, told: int) -> Moment:
        """Now, for a transaction that has said `ask`, and then read the newest mark and the server's clock."""
        reference = self._source.database(told)
        with self._lock:
            self._began = self._source.monotonic()
            if self._stopped and reference <= stored.reference:
                self._next, self._newly, self._accepting = stored, "", False
                return Moment(lease=stored.lease, civil=stored.civil, frozen=bool(stored.frozen), epoch=stored.epoch)
            boot_time = self._source.boot_time()
            self._accepting = self._accepted
            least, elapsed = self._passed(stored, boot_time)
            step = reference - stored.reference
            if step < 0 or (elapsed is not None and step > elapsed):
                # A clock that was set takes nothing from any promise, and prolongs none by more than the reading takes.
                step = least
            step = min(step, LONGEST_STEP)
            # Nor does one that is made to run fast for a while.
            most = 0 if self._behind is None else max(0, boot_time - self._behind + _READING - stored.lease)
            step = min(step, most)
            why = "" if self._accepting else self._judge(stored, reference, step, elapsed)
            self._newly = "" if stored.frozen else why
            if self._accepting:
                civil = reference
            elif why:
                civil = stored.civil + step
            else:
                civil = max(stored.civil, reference)
            self._next = Mark(
                epoch=stored.epoch,
                lease=stored.lease + step,
                civil=civil,
                reference=reference,
                boot_id=self._boot_id,
                boot_time=boot_time,
                frozen=why,
            )
            return Moment(lease=self._next.lease, civil=civil, frozen=bool(why), epoch=stored.epoch)

    def _passed(self, stored: Mark, boot_time: int) -> tuple[int, int | None]:
        """How much time has passed since the mark at least, and at most; None when this host cannot tell.

        The server's clock was read for the mark before `stored.boot_time`, and now between `_asked` and `boot_time`.
        """
        least = max(0, self._asked - stored.boot_time) if stored.boot_id == self._boot_id else 0
        if self._behind is not None and (stored.lease == self._last.lease or stored.boot_id != self._boot_id):
            # The mark is of that commit, or of a later one that another host made.
            return least, boot_time - self._asked_last
        if stored.boot_id == self._boot_id:
            return least, max(0, boot_time - stored.boot_time + _READING)
        return least, None

    def _judge(self, stored: Mark, reference: int, step: int, elapsed: int | None) -> str:
        """Why civil time is not to be trusted now; empty when it is."""
        if stored.frozen:
            expected = stored.civil + step
            return "" if expected - JITTER <= reference <= expected + FAR else stored.frozen
        if reference < stored.civil - JITTER:
            return frozen(f"The clock of the database server was set back by {span(stored.civil - reference)}.")
        told = reference - stored.reference
        if told > (FAR_AFTER_BOOT if elapsed is None else elapsed + FAR):
            return frozen(f"The clock of the database server is {span(told)} ahead of the newest record.")
        return ""

    def mark(self, now: Moment) -> Mark:
        """What is written beside the batch that is decided at `now`."""
        del now
        return self._next

    def committed(self, now: Moment) -> None:
        """The batch is on disk."""
        del now
        with self._lock:
            newly = self._newly
            self._last = self._next
            self._monotonic = self._began
            self._asked_last = self._asked
            behind = self._asked - self._next.lease
            self._behind = behind if self._behind is None else max(self._behind, behind)
            if self._accepting:
                self._accepted = self._accepting = False
        if newly and self._on_freeze is not None:
            self._on_freeze(newly)

    def glance(self) -> Moment:
        """Now, reckoned from this daemon's last commit by its monotonic clock."""
        with self._lock:
            elapsed = self._source.monotonic() - self._monotonic
            return Moment(
                lease=self._last.lease + min(elapsed, LONGEST_STEP),
                civil=self._last.civil + elapsed,
                frozen=bool(self._last.frozen),
                epoch=self._last.epoch,
            )

    def accept(self) -> None:
        """Has the next transaction take the server's civil time for right, at an operator's word."""
        with self._lock:
            self._accepted = True

    def stop(self) -> None:
        """Lets time stand from now on, as far as this daemon has a say."""
        with self._lock:
            self._source = Standstill(self._source)
            self._stopped = True

    @property
    def explanation(self) -> str:
        """Why civil time is frozen; empty while it is not."""
        return self._last.frozen

    def reference(self) -> int:
        """What the database server's clock says, reckoned as `glance` does."""
        with self._lock:
            return self._last.reference + self._source.monotonic() - self._monotonic
