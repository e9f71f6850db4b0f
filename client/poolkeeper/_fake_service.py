"""The gRPC side of the fake server."""
# ruff: noqa: ANN401, N802 - the generated base names the methods, their types and what they do.

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from poolkeeper._core.requests import duration
from poolkeeper._fake_pool import FakePool, Refusal, Session, Waiter
from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc

_CODES: Final[dict[str, grpc.StatusCode]] = {
    "NO_SEAT_AVAILABLE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "WAIT_EXPIRED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "PRODUCT_NOT_GRANTED": grpc.StatusCode.FAILED_PRECONDITION,
    "INVALID_FIELD": grpc.StatusCode.INVALID_ARGUMENT,
    "REQUEST_ID_REUSED": grpc.StatusCode.INVALID_ARGUMENT,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CODE_NOT_ACCEPTED": grpc.StatusCode.PERMISSION_DENIED,
    "NODE_REVOKED": grpc.StatusCode.PERMISSION_DENIED,
    "NODE_REBOUND": grpc.StatusCode.PERMISSION_DENIED,
    "NODE_COPIED": grpc.StatusCode.PERMISSION_DENIED,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "DRAINING": grpc.StatusCode.UNAVAILABLE,
    "OVERLOADED": grpc.StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}


class Servicer(rpc.LicensingServiceServicer):
    """The fake's gRPC side: every call goes through `_handle`."""

    def __init__(self, fake: FakePool) -> None:
        self._fake = fake

    def _handle(self, method: str, work: Callable[[], Any]) -> Any:
        fake = self._fake
        with fake.lock:
            fake.calls[method] += 1
            fake.take_failure(method)
            answer = work()
            fake.take_failure(f"{method}/after")
        return answer

    def _serve(self, method: str, context: grpc.ServicerContext, work: Callable[[Session], Any]) -> Any:
        leaving = method in {"CheckIn", "Acknowledge", "CloseSession"}
        try:
            return self._handle(method, lambda: work(self._session(context, leaving=leaving)))
        except Refusal as refusal:
            _abort(context, refusal)

    def _session(self, context: grpc.ServicerContext, *, leaving: bool = False) -> Session:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        return self._fake.session_of(token, leaving=leaving)

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        del request, context
        return pb.GetServerInfoResponse(version="fake", outcome_retention=duration(604_800))

    def Enrol(self, request: Any, context: Any) -> Any:
        try:
            return self._handle("Enrol", lambda: self._fake.enrol(request))
        except Refusal as refusal:
            _abort(context, refusal)

    def GetChallenge(self, request: Any, context: Any) -> Any:
        del request, context
        return pb.GetChallengeResponse(challenge=os.urandom(16))

    def OpenSession(self, request: Any, context: Any) -> Any:
        try:
            return self._handle("OpenSession", lambda: self._fake.open_session(request))
        except Refusal as refusal:
            _abort(context, refusal)

    def CheckOut(self, request: Any, context: Any) -> Any:
        outcome = self._serve("CheckOut", context, lambda one: self._fake.check_out(one, request))
        if isinstance(outcome, Waiter):
            context.add_callback(outcome.answered.set)
            outcome.answered.wait()
            if outcome.granted is None:
                with self._fake.lock:
                    if outcome in self._fake.waiters:
                        self._fake.waiters.remove(outcome)
                _abort(context, outcome.refusal or Refusal("WAIT_EXPIRED", "The caller has gone."))
            outcome = outcome.granted
        return pb.CheckOutResponse(granted=outcome)

    def BatchCheckOut(self, request: Any, context: Any) -> Any:
        return self._serve("BatchCheckOut", context, lambda one: self._batch(one, request))

    def CheckIn(self, request: Any, context: Any) -> Any:
        return self._serve("CheckIn", context, lambda one: self._fake.check_in(one, request))

    def Heartbeat(self, request: Any, context: Any) -> Any:
        return self._serve("Heartbeat", context, lambda one: self._fake.beat(one, request))

    def BatchHeartbeat(self, request: Any, context: Any) -> Any:
        return self._serve("BatchHeartbeat", context, lambda one: self._batch_heartbeat(one, request))

    def Acknowledge(self, request: Any, context: Any) -> Any:
        return self._serve("Acknowledge", context, lambda one: self._fake.acknowledge(one, request))

    def CloseSession(self, request: Any, context: Any) -> Any:
        del request
        return self._serve("CloseSession", context, self._fake.close_session)

    def ListAllocations(self, request: Any, context: Any) -> Any:
        del request
        return self._serve("ListAllocations", context, self._fake.list_allocations)

    def _batch(self, session: Session, request: Any) -> pb.BatchCheckOutResponse:
        results = []
        for one in request.requests:
            try:
                granted = self._fake.check_out(session, one)
                if isinstance(granted, Waiter):
                    raise Refusal("INVALID_FIELD", "None of a batch may wait.")  # noqa: TRY301 - answered below.
                results.append(pb.BatchCheckOutResult(granted=granted))
            except Refusal as refusal:
                results.append(pb.BatchCheckOutResult(error=_status(refusal)))
        return pb.BatchCheckOutResponse(results=results)

    def _batch_heartbeat(self, session: Session, request: Any) -> pb.BatchHeartbeatResponse:
        results = []
        for one in request.heartbeats:
            try:
                other = self._fake.session_of(one.session_token, leaving=False)
                if other.node != session.node:
                    raise Refusal("INVALID_FIELD", "The session is not of the calling node.")  # noqa: TRY301 - as above.
                results.append(pb.BatchHeartbeatResult(renewed=self._fake.beat(other, one.heartbeat)))
            except Refusal as refusal:
                results.append(pb.BatchHeartbeatResult(error=_status(refusal)))
        return pb.BatchHeartbeatResponse(results=results)

    def Connect(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        fake = self._fake
        if not fake.stream_allowed:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no streams here")
        out: queue.SimpleQueue[pb.ConnectResponse | None] = queue.SimpleQueue()
        try:
            with fake.lock:
                session = self._session(context)
                session.push = out.put
        except Refusal as refusal:
            _abort(context, refusal)
        context.add_callback(lambda: out.put(None))
        reader = threading.Thread(target=self._read, args=(request_iterator, context, out), daemon=True)
        reader.start()
        while (response := out.get()) is not None:
            yield response

    def _read(
        self,
        requests: Any,
        context: grpc.ServicerContext,
        out: queue.SimpleQueue[pb.ConnectResponse | None],
    ) -> None:
        # The client ends it in whatever way gRPC calls an error.
        with contextlib.suppress(Exception):
            for request in requests:
                self._answer(request, context, out)
        out.put(None)

    def _answer(
        self,
        request: pb.ConnectRequest,
        context: grpc.ServicerContext,
        out: queue.SimpleQueue[pb.ConnectResponse | None],
    ) -> None:
        fake = self._fake
        kind = str(request.WhichOneof("request"))
        body = getattr(request, kind)
        method = "".join(part.title() for part in kind.split("_"))
        work: dict[str, Callable[[Session], Any]] = {
            "check_out": lambda one: fake.check_out(one, body),
            "batch_check_out": lambda one: self._batch(one, body),
            "check_in": lambda one: fake.check_in(one, body),
            "heartbeat": lambda one: fake.beat(one, body),
            "batch_heartbeat": lambda one: self._batch_heartbeat(one, body),
            "acknowledge": lambda one: fake.acknowledge(one, body),
            "close_session": fake.close_session,
            "list_allocations": fake.list_allocations,
            "cancel_wait": lambda one: fake.cancel_wait(one, body.request_id),
        }

        def reply(answer: Any) -> None:
            if isinstance(answer, pb.Granted):
                answer = pb.CheckOutResponse(granted=answer)
            elif isinstance(answer, pb.Waiting):
                answer = pb.CheckOutResponse(waiting=answer)
            out.put(pb.ConnectResponse(id=request.id, **{kind: answer}))

        def refuse(refusal: Refusal) -> None:
            out.put(pb.ConnectResponse(id=request.id, error=_status(refusal)))

        try:
            with fake.lock:
                answer = self._handle(method, lambda: work[kind](self._session(context)))
                if isinstance(answer, Waiter):
                    answer.told = reply
                    # A request that is repeated is told where it stands.
                    answer.place = 0
                    answer.tell(1 + list(fake.waiters).index(answer))
        except Refusal as refusal:
            refuse(refusal)
            return
        if isinstance(answer, Waiter):
            threading.Thread(target=_await_waiter, args=(answer, reply, refuse), daemon=True).start()
        else:
            reply(answer)


def _await_waiter(waiter: Waiter, reply: Callable[[Any], None], refuse: Callable[[Refusal], None]) -> None:
    waiter.answered.wait()
    if waiter.granted is not None:
        reply(waiter.granted)
    else:
        refuse(waiter.refusal or Refusal("WAIT_EXPIRED", "The waiting was given up."))


def _status(refusal: Refusal) -> status_pb2.Status:
    code = _CODES.get(refusal.reason, grpc.StatusCode.FAILED_PRECONDITION)
    status = status_pb2.Status(code=code.value[0], message=refusal.message)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain="poolkeeper")]
    if refusal.retry_after is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(refusal.retry_after)))
    if refusal.denial is not None:
        details.append(refusal.denial)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _abort(context: grpc.ServicerContext, refusal: Refusal) -> Any:
    status = _status(refusal)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(_CODES.get(refusal.reason, grpc.StatusCode.FAILED_PRECONDITION), refusal.message)
