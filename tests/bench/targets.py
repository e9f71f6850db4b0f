"""What the daemon should reach: ratios of what one run has measured, and a few plain figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench import batches, calls, clusters, crashes, delays, expiries, heartbeats, leases
from tests.bench.book import Book, check_outs, cpu, late, rate
from tests.bench.load import Measured
from tests.bench.scale import Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure and its bound: at least, or at most if `most`.

    Without a `bound` it is an aim alone; without a `figure` there is nothing to measure yet.
    """

    text: str
    bound: float | None
    part: str
    """The part of the benchmark that measures it."""
    figure: Callable[[Book], float] | None
    aim: float | None = None
    most: bool = False
    limit: Callable[[Book], float] | None = None
    """What the figure would be if transactions took no time."""
    undecided: Callable[[Book], float] | None = None
    """What it would be if transactions were the database's work alone."""

    def met(self, figure: float) -> bool:
        """Whether the figure is good enough."""
        bound = self.aim if self.bound is None else self.bound
        assert bound is not None
        return figure <= bound if self.most else figure >= bound


def targets(scale: Scale) -> Iterator[Target]:
    """All of them, for the sizes of a run."""
    yield from _calls()
    yield from _messages(scale)
    yield from _leases(scale)
    yield from _clusters()
    yield from _starts(scale)


def _calls() -> Iterator[Target]:
    yield Target(
        text="cores that the generator makes the no-op server use, 64 callers",
        bound=0.95,
        part="calls",
        figure=lambda book: book.median(calls.no_op(64), _cores),
    )
    for callers, bound, aim in ((1, 0.45, 0.55), (16, 0.60, 0.75), (64, 0.70, 0.85), (256, 0.70, 0.85)):
        yield Target(
            text=f"unary requests/s to the no-op's, {calls.people(callers)}",
            bound=bound,
            aim=aim,
            part="calls",
            figure=_ratio(calls.unary(callers), calls.no_op(callers)),
            limit=_ratio(calls.unary(callers, calls.UNSTORED), calls.no_op(callers)),
            undecided=_ratio(calls.unary(callers, calls.UNDECIDED), calls.no_op(callers)),
        )
    yield Target(
        text="messages/s on Connect to the echo's, 64 streams",
        bound=0.45,
        aim=0.60,
        part="calls",
        figure=_ratio(calls.connect(64), calls.echo(64)),
        limit=_ratio(calls.connect(64, calls.UNSTORED), calls.echo(64)),
        undecided=_ratio(calls.connect(64, calls.UNDECIDED), calls.echo(64)),
    )
    for text, load in (("unary, 64 callers", calls.unary), ("Connect, 64 streams", calls.connect)):
        yield Target(
            text=f"rate with TLS to that without, {text}",
            bound=0.75,
            part="calls",
            figure=_ratio(load(64, calls.TLS), load(64)),
        )


def _messages(scale: Scale) -> Iterator[Target]:
    yield Target(
        text=f"Connect with {delays.DELAY:.0f} ms added to every commit to that without, {delays.STREAMS} streams",
        bound=0.45,
        aim=0.55,
        part="delays",
        figure=_ratio(delays.DELAYED, delays.LEFT_ALONE),
    )
    yield Target(
        text="check-outs/s in batches of 100 to those one by one",
        bound=4,
        part="batches",
        figure=_ratio(batches.together(), batches.ONE_BY_ONE, check_outs),
    )
    yield Target(
        text="check-outs/s in batches of 100",
        bound=None,
        aim=44_000,
        part="batches",
        figure=lambda book: book.median(batches.together(), check_outs),
        limit=lambda book: book.median(batches.together(calls.UNSTORED), check_outs),
        undecided=lambda book: book.median(batches.together(calls.UNDECIDED), check_outs),
    )
    streams = scale.heard
    yield Target(
        text=f"heartbeats/s on Connect to the echo's messages/s, {streams} streams",
        bound=0.80,
        aim=0.95,
        part="heartbeats",
        figure=_ratio(heartbeats.heartbeat(streams, 1), heartbeats.echo(streams)),
        limit=_ratio(heartbeats.heartbeat(streams, 1, calls.UNSTORED), heartbeats.echo(streams)),
    )
    yield Target(
        text=f"server CPU of a heartbeat with {scale.some:,} leases to one with a single lease",
        bound=1.1,
        most=True,
        part="heartbeats",
        figure=_ratio(heartbeats.heartbeat(streams, scale.some), heartbeats.heartbeat(streams, 1), cpu),
    )
    together = heartbeats.TOGETHER
    yield Target(
        text=f"messages/s that renew {together} sessions to those that renew one",
        bound=0.75,
        part="heartbeats",
        figure=_ratio(heartbeats.renewals(together), heartbeats.renewals(1)),
        limit=_ratio(heartbeats.renewals(together, calls.UNSTORED), heartbeats.renewals(1, calls.UNSTORED)),
    )


