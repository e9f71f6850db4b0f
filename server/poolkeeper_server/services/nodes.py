"""What the daemon keeps in memory of nodes: whose credentials have ended, and who was seen when."""

from __future__ import annotations

from collections.abc import Callable

from poolkeeper_server.domain.records import Key, Node, NodeState
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.tokens import SessionIdentity
from poolkeeper_server.storage.reader import Reader
from poolkeeper_server.storage.schema import TABLES


class Credentials:
    """Nodes that have had credentials end: older tokens of theirs are refused, reads too (CC-9).

    `tell` is called with (estate, node) whenever this daemon has changed one, for the others to hear.
    """

    def __init__(self, reader: Reader, tell: Callable[[str, str], None] = lambda _estate, _node: None) -> None:
        self._reader = reader
        self._tell = tell
        self._ended: dict[Key, tuple[int, Refusal]] = {}

    async def load(self) -> None:
        """Reads all of them, at the start."""
        table = TABLES[Node]
        for node in await self._reader.all(Node, table.c.generation > 1):
            self._take(node)

    async def changed(self, estate_id: str, node_id: str) -> None:
        """Reads one that was changed here, before the change is answered, and tells the other daemons."""
        await self.refresh(estate_id, node_id)
        self._tell(estate_id, node_id)

    async def refresh(self, estate_id: str, node_id: str) -> None:
        """Reads one again."""
        node = await self._reader.get(Node, estate_id, node_id)
        if node is not None and node.generation > 1:
            self._take(node)

    def refusal(self, identity: SessionIdentity) -> Refusal | None:
        """Why a token is not good any more; None while it is."""
        found = self._ended.get((identity.estate, identity.node))
        return found[1] if found is not None and identity.generation < found[0] else None

    def _take(self, node: Node) -> None:
        if node.state is NodeState.REVOKED:
            refusal = Refusal(
                Reason.NODE_REVOKED,
                f"Node {node.node_id} was revoked: {node.end_reason or 'no reason given'}.",
                hint="It needs a new code to be enrolled again.",
            )
        elif node.copied_at is not None:
            refusal = Refusal(
                Reason.NODE_COPIED,
                f"The identity of node {node.node_id} was found on two machines; the sessions of both are over.",
                hint="Open a new session once an admin has picked this machine, or enrol it with a new code.",
            )
        else:
            refusal = Refusal(
                Reason.NODE_REBOUND,
                f"Node {node.node_id} was enrolled anew; this session is of its earlier enrolment.",
                hint="Open a new session with the present identity.",
            )
        self._ended[(node.estate_id, node.node_id)] = (node.generation, refusal)


class Sightings:
    """When nodes were last seen (EV-11): in memory at once, on disk every few seconds."""

    def __init__(self) -> None:
        self._seen: dict[Key, int] = {}
        self._unsaved: dict[Key, int] = {}

    def saw(self, estate_id: str, node_id: str, at: int) -> None:
        """Takes note."""
        self._unsaved[(estate_id, node_id)] = at

    def newest(self, estate_id: str, node_id: str, stored: int | None) -> int | None:
        """The newest of what is stored and what is known here."""
        known = self._unsaved.get((estate_id, node_id), self._seen.get((estate_id, node_id)))
        if known is None or stored is None:
            return stored if known is None else known
        return max(known, stored)

    def take(self) -> list[tuple[str, str, int]]:
        """What is to be stored; it is answered from memory until the next time."""
        self._seen, self._unsaved = self._unsaved, {}
        return [(estate, node, at) for (estate, node), at in self._seen.items()]
