from datetime import timedelta

import pytest

from poolkeeper._core.address import parse_address, parse_addresses
from poolkeeper._core.lease import Beat
from poolkeeper._core.requests import (
    check_out_request,
    duration,
    enrol_texts,
    heartbeat_request,
    span_of,
)
from poolkeeper._core.signing import enrolment_text, is_pin, pin_of, same_pin, session_text
from poolkeeper.errors import InvalidRequest


def test_a_check_out_carries_what_was_asked_and_wants_a_grant() -> None:
    request = check_out_request("enc", request_id="r", consumer="c", user="u", quantity=3, wait=timedelta(seconds=1.5))
    assert (request.product, request.consumer, request.user, request.quantity) == ("enc", "c", "u", 3)
    assert request.want_grant
    assert span_of(request.wait) == 1.5


def test_without_a_wait_none_is_sent() -> None:
    assert not check_out_request("enc", request_id="r").HasField("wait")
    assert not check_out_request("enc", request_id="r", wait=0).HasField("wait")


def test_a_demand_is_sent_by_unit() -> None:
    request = check_out_request("enc", request_id="r", demand={"cameras": 9})
    assert dict(request.demand.units) == {"cameras": 9}


@pytest.mark.parametrize(
    "wrong",
    [
        {"product": ""},
        {"consumer": "x" * 251},
        {"quantity": 0},
        {"quantity": 1_000_001},
        {"quantity": 1, "demand": {"cameras": 1}},
        {"demand": {"cameras": -1}},
        {"wait": -1},
        {"wait": float("nan")},
        {"wait": 86_401},
        {"request_id": ""},
        {"request_id": "x" * 65},
        {"request_id": "a b"},
    ],
)
def test_what_the_daemon_would_refuse_is_refused_here(wrong: dict[str, object]) -> None:
    asked: dict[str, object] = {"product": "enc", "request_id": "r"} | wrong
    product = str(asked.pop("product"))
    with pytest.raises(InvalidRequest):
        check_out_request(product, **asked)  # type: ignore[arg-type]  # wrong on purpose.


def test_durations_survive_the_wire() -> None:
    assert span_of(duration(0.05)) == pytest.approx(0.05)
    assert duration(0.999_999_999_9).seconds == 1


def test_a_heartbeat_tells_what_is_known_only_when_asked() -> None:
    assert not heartbeat_request(Beat(count=1, digest=2**64 - 1)).HasField("known")
    request = heartbeat_request(Beat(count=1, digest=5, as_of=7, known=(("a", 2),), pending=("r",)))
    assert request.known.as_of == 7
    assert [(one.allocation, one.quantity) for one in request.known.allocations] == [("a", 2)]
    assert list(request.known.pending_request_ids) == ["r"]


@pytest.mark.parametrize(
    ("pool", "code"),
    [("acme/west", "12345678"), ("estates/acme/pools/west", "1234 5678"), ("acme/west", "1234-5678")],
)
def test_pool_and_code_may_be_typed_as_people_type(pool: str, code: str) -> None:
    assert enrol_texts(pool, code) == ("estates/acme/pools/west", "12345678")


@pytest.mark.parametrize(
    ("pool", "code"),
    [
        ("acme", "12345678"),
        ("acme/", "12345678"),
        ("acme/west/x", "12345678"),
        ("acme/west", "1234567"),
        ("acme/west", "١٢٣٤٥٦٧٨"),
        ("acme/west", "1234567a"),
    ],
)
def test_a_slip_of_the_fingers_costs_no_attempt(pool: str, code: str) -> None:
    with pytest.raises(InvalidRequest):
        enrol_texts(pool, code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("licences.example.com", "licences.example.com:7443"),
        ("licences.example.com:1", "licences.example.com:1"),
        ("[::1]:9", "[::1]:9"),
        ("::1", "[::1]:7443"),
        ("plain://127.0.0.1:8", "plain://127.0.0.1:8"),
        ("plain://localhost", "plain://localhost:7443"),
        ("plain://[::1]:8", "plain://[::1]:8"),
    ],
)
def test_addresses_are_read_and_shown_alike(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert parse_address(shown) == address


@pytest.mark.parametrize(
    "text",
    ["", "host:0", "host:65536", "host:x", "http://host", "a b:1", "plain://10.0.0.1:7443", "plain://h"],
)
def test_no_licence_travels_in_the_clear_and_no_nonsense_is_dialled(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_address(text)


def test_several_addresses_keep_their_order() -> None:
    assert [one.host for one in parse_addresses("b, a,b")] == ["b", "a"]
    assert [one.host for one in parse_addresses(["b", "a"])] == ["b", "a"]
    with pytest.raises(InvalidRequest):
        parse_addresses(" , ")


def test_the_signed_texts_are_those_of_the_protocol() -> None:
    assert enrolment_text("p", "c") == b"poolkeeper-enrol-v1\0p\0c"
    assert session_text("n", "", b"x") == b"poolkeeper-session-v1\0n\0\0x"


def test_a_pin_is_compared_as_people_type_it() -> None:
    pin = pin_of(b"certificate")
    assert [len(part) for part in pin.split("-")] == [4, 4, 4]
    assert same_pin(pin, pin.lower().replace("-", " "))
    assert not same_pin(pin, pin_of(b"another"))
    assert is_pin(pin)
    assert not is_pin("K7QF-2M4D")
    assert not is_pin("K7QF-2M4D-XR31")
