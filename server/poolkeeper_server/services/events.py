"""Every event that the daemon logs, and how they are written. Event names are API, like those of metrics.

Only the daemon's start calls configure_logging; importing this module changes nothing.
"""

import contextlib
import io
import json
import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

#: Knows which of our own events are written.
_OWN = logging.getLogger("poolkeeper_server")


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
    STORE_MIGRATED = "store_migrated"
    CLOCK_FROZEN = "clock_frozen"
    CLOCK_ACCEPTED = "clock_accepted"
    REAPER_FAILED = "reaper_failed"


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


def configure_logging(level: str, *, stream: TextIO | None = None) -> None:
    """Sends the events of `level` and above to `stream` (standard error), others are dropped before rendering.

    JSON, one object a line, unless the stream is a terminal. The standard library's loggers (gRPC, uvicorn,
    asyncio) come out the same way, from warning on.
    """
    stream = stream or sys.stderr
    forgiving = cast("TextIO", _Forgiving(stream))
    shared: list[Processor] = [
        _add_call,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
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
        processors=[*shared, *renderers],
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
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _json(event: EventDict, **options: object) -> str:
    del options
    text = orjson.dumps(event, default=str).decode()
    if text.isprintable():
        return text
    # JSON leaves much unescaped that moves the cursor of whoever looks at the file.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
