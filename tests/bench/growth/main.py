"""Plays what happens to a crowd of clients in virtual time: `tests/bench/growth/run`."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from itertools import chain

from tests.bench import table
from tests.bench.growth.report import rows, variant_rows
from tests.bench.growth.scenarios import Outcome, all_of
from tests.bench.growth.variants import variants
from tests.bench.growth.world import Setup


def main() -> int:
    """Plays, prints the tables, and puts them into the manual if told to."""
    parser = argparse.ArgumentParser(prog="tests/bench/growth/run", description=__doc__)
    usual = Setup(clients=10_000)
    parser.add_argument("--clients", type=int, action="append", help="how many; may be repeated (10,000)")
    parser.add_argument("--each", type=int, default=1, help="play one for so many of them (%(default)s)")
    parser.add_argument("--daemons", type=int, help="how many; without it 2, and one more for each 100,000 clients")
    parser.add_argument("--only", choices=("storms", "outages"), default="", help="the starts alone, or all but these")
    parser.add_argument("--lease", type=float, default=usual.lease, help="seconds (%(default)s)")
    parser.add_argument("--interval", type=float, default=usual.interval, help="seconds (%(default)s)")
    parser.add_argument("--bound", type=int, default=usual.bound, help="queue_bound (%(default)s)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="another run of the dice (%(default)s)")
    parser.add_argument("--vary", action="store_true", help="also what other settings would do, with the first number")
    parser.add_argument("--write", action="store_true", help="put the tables into the manual")
    given = parser.parse_args()
    # Millions of records that all live to the end: looking through them for cycles takes longer than all else.
    gc.disable()
    setups = [
        Setup(
            clients=clients // given.each,
            each=given.each,
            daemons=given.daemons or max(2, clients // 100_000),
            lease=given.lease,
            interval=given.interval,
            bound=given.bound,
            seed=given.seed,
        )
        for clients in given.clients or [usual.clients]
    ]
    told: list[str] = []
    lines = rows(_played(setups, given.only))
    if given.vary:
        lines = chain(lines, [""], variant_rows((one, one.play(one.setup)) for one in variants(setups[0])))
    for line in lines:
        # At once: a million clients take their time.
        print(line, flush=True)  # noqa: T201 - what the command is for.
        told.append(line)
    if given.write:
        table.write("\n".join(told), name="growth")
    return 0


def _played(setups: list[Setup], only: str) -> Iterator[Outcome]:
    begun = time.process_time()
    for setup in setups:
        for outcome in all_of(setup, only=only):
            took, begun = time.process_time() - begun, time.process_time()
            sys.stderr.write(f"{outcome.clients:,} clients, {outcome.title}: {took:.1f} s of CPU\n")
            yield outcome
            # Its clients and daemons know each other.
            gc.collect()


if __name__ == "__main__":
    sys.exit(main())
