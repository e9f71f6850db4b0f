"""The instant at which a batch is decided."""

from __future__ import annotations

from poolkeeper_server.domain.frozen import frozen

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@frozen
class Moment:
    """Both clocks, in microseconds, read after the store's locks were taken.

    `lease` runs only while the service can commit; promises live in it (CC-26). `civil` is UTC since 1970; dates,
    minimum allocation and quarantine live in it. `frozen` says that civil time is not to be trusted for dated
    licences (CC-27). `epoch` leads every fence.
    """

    lease: int
    civil: int
    frozen: bool = False
    epoch: int = 1
