"""Writes and syncs that fail under a running daemon: it refuses, answers nothing wrong, and goes on by itself."""

from __future__ import annotations

import errno
import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.figures import Figures
from tests.inprocess.installation import NodeClient, Refused
from tests.process.daemon import PATIENCE, Daemon, Office, Processes, now
from tests.process.faulty_disk import Fault, FaultyDisk
from tests.process.fleet import Fleet
from tests.process.history import Asked, Granted, Left, Returned
from tests.process.journal import Journal, short

SEATS: Final = 8
FSYNC: Final = ("posix/io/sync/fsync", "posix/io/sync/fdatasync")
PWRITE: Final = "posix/io/rw/pwrite"
OPEN: Final = "posix/io/oc/open"
#: While these last, no transaction can be committed.
TOTAL: Final = (
    Fault(FSYNC),
    Fault((PWRITE,)),
    Fault((PWRITE,), error=errno.ENOSPC),
    # What fails is opened anew, which fails too.
    Fault((PWRITE, OPEN)),
    Fault((*FSYNC, OPEN), error=errno.EMFILE),
)
#: While these last, some can, or all.
PARTIAL: Final = (
    Fault(FSYNC, probability=0.3),
    Fault((PWRITE,), probability=0.1),
    Fault((PWRITE, *FSYNC, OPEN), probability=0.1),
    # Writes come out short, and the rest is written by another.
    Fault((f"{PWRITE}/reduce",), probability=0.5),
    Fault(("posix/io/rw/ftruncate",)),
)


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    """A disk that works until the test says otherwise."""
    return FaultyDisk(tmp_path / "fiu")


@pytest.fixture
async def daemon(tmp_path: Path, processes: Processes, disk: FaultyDisk) -> Daemon:
    """A daemon on that disk."""
    found = Daemon(tmp_path / "data", processes)
    await found.start(**disk.environment)
    return found


@dataclass
class Witness:
    """A node that asks once and says what it was told; it keeps a journal as the others do."""

    node: NodeClient
    journal: Journal
    session: str

    async def refused(self, request_id: str) -> str:
        """The reason why a check-out is refused; empty when it is granted."""
        sent = now()
        try:
            granted = await self.node.check_out(request_id=request_id)
        except Refused as refusal:
            return refusal.reason
        self.journal.write(
            Granted(
                session=self.session,
                request_id=request_id,
                sent=sent,
                told=now(),
                until=sent + granted.remaining.ToMicroseconds() / 1e6,
                allocation=granted.allocation.name,
                lines={short(line.licence): line.quantity for line in granted.allocation.lines},
            )
        )
        return ""

    async def ask(self, request_id: str) -> str:
        """As `refused`, for the first time."""
        self.journal.write(Asked(session=self.session, request_id=request_id, at=now()))
        return await self.refused(request_id)

    async def insist(self, request_id: str) -> None:
        """Asks again under the same id until it is granted, and gives it back."""
        end = now() + PATIENCE
        while reason := await self.refused(request_id):
            assert reason in {"STORE_UNAVAILABLE", "NO_SEAT_AVAILABLE"}
            assert now() < end, reason
        allocation = (await self.node.check_out(request_id=request_id)).allocation.name
        sent = now()
        self.journal.write(Left(session=self.session, allocation=allocation, at=sent))
        await self.node.check_in(allocation, request_id=f"{request_id}-in")
        self.journal.write(
            Returned(session=self.session, request_id=f"{request_id}-in", sent=sent, told=now(), allocation=allocation)
        )


@pytest.mark.behaviour("CC-13")
@pytest.mark.behaviour("CC-14")
@pytest.mark.behaviour("CC-25")
@pytest.mark.behaviour("CC-26")
async def test_while_writes_or_syncs_fail_nobody_hears_anything_wrong_and_afterwards_all_goes_on(
    processes: Processes, daemon: Daemon, disk: FaultyDisk, tmp_path: Path, figures: Figures
) -> None:
    chance = random.Random(28)
    faults = list(itertools.islice(itertools.cycle((*TOTAL, *PARTIAL)), max(10, figures.faults // 5)))
    async with Office(daemon) as office:
        await office.studio(SEATS, lease_duration=30.0, heartbeat_interval=5.0)
        fleet = await Fleet.start(processes, office, tmp_path, figures)
        journal = tmp_path / "witness.journal"
        node = await office.node("witness")
        witness = Witness(node, Journal(journal), "witness/1")
        for number, fault in enumerate(faults):
            await disk.fail(daemon, fault)
            if fault in TOTAL:
                # The first may have been answered before the fault.
                reasons = [await witness.ask(f"{number}-{attempt}") for attempt in range(3)]
                assert reasons[1:] == ["STORE_UNAVAILABLE"] * 2, f"{fault}: {daemon.log}"
                with pytest.raises(Refused) as no_renewal:
                    await node.heartbeat()
                assert no_renewal.value.reason == "STORE_UNAVAILABLE"
                assert no_renewal.value.hint
                if OPEN not in fault.calls:
                    assert await office.held()
            else:
                for attempt in range(3):
                    await witness.ask(f"{number}-{attempt}")
                await fleet.more(chance.randrange(1000, 10_000))
            figures.add(f"faults survived: {fault}")
            if number % 5 == 4:
                # Whatever was not answered may have happened or not, also when this is how it ends.
                await daemon.kill()
                await daemon.start(**disk.environment)
            else:
                await disk.heal(daemon, fault)
            for attempt in range(3):
                await witness.insist(f"{number}-{attempt}")
            await fleet.more(1000)
    await fleet.judge(journal)
