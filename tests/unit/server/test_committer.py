"""The committer's queue, over a store that the test lets commit, fail or wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from poolkeeper_server.domain.commands import CancelWait, CheckIn, CheckOut, Command, Done, Expire, Heartbeat
from poolkeeper_server.domain.records import CheckInReason
from poolkeeper_server.domain.refusal import Reason, Refusal
from poolkeeper_server.services.clock import HostClock, first_mark
from poolkeeper_server.services.committer import LARGEST_BATCH, LARGEST_SHARE, Committer
from poolkeeper_server.storage.store import Committed, StoreUnavailable, Take
from tests.inprocess.installation import DrivenTime


class ScriptedStore:
    """A store of the contract that keeps nothing: it notes its batches and does what the test says."""

    def __init__(self) -> None:
        host = DrivenTime()
        self.time = HostClock(host, first_mark(host))
        self.batches: list[list[Command]] = []
        self.asked = asyncio.Event()
        self.turn = asyncio.Event()
        self.turn.set()
        self.missed: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.begun = asyncio.Event()
        self.failure: Callable[[Sequence[Command]], Exception | None] = lambda _: None

    async def transact(self, take: Take, ids: Callable[[], Iterator[str]]) -> Committed:
        del ids
        self.asked.set()
        await self.turn.wait()
        if self.missed is not None:
            raise self.missed
        batch = take()
        self.batches.append(list(batch))
        self.begun.set()
        await self.open.wait()
        failure = self.failure(batch)
        if failure is not None:
            raise failure
        now = self.time.moment()
        self.time.committed(now)
        return Committed(
            answers=tuple(Done(subject="x") for _ in batch), told=(), served=(), more=(), faults=(), alerts=(), now=now
        )

    async def sight(self, seen: Sequence[tuple[str, str, int]]) -> None:
        raise NotImplementedError

    async def purge(self, before: int, most: int) -> int:
        raise NotImplementedError

    async def forget(self, before: int, most: int) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@asynccontextmanager
async def running(store: ScriptedStore, bound: int = 100) -> AsyncIterator[Committer]:
    committer = Committer(store, bound=bound)
    task = asyncio.create_task(committer.run())
    yield committer
    committer.close()
    await task


def check_out(number: int = 0) -> CheckOut:
    return CheckOut(
        estate_id="acme", caller="n", request_id=f"r{number}", digest=b"", session_id="s", product_id="encoder"
    )


def heartbeat() -> Heartbeat:
    return Heartbeat(estate_id="acme", session_id="s", count=0, digest=0)


def check_in() -> CheckIn:
    return CheckIn(
        estate_id="acme",
        caller="n",
        request_id="i",
        digest=b"",
        session_id="s",
        allocation_id="a",
        reason=CheckInReason.ENDED,
    )


async def test_what_waits_while_a_batch_commits_is_the_next_batch() -> None:
    store = ScriptedStore()
    async with running(store) as committer:
        store.open.clear()
        first = committer.submit(check_out())
        await store.begun.wait()
        later = [committer.submit(check_out(number)) for number in range(1, 50)]
        store.open.set()
        await asyncio.gather(first, *later)
    assert [len(batch) for batch in store.batches] == [1, 49]


async def test_what_comes_while_a_transaction_waits_for_its_turn_is_carried_out_in_it() -> None:
    store = ScriptedStore()
    async with running(store) as committer:
        store.turn.clear()
        first = committer.submit(check_out())
        await store.asked.wait()
        gone, later = committer.submit(check_out(1)), committer.submit(check_in())
        gone.cancel()
        store.turn.set()
        await asyncio.gather(first, later)
    assert [[type(one) for one in batch] for batch in store.batches] == [[CheckIn, CheckOut]]


@pytest.mark.parametrize(
    ("missed", "told"), [(StoreUnavailable("no server"), Refusal), (ValueError("a fault"), ValueError)]
)
async def test_a_transaction_that_never_had_its_turn_leaves_nobody_without_an_answer(
    missed: Exception, told: type
) -> None:
    store = ScriptedStore()
    store.missed = missed
    async with running(store) as committer:
        answers = await asyncio.gather(
            *(committer.submit(check_out(number)) for number in range(3)), return_exceptions=True
        )
        assert [type(one) for one in answers] == [told] * 3
        store.missed = None
        assert isinstance(await committer.submit(check_in()), Done)


async def test_who_comes_after_a_transaction_in_vain_has_taken_nothing_is_not_part_of_it() -> None:
    store = ScriptedStore()
    store.failure = lambda batch: None if batch else ValueError("a fault")
    async with running(store) as committer:
        store.turn.clear()
        store.open.clear()
        gone = committer.submit(check_out())
        await store.asked.wait()
        gone.cancel()
        store.turn.set()
        await store.begun.wait()
        later = committer.submit(check_in())
        store.open.set()
        assert isinstance(await later, Done)
    assert [len(batch) for batch in store.batches] == [0, 1]


async def test_a_batch_has_a_limit() -> None:
    store = ScriptedStore()
    async with running(store, bound=4 * LARGEST_BATCH) as committer:
        asked = [replace(check_out(), caller=f"n{number}") for number in range(LARGEST_BATCH + 1)]
        await asyncio.gather(*map(committer.submit, asked))
    assert max(len(batch) for batch in store.batches) == LARGEST_BATCH


async def test_nobody_waits_for_more_than_a_share_of_what_another_one_sends() -> None:
    store = ScriptedStore()
    async with running(store, bound=4 * LARGEST_BATCH) as committer:
        store.open.clear()
        first = [committer.submit(check_out(number)) for number in range(LARGEST_BATCH)]
        await store.begun.wait()
        other = replace(check_out(), caller="other", estate_id="other")
        later = committer.submit(other)
        store.open.set()
        await asyncio.gather(*first, later)
    assert [len(batch) for batch in store.batches[:2]] == [LARGEST_SHARE, LARGEST_SHARE + 1]
    assert other in store.batches[1]


async def test_a_full_queue_refuses_check_outs_and_still_takes_heartbeats_and_check_ins() -> None:
    store = ScriptedStore()
    async with running(store, bound=8) as committer:
        store.open.clear()
        taken = [committer.submit(check_out(number)) for number in range(6)]
        with pytest.raises(Refusal) as refused:
            committer.submit(check_out(6))
        assert refused.value.reason is Reason.OVERLOADED
        assert refused.value.retry_after
        kept = [committer.submit(heartbeat()), committer.submit(check_in())]
        store.open.set()
        await asyncio.gather(*taken, *kept)


async def test_heartbeats_and_check_ins_go_first_and_giving_up_a_wait_keeps_its_place() -> None:
    store = ScriptedStore()
    async with running(store) as committer:
        cancel = CancelWait(estate_id="acme", session_id="s", node_id="n", request_id="r0")
        await asyncio.gather(*(committer.submit(one) for one in (check_out(), cancel, heartbeat(), check_in())))
    assert [type(one) for one in store.batches[0]] == [Heartbeat, CheckIn, CheckOut, CancelWait]


@pytest.mark.invariant("INV-5")
async def test_a_check_out_whose_caller_has_gone_is_dropped_and_a_check_in_is_not() -> None:
    store = ScriptedStore()
    async with running(store) as committer:
        gone, late, kept = committer.submit(check_out()), committer.submit(check_out(1), within=0), check_in()
        gone.cancel()
        given_up = committer.submit(kept)
        given_up.cancel()
        await committer.submit(heartbeat())
    assert [type(one) for batch in store.batches for one in batch] == [CheckIn, Heartbeat]
    assert late.cancelled()


async def test_one_poison_command_fails_alone() -> None:
    store = ScriptedStore()
    poison = check_out(13)
    store.failure = lambda batch: ValueError("a fault") if poison in batch else None
    async with running(store) as committer:
        answers = await asyncio.gather(
            *(committer.submit(one) for one in (check_out(1), poison, check_out(2))), return_exceptions=True
        )
    assert [type(one) for one in answers] == [Done, ValueError, Done]


@pytest.mark.parametrize("size", [2, 3, 100])
async def test_a_poison_command_makes_others_pay_once_and_little(size: int) -> None:
    store = ScriptedStore()
    poison = [replace(check_out(number), caller="spoiler") for number in range(3)]
    store.failure = lambda batch: ValueError("a fault") if any(one in batch for one in poison) else None
    async with running(store, bound=4 * size) as committer:
        for number, bad in enumerate(poison):
            before = len(store.batches)
            good = [committer.submit(check_out(place)) for place in range(size - 1)]
            answers = await asyncio.gather(committer.submit(bad), *good, return_exceptions=True)
            assert [type(one) for one in answers] == [ValueError, *[Done] * (size - 1)]
            # Then its sender is known, and goes by itself.
            allowed = 2 if number else 1 + 2 * math.ceil(math.log2(size))
            assert len(store.batches) - before <= allowed
        # Whoever is by himself is served all the same.
        assert isinstance(await committer.submit(replace(check_out(), caller="spoiler", request_id="fine")), Done)


@pytest.mark.parametrize("unknown", [False, True])
async def test_a_failed_commit_is_answered_as_unavailable_and_never_as_done(*, unknown: bool) -> None:
    store = ScriptedStore()
    store.failure = lambda _: StoreUnavailable("disk full", unknown=unknown)
    async with running(store) as committer:
        answer = await committer.submit(check_out())
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.STORE_UNAVAILABLE


async def test_draining_refuses_whoever_comes_answers_what_is_queued_and_takes_the_daemon_s_own() -> None:
    store = ScriptedStore()
    async with running(store) as committer:
        store.open.clear()
        queued = committer.submit(check_out())
        committer.drain()
        for command in (check_out(1), heartbeat()):
            with pytest.raises(Refusal) as refused:
                committer.submit(command)
            assert refused.value.reason is Reason.DRAINING
        own = committer.submit(Expire(limit=1))
        store.open.set()
        assert isinstance(await queued, Done)
        assert isinstance(await own, Done)
