"""The number of an epoch, and what one begins in the pools."""

from __future__ import annotations

import pytest

from poolkeeper_server.domain.epoch import following
from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.storage.epoch import begun
from poolkeeper_server.storage.store import Mark

NOW = 1_780_272_000 * SECOND


@pytest.mark.parametrize(
    ("epoch", "civil", "next_one"),
    [
        (1, NOW, 1_780_272_000),
        (1_780_272_000, NOW, 1_780_272_001),
        # A clock that is behind, or none at all.
        (1_780_272_005, NOW, 1_780_272_006),
        (1, 0, 2),
    ],
)
def test_an_epoch_is_later_than_the_one_before_and_than_those_that_nobody_remembers(
    epoch: int, civil: int, next_one: int
) -> None:
    assert following(epoch, civil) == next_one


@pytest.mark.invariant("3A-RESTORE")
def test_it_is_later_than_that_of_a_database_which_is_replaced_too() -> None:
    mark = Mark(epoch=3, lease=0, civil=0, reference=0, boot_id="", boot_time=0, frozen="")
    _, begun_at = begun([], [], mark, civil=0, why="It was restored.", above=7)
    assert begun_at.epoch == 8
