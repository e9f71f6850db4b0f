"""Keys that wait for an admin, since their code was right while enrolment was frozen (CC-5).

Whoever has met a code by chance may be the first. So a key that waits takes nothing: the code stays good, and other
keys wait beside it, until an admin names the one that whoever stands before the machine has read out to him.
"""

from __future__ import annotations

from hashlib import sha256

from poolkeeper_server.domain.commands import Enrol
from poolkeeper_server.domain.moment import Moment
from poolkeeper_server.domain.records import Code, PendingEnrolment, replace
from poolkeeper_server.domain.state import State

#: How many keys may wait for one code, and how many of them from one source. Nobody meets a code so often by chance:
#: those who come after them share it with too many, and need another one.
KEYS_OF_A_CODE = 16
KEYS_OF_A_SOURCE = 4


def fingerprint_of(public_key: bytes) -> str:
    """By what people know a key."""
    return sha256(public_key).hexdigest()


def keys_of_node(state: State, estate_id: str, node_id: str) -> list[PendingEnrolment]:
    """The keys that wait for that name, the earliest first; without those that were turned down."""
    keys = state.many(PendingEnrolment, state.pending[(estate_id, node_id)])
    return sorted((key for key in keys if not key.rejected), key=lambda key: (key.requested_at, key.fingerprint))


def keys_of_code(state: State, code: Code) -> list[PendingEnrolment]:
    """All keys that have come with that code while enrolment was frozen, also those that were turned down."""
    keys = state.many(PendingEnrolment, state.pending[(code.estate_id, code.node_id)])
    return [key for key in keys if key.code_id == code.code_id]


def wait(state: State, code: Code, command: Enrol, now: Moment) -> None:
    """Has the key wait, beside those that wait for the same code; there is room for so many, and none gives way."""
    keys = keys_of_code(state, code)
    near = sum(key.source == command.source for key in keys)
    if len(keys) >= KEYS_OF_A_CODE or near >= KEYS_OF_A_SOURCE:
        return
    state.put(
        PendingEnrolment(
            estate_id=code.estate_id,
            node_id=code.node_id,
            code_id=code.code_id,
            fingerprint=fingerprint_of(command.public_key),
            public_key=command.public_key,
            source=command.source,
            requested_at=now.civil,
        )
    )


def turn_down(state: State, key: PendingEnrolment) -> None:
    """Turns one key down, which does not come to wait for that code again."""
    state.put(replace(key, rejected=True))


def forget(state: State, code: Code) -> None:
    """Lets no key wait for that code any more."""
    for key in keys_of_code(state, code):
        state.remove(key)
