import hashlib

from hypothesis import given
from hypothesis import strategies as st

from poolkeeper._core.digest import Digest


def by_the_protocol(held: dict[str, int]) -> int:
    """The digest as licensing.proto words it, computed over everything."""
    return (
        sum(
            int.from_bytes(hashlib.sha256(name.encode() + b"\0" + str(size).encode()).digest()[:8], "big")
            for name, size in held.items()
        )
        % 2**64
    )


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.integers(1, 1_000_000))))
def test_after_any_changes_it_is_what_the_protocol_defines(
    steps: list[tuple[bool, str, int]],
) -> None:
    digest, held = Digest(), dict[str, int]()
    for put, name, size in steps:
        if put:
            digest.put(name, size)
            held[name] = size
        else:
            digest.drop(name)
            held.pop(name, None)
    assert (digest.count, digest.value) == (len(held), by_the_protocol(held))


def test_it_forgets_all_it_was_given() -> None:
    digest = Digest()
    digest.put("a", 3)
    digest.put("a", 4)
    digest.drop("a")
    assert (digest.count, digest.value) == (0, 0)
