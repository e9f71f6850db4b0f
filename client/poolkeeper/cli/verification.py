"""What the proof of a ledger found, and whether the daemon says the same of the pool."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolkeeper.cli import export, name, phrase
from poolkeeper.cli.connection import Admin
from poolkeeper.cli.output import Printer
from poolkeeper.cli.problem import Status, usage
from poolkeeper.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from poolkeeper.ledger import Report


_WORDS = {"count": "in all", "active": "active", "quarantined": "in quarantine"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A report on a ledger and what else was compared."""

    subject: str
    """The pool, or the file."""
    report: "Report"
    own_keys: bool
    """Whether the keys were the verifier's own, not told by the daemon."""
    compared: str
    """With what the daemon says of the pool, or why not."""
    differences: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that does not fit, a sentence each."""
        return (*map(str, self.report.problems), *self.differences)


def of_file(path: Path, keys: dict[str, bytes], *, pool: str) -> Verdict:
    """The verdict on an export."""
    from poolkeeper.ledger import Problem, Report, parse_export, verify_export

    try:
        with path.open(encoding="utf-8") as lines, export.progress("Verifying", None) as shown:
            report = verify_export(shown(parse_export(lines)), keys, pool=pool or None)
    except OSError as error:
        raise usage(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        broken = Problem(sequence=0, text=str(error).splitlines()[0])
        report = Report(entries=0, checkpoints=0, head_sequence=0, as_of=None, problems=(broken,))
    return Verdict(subject=str(path), report=report, own_keys=True, compared="not with a daemon")


def of_daemon(admin: Admin, pool: str, keys: dict[str, bytes] | None) -> Verdict:
    """The verdict on a pool's ledger as the daemon sends it now, compared with what it says of the pool."""
    from poolkeeper.ledger import verify_export
    from poolkeeper.v1.admin_pb2_grpc import PoolServiceStub

    head = _Head()
    before = export.head(admin, pool)
    told = admin.call(PoolServiceStub(admin.channel).GetPool, pb.GetPoolRequest(name=pool))
    with export.progress("Verifying", before) as shown:
        items = shown(head.watched(export.items(admin, pool)))
        report = verify_export(items, keys or export.keys(admin), pool=pool)
    # Only when nothing happened in between are pool and export about the same moment.
    still = before == report.head_sequence == export.head(admin, pool)
    return Verdict(
        subject=name.short(pool),
        report=report,
        own_keys=keys is not None,
        compared="with the pool's counts" if still else "not with the pool's counts: the pool is in use",
        differences=tuple(_differences(head.holdings, told)) if still else (),
    )


@dataclass(slots=True)
class _Head:
    """The holdings that the last statement of an export tells."""

    holdings: dict[str, Any] = field(default_factory=dict)

    def watched(self, items: Iterable[pb.ExportLedgerResponse]) -> Iterator[pb.ExportLedgerResponse]:
        for item in items:
            if item.WhichOneof("item") == "statement":
                try:
                    self.holdings = json.loads(item.statement.payload)["holdings"]
                except (ValueError, KeyError, TypeError):
                    self.holdings = {}  # The verification says so.
            yield item


def _differences(holdings: dict[str, Any], pool: pb.Pool) -> Iterator[str]:
    told = {
        holding.licence: {
            "count": holding.counts.total,
            "active": holding.counts.allocated_automatically + holding.counts.allocated_manually,
            "quarantined": holding.counts.quarantined,
        }
        for holding in pool.holdings
    }
    nothing = {"count": 0, "active": 0, "quarantined": 0}
    # A ledger may call a licence by its id alone.
    proved = {licence.rpartition("/")[2]: counts for licence, counts in holdings.items()}
    shown = {licence.rpartition("/")[2]: counts for licence, counts in told.items()}
    for licence in sorted(proved.keys() | shown.keys()):
        ledger, daemon = proved.get(licence, nothing), shown.get(licence, nothing)
        if ledger != daemon:
            yield f"the daemon shows {_counts(daemon)} of {licence}, its ledger {_counts(ledger)}"


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{counts.get(key)} {words}" for key, words in _WORDS.items())


def show(printer: Printer, verdict: Verdict) -> int:
    """Prints a verdict; the exit status is 1 when anything does not fit."""
    report, problems = verdict.report, verdict.problems
    if printer.as_json:
        printer.json(
            {
                "subject": verdict.subject,
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
    printer.line(f"{word}: {verdict.subject}", style=colour)
    lines = {
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
