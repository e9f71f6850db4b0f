import unicodedata

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.ids import new_id
from poolkeeper_server.transport import fields, names, texts
from poolkeeper_server.transport.names import Child, Parent
from poolkeeper_server.transport.times import duration, read_duration, timestamp


@pytest.mark.parametrize(
    ("name", "found"),
    [("estates/acme", Parent("acme")), ("estates/acme/pools/west", Parent("acme", "west"))],
)
def test_a_parent_is_an_estate_or_a_pool(name: str, found: Parent) -> None:
    assert names.read_parent(name, "parent") == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "acme",
        "estates/",
        "estates/Acme",
        "estates/acme/",
        "pools/acme",
        "estates/acme/pools/",
        "estates/acme/nodes/west",
        "estates/acme/pools/west/",
        "estates/acme/pools/we st",
        "estates/a\0/pools/west",
        "estates/" + "a" * 64,
        "x" * 100_000,
    ],
)
def test_what_is_no_name_is_refused_naming_the_field(name: str) -> None:
    with pytest.raises(Refusal) as caught:
        names.read_parent(name, "parent")
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_FIELD, "parent")
    assert len(caught.value.message) < 400


def test_names_are_read_as_they_are_written() -> None:
    assert names.read_node(names.node_name("acme", "studio-7.lan"), "name") == Child("acme", "studio-7.lan")
    made = new_id()
    allocation = names.allocation_name("acme", "west", made)
    assert names.read_allocation(allocation, "name") == Child("acme", made, "west")
    assert names.read_code(names.code_name("acme", "west", made), "name") == Child("acme", made, "west")
    assert names.read_licence(names.licence_name("acme", "L000001"), "name") == Child("acme", "L000001")
    assert names.read_product("encoder-1x1", "product") == names.read_product("products/encoder-1x1", "product")
    for token in (made, "operator", "operator-0123abcd"):
        assert names.read_token(names.token_name(token), "name") == token


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=60))
def test_a_consumer_of_any_text_has_a_name(consumer: str) -> None:
    if not consumer.isprintable() or consumer.startswith("-") or consumer in {".", ".."}:
        return
    kept = unicodedata.normalize("NFC", consumer)
    assert names.read_consumer(names.consumer_name("acme", consumer), "name") == Child("acme", kept)


@pytest.mark.parametrize("name", [f"estates/acme/consumers/{consumer}" for consumer in ("%FF", "", "%00")])
def test_a_consumer_of_no_text_is_refused(name: str) -> None:
    with pytest.raises(Refusal):
        names.read_consumer(name, "name")


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x1fb", "x" * 251, "\u202e"])
def test_texts_are_short_and_hold_no_control_character(text: str) -> None:
    with pytest.raises(Refusal):
        texts.text(text, "user")


def test_a_request_id_is_short_visible_and_where_needed_there() -> None:
    assert names.request_id("a-1") == "a-1"
    assert names.request_id("") == ""
    for wrong in ("a b", "é", "x" * 65):
        with pytest.raises(Refusal):
            names.request_id(wrong)
    with pytest.raises(Refusal):
        names.request_id("", required=True)


@given(st.integers(0, 253_402_300_799_999_999))
def test_instants_and_spans_lose_no_microsecond(micros: int) -> None:
    assert timestamp(micros).ToMicroseconds() == micros
    assert read_duration(duration(micros), "wait") == micros


@pytest.mark.parametrize("span", [Duration(seconds=-1), Duration(nanos=-1), Duration(nanos=10**9)], ids=str)
def test_a_span_that_is_none_is_refused(span: Duration) -> None:
    with pytest.raises(Refusal):
        read_duration(span, "wait")


@given(st.dates())
def test_days_are_read_as_they_are_written(day: object) -> None:
    date = str(day)
    assert fields.date_of(fields.first_moment(date, "valid_from")) == date
    assert fields.last_date_before(fields.end_of(date, "valid_until")) == date


@pytest.mark.parametrize("date", ["2031-13-01", "2031-1-1x", "31.12.2031", "20311231", "2031-W01-1", "2031-01-0\u0661"])
def test_what_is_no_day_is_refused(date: str) -> None:
    with pytest.raises(Refusal):
        fields.first_moment(date, "valid_from")


def test_pages_have_a_default_and_a_largest_size() -> None:
    assert [fields.page_of(size, "").size for size in (0, 7, 5_000)] == [100, 7, 1_000]
    with pytest.raises(Refusal):
        fields.page_of(-1, "")
