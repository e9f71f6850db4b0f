"""Beginning a new epoch in a database: what is read for it, and what is to be written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.epoch import begin_epoch, following
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.state import State
from poolkeeper_server.storage.loading import select
from poolkeeper_server.storage.schema import NAMES, ROWS
from poolkeeper_server.storage.store import Mark

#: Both databases have these words. Every pool is read: this happens once in a great while.
POOLS: Final = f"SELECT {select(r.Pool)} FROM {NAMES[r.Pool]} AS t"
#: Wherever the database is now, it has come to stay: which server it is on is found out anew.
FORGET_PLACE: Final = "UPDATE marks SET cluster = '', timeline = 0 WHERE id = 1"
PROMISES: Final = "SELECT estate_id, max(expires_lease) FROM sessions WHERE state <> 'ENDED' GROUP BY estate_id"


def begun(
    pools: Sequence[Sequence[Any]],
    promises: Sequence[Sequence[Any]],
    mark: Mark,
    *,
    civil: int,
    why: str,
    quiet: bool = True,
    above: int = 0,
) -> tuple[State, Mark]:
    """The state that must be saved, and the mark of the new epoch, which `civil` gives its number.

    `mark` is the one that came with the data: receipts are compared with its epoch. `above` is an epoch that the new
    one must exceed too, such as that of a database which is replaced. `why` is a sentence for people, such as "The
    database was restored from a backup."
    """
    state = State()
    state.load(ROWS[r.Pool].read(tuple(row)) for row in pools)
    renewed = replace(mark, epoch=following(max(mark.epoch, above), civil))
    now = Moment(lease=mark.lease, civil=mark.civil, frozen=bool(mark.frozen), epoch=renewed.epoch)
    last = {str(estate): int(lease) for estate, lease in promises}
    begin_epoch(state, now, previous=mark.epoch, promises=last, why=why, quiet=quiet)
    return state, renewed
