"""Listings that every client can read, however large what they list is."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

A = TypeVar("A", bound=Message)

LARGEST_ANSWER = 3_500_000
"""Bytes of a page; gRPC's clients take no more than 4 MiB unless they are told otherwise."""


async def readable(request: Any, listing: Callable[[Any], Awaitable[A]]) -> A:  # noqa: ANN401 - a message with page_size
    """What a listing answers; with fewer items than were asked for where so many would not fit into one message."""
    found = await listing(request)
    while (size := found.ByteSize()) > LARGEST_ANSWER and (count := _items(found)) > 1:
        fewer = type(request)()
        fewer.CopyFrom(request)
        fewer.page_size = max(1, min(count - 1, count * LARGEST_ANSWER // size))
        found = await listing(fewer)
    return found


def _items(found: Message) -> int:
    return sum(len(value) for field, value in found.ListFields() if field.is_repeated)
