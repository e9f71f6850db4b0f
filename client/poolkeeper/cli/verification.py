"""What the proof of a ledger found, and whether the daemon says the same of the pool."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from poolkeeper.cli import export, name, phrase
from poolkeeper.cli.connection import Admin
from poolkeeper.cli.output import Printer
from poolkeeper.cli.problem import Status, usage
from poolkeeper.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from poolkeeper.ledger import Report


_WORDS = ("in all", "active", "in quarantine")
_NOTHING = (0, 0, 0)


# More than any line of an export has: what is none must not fill the memory before it is refused.
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A report on a ledger and what else was compared."""

    pool: str
    """The pool that was asked for, else the one that the ledger proves to be of; empty when it proves nothing."""
    file: str = ""
    """The export; empty for what the daemon sent."""
    report: "Report"
    own_keys: bool
    """Whether the keys were the verifier's own, not told by the daemon."""
    compared: str
    """With what the daemon says of the pool, or why not."""
    differences: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that does not fit, a sentence each."""
        return (*self.differences, *map(str, self.report.problems))


def of_file(path: Path, keys: dict[str, bytes], *, pool: str) -> Verdict:
    """The verdict on an export, which must be of `pool` when that is given."""
    from poolkeeper.ledger import Problem, Report, parse_export, verify_export

    try:
        with path.open(encoding="utf-8") as file, export.progress("Verifying", None) as shown:
            report = verify_export(shown(parse_export(_lines(file))), keys)
    except OSError as error:
        raise usage(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        broken = Problem(sequence=0, text=str(error).splitlines()[0])
        report = Report(pool="", entries=0, checkpoints=0, head_sequence=0, as_of=None, problems=(broken,))
    other = bool(pool and report.pool) and report.pool != pool
    return Verdict(
        pool=pool or report.pool,
        file=str(path),
        report=report,
        own_keys=True,
        compared="not with a daemon",
        differences=(f"the file is the ledger of {name.short(report.pool)}",) if other else (),
    )


def _lines(file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"line {number} is longer than an item of a ledger can be")
        yield line


def of_daemon(admin: Admin, pool: str, keys: dict[str, bytes] | None) -> Verdict:
    """The verdict on a pool's ledger as the daemon sends it now, compared with what it says of the pool."""
    from poolkeeper.ledger import LedgerReplay
    from poolkeeper.v1.admin_pb2_grpc import PoolServiceStub

    before = export.head(admin, pool)
    told = admin.call(PoolServiceStub(admin.channel).GetPool, pb.GetPoolRequest(name=pool))
    replay = LedgerReplay(keys or export.keys(admin), pool=pool)
    with export.progress("Verifying", before) as shown:
        for item in shown(export.items(admin, pool)):
            replay.add(item)
    report = replay.report()
    # Only when nothing happened in between are pool and export about the same moment.
    still = before == report.head_sequence == export.head(admin, pool)
    return Verdict(
        pool=pool,
        report=report,
        own_keys=keys is not None,
        compared="with the pool's counts" if still else "not with the pool's counts: the pool is in use",
        differences=tuple(_differences(replay.holdings, told)) if still else (),
    )


def _differences(holdings: Mapping[str, Sequence[int]], pool: pb.Pool) -> Iterator[str]:
    told = {
        holding.licence: (
            holding.counts.total,
            holding.counts.allocated_automatically + holding.counts.allocated_manually,
            holding.counts.quarantined,
        )
        for holding in pool.holdings
    }
    # A ledger may call a licence by its id alone.
    proved = {licence.rpartition("/")[2]: tuple(counts) for licence, counts in holdings.items()}
    shown = {licence.rpartition("/")[2]: counts for licence, counts in told.items()}
    for licence in sorted(proved.keys() | shown.keys()):
        ledger, daemon = proved.get(licence, _NOTHING), shown.get(licence, _NOTHING)
        if ledger != daemon:
            yield f"the daemon shows {_counts(daemon)} of {licence}, its ledger {_counts(ledger)}"


def _counts(counts: Sequence[int]) -> str:
    return ", ".join(f"{count} {words}" for count, words in zip(counts, _WORDS, strict=True))


def show(printer: Printer, verdict: Verdict) -> int:
    """Prints a verdict; the exit status is 1 when anything does not fit."""
    report, problems = verdict.report, verdict.problems
    if printer.as_json:
        printer.json(
            {
                "pool": verdict.pool,
                "file": verdict.file,
                "ok": not problems,
                "entries": report.entries,
                "checkpoints": report.checkpoints,
                "head_sequence": report.head_sequence,
                "as_of": report.as_of.isoformat() if report.as_of else None,
                "own_keys": verdict.own_keys,
                "compared": verdict.compared,
                "problems": list(problems),
            }
        )
        return Status.REFUSED if problems else Status.DONE
    word, colour = ("NOT PROVED", "bold red") if problems else ("PROVED", "bold green")
    printer.line(f"{word}: {name.short(verdict.pool) or verdict.file}", style=colour)
    lines = {
        "file": verdict.file,
        "entries": f"{report.entries}, {report.checkpoints} checkpoints",
        "as of": phrase.when(report.as_of) if report.as_of else "",
        "keys": "your own" if verdict.own_keys else "told by the daemon itself; --keys would prove more",
        "compared": verdict.compared,
    }
    printer.table([("", False), ("", False)], [pair for pair in lines.items() if pair[1]], header=False)
    if problems:
        printer.line()
        for problem in problems:
            printer.line(f"- {problem}")
        return Status.REFUSED
    printer.line()
    printer.line("Every entry follows from the one before, and no seat was ever held twice.")
    return Status.DONE
