import os
from itertools import islice

import pytest

from poolkeeper_server.services.ids import new_ids


@pytest.mark.parametrize("start", [0, 2**20 - 3, 2**40 - 3, 2**64 - 3])
def test_ids_are_unique_and_in_order_wherever_they_begin(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: start.to_bytes(size, "big"))

    found = list(islice(new_ids(), 6))

    assert sorted(set(found)) == found
    assert {len(one) for one in found} == {24}
