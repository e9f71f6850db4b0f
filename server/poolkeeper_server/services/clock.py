"""The installation's two clocks (architecture section 3a)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from poolkeeper_server.domain.moment import DAY, MINUTE, SECOND, Moment
from poolkeeper_server.storage.store import Mark

#: The most that lease time advances between two commits; the daemon commits every second, so more is an outage.
LONGEST_STEP = 2 * SECOND
#: How far civil time may be ahead of what the monotonic clock explains.
FAR = 5 * MINUTE
#: How far ahead it may be after the host was switched off, for nobody knows how long.
FAR_AFTER_BOOT = 7 * DAY
#: How far civil time may step back unnoticed, as time servers make it do.
JITTER = SECOND


class TimeSource(Protocol):
    """What the host says: microseconds of a monotonic clock, of UTC, and since the boot, and the boot's id."""

    def monotonic(self) -> int:
        """Microseconds that never go back within this process."""

    def civil(self) -> int:
        """Microseconds UTC since 1970."""

    def boot_time(self) -> int:
        """Microseconds since the host booted."""

    def boot_id(self) -> str:
        """Another one after every boot."""

    def database(self, told: int) -> int:
        """Microseconds UTC by the clock of a database server, which has just told them."""


class HostTime:
    """The host's clocks."""

    def monotonic(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns() // 1000

    def civil(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns() // 1000

    def boot_time(self) -> int:
        """CLOCK_BOOTTIME, which nobody who changes the date touches."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def boot_id(self) -> str:
        """From /proc."""
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def database(self, told: int) -> int:
        """As it was told."""
        return told


class Standstill:
    """A host's clocks as they stood at one instant; what a database server tells later is set back to it."""

    def __init__(self, source: TimeSource) -> None:
        self._source = source
        self._monotonic = source.monotonic()
        self._civil = source.civil()
        self._boot_time = source.boot_time()
        self._boot_id = source.boot_id()

    def monotonic(self) -> int:
        """As it was."""
        return self._monotonic

    def civil(self) -> int:
        """As it was."""
        return self._civil

    def boot_time(self) -> int:
        """As it was."""
        return self._boot_time

    def boot_id(self) -> str:
        """As ever."""
        return self._boot_id

    def database(self, told: int) -> int:
        """What the server's clock said at that instant."""
        return self._source.database(told) - (self._source.monotonic() - self._monotonic)


class Clock(Protocol):
    """What the services ask of the installation's clocks."""

    def glance(self) -> Moment:
        """Now, as far as this daemon can tell without the database; changes nothing."""

    def accept(self) -> None:
        """Has the next transaction take the reference's civil time for right, at an operator's word."""

    def stop(self) -> None:
        """Told when this daemon takes no renewals any more: it moves lease time on to this instant, and no further.

        What was asked before is decided at this instant too. Daemons that go on serving move lease time on (CC-35).
        """

    @property
    def explanation(self) -> str:
        """Why civil time is frozen; empty while it is not."""

    def reference(self) -> int:
        """What the clock says from which civil time is taken, trusted or not."""


class HostClock:
    """The clocks of an installation with one daemon, from those of its host.

    Lease time, which runs only while the service can commit, and civil time, as far as it can be trusted.

    Lease time advances from commit to commit by what the monotonic clock says, and by `LONGEST_STEP` at most: an
    outage of the daemon or its store, however long, takes no lease from anybody (CC-26). Civil time that falls behind
    the newest commit, or runs ahead of what the monotonic clock explains, freezes: from then on it is reckoned by the
    monotonic clock, until the host's time fits again or an operator accepts it (CC-27).
    """

    def __init__(self, source: TimeSource, mark: Mark, *, on_freeze: Callable[[str], object] | None = None) -> None:
        self._source = source
        self._epoch = mark.epoch
        self._lease = mark.lease
        self._civil = mark.civil
        self._lock = threading.Lock()
        self._monotonic = self._began = source.monotonic()
        self._boot_id = source.boot_id()
        self._boot_offset = source.boot_time() - self._monotonic
        self._frozen = ""
        self._accepted = False
        self._on_freeze = on_freeze
        self._check_start(mark)

    def _check_start(self, mark: Mark) -> None:
        host = self._source.civil()
        same_boot = mark.boot_id == self._boot_id
        # After a boot nothing tells how long the host was off.
        explained = mark.civil + max(0, self._source.boot_time() - mark.boot_time) if same_boot else mark.civil
        self._civil = explained
        if host < mark.civil - JITTER:
            self._froze(f"The host's clock is {span(mark.civil - host)} behind the newest record.")
        elif host > explained + (FAR if same_boot else FAR_AFTER_BOOT):
            self._froze(f"The host's clock is {span(host - explained)} ahead of the time that has passed.")
        else:
            self._civil = max(mark.civil, host)

    def moment(self) -> Moment:
        """Now, for a transaction: one at a time, on whichever thread. Nothing has advanced until `committed`."""
        with self._lock:
            monotonic = self._source.monotonic()
            host = self._source.civil()
            elapsed = monotonic - self._monotonic
            self._judge(host, elapsed)
            self._began = monotonic
            return self._reckon(host, elapsed)

    def glance(self) -> Moment:
        """Now, for everybody else; changes nothing."""
        with self._lock:
            return self._reckon(self._source.civil(), self._source.monotonic() - self._monotonic)

    def _reckon(self, host: int, elapsed: int) -> Moment:
        expected = self._civil + elapsed
        civil = expected if self._frozen or host > expected + FAR else max(self._civil, host)
        return Moment(
            lease=self._lease + min(elapsed, LONGEST_STEP),
            civil=civil,
            frozen=bool(self._frozen),
            epoch=self._epoch,
        )

    def _judge(self, host: int, elapsed: int) -> None:
        """Freezes civil time, or thaws it, by what the host says now."""
        expected = self._civil + elapsed
        if self._accepted:
            self._accepted = False
            self._frozen = ""
            self._civil = host - elapsed
        elif self._frozen:
            if expected - JITTER <= host <= expected + FAR:
                self._frozen = ""
        elif host < self._civil - JITTER:
            self._froze(f"The host's clock was set back by {span(expected - host)}.")
        elif host > expected + FAR:
            self._froze(f"The host's clock was set ahead by {span(host - expected)}.")

    def mark(self, now: Moment) -> Mark:
        """What is written beside a batch decided at `now`."""
        with self._lock:
            return Mark(
                epoch=now.epoch,
                lease=now.lease,
                civil=now.civil,
                reference=self._source.civil(),
                boot_id=self._boot_id,
                boot_time=self._began + self._boot_offset,
                frozen=self._frozen,
            )

    def committed(self, now: Moment) -> None:
        """Time has come to `now`; what had passed beyond the longest step is left out of lease time for good."""
        with self._lock:
            self._monotonic = self._began
            self._lease = now.lease
            self._civil = now.civil

    def accept(self) -> None:
        """Has the next transaction take the host's civil time for right, at an operator's word."""
        with self._lock:
            self._accepted = True

    def stop(self) -> None:
        """Both clocks stand from now on."""
        with self._lock:
            self._source = Standstill(self._source)

    @property
    def explanation(self) -> str:
        """Why civil time is frozen; empty while it is not."""
        return self._frozen

    def reference(self) -> int:
        """What the host says, trusted or not."""
        return self._source.civil()

    def _froze(self, what: str) -> None:
        self._frozen = frozen(what)
        if self._on_freeze is not None:
            self._on_freeze(self._frozen)


def first_mark(source: TimeSource, told: int | None = None) -> Mark:
    """The mark of a new installation; `told` is what the clock of its database server says, where it has one."""
    civil = source.civil() if told is None else source.database(told)
    return Mark(
        epoch=1,
        lease=0,
        civil=civil,
        reference=civil,
        boot_id=source.boot_id(),
        boot_time=source.boot_time(),
        frozen="",
    )


def frozen(what: str) -> str:
    """Why civil time is frozen, and what that means."""
    return (
        f"{what} Licences with dates are not granted until it fits again, or until an operator has set it right or "
        "run `poolkeeper clock accept`. Renewals go on."
    )


def span(microseconds: int) -> str:
    """A span for people to read, in its largest unit."""
    seconds = abs(microseconds) // SECOND
    for name, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} seconds"
