"""Resource names: how ids are written on the wire, and how names are taken apart again."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from poolkeeper_server.domain.refusal import Refusal, invalid
from poolkeeper_server.transport.texts import canonical, is_no_word

_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")
_NODE = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
# What `services.ids` makes, and the ids of sessions: no eight digits, and no token, typed where a name belongs.
_MADE = re.compile(r"[0-9a-v]{24,26}")
_LICENCE = re.compile(r"L[0-9]{1,18}")
_TOKEN = re.compile(r"operator(-[0-9a-f]{8})?|[0-9a-v]{24}")
_REQUEST_ID = re.compile(r"[!-~]{1,64}")

_ID_RULE = "lower-case letters, digits and hyphens, starting with a letter, at most 63"
_NODE_RULE = "lower-case letters, digits, dots and hyphens, starting with a letter or a digit, at most 63"


@dataclass(frozen=True, slots=True)
class Parent:
    """An estate, or a pool in it; `pool` is empty for the estate."""

    estate: str
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Child:
    """Something in an estate, by its own id; `pool` is empty unless it belongs to a pool."""

    estate: str
    id: str
    pool: str = ""


def estate_name(estate: str) -> str:
    """estates/acme."""
    return f"estates/{estate}"


def product_name(product: str) -> str:
    """products/encoder-1x1."""
    return f"products/{product}"


def pool_name(estate: str, pool: str) -> str:
    """estates/acme/pools/west."""
    return f"estates/{estate}/pools/{pool}"


def licence_name(estate: str, licence: str) -> str:
    """estates/acme/licences/L000001."""
    return f"estates/{estate}/licences/{licence}"


def node_name(estate: str, node: str) -> str:
    """estates/acme/nodes/studio-7."""
    return f"estates/{estate}/nodes/{node}"


def session_name(estate: str, node: str, session: str) -> str:
    """estates/acme/nodes/studio-7/sessions/01j…."""
    return f"estates/{estate}/nodes/{node}/sessions/{session}"


def allocation_name(estate: str, pool: str, allocation: str) -> str:
    """estates/acme/pools/west/allocations/01j…."""
    return f"estates/{estate}/pools/{pool}/allocations/{allocation}"


def code_name(estate: str, pool: str, code: str) -> str:
    """estates/acme/pools/west/codes/c7k2…."""
    return f"estates/{estate}/pools/{pool}/codes/{code}"


def consumer_name(estate: str, consumer: str) -> str:
    """estates/acme/consumers/ and the consumer, percent-encoded where needed."""
    return f"estates/{estate}/consumers/{quote(consumer, safe='')}"


def token_name(token: str) -> str:
    """tokens/t7k2…."""
    return f"tokens/{token}"


def alert_name(alert: str) -> str:
    """alerts/a7k2…."""
    return f"alerts/{alert}"


def read_estate(name: str, field: str) -> str:
    """The estate's id. Raises Refusal (INVALID_FIELD), as all of these do, for anything else."""
    (estate,) = _parts(name, field, "estates/acme", ("estates", _estate_id))
    return estate


def read_product(name: str, field: str) -> str:
    """The product's id, of products/encoder-1x1 or of the bare id."""
    bare = name.removeprefix("products/")
    if not _ID.fullmatch(bare):
        raise _no_name(field, "products/encoder-1x1")
    return bare


def read_parent(name: str, field: str) -> Parent:
    """An estate or a pool."""
    if name.count("/") <= 1:
        return Parent(read_estate(name, field))
    return read_pool(name, field)


def read_pool(name: str, field: str) -> Parent:
    """A pool."""
    estate, pool = _parts(name, field, "estates/acme/pools/west", ("estates", _estate_id), ("pools", _estate_id))
    return Parent(estate, pool)


def read_licence(name: str, field: str) -> Child:
    """A licence."""
    estate, licence = _parts(
        name, field, "estates/acme/licences/L000001", ("estates", _estate_id), ("licences", _licence_id)
    )
    return Child(estate, licence)


def read_node(name: str, field: str) -> Child:
    """A node."""
    estate, node = _parts(name, field, "estates/acme/nodes/studio-7", ("estates", _estate_id), ("nodes", _node_id))
    return Child(estate, node)


