"""Every event that the daemon logs, and how they are written. Event names are API, like those of metrics.

Only the daemon's start calls configure_logging; importing this module changes nothing.
"""

import contextlib
import io
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from poolkeeper_server.services import metrics

#: Characters of a text in the log: more than any of our own messages has.
_LONGEST_TEXT = 300
#: Lines of one event that one caller, and all together, may have at once, and a second.
_MOST_LINES_OF_CALLER, _RATE_OF_CALLER = 100, 2.0
_MOST_LINES, _RATE = 1_000, 50.0
#: Callers whose lines are counted; who has had none for longest is forgotten first.
_MOST_CALLERS = 10_000

#: Knows which of our own events are written.
_OWN = logging.getLogger("poolkeeper_server")
#: An admin's token, wherever it was typed.
_TOKEN = re.compile(r"pk_[A-Za-z0-9_-]{16,}")


class Event(StrEnum):
    """The names of events; further facts are keys beside them."""

    DAEMON_READY = "daemon_ready"
    DAEMON_DRAINING = "daemon_draining"
    DAEMON_STOPPED = "daemon_stopped"
    CHECK_OUT_GRANTED = "check_out_granted"
    CHECK_OUT_DENIED = "check_out_denied"
    SESSION_OPENED = "session_opened"
    NODE_ENROLLED = "node_enrolled"
    ENROLMENT_FAILED = "enrolment_failed"
    ALERT_RAISED = "alert_raised"
    ADMIN_CHANGED = "admin_changed"
    CALL_REFUSED = "call_refused"
    CALL_SLOW = "call_slow"
    CALL_FAILED = "call_failed"
    COMMIT_FAILED = "commit_failed"
    COMMIT_UNKNOWN = "commit_unknown"
    RECORD_FAULTY = "record_faulty"
    STORE_UNSAFE = "store_unsafe"
    STORE_UNWRITABLE = "store_unwritable"
    STORE_WRITABLE = "store_writable"
    STORE_MIGRATED = "store_migrated"
    CLOCK_FROZEN = "clock_frozen"
    CLOCK_ACCEPTED = "clock_accepted"
    REAPER_FAILED = "reaper_failed"


#: What callers can bring about as often as they like.
_SPARED = frozenset({Event.CHECK_OUT_DENIED, Event.ENROLMENT_FAILED, Event.CALL_REFUSED, Event.CALL_SLOW})


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What every event of one call carries."""

    method: str
    node: str = ""
    admin: str = ""
    source: str = ""


current_call: ContextVar[CallFacts | None] = ContextVar("current_call", default=None)
"""The call that is being served. One set costs a tenth of binding each key, and most calls log nothing."""


def debugs() -> bool:
    """Whether debug events are written: to ask costs a tenth of telling a logger what it then drops."""
    return _OWN.isEnabledFor(logging.DEBUG)


def get_logger() -> FilteringBoundLogger:
    """A logger of events."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def configure_logging(level: str, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
    """Sends the events of `level` and above to `stream` (standard error), others are dropped before rendering.

    JSON, one object a line, unless the stream is a terminal. The standard library's loggers (gRPC, uvicorn, asyncio)
    come out the same way, from warning on. `clock` tells seconds, for lines of which there are too many.
    """
    stream = stream or sys.stderr
    forgiving = cast("TextIO", _Forgiving(stream))
    shared: list[Processor] = [
        _add_call,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    own: list[Processor] = [_add_call, _Sparing(clock), *shared[1:], _shorten]
    renderers: list[Processor]
    # Where something failed is told, and never with what: the variables of a frame hold codes, tokens and secrets.
    if stream.isatty():
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        renderers = [structlog.processors.format_exc_info, _plain, console]
    else:
        told = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        renderers = [structlog.processors.ExceptionRenderer(told), structlog.processors.JSONRenderer(_json)]
    least = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*own, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(forgiving),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(stream)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    _OWN.setLevel(least)
    root = logging.getLogger()
    root.handlers[:] = [foreign]
    root.setLevel(max(least, logging.WARNING))


@dataclass(slots=True)
class _Room:
    """Lines that may come yet, and how many did not."""

    lines: float
    at: float
    left_out: int = 0

    def takes(self, now: float, *, most: int, rate: float) -> bool:
        """Whether one more may come at this instant."""
        self.lines = min(most, self.lines + (now - self.at) * rate)
        self.at = now
        if self.lines < 1:
            return False
        self.lines -= 1
        return True


class _Sparing:
    """Leaves out lines of which a caller has too many, and says with the next one how many they were.

    Whoever is refused can ask again at once, and a log that grows by megabytes a second serves nobody.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._of_caller: dict[tuple[str, str], _Room] = {}
        self._of_all = _Room(_MOST_LINES, clock())

    def __call__(self, logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
        del logger, method_name
        if event["event"] not in _SPARED:
            return event
        now = self._clock()
        # A call is of a node or, before it is known, of an address.
        key = (str(event["event"]), str(event.get("node") or event.get("source") or event.get("admin") or ""))
        room = self._of_caller.pop(key, None) or _Room(_MOST_LINES_OF_CALLER, now)
        self._of_caller[key] = room
        if len(self._of_caller) > _MOST_CALLERS:
            del self._of_caller[next(iter(self._of_caller))]
        if not room.takes(now, most=_MOST_LINES_OF_CALLER, rate=_RATE_OF_CALLER) or not self._of_all.takes(
            now, most=_MOST_LINES, rate=_RATE
        ):
            room.left_out += 1
            metrics.LOG_LEFT_OUT.labels(key[0]).inc()
            raise structlog.DropEvent
        if room.left_out:
            event["left_out"], room.left_out = room.left_out, 0
        return event


def _shorten(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    """Texts may be a caller's: there is no more of them than tells what they are."""
    del logger, method_name
    for key, value in event.items():
        if isinstance(value, str) and len(value) > _LONGEST_TEXT and key != "exception":
            event[key] = f"{value[:_LONGEST_TEXT]}… ({len(value)} characters)"
    return event


class _Forgiving(io.TextIOBase):
    """A stream for logs: a line that cannot be written, as on a full disk, is lost and fails nobody's call."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _add_call(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    del logger, method_name
    call = current_call.get()
    if call is not None:
        event.setdefault("method", call.method)
        for key in ("node", "admin", "source"):
            if value := getattr(call, key):
                event.setdefault(key, value)
    return event


def _plain(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    """What strangers and neighbours said, in one line and with nothing in it that a terminal obeys."""
    del logger, method_name
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join(map(_printable, str(value).split("\n")))
        elif not isinstance(value, int | float | None):
            event[key] = _printable(str(value))
    return event


def _printable(text: str) -> str:
    text = _TOKEN.sub("pk_…", text)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _json(event: EventDict, **options: object) -> str:
    del options
    text = _TOKEN.sub("pk_…", orjson.dumps(event, default=str).decode())
    if text.isprintable():
        return text
    # JSON leaves much unescaped that moves the cursor of whoever looks at the file.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
