"""The store that the daemons share: the real loading, the real domain, one transaction at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain import records as r
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.services.clock import HostClock, first_mark
from poolkeeper_server.storage.loading import loaded
from tests.bench.growth.clock import Clock
from tests.bench.growth.tables import Tables

ESTATE, PRODUCT, POOL = "acme", "encoder", "default"
_SECRET = b"secret"


class Store:
    """What is stored, and its clock: lease time stands still while nothing can be committed.

    Ids count on. The ledger's entries are made and hashed, and only its head is kept.
    """

    def __init__(self, clock: Clock) -> None:
        self.tables = Tables()
        self.away = False
        self.ended = 0
        """Sessions that held seats when their time was over."""
        self._time = HostClock(clock, first_mark(clock))
        self._made = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._taken = False

    def found(self, *, seats: int, lease: float, interval: float, margin: float) -> None:
        """Makes the estate with its Default Pool and one purchase."""
        settings = c.PoolSettings(
            lease_duration=round(lease * 1e6), heartbeat_interval=round(interval * 1e6), margin=round(margin * 1e6)
        )
        commands: list[c.Command] = [
            c.CreateEstate(
                estate_id=ESTATE,
                caller="operator",
                request_id="1",
                digest=b"",
                title=ESTATE,
                settings=settings,
                honey=(),
            ),
            c.CreateProduct(
                estate_id="", caller="operator", request_id="2", digest=b"", product_id=PRODUCT, title=PRODUCT, units=()
            ),
            c.AddLicence(
                estate_id=ESTATE,
                caller="operator",
                request_id="3",
                digest=b"",
                products=(PRODUCT,),
                count=seats,
                licensed_by=r.LicensedBy.CONCURRENT_USER,
                order_number="",
                valid_from=None,
                valid_before=None,
            ),
        ]
        for command in commands:
            answer = self.transact([command])[0]
            if isinstance(answer, Refusal):
                raise answer

    def enrol(self, node_id: str) -> None:
        """A node as its enrolment would leave it."""
        node = r.Node(
            estate_id=ESTATE,
            node_id=node_id,
            public_key=b"",
            previous_key=b"",
            state=r.NodeState.ENROLLED,
            generation=1,
            enrolled_at=0,
            secret=_SECRET,
            previous_secret=b"",
            end_reason="",
        )
        self.tables.store(r.Node, [node])
        binding = r.Binding(estate_id=ESTATE, node_id=node_id, domain="", pool_id=POOL, bound_at=0)
        self.tables.store(r.Binding, [binding])

    def lock(self, then: Callable[[], None]) -> None:
        """Begins a transaction when all before it have ended: each locks the installation's mark."""
        if self._taken:
            self._waiting.append(then)
        else:
            self._taken = True
            then()

    def release(self) -> None:
        """Ends the transaction, whatever became of it."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._taken = False

    def transact(self, batch: Sequence[c.Command]) -> list[c.Answer]:
        """Loads, decides, writes."""
        now = self._time.moment()
        state = loaded(batch, now, self.tables.answer)
        answers, _ = decide_all(state, batch, now, self)
        stored, deleted = state.changes()
        for kind, pairs in stored.items():
            records = [record for _, record in pairs]
            self.tables.store(kind, records)
            if kind is r.Session:
                self.ended += sum(one.state is r.SessionState.ENDED for one in records)
        for kind, keys in deleted.items():
            self.tables.delete(kind, keys)
        self._time.committed(now)
        return answers

    def __iter__(self) -> Store:
        return self

    def __next__(self) -> str:
        self._made += 1
        return f"{self._made:024}"


def opening(node_id: str, session_id: str) -> c.OpenSession:
    """What the daemon makes of an opening; all nodes have one secret, which does not roll."""
    return c.OpenSession(
        estate_id=ESTATE,
        node_id=node_id,
        session_id=session_id,
        domain="",
        public_key=b"",
        secret=_SECRET,
        next_secret=_SECRET,
    )