def read_session(name: str, field: str) -> tuple[Child, str]:
    """The node of a session, and the session's own id."""
    estate, node, session = _parts(
        name,
        field,
        "estates/acme/nodes/studio-7/sessions/01j0",
        ("estates", _estate_id),
        ("nodes", _node_id),
        ("sessions", _made_id),
    )
    return Child(estate, node), session


def read_allocation(name: str, field: str) -> Child:
    """An allocation."""
    estate, pool, allocation = _parts(
        name,
        field,
        "estates/acme/pools/west/allocations/01j0",
        ("estates", _estate_id),
        ("pools", _estate_id),
        ("allocations", _made_id),
    )
    return Child(estate, allocation, pool)


def find_pool(name: str) -> Parent:
    """The pool that a stranger named; two empty ids for what is no name of a pool."""
    parts = name.split("/", 4)
    if len(parts) == 4 and (parts[0], parts[2]) == ("estates", "pools") and all(map(_estate_id, parts[1::2])):  # noqa: PLR2004 - estates/E/pools/P
        return Parent(parts[1], parts[3])
    return Parent("")


def check_own_allocations(given: Iterable[str], estate: str, field: str) -> None:
    """Names of allocations of an estate."""
    of_estate = re.compile(rf"estates/{re.escape(estate)}/pools/{_ID.pattern}/allocations/{_MADE.pattern}").fullmatch
    for name in given:
        if of_estate(name) is None:
            raise _no_name(field, f"estates/{estate}/pools/west/allocations/01j0")


def read_code(name: str, field: str) -> Child:
    """An authentication code, by its name."""
    estate, pool, code = _parts(
        name,
        field,
        "estates/acme/pools/west/codes/c7k2",
        ("estates", _estate_id),
        ("pools", _estate_id),
        ("codes", _made_id),
    )
    return Child(estate, code, pool)


def read_consumer(name: str, field: str) -> Child:
    """A registered consumer."""
    estate, consumer = _parts(
        name, field, "estates/acme/consumers/camera-1", ("estates", _estate_id), ("consumers", _consumer_id)
    )
    return Child(estate, consumer)


def read_token(name: str, field: str) -> str:
    """An admin token's id."""
    (token,) = _parts(name, field, "tokens/operator", ("tokens", _token_id))
    return token


def new_id(text: str, field: str) -> str:
    """An id for a new estate, product or pool."""
    if not _ID.fullmatch(text):
        raise invalid(field, f"{field} is no id.", hint=f"An id has {_ID_RULE}.")
    return text


def new_node_id(text: str, field: str) -> str:
    """A friendly name for a node."""
    if not _NODE.fullmatch(text):
        raise invalid(field, f"{field} is no node name.", hint=f"A node name has {_NODE_RULE}.")
    return text


def request_id(text: str, *, required: bool = False) -> str:
    """A request id; empty where it may be left out."""
    if (required or text) and not _REQUEST_ID.fullmatch(text):
        raise invalid("request_id", "The request id is malformed.", hint="It has 1 to 64 visible ASCII characters.")
    return text


def _parts(name: str, field: str, example: str, *wanted: tuple[str, Callable[[str], str | None]]) -> list[str]:
    parts = name.split("/")
    if len(parts) != 2 * len(wanted):
        raise _no_name(field, example)
    found = []
    for (collection, read), got, given in zip(wanted, parts[::2], parts[1::2], strict=True):
        value = read(given)
        if got != collection or value is None:
            raise _no_name(field, example)
        found.append(value)
    return found


def _no_name(field: str, example: str) -> Refusal:
    # Not what was given: whoever types a token or a code in the wrong place must not find it in a log.
    return invalid(field, f"{field} is not a name of the kind wanted.", hint=f"Write it as {example}.")


def _estate_id(given: str) -> str | None:
    return given if _ID.fullmatch(given) else None


def _node_id(given: str) -> str | None:
    return given if _NODE.fullmatch(given) else None


def _made_id(given: str) -> str | None:
    return given if _MADE.fullmatch(given) else None


def _licence_id(given: str) -> str | None:
    return given if _LICENCE.fullmatch(given) else None


def _token_id(given: str) -> str | None:
    return given if _TOKEN.fullmatch(given) else None


def _consumer_id(given: str) -> str | None:
    try:
        consumer = unquote(given, errors="strict")
    except UnicodeDecodeError:
        return None
    found = canonical(consumer)
    return found if found and not is_no_word(found) else None
