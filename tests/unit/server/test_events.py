import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from poolkeeper_server.services import metrics
from poolkeeper_server.services.events import CallFacts, Event, configure_logging, current_call, get_logger


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_json_with_the_facts_of_its_call() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    token = current_call.set(CallFacts("CheckOut", node="acme/studio-7"))
    get_logger().info(Event.CALL_REFUSED, reason="NOT_FOUND")
    current_call.reset(token)
    get_logger().info(Event.DAEMON_READY)
    first, second = lines(stream)
    assert {key: first[key] for key in ("event", "level", "method", "node", "reason")} == {
        "event": "call_refused",
        "level": "info",
        "method": "CheckOut",
        "node": "acme/studio-7",
        "reason": "NOT_FOUND",
    }
    assert "method" not in second


def test_what_is_below_the_level_is_never_rendered() -> None:
    class Unseen:
        def __repr__(self) -> str:
            raise AssertionError("rendered")

    stream = io.StringIO()
    configure_logging("info", stream=stream)
    get_logger().debug(Event.CHECK_OUT_GRANTED, allocation=Unseen())
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    """As a person looks at it."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_fault_is_told_without_the_variables_around_it(kind: type[io.StringIO]) -> None:
    def fail(code: str) -> None:
        raise LookupError(len(code))

    stream = kind()
    configure_logging("info", stream=stream)
    for logger in (get_logger(), logging.getLogger("grpc")):
        try:
            fail("hush" * 3)
        except LookupError:
            logger.exception(Event.CALL_FAILED)
    told = stream.getvalue()
    assert told.count("LookupError") >= 2
    assert "hushhush" not in told


@pytest.mark.invariant("SCREEN")
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_strangers_said_moves_no_cursor_and_writes_no_line_of_its_own(kind: type[io.StringIO]) -> None:
    hostile = "x\x1b[2J\x9b1m\x7f\u202e\u2028\nfake"
    stream = kind()
    configure_logging("info", stream=stream)
    get_logger().info(Event.CALL_REFUSED, message=hostile, names=[hostile], count=3)
    logging.getLogger("uvicorn").warning("look %s", hostile)
    try:
        dict[str, int]()[hostile]
    except LookupError:
        get_logger().exception(Event.CALL_FAILED, message=hostile)
    told = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert all(line.isprintable() for line in told.split("\n"))
    assert not any(line.startswith("fake") for line in told.split("\n"))
    if kind is io.StringIO:
        assert [line.get("message") for line in lines(stream)] == [hostile, None, hostile]


def test_other_libraries_warnings_come_out_the_same_way() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    logging.getLogger("uvicorn").warning("look %s", "here")
    logging.getLogger("uvicorn").info("chatter")
    (only,) = lines(stream)
    assert (only["event"], only["level"]) == ("look here", "warning")


def test_names_of_metrics_and_events_follow_one_pattern() -> None:
    names = {family.name for family in metrics.REGISTRY.collect()}
    own = {name for name in names if name.startswith("poolkeeper_")}
    assert {"poolkeeper_rpc_seconds", "poolkeeper_check_outs", "poolkeeper_queue_depth"} <= own
    assert all(re.fullmatch(r"[a-z_]+", name) for name in own | set(Event))
    assert b"poolkeeper_commit_seconds_bucket" in metrics.exposition()


class Stopwatch:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_caller_does_not_fill_the_log_and_what_is_left_out_is_counted() -> None:
    stream, clock = io.StringIO(), Stopwatch()
    configure_logging("info", stream=stream, clock=clock)
    for _ in range(500):
        get_logger().info(Event.CALL_REFUSED, source="192.0.2.1", reason="NOT_FOUND")
    get_logger().info(Event.CALL_REFUSED, source="192.0.2.2", reason="NOT_FOUND")
    get_logger().info(Event.ADMIN_CHANGED, source="192.0.2.1")
    assert [line["source"] for line in lines(stream)] == ["192.0.2.1"] * 100 + ["192.0.2.2", "192.0.2.1"]
    # The first one that comes again says how many did not.
    clock.now = 1.0
    get_logger().info(Event.CALL_REFUSED, source="192.0.2.1", reason="NOT_FOUND")
    assert lines(stream)[-1]["left_out"] == 400
    left_out = metrics.REGISTRY.get_sample_value("poolkeeper_log_left_out_total", {"event": "call_refused"})
    assert left_out is not None
    assert left_out >= 400


def test_many_callers_do_not_fill_the_log_either() -> None:
    stream, clock = io.StringIO(), Stopwatch()
    configure_logging("info", stream=stream, clock=clock)
    for number in range(5_000):
        get_logger().info(Event.CALL_REFUSED, source=f"2001:db8::{number:x}")
    assert len(lines(stream)) == 1_000
    get_logger().info(Event.DAEMON_STOPPED)
    assert lines(stream)[-1]["event"] == "daemon_stopped"


def test_a_caller_s_text_is_cut() -> None:
    stream = io.StringIO()
    configure_logging("info", stream=stream)
    get_logger().info(Event.CALL_REFUSED, message="y" * 4 + "x" * 5_000)
    text = str(lines(stream)[0]["message"])
    assert text.startswith("yyyyxxx")
    assert text.endswith("x… (5004 characters)")
    assert len(text) < 350