def _leases(scale: Scale) -> Iterator[Target]:
    yield Target(
        text=f"rate with {scale.many:,} leases held to that with {scale.few:,}",
        bound=0.85,
        aim=0.95,
        part="leases",
        figure=_ratio(leases.rate(scale.many), leases.rate(scale.few)),
    )
    yield Target(
        text=f"p99 of a check-out with {scale.most:,} leases held to that with {scale.some:,}",
        bound=1.25,
        most=True,
        part="leases",
        figure=_ratio(leases.latency(scale.most), leases.latency(scale.some), late),
    )
    yield Target(
        text=f"p99 of a check-out while {scale.many:,} leases expire to that before",
        bound=2,
        most=True,
        part="expiries",
        figure=_ratio(expiries.during(scale.many), expiries.BEFORE, late),
    )
    yield Target(
        text=f"memory with {scale.most:,} leases held over that of an idle daemon, MB",
        bound=100,
        most=True,
        part="leases",
        figure=lambda book: book.figure(leases.memory(scale.most)) - book.figure(leases.IDLE_AGAIN),
    )


def _clusters() -> Iterator[Target]:
    hot = clusters.script(1)
    for text, load, bound, undecided in (
        ("SQLite", clusters.ALONE_SQLITE, 3.0, _ratio(clusters.ALONE_UNDECIDED, hot, check_outs)),
        ("PostgreSQL", clusters.ALONE_POSTGRES, 2.5, None),
    ):
        yield Target(
            text=f"check-outs/s on {text} to pgbench's, one hot pool, 64 callers",
            bound=bound,
            part="clusters",
            figure=_ratio(load, hot, check_outs),
            undecided=undecided,
        )
    for pools, bound in ((1, 0.90), (clusters.POOLS, 0.95)):
        name = "one hot pool" if pools == 1 else f"{pools} pools"
        two, one = clusters.cluster(2, pools), clusters.cluster(1, pools)
        yield Target(text=f"two daemons to one, {name}", bound=bound, part="clusters", figure=_ratio(two, one))
        yield Target(
            text=f"server CPU of a request with two daemons to that with one, {name}",
            bound=1.15,
            most=True,
            part="clusters",
            figure=_ratio(two, one, cpu),
        )


def _starts(scale: Scale) -> Iterator[Target]:
    for title, bound in ((leases.START_EMPTY, 1.5), (leases.start(scale.most), 5.0), (leases.IDLE, 150.0)):
        yield Target(text=title, bound=bound, most=True, part="leases", figure=_figure(title))
    # What the shortest promise is for.
    yield Target(text=crashes.FREED, bound=10, most=True, part="crashes", figure=_figure(crashes.FREED))


def _cores(measured: Measured) -> float:
    return measured.cores


def _ratio(above: str, below: str, look: Callable[[Measured], float] = rate) -> Callable[[Book], float]:
    return lambda book: book.ratio(above, below, look)


def _figure(title: str) -> Callable[[Book], float]:
    return lambda book: book.figure(title)


#: The command of a part.
COMMAND: Final = "tests/bench/run --only {part}"
