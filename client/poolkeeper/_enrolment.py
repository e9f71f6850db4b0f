"""Enrolment, and the first part of every session: a node proves who it is."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import socket
from collections.abc import Sequence
from typing import Any, Self

import grpc
import grpc.aio

from poolkeeper._clock import Clock
from poolkeeper._connector import Connector
from poolkeeper._core.address import Address, parse_addresses
from poolkeeper._core.patience import FIRST
from poolkeeper._core.requests import enrol_texts
from poolkeeper._core.retry import Retry, RetryPolicy
from poolkeeper._core.signing import enrolment_text, session_text
from poolkeeper._link import call_of
from poolkeeper._tasks import to_the_end
from poolkeeper.errors import Draining, EnrolmentPending, NotEnrolled, PoolkeeperError, Unreachable, from_rpc
from poolkeeper.identity import Identity, Record
from poolkeeper.trust import Trust, establish, open_channel
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc

CHALLENGE_LIFE = 50.0
_LOCK_POLL = 0.02
_LONGEST_HOST = 250


async def enrol_node(
    address: str | Sequence[str],
    code: str,
    *,
    pool: str,
    pin: str | None,
    trust_first_use: bool,
    identity: Identity,
    domain: str = "",
) -> Record:
    """Redeems a code for this node's key and stores what was learnt (CC-3).

    With a domain, a node that is enrolled keeps its key and its record: it gets a further binding (EV-8).
    """
    addresses = parse_addresses(address)
    pool, digits = enrol_texts(pool, code)
    async with _Held(identity):
        # On disk before anything is sent: should the answer be lost, the same key asks again.
        known = await asyncio.to_thread(_enrolled_already, identity) if domain else None
        if known is None:
            key = await asyncio.to_thread(identity.key_for_enrolment, pool, digits)
        else:
            key = await asyncio.to_thread(identity.key)
        request = pb.EnrolRequest(
            pool=pool,
            code=digits,
            public_key=key.public_key,
            proof=key.sign(enrolment_text(pool, digits)),
        )
        try:
            trust, answer = await _redeem(addresses, request, pin=pin, trust_first_use=trust_first_use)
        except EnrolmentPending as pending:
            pending.fingerprint = key.fingerprint
            raise
        if known is not None:
            await asyncio.to_thread(identity.store, dataclasses.replace(known, rolling_secret=answer.rolling_secret))
            return dataclasses.replace(known, node=answer.node, pool=answer.pool, domain=answer.domain)
        record = Record(
            addresses=tuple(str(one) for one in addresses),
            node=answer.node,
            pool=answer.pool,
            domain=answer.domain,
            ca_certificate_pem=trust.ca_certificate_pem,
            server_name=trust.server_name,
            pin=trust.pin,
            rolling_secret=answer.rolling_secret,
            attempt=key.attempt(pool, digits),
        )
        return await asyncio.to_thread(identity.enrolled, record, key)


def _enrolled_already(identity: Identity) -> Record | None:
    try:
        return identity.load()
    except NotEnrolled:
        return None


async def _redeem(
    addresses: tuple[Address, ...],
    request: pb.EnrolRequest,
    *,
    pin: str | None,
    trust_first_use: bool,
) -> tuple[Trust, pb.EnrolResponse]:
    retry = Retry(RetryPolicy(budget=10.0), started=_loop_time())
    while True:
        problem: PoolkeeperError = Unreachable()
        for address in addresses:
            try:
                trust = await establish(address, pin=pin, trust_first_use=trust_first_use)
                async with open_channel(address, trust) as channel:
                    answer = await _ask(channel, request)
                return trust, answer
            except Unreachable as silent:
                problem = silent
        pause = retry.pause(problem, now=_loop_time(), jitter=0.0)
        # A wrong address should be told at once; a daemon that asks for patience gets it.
        if pause is None or not problem.reason:
            raise problem
        await asyncio.sleep(pause)


async def _ask(channel: grpc.aio.Channel, request: pb.EnrolRequest) -> pb.EnrolResponse:
    try:
        answer: pb.EnrolResponse = await rpc.LicensingServiceStub(channel).Enrol(request, timeout=FIRST)
    except grpc.RpcError as problem:
        raise from_rpc(problem) from problem
    return answer


async def open_session(
    identity: Identity, connector: Connector, *, domain: str, clock: Clock, policy: RetryPolicy
) -> tuple[float, pb.OpenSessionResponse]:
    """When the opening was first sent, and its answer, whose rolling secret is stored already."""
    retry = Retry(policy, started=_loop_time())
    async with _Held(identity), _Caller(connector) as caller:
        record = await asyncio.to_thread(identity.load)
        key = await asyncio.to_thread(identity.key)
        request: pb.OpenSessionRequest | None = None
        sent_at = 0.0
        while True:
            try:
                if request is None or clock.now() - sent_at > CHALLENGE_LIFE:
                    challenge = await caller.challenge(record.node, limit=retry.limit(now=_loop_time()))
                    request = pb.OpenSessionRequest(
                        node=record.node,
                        challenge=challenge,
                        signature=key.sign(session_text(record.node, domain, challenge)),
                        domain=domain,
                        rolling_secret=record.rolling_secret,
                        host=_host(),
                    )
                    # A repeated opening is the same session, whose promise began with the first.
                    sent_at = clock.now()
                answer = await caller.open(request, limit=retry.limit(now=_loop_time()))
                await _store(identity, dataclasses.replace(record, rolling_secret=answer.rolling_secret))
                await caller.hand_over()
                return sent_at, answer
            except PoolkeeperError as problem:
                pause = retry.pause(problem, now=_loop_time(), jitter=random.random())  # noqa: S311 - not a secret.
                if pause is None:
                    raise
                if isinstance(problem, Draining) or not problem.reason:
                    await caller.leave()
            await asyncio.sleep(pause)


async def _store(identity: Identity, record: Record) -> None:
    # To its end also when it is cancelled: written after the lock is gone, it could undo what another process
    # has stored meanwhile, and this node would look like a copy of itself.
    await to_the_end(asyncio.to_thread(identity.store, record))


class _Caller:
    """Asks over one connection, as long as the daemon at its other end answers: a new one costs both sides more."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._channel: grpc.aio.Channel | None = None
        self._place = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def challenge(self, node: str, *, limit: float) -> bytes:
        request = pb.GetChallengeRequest(node=node)
        answer: pb.GetChallengeResponse = await self._ask("GetChallenge", request, limit=limit)
        return answer.challenge

    async def open(self, request: pb.OpenSessionRequest, *, limit: float) -> pb.OpenSessionResponse:
        answer: pb.OpenSessionResponse = await self._ask("OpenSession", request, limit=limit)
        return answer

    async def leave(self) -> None:
        """Asks another daemon the next time, if one was asked: a dialling in vain has gone on by itself."""
        if self._channel is not None:
            self._connector.go_elsewhere()
        await self._close()

    async def hand_over(self) -> None:
        """Leaves the connection to the session that was opened over it."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._connector.keep(channel, self._place)

    async def _ask(self, method: str, request: Any, *, limit: float) -> Any:  # noqa: ANN401 - of two generated types.
        if self._channel is None:
            self._channel = await self._connector.channel()
            self._place = self._connector.place
        patience = self._connector.patience
        try:
            asked = getattr(rpc.LicensingServiceStub(self._channel), method)(request, timeout=limit)
            answer = await call_of(asked, look=self._connector.watch(self._place))
        except grpc.RpcError as problem:
            error = from_rpc(problem)
            if error.reason:
                patience.heard()
            raise error from problem
        patience.heard()
        return answer

    async def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class _Held:
    """The identity's lock, awaited without blocking the event loop."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._lock = identity.try_lock()

    async def __aenter__(self) -> None:
        while not self._lock.__enter__():
            self._lock.__exit__(None, None, None)
            await asyncio.sleep(_LOCK_POLL)
            self._lock = self._identity.try_lock()

    async def __aexit__(self, *_: object) -> None:
        self._lock.__exit__(None, None, None)


def _host() -> str:
    """What this machine is called, as far as a daemon takes it."""
    return "".join(char for char in socket.gethostname() if char.isprintable())[:_LONGEST_HOST]


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def configured_addresses(address: str | Sequence[str] | None, record: Record) -> tuple[Address, ...]:
    """The addresses to use: those given, else POOLKEEPER_ADDRESS, else those of the enrolment."""
    return parse_addresses(address or os.environ.get("POOLKEEPER_ADDRESS") or record.addresses)
