from dataclasses import dataclass

import pytest

from poolkeeper_server.domain.counting import counting_keys
from poolkeeper_server.domain.records import Consumer, Counting, LicensedBy

INSTALLED, CONCURRENT = LicensedBy.INSTALLED_INSTANCE, LicensedBy.CONCURRENT_USER
REGISTERED = Consumer(estate_id="acme", consumer="ann", user="u1", host="h1", created_at=0)


@dataclass(frozen=True)
class Ask:
    consumer: str = ""
    installation: str = ""
    user: str = ""
    host: str = ""


def same(
    one: Ask,
    other: Ask,
    *,
    nodes: tuple[str, str] = ("a", "a"),
    licensed_by: LicensedBy = CONCURRENT,
    counting: Counting = Counting.CONSUMER,
    registered: tuple[Consumer | None, Consumer | None] = (None, None),
) -> bool:
    keys = [
        counting_keys(ask, node, counting, consumer)[licensed_by]
        for ask, node, consumer in zip((one, other), nodes, registered, strict=True)
    ]
    return all(key.shared for key in keys) and keys[0].key == keys[1].key


@pytest.mark.parametrize(
    ("counting", "one", "other", "shared"),
    [
        (Counting.CONSUMER, Ask(consumer="x"), Ask(consumer="x", user="u", host="h"), True),
        (Counting.CONSUMER, Ask(consumer="x"), Ask(consumer="y"), False),
        (Counting.CONSUMER, Ask(), Ask(), False),
        (Counting.CONSUMER, Ask(user="u"), Ask(user="u"), False),
        (Counting.USER, Ask(user="u", consumer="x", host="h"), Ask(user="u", consumer="y", host="i"), True),
        (Counting.USER, Ask(user="u"), Ask(user="v"), False),
        (Counting.USER, Ask(consumer="x"), Ask(consumer="y"), True),
        (Counting.HOST, Ask(host="h", user="u"), Ask(host="h", user="v"), True),
        (Counting.HOST, Ask(host="h"), Ask(host="i"), False),
        (Counting.USER_HOST, Ask(user="u", host="h"), Ask(user="u", host="h"), True),
        (Counting.USER_HOST, Ask(user="u", host="h"), Ask(user="u", host="i"), False),
        (Counting.USER_HOST, Ask(user="u", host="h"), Ask(user="v", host="h"), False),
    ],
)
def test_what_a_pool_counts_decides_who_shares_on_a_node(
    counting: Counting, one: Ask, other: Ask, *, shared: bool
) -> None:
    assert same(one, other, counting=counting) is shared


@pytest.mark.parametrize("counting", list(Counting))
def test_two_nodes_never_meet_on_free_names(counting: Counting) -> None:
    ask = Ask(consumer="x", installation="i", user="u", host="h")
    assert not same(ask, ask, nodes=("a", "b"), counting=counting)
    assert not same(ask, ask, nodes=("a", "b"), counting=counting, licensed_by=INSTALLED)


@pytest.mark.parametrize("counting", list(Counting))
def test_a_registered_consumer_is_one_on_every_node(counting: Counting) -> None:
    ask = Ask(consumer="ann")
    registered = (REGISTERED, REGISTERED)
    assert same(ask, ask, nodes=("a", "b"), counting=counting, registered=registered)


def test_a_free_name_does_not_meet_the_registered_one() -> None:
    assert not same(Ask(consumer="ann"), Ask(consumer="ann"), registered=(REGISTERED, None))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (Ask(installation="i"), Ask(installation="i", consumer="x"), True),
        (Ask(installation="i"), Ask(installation="j"), False),
        (Ask(consumer="x"), Ask(consumer="x"), True),
        (Ask(consumer="x"), Ask(consumer="y"), False),
        (Ask(), Ask(), True),
        (Ask(), Ask(consumer="a"), False),
    ],
)
def test_an_installation_is_counted_by_itself_else_its_consumer_else_its_node(
    one: Ask, other: Ask, *, shared: bool
) -> None:
    assert same(one, other, licensed_by=INSTALLED) is shared


def test_names_cannot_be_made_to_run_together() -> None:
    assert not same(Ask(user="a", host="bc"), Ask(user="ab", host="c"), counting=Counting.USER_HOST)
