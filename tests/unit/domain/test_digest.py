import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper._core.digest import Digest
from poolkeeper_server.domain.digest import add, digest_of, signed, subtract

NAME = "estates/acme/pools/west/allocations/01j0"


def test_a_part_is_the_beginning_of_a_hash_over_name_and_quantity() -> None:
    assert digest_of(NAME, 12) == int.from_bytes(hashlib.sha256(NAME.encode() + b"\x0012").digest()[:8], "big")


@pytest.mark.parametrize(
    ("value", "as_stored"),
    [(0, 0), (1, 1), (2**63 - 1, 2**63 - 1), (2**63, -(2**63)), (2**64 - 1, -1)],
)
def test_a_sum_is_stored_as_a_signed_number(value: int, as_stored: int) -> None:
    assert signed(value) == as_stored


@given(st.lists(st.integers(0, 2**64 - 1)), st.randoms())
def test_parts_may_come_and_go_in_any_order(parts: list[int], order: Random) -> None:
    total = 0
    for part in parts:
        total = add(total, part)
    assert total == signed(sum(parts) % 2**64)
    order.shuffle(parts)
    for part in parts:
        total = subtract(total, part)
    assert total == 0


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 1_000_000)))
def test_client_and_daemon_sum_up_the_same(held: dict[str, int]) -> None:
    client, daemon = Digest(), 0
    for name, quantity in held.items():
        client.put(name, quantity)
        daemon = add(daemon, digest_of(name, quantity))
    assert signed(client.value) == daemon
