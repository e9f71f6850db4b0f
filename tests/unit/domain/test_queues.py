"""What a queue decides must not rest on the order in which the store finds its waiters."""

import itertools

import pytest

from poolkeeper_server.domain import commands as c
from poolkeeper_server.domain.decide import decide_all
from poolkeeper_server.domain.moment import SECOND, Moment
from poolkeeper_server.domain.records import Holding, Licence, LicensedBy, Node, NodeState, Queue, Waiter, replace
from poolkeeper_server.domain.refusal import Refusal
from poolkeeper_server.domain.state import State

NOW = Moment(lease=0, civil=0)


def ask(node: str, session: str, wait: int = 0, *, product: str = "encoder") -> c.CheckOut:
    return c.CheckOut(
        estate_id="acme",
        caller=node,
        request_id=session,
        digest=b"",
        session_id=session,
        product_id=product,
        wait=wait,
    )


def used_up_pool() -> State:
    """A pool of one seat, of an encoder or a camera, which session s0 holds."""
    state, ids = State(), iter(f"i{number}" for number in itertools.count())
    spans = c.PoolSettings(lease_duration=60 * SECOND, heartbeat_interval=2 * SECOND, margin=3 * SECOND)
    batch: list[c.Command] = [
        c.CreateEstate(estate_id="acme", caller="admin", request_id="", digest=b"", title="", settings=spans, honey=()),
        *(
            c.CreateProduct(
                estate_id="", caller="admin", request_id="", digest=b"", product_id=product, title="", units=()
            )
            for product in ("encoder", "camera")
        ),
        c.AddLicence(
            estate_id="acme",
            caller="admin",
            request_id="",
            digest=b"",
            products=("encoder", "camera"),
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
    assert served(before, Waiter, order) == ["s1"]


@pytest.mark.parametrize("products", [("camera", "encoder"), ("encoder", "camera")])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_queues_the_one_with_the_older_head_is_served_first(
    order: tuple[int, ...], products: tuple[str, str]
) -> None:
    before = used_up_pool()
    ids = iter(f"j{number}" for number in itertools.count())
    queued = [ask("n", f"s{number}", wait=60 * SECOND, product=product) for number, product in enumerate(products, 1)]
    decide_all(before, queued, NOW, ids)
    assert served(before, Queue, order) == ["s1"]


def test_who_comes_in_the_same_batch_lets_the_waiter_before_it_go_first() -> None:
    state = used_up_pool()
    licence = next(state.all(Licence))
    state.put(replace(licence, count=2))
    state.put(replace(next(state.all(Holding)), count=2))
    ids = iter(f"j{number}" for number in itertools.count())
    large = replace(ask("n", "s1", wait=60 * SECOND), quantity=2)
    answers, _ = decide_all(state, [large, ask("n", "s2", product="camera"), ask("n", "s3")], NOW, ids)
    assert [type(answer) for answer in answers] == [c.Waiting, Refusal, Refusal]


def served(before: State, kind: type, order: tuple[int, ...]) -> list[str]:
    """The sessions that have the seat of s0 when it goes, if the records of a kind are loaded in that order."""
    ids = iter(f"k{number}" for number in itertools.count())
    records: list[object] = list(before.all(kind))
    state = State()
    state.load(records[place] for place in order)
    stored, _ = before.changes()
    state.load(record for pairs in stored.values() for _, record in pairs)
    decide_all(state, [c.CloseSession(estate_id="acme", session_id="s0")], NOW, ids)
    return [waiter.session_id for waiter, answer in state.served if isinstance(answer, c.Granted)]
