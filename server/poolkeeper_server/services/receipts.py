"""Receipts as bytes: made with every grant and renewal, and read again after a restore. Neither asks the store."""

from __future__ import annotations

import struct
from typing import Final

import orjson

from poolkeeper_server.domain.commands import Granted
from poolkeeper_server.domain.receipts import GrantReceipt, SessionReceipt
from poolkeeper_server.domain.records import LicensedBy, Session
from poolkeeper_server.services.tokens import InvalidToken, TokenMint

_GRANT: Final = b"g"
_SESSION: Final = b"s"
_RENEWED: Final = struct.Struct(">QQQq")
_SEPARATOR: Final = "\0"


class Receipts:
    """Makes receipts, and reads those of this installation."""

    def __init__(self, mint: TokenMint) -> None:
        self._mint = mint

    def of_grant(self, granted: Granted, *, until: int | None) -> bytes:
        """For what was granted, which is promised until that civil instant."""
        found, use = granted.allocation, granted.use
        return self._mint.seal(
            _GRANT
            + orjson.dumps(
                (
                    granted.epoch,
                    found.fence,
                    until,
                    found.estate_id,
                    found.pool_id,
                    found.allocation_id,
                    found.product_id,
                    found.licensed_by,
                    found.counting_key,
                    found.shared,
                    found.lines,
                    use.quantity,
                    use.demand,
                    found.allocated_at,
                    use.request_id,
                    use.node_id,
                    use.session_id,
                    found.node_id,
                    found.consumer,
                    found.pseudonym,
                    found.installation,
                    found.user,
                    found.host,
                )
            )
        )

    def of_session(self, session: Session, *, epoch: int, until: int) -> bytes:
        """For all that the session has now, which is promised until that civil instant."""
        texts = _SEPARATOR.join((session.estate_id, session.node_id, session.session_id))
        return self._mint.seal(_SESSION + _RENEWED.pack(epoch, until, session.count, session.digest) + texts.encode())

    def read_grant(self, receipt: bytes) -> GrantReceipt:
        """What a grant's receipt says. Raises InvalidToken for one that is none of ours."""
        fields = orjson.loads(self._opened(receipt, _GRANT))
        told = dict(zip(GrantReceipt.__dataclass_fields__, fields, strict=True))
        told["licensed_by"] = LicensedBy(told["licensed_by"])
        for pairs in ("lines", "demand"):
            told[pairs] = tuple(map(tuple, told[pairs]))
        return GrantReceipt(**told)

    def read_session(self, receipt: bytes) -> SessionReceipt:
        """What a session's receipt says. Raises InvalidToken for one that is none of ours."""
        raw = self._opened(receipt, _SESSION)
        epoch, until, count, digest = _RENEWED.unpack_from(raw)
        estate, node, session = raw[_RENEWED.size :].decode().split(_SEPARATOR)
        return SessionReceipt(
            epoch=epoch,
            until=until,
            count=count,
            digest=digest,
            estate_id=estate,
            node_id=node,
            session_id=session,
        )

    def _opened(self, receipt: bytes, kind: bytes) -> bytes:
        payload = self._mint.unseal(receipt)
        if not payload.startswith(kind):
            raise InvalidToken("It is a receipt of another kind.")
        return payload[len(kind) :]
