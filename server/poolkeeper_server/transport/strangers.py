"""Callers whom nobody knows yet: who they are, and how many of their messages and streams there may be (CC-38).

A message stays outside, as far as gRPC's flow control holds it there, until its caller has a turn. So the memory that
strangers can use up is that of the few who have one, and who sends slowly keeps only his own source from going on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import grpc.aio
from google.protobuf.message import DecodeError, Message

from poolkeeper_server.domain.moment import SECOND
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.limits import Calls, reached
from poolkeeper_server.services.sources import Fronts, source_of
from poolkeeper_server.transport.turns import Turns

Q = TypeVar("Q", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

LARGEST_MESSAGE: Final = 4096
"""Bytes of a stranger's message; the largest that is in order has half of them."""
#: Seconds that a message may take to come.
_PATIENCE: Final = 5.0
#: Streams that watch health or reflect, of all strangers and of one source.
_STREAMS: Final = 1_024
_STREAMS_OF_SOURCE: Final = 64


class Late(Refusal):
    """A message that did not come in time."""


class Strangers:
    """What strangers may have read and may leave open; one object for all methods."""

    def __init__(self, fronts: Fronts, *, calls_per_second: int) -> None:
        self._fronts = fronts
        self._rate = calls_per_second
        self._calls: Calls[str] = Calls("calls_of_address", calls_per_second)
        self._turns = Turns()
        self._streams: Counter[str] = Counter()

    def others(self) -> Strangers:
        """Turns of their own, for those who must not wait for these."""
        return Strangers(self._fronts, calls_per_second=self._rate)

    def caller(self, context: Context) -> str:
        """The caller's network address without its port; empty when there is none."""
        scheme, _, address = context.peer().partition(":")
        if scheme not in {"ipv4", "ipv6"}:
            return ""
        # gRPC percent-encodes the brackets of IPv6.
        host = address.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0]
        peer = host.removeprefix("[").removesuffix("]")
        if not self._fronts.networks:
            return peer
        told = (value for key, value in context.invocation_metadata() or () if key == "x-forwarded-for")
        return self._fronts.caller(peer, (value for value in told if isinstance(value, str)))

    async def read(self, context: Context) -> bytes | None:
        """The message of a call, when its turn has come; None when there is none.

        Raises Refusal when too many calls of its source wait, and when it is too large or does not come in time.
        """
        source = source_of(self.caller(context))
        self._calls.take(source, asyncio.get_running_loop().time())
        try:
            async with self._turns.turn(source, context.peer()), asyncio.timeout(_PATIENCE):
                body = await context.read()
        except TimeoutError as error:
            raise Late(
                Reason.MALFORMED_REQUEST,
                f"The message of this call did not come within {_PATIENCE:g} seconds.",
                hint="Send it at once.",
            ) from error
        if body is grpc.aio.EOF:
            return None
        return sized(cast("bytes", body), most=LARGEST_MESSAGE)

    @contextmanager
    def stream(self, context: Context) -> Iterator[None]:
        """A stream that stays open for as long as its caller likes. Raises Refusal when there are too many."""
        source = source_of(self.caller(context))
        if self._streams.total() >= _STREAMS or self._streams[source] >= _STREAMS_OF_SOURCE:
            raise reached("watches", "Too many streams watch this daemon already.", retry_after=10 * SECOND)
        self._streams[source] += 1
        try:
            yield
        finally:
            self._streams[source] -= 1
            if not self._streams[source]:
                del self._streams[source]


def parsed(parse: Callable[[bytes], Q], body: bytes | None) -> Q:
    """A call's message. Raises Refusal when there is none, or another than its method takes."""
    if body is None:
        raise Refusal(
            Reason.MALFORMED_REQUEST, "The call ended without its message.", hint="Send one message, also an empty one."
        )
    try:
        return parse(body)
    except (DecodeError, UnicodeDecodeError) as error:
        raise Refusal(
            Reason.MALFORMED_REQUEST,
            "The request is not a message of the kind that this method takes.",
            hint="Generate the client from the daemon's proto files.",
        ) from error


def sized(body: bytes, *, most: int) -> bytes:
    """The message. Raises Refusal when it has more bytes than its method takes."""
    if len(body) > most:
        raise Refusal(
            Reason.MALFORMED_REQUEST,
            f"The message has {len(body):,} bytes, and this method takes {most:,} at most.",
            hint="Send less in one message.",
        )
    return body
