"""Request ids."""

from __future__ import annotations

import time
from uuid import UUID

from poolkeeper._request_id import new_request_id


def test_a_request_id_is_a_uuid_that_is_led_by_the_time() -> None:
    before = time.time_ns() // 1_000_000
    found = new_request_id()
    after = time.time_ns() // 1_000_000
    assert UUID(found).version == 7
    assert before <= int(found[:12], 16) <= after


def test_each_request_id_is_another_one() -> None:
    assert len({new_request_id() for _ in range(1_000)}) == 1_000
