"""More callers than seats."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Figures
from tests.process.daemon import Daemon, Office, Processes
from tests.process.race import SEATS, holders, race

ROUNDS = 100


@pytest.mark.behaviour("CC-11")
@pytest.mark.behaviour("CC-25")
async def test_of_two_hundred_callers_exactly_seven_get_the_seven_seats_a_hundred_times_in_a_row(
    processes: Processes, daemon: Daemon, office: Office, tmp_path: Path, figures: Figures
) -> None:
    await office.studio(SEATS)
    callers = await holders(processes, [daemon.address] * 3, office, tmp_path)
    await race(callers, office, figures, ROUNDS)
    proof = await daemon.command("ledger", "verify", "acme/west")
    assert proof.status == 0, proof.err
    assert "PROVED: acme/west" in proof.out
