"""What request ids have done, so that a repeated request has one effect (CC-13)."""

from __future__ import annotations

from poolkeeper_server.domain.commands import Request
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Outcome
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.domain.state import State


def remembered(state: State, command: Request) -> Outcome | None:
    """What this request did before; None when it is new.

    Raises:
        Refusal: REQUEST_ID_REUSED when the id belongs to a different request.
    """
    if not command.request_id:
        return None
    outcome = state.get(Outcome, command.estate_id, command.request_id, command.caller)
    if outcome is not None and outcome.digest != command.digest:
        raise Refusal(
            Reason.REQUEST_ID_REUSED,
            f"Request id {command.request_id} was used for another request.",
            hint="Every request needs an id of its own; only a retry carries the same one.",
        )
    return outcome


def remember(state: State, command: Request, subject: str, now: Moment) -> None:
    """Keeps what the request did, in the transaction that does it."""
    if command.request_id:
        state.put(
            Outcome(
                estate_id=command.estate_id,
                caller=command.caller,
                request_id=command.request_id,
                digest=command.digest,
                subject=subject,
                at=now.civil,
            )
        )
