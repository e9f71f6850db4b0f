"""The options that every admin command has, and the calls that it makes with them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Generic, Protocol, TypeVar

from cyclopts import Parameter

from poolkeeper.cli import endpoint
from poolkeeper.cli.output import Printer
from poolkeeper.cli.problem import usage

if TYPE_CHECKING:
    import grpc

_DEADLINE_S = 30.0
_PAUSE_S = 0.5
_PAGE = 1000

Q = TypeVar("Q")
R = TypeVar("R")


@Parameter(name="*", group="Connection")
@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where the daemon is, who asks, and how the answer is written."""

    address: Annotated[
        str,
        Parameter(env_var="POOLKEEPER_ADDRESS", help="HOST:PORT of the daemon; else that of this machine."),
    ] = ""
    token_file: Annotated[
        Path | None,
        Parameter(help="File with the credential; else POOLKEEPER_TOKEN, else the local operator's."),
    ] = None
    ca: Annotated[Path | None, Parameter(env_var="POOLKEEPER_CA", help="The installation's CA certificate (PEM).")] = (
        None
    )
    data: Annotated[
        Path | None,
        Parameter(env_var="POOLKEEPER_SERVER_DATA", help="Data directory of the local daemon."),
    ] = None
    json: Annotated[bool, Parameter(help="Print JSON instead of a table.")] = False

    @property
    def printer(self) -> Printer:
        """Writes this command's results."""
        return Printer(as_json=self.json)

    @contextmanager
    def open(self) -> "Iterator[Admin]":
        """A channel to the daemon, closed at the end."""
        found = endpoint.find(address=self.address, token_file=self.token_file, ca=self.ca, data=self.data)
        import grpc

        options: list[tuple[str, int | str]] = [("grpc.max_receive_message_length", 64 << 20)]
        if not found.tls:
            channel = grpc.insecure_channel(found.address, options)
        else:
            if found.ca:
                options.append(("grpc.ssl_target_name_override", "poolkeeper"))
            credentials = grpc.ssl_channel_credentials(found.ca)
            channel = grpc.secure_channel(found.address, credentials, options)
        with channel:
            yield Admin(channel=channel, endpoint=found)


@Parameter(name="*", group="Paging")
@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Which part of a listing; without options, all of it."""

    page_size: Annotated[int, Parameter(help="Only one page, of at most this many (up to 1000).")] = 0
    page_token: Annotated[str, Parameter(help="Only the page that follows, as the last one said.")] = ""

    def __post_init__(self) -> None:
        if not 0 <= self.page_size <= _PAGE:
            raise usage(f"--page-size {self.page_size} is not from 1 to {_PAGE}")

    @property
    def one_page(self) -> bool:
        """Whether a single page was asked for."""
        return bool(self.page_size or self.page_token)


HERE = Connection()
ALL = Paging()


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=_Page)


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """What was listed, and the token of the page that follows; empty at the end."""

    items: tuple[R, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Admin:
    """Calls of the admin API with the admin's credential."""

    channel: "grpc.Channel"
    endpoint: endpoint.Endpoint

    def call(self, method: "grpc.UnaryUnaryMultiCallable[Q, R]", request: Q) -> R:
        """The daemon's answer; a daemon that is busy or about to stop is asked again for a while.

        Raises:
            Problem: refused, not reachable or not permitted.
        """
        import grpc

        from poolkeeper import errors
        from poolkeeper.cli import refusal

        end = time.monotonic() + _DEADLINE_S
        while True:
            try:
                return method(request, timeout=max(1.0, end - time.monotonic()), metadata=self._metadata)
            except grpc.RpcError as failure:
                error = errors.from_rpc(failure)
                pause = error.retry_after or _PAUSE_S
                # Without a reason nobody was there at all; the person at the terminal wants to know at once.
                if not (error.retryable and error.reason and time.monotonic() + pause < end):
                    raise refusal.problem(error, self.endpoint.advertised) from failure
                time.sleep(pause)

    def stream(self, method: "grpc.UnaryStreamMultiCallable[Q, R]", request: Q) -> Iterator[R]:
        """The daemon's answers, one after another; errors as in `call`."""
        import grpc

        from poolkeeper.cli import refusal

        try:
            yield from method(request, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise refusal.from_rpc(failure, self.endpoint.advertised) from failure

    def pages(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Q, P]",
        make: Callable[[int, str], Q],
        items: Callable[[P], Sequence[R]],
        paging: Paging,
    ) -> Listing[R]:
        """Everything that is listed, or the one page that was asked for."""
        found: list[R] = []
        token = paging.page_token
        while True:
            page = self.call(method, make(paging.page_size or (0 if paging.one_page else _PAGE), token))
            found.extend(items(page))
            token = page.next_page_token
            if paging.one_page or not token:
                return Listing(items=tuple(found), next_page_token=token)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.endpoint.token}"),)
