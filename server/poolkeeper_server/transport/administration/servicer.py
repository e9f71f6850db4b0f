"""What the servicers of the admin API share: who may touch what, and where a command comes from."""

from typing import TypedDict

from google.protobuf.message import Message

from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.contract import Administration
from poolkeeper_server.transport import names
from poolkeeper_server.transport.fields import digest_of
from poolkeeper_server.transport.handlers import AdminCall


class Origin(TypedDict):
    """What every admin command starts with."""

    estate_id: str
    caller: str
    request_id: str
    digest: bytes


class AdminServicer:
    """Base of the servicers: each method checks the caller's scope, asks the service, and shows the answer."""

    def __init__(self, administration: Administration) -> None:
        self._ask = administration


def origin(call: AdminCall, request: Message, request_id: str, *, estate: str = "") -> Origin:
    """The common fields of a command, in which the request's own id and digest make it repeatable."""
    return Origin(
        estate_id=estate,
        caller=caller(call),
        request_id=names.request_id(request_id),
        digest=digest_of(request),
    )


def caller(call: AdminCall) -> str:
    """How outcomes and the audit know an admin."""
    return f"admin/{call.identity.token}"


def within(call: AdminCall, estate: str) -> str:
    """The estate, when the caller's token reaches it. Raises Refusal alike for estates that do not exist."""
    if call.identity.estate not in {"", estate}:
        raise Refusal(
            Reason.PERMISSION_DENIED,
            f"This token reaches estate {call.identity.estate} only.",
            hint="Use a token of that estate, or the operator's.",
        )
    return estate


def reach(call: AdminCall) -> str:
    """The only estate of which the caller may learn anything; empty: all of the installation."""
    return call.identity.estate


def operator(call: AdminCall) -> None:
    """Raises Refusal unless the caller's token reaches the whole installation."""
    if call.identity.estate:
        raise Refusal(
            Reason.PERMISSION_DENIED,
            f"This token reaches estate {call.identity.estate} only, and this concerns the whole installation.",
            hint="Use the operator's token.",
        )
