"""A pool's ledger, exported again and again while its seats change hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from poolkeeper.ledger import verify_export
from poolkeeper.v1 import admin_pb2, licensing_pb2, licensing_pb2_grpc
from tests.figures import Figures
from tests.process.daemon import POOL, SHORTEST, Office, Processes
from tests.process.fleet import Fleet


@pytest.mark.behaviour("CC-25")
async def test_a_ledger_that_is_exported_while_its_pool_is_in_use_proves_itself(
    processes: Processes, office: Office, tmp_path: Path, figures: Figures
) -> None:
    await office.studio(8, **SHORTEST)
    fleet = await Fleet.start(processes, office, tmp_path, figures)
    stub: Any = licensing_pb2_grpc.LicensingServiceStub(office.channel)
    info = await stub.GetServerInfo(licensing_pb2.GetServerInfoRequest())
    known = {key.key_id: key.public_key for key in info.signing_keys}
    for _ in range(max(10, figures.faults // 5)):
        await fleet.more(100)
        items = [item async for item in office.admin.ledgers.ExportLedger(admin_pb2.ExportLedgerRequest(name=POOL))]
        report = verify_export(items, known, pool=POOL)
        assert report.problems == ()
    await fleet.judge()
