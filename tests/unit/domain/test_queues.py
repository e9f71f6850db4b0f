"""What a queue decides must not rest on the order in which the store finds its waiters."""

import itertools

import pytest

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.records import LicensedBy, Node, NodeState, Waiter
from poolkeeper_server.domain.state import State

NOW = Moment(lease=0, civil=0)


def ask(node: str, session: str, wait: int = 0) -> c.CheckOut:
    return c.CheckOut(
        estate_id="acme",
        caller=node,
        request_id=session,
        digest=b"",
        session_id=session,
        product_id="encoder",
        wait=wait,
    )


def used_up_pool() -> State:
    """A pool of one seat, which session s0 holds."""
    state, ids = State(), iter(f"i{number}" for number in itertools.count())
    spans = c.PoolSettings(lease_duration=60 * SECOND, heartbeat_interval=2 * SECOND, margin=3 * SECOND)
    batch: list[c.Command] = [
        c.CreateEstate(estate_id="acme", caller="admin", request_id="", digest=b"", title="", settings=spans, honey=()),
        c.CreateProduct(
            estate_id="", caller="admin", request_id="", digest=b"", product_id="encoder", title="", units=()
        ),
        c.AddLicence(
            estate_id="acme",
            caller="admin",
            request_id="",
            digest=b"",
            products=("encoder",),
            count=1,
            licensed_by=LicensedBy.CONCURRENT_USER,
            order_number="",
            valid_from=None,
            valid_before=None,
        ),
        c.IssueCode(
            estate_id="acme",
            caller="admin",
            request_id="",
            digest=b"",
            pool_id="default",
            node_id="n",
            domain="",
            replace=False,
            lifetime=SECOND,
            code_id="c",
            digests=(b"d",),
        ),
        c.Enrol(source="", estate_id="acme", pool_id="default", digest=b"d", public_key=b"k", valid=True, secret=b"s"),
        *(
            c.OpenSession(
                estate_id="acme",
                node_id="n",
                session_id=f"s{number}",
                domain="",
                public_key=b"k",
                secret=b"s",
                next_secret=b"s",
            )
            for number in range(4)
        ),
        ask("n", "s0"),
    ]
    answers, _ = decide_all(state, batch, NOW, ids)
    node = state.get(Node, "acme", "n")
    assert node is not None
    assert node.state is NodeState.ENROLLED
    assert isinstance(answers[-1], c.Granted)
    return state


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_first_in_the_queue_is_served_first_in_whatever_order_it_was_loaded(order: tuple[int, ...]) -> None:
    before = used_up_pool()
    ids = iter(f"j{number}" for number in itertools.count())
    queued = [ask("n", f"s{number}", wait=60 * SECOND) for number in (1, 2, 3)]
    decide_all(before, queued, NOW, ids)
    waiters = list(before.all(Waiter))
    state = State()
    state.load(waiters[place] for place in order)
    stored, _ = before.changes()
    state.load(record for pairs in stored.values() for _, record in pairs)
    decide_all(state, [c.CloseSession(estate_id="acme", session_id="s0")], NOW, ids)
    assert [waiter.session_id for waiter, answer in state.served if isinstance(answer, c.Granted)] == ["s1"]
