"""The benchmark's arithmetic: medians of ratios, targets, and the place of the tables in the manual."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import table
from tests.bench.book import Book, rate
from tests.bench.load import BrokenBenchmark, Load, Measured, Work, measured_of
from tests.bench.main import PARTS
from tests.bench.scale import FULL, SHORT, Scale
from tests.bench.targets import Target, targets

LOAD = Load(work="cycle", callers=2, addresses=("127.0.0.1:1",), watch=(1,))
PRINTED = {
    "seconds": 2.0,
    "generator_cpu": 0.1,
    "server_cpu": [1.0, 0.5],
    "check_outs": 150,
    "kinds": {
        "check_out": {"count": 150, "p50": 4000.0, "p99": 9000.0},
        "check_in": {"count": 150, "p50": 3000.0, "p99": 5000.0},
    },
    "errors": {},
}


def measured(requests: int) -> Measured:
    return Measured(requests=requests, check_outs=0, seconds=1.0, p50=1.0, p99=2.0, server_cpu=0.5)


def book() -> Book:
    found = Book()
    # The second round was disturbed, and both loads with it.
    for ours, theirs in ((80, 100), (8, 10), (90, 100), (70, 100), (85, 100)):
        found.add("ours", measured(ours))
        found.add("theirs", measured(theirs))
    return found


def target(bound: float, *, most: bool = False) -> Target:
    return Target(
        text="ours to theirs",
        bound=bound,
        most=most,
        part="calls",
        figure=lambda found: found.ratio("ours", "theirs", rate),
    )


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert book().ratio("ours", "theirs", rate) == 0.8


def test_check_outs_and_check_ins_are_requests_and_the_latency_is_that_of_check_outs() -> None:
    found = measured_of(PRINTED, LOAD, memory=100.0, sync=0.2)
    assert (found.rate, found.check_out_rate) == (150.0, 75.0)
    assert (found.p50, found.p99) == (4.0, 9.0)
    assert (found.cpu, found.cores) == (5000.0, 0.75)


@pytest.mark.parametrize(
    ("broken", "work"),
    [
        ({"kinds": {}}, "cycle"),
        ({"kinds": {"check_out": {"count": 5, "p50": 0.0, "p99": 0.0}}}, "cycle"),
        ({"kinds": {"batch": {"count": 2, "p50": 1.0, "p99": 2.0}}, "check_outs": 150}, "batch"),
    ],
    ids=["nothing", "no time", "batches that were not granted whole"],
)
def test_what_cannot_be_is_a_broken_benchmark(broken: dict[str, object], work: Work) -> None:
    with pytest.raises(BrokenBenchmark):
        measured_of(PRINTED | broken, replace(LOAD, work=work, batch=100), memory=1.0, sync=0.0)


def test_the_table_tells_every_target_met_or_not() -> None:
    wanted = [target(0.7), target(0.9), target(0.7, most=True), replace(target(0.7), figure=None)]
    rows = list(table.target_rows(book(), wanted))[2:]
    assert [row.split("|")[5].strip() for row in rows] == ["met", "**not met**", "**not met**", "not there yet"]
    assert all("`tests/bench/run --only calls`" in row for row in rows)


@pytest.mark.parametrize("scale", [FULL, SHORT], ids=["full", "short"])
def test_every_target_is_measured_by_a_part_that_there_is(scale: Scale) -> None:
    found = list(targets(scale))
    assert {one.part for one in found} <= set(PARTS)
    assert len({one.text for one in found}) == len(found)


def test_the_tables_replace_those_of_the_last_run(tmp_path: Path) -> None:
    manual = tmp_path / "README.md"
    manual.write_text("before\n<!-- bench: x -->\nold\n\nolder\n<!-- end -->\nafter\n<!-- end -->\n")
    table.write("new\\1", manual)
    assert manual.read_text() == "before\n<!-- bench: x -->\nnew\\1\n<!-- end -->\nafter\n<!-- end -->\n"


def test_the_manual_has_a_place_for_the_tables(tmp_path: Path) -> None:
    manual = tmp_path / "README.md"
    manual.write_text(table.README.read_text(encoding="utf-8"), encoding="utf-8")
    table.write("new", manual)
    assert "-->\nnew\n<!-- end -->" in manual.read_text(encoding="utf-8")
