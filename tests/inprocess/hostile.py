"""Requests of every method that are right but for one field, which is as wrong as it can be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from poolkeeper.v1 import admin_pb2

ESTATE = "estates/acme"
POOL = f"{ESTATE}/pools/west"

_CHANCE = random.Random(15)
#: 250 characters of four bytes each, which no database packs into fewer: CJK ideographs, extension B.
LONGEST = "".join(chr(_CHANCE.randrange(0x20000, 0x2A6D0)) for _ in range(250))
#: Stands where raw bytes are put in, of the same length.
PLACEHOLDER = "PLACEHOLDER!"
#: A lone surrogate and an overlong NUL, which are no UTF-8.
RAW = b"\xed\xa0\x80\xed\xbf\xbf\xc0\x80????"
STRINGS = (
    "",
    "\0",
    "a\0b",
    "é\u202e",
    "\N{PILE OF POO}" * 250,
    LONGEST,
    LONGEST + "x",
    "x" * 100_000,
    "estates/a\0b/pools/x",
    "estates/acme/pools/west/allocations/a\0b",
    f"estates/{LONGEST}/pools/{LONGEST}",
    "estates/acme/consumers/%00",
    "estates/acme/consumers/%ED%A0%80",
    '["acme","\\ud800"]',
    '["acme","\\u0000"]',
    '["acme",9223372036854775808]',
    "[" * 100_000,
    "[" * 4_000,
    "9" * 5_000,
    PLACEHOLDER,
)
INTEGERS = {
    FieldDescriptor.TYPE_INT32: (0, 1, -1, -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (0, 1, -1, -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**63, 2**64 - 1),
    FieldDescriptor.TYPE_FIXED64: (0, 2**63, 2**64 - 1),
}
VALUES: dict[int, tuple[Any, ...]] = {
    **INTEGERS,
    FieldDescriptor.TYPE_STRING: STRINGS,
    FieldDescriptor.TYPE_BYTES: (b"", b"\0" * 32, b"\xff" * 10_000),
    FieldDescriptor.TYPE_BOOL: (False, True),
    FieldDescriptor.TYPE_ENUM: (0, 1, 99, -1, 2**31 - 1),
}
SPANS = ((-1, 0), (0, -1), (2**62, 0), (-(2**62), 0), (0, 2**31 - 1), (315_576_000_000, 0))
#: How often what may be repeated is.
MANY = 2_000

#: Fields as they should be, so that each of the others is looked at.
RIGHT: dict[str, Any] = {
    "parent": ESTATE,
    "source": f"{ESTATE}/pools/default",
    "target": POOL,
    "title": "Other",
    "reason": "test",
    "count": 1,
    "licensed_by": admin_pb2.LICENSED_BY_CONCURRENT_USER,
    "product": "encoder",
    "products": "encoder",
    "node": f"{ESTATE}/nodes/none",
    "allocation": f"{POOL}/allocations/{0:024}",
    "line": "SO-1",
    "node_id": "none",
    "estate": ESTATE,
}
#: What a name is of, by the message that has it; nothing that the rest of the requests need is ended by any of them.
NAMED = {
    "Pool": f"{ESTATE}/pools/spare",
    "GetEstateRequest": ESTATE,
    "UnfreezeEstateRequest": ESTATE,
    "GetProductRequest": "products/encoder",
    "GetLicenceRequest": f"{ESTATE}/licences/L000001",
    "GetPoolRequest": POOL,
    "ClosePoolRequest": f"{ESTATE}/pools/spare",
    "UnfreezePoolRequest": POOL,
    "RevokeCodeRequest": f"{POOL}/codes/{0:024}",
    "GetNodeRequest": f"{ESTATE}/nodes/studio-7",
    "ApproveNodeRequest": f"{ESTATE}/nodes/none",
    "RejectNodeRequest": f"{ESTATE}/nodes/none",
    "RevokeNodeRequest": f"{ESTATE}/nodes/none",
    "MigrateNodeRequest": f"{ESTATE}/nodes/studio-7",
    "GetConsumerRequest": f"{ESTATE}/consumers/camera",
    "DeleteConsumerRequest": f"{ESTATE}/consumers/none",
    "GetAllocationRequest": f"{POOL}/allocations/{0:024}",
    "ReleaseAllocationRequest": f"{POOL}/allocations/{0:024}",
    "ExportLedgerRequest": POOL,
    "RevokeTokenRequest": f"tokens/{0:024}",
}
#: Messages whose parent is a pool.
OF_A_POOL = {"IssueCodeRequest", "ListCodesRequest", "ListEntriesRequest", "ListPoolAllocationsRequest"}


def righted(kind: Any) -> Any:
    """A message of that kind with its fields as they should be, where it is known how."""
    message: Any = GetMessageClass(kind)()
    for field in kind.fields:
        value = _right(kind, field)
        if kind.name == "MoveSeatsRequest" and field.name == "moves":
            message.moves.add(line="SO-1", count=1)
        elif value is None or field.message_type is not None:
            continue
        elif field.is_repeated:
            getattr(message, field.name).extend([value])
        elif isinstance(value, str) is (field.type == FieldDescriptor.TYPE_STRING):
            setattr(message, field.name, value)
    return message


def _right(kind: Any, field: FieldDescriptor) -> Any:
    if field.name == "name":
        return NAMED.get(kind.name)
    if field.name == "parent" and kind.name in OF_A_POOL:
        return POOL
    if field.name in {"estate_id", "product_id", "pool_id"}:
        return "other-0"
    if field.name == "consumer" and "Consumer" in kind.name:
        return "camera-0"
    return "hostile-0" if field.name == "request_id" else RIGHT.get(field.name)


def spoilt(kind: Any) -> Iterator[tuple[str, bytes]]:
    """Each hostile request of that kind, with where and how it is hostile."""
    for number, (where, message) in enumerate(_spoilt(kind, 0)):
        _number(message, number)
        body: bytes = message.SerializeToString(deterministic=True)
        yield where, body.replace(PLACEHOLDER.encode(), RAW)
    yield "a group that never ends", b"\x0b" * 200
    yield "no message", b"\xff" * 9


def _number(message: Any, number: int) -> None:
    """Makes ids of what is created, and of requests, those of this one; not those that are hostile themselves."""
    for field in message.DESCRIPTOR.fields:
        if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            value = getattr(message, field.name)
            if value.endswith("-0") and value.startswith(("other-", "camera-", "hostile-")):
                setattr(message, field.name, f"{value[:-1]}{number}")


def _spoilt(kind: Any, depth: int) -> Iterator[tuple[str, Any]]:
    for field in kind.fields:
        if field.message_type is None:
            yield from _values(kind, field)
        elif field.message_type.GetOptions().map_entry:
            yield from _entries(kind, field)
        elif field.message_type.full_name in {"google.protobuf.Duration", "google.protobuf.Timestamp"}:
            for seconds, nanos in SPANS:
                message = righted(kind)
                part = getattr(message, field.name)
                part.seconds, part.nanos = seconds, nanos
                yield f"{field.name} = {seconds}, {nanos}", message
        elif depth < 3:
            yield from _parts(kind, field, depth)


def _values(kind: Any, field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    for value in VALUES[field.type]:
        message = righted(kind)
        if not field.is_repeated:
            setattr(message, field.name, value)
        else:
            message.ClearField(field.name)
            getattr(message, field.name).append(value)
        yield f"{field.name} = {value!r:.60}", message
    if field.is_repeated:
        message = righted(kind)
        message.ClearField(field.name)
        getattr(message, field.name).extend(_some(field.type))
        yield f"{field.name}, {MANY} times", message


def _some(kind: int) -> list[Any]:
    if kind == FieldDescriptor.TYPE_STRING:
        return [f"x{place}" for place in range(MANY)]
    return [b"x" if kind == FieldDescriptor.TYPE_BYTES else 1] * MANY


def _entries(kind: Any, field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    for key in STRINGS:
        message = righted(kind)
        getattr(message, field.name)[key] = 1
        yield f"{field.name}[{key!r:.60}]", message
    for value in INTEGERS[FieldDescriptor.TYPE_INT64]:
        message = righted(kind)
        getattr(message, field.name)["cameras"] = value
        yield f"{field.name} = {value}", message
    message = righted(kind)
    getattr(message, field.name).update({f"unit-{place}": 1 for place in range(100_000)})
    yield f"{field.name}, 100,000 times", message


def _parts(kind: Any, field: FieldDescriptor, depth: int) -> Iterator[tuple[str, Any]]:
    for where, part in _spoilt(field.message_type, depth + 1):
        message = righted(kind)
        if field.is_repeated:
            message.ClearField(field.name)
            getattr(message, field.name).append(part)
        else:
            getattr(message, field.name).CopyFrom(part)
        for named in _masked(message, field, where):
            yield f"{field.name}.{where}", named
    if field.is_repeated:
        message = righted(kind)
        message.ClearField(field.name)
        getattr(message, field.name).extend([righted(field.message_type)] * MANY)
        yield f"{field.name}, {MANY} times", message


def _masked(message: Any, field: FieldDescriptor, where: str) -> Iterator[Any]:
    """An update names what it changes."""
    name = where.partition(" ")[0]
    if "update_mask" in message.DESCRIPTOR.fields_by_name and field.name == "pool":
        settings = {"name", "etag", "state", "create_time"}
        message.update_mask.paths[:] = ["title" if name in settings else name]
        message.pool.title = message.pool.title or "Spare"
    yield message
