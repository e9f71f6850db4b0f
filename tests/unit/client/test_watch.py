"""How long an answer is waited for, and when the daemon that owes it is left; in a loop whose time passes at once."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from poolkeeper._watch import FIRST_SILENCE, SILENCE, SPARING, Look, answered
from poolkeeper.errors import Unreachable

LIMIT = 20.0
#: Seconds that a look takes.
LOOK = 0.5


class _Instant(selectors.SelectSelector):
    """Does not wait: what it is to wait for passes at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready."""
        self.now += timeout or 0.0
        return super().select(0)


def at_once(work: Callable[[asyncio.Future[str]], Coroutine[Any, Any, None]]) -> float:
    """Runs the work with an answer to come; gives the seconds that have passed by its end."""
    selector = _Instant()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign] # It is the test that tells the time.
    try:
        loop.run_until_complete(work(loop.create_future()))
    finally:
        loop.close()
    return selector.now


class Daemon:
    """Notes when it is looked whether it is lost."""

    def __init__(self, *, lost: bool = False) -> None:
        self.began: list[float] = []
        self.given_up = 0
        self._lost = lost

    async def __call__(self) -> bool:
        """Whether it is lost."""
        self.began.append(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(LOOK)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return self._lost


def heard(look: Look) -> Look:
    """As it is once its daemon has said something."""
    look.heard()
    return look


def fails(look: Look | None) -> float:
    """When an answer that never comes is not waited for any more, in whatever way."""

    async def wait(answer: asyncio.Future[str]) -> None:
        try:
            assert not await answered(answer, limit=LIMIT, look=look)
        except Unreachable:
            assert asyncio.get_running_loop().time() >= LIMIT

    return at_once(wait)


def test_without_another_daemon_it_is_waited_to_the_end() -> None:
    assert fails(None) == pytest.approx(LIMIT)


def test_a_daemon_that_is_lost_is_left_at_once() -> None:
    assert fails(heard(Look(Daemon(lost=True)))) == pytest.approx(SILENCE + LOOK)


def test_one_that_has_said_nothing_yet_is_left_later() -> None:
    assert fails(Look(Daemon(lost=True))) == pytest.approx(FIRST_SILENCE + LOOK)


def test_one_that_is_there_is_waited_for_and_looked_at_more_and_more_rarely() -> None:
    daemon = Daemon()
    assert fails(heard(Look(daemon))) == pytest.approx(LIMIT)
    second = SILENCE + LOOK + SILENCE * SPARING
    assert daemon.began == pytest.approx([SILENCE, second, second + LOOK + SILENCE * SPARING**2])


def test_a_look_that_fails_says_nothing() -> None:
    async def faulty() -> bool:
        raise RuntimeError

    assert fails(Look(faulty)) == pytest.approx(LIMIT)


def test_what_it_says_otherwise_counts() -> None:
    async def wait(answer: asyncio.Future[str]) -> None:
        assert not await answered(answer, limit=LIMIT, look=heard(Look(Daemon(lost=True))), heard_at=lambda: 3.0)

    assert at_once(wait) == pytest.approx(3.0 + SILENCE + LOOK)


@pytest.mark.parametrize("lost", [False, True])
def test_all_who_wait_share_one_look(*, lost: bool) -> None:
    daemon = Daemon(lost=lost)
    look = heard(Look(daemon))

    async def wait(_: asyncio.Future[str]) -> None:
        loop = asyncio.get_running_loop()
        waiting = [answered(loop.create_future(), limit=2.0, look=look) for _ in range(30)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in found} == ({bool} if lost else {Unreachable})
        assert asyncio.all_tasks() == {asyncio.current_task()}

    at_once(wait)
    assert daemon.began == pytest.approx([SILENCE])


@pytest.mark.parametrize("after", [SILENCE / 2, SILENCE + LOOK / 2, 10.0])
def test_an_answer_ends_it_also_in_the_middle_of_a_look(after: float) -> None:
    daemon = Daemon(lost=after < SILENCE + LOOK)
    look = heard(Look(daemon))

    async def wait(answer: asyncio.Future[str]) -> None:
        asyncio.get_running_loop().call_later(after, answer.set_result, "here")
        assert await answered(answer, limit=LIMIT, look=look)
        assert answer.result() == "here"
        assert asyncio.all_tasks() == {asyncio.current_task()}

    assert at_once(wait) == pytest.approx(after)
    assert daemon.given_up == (SILENCE < after < SILENCE + LOOK)
    assert look.silence == SILENCE


def test_who_gives_up_ends_the_look_with_it() -> None:
    daemon = Daemon()

    async def wait(answer: asyncio.Future[str]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SILENCE + LOOK / 2):
                await answered(answer, limit=None, look=heard(Look(daemon)))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    at_once(wait)
    assert daemon.given_up == 1
