"""A pool's ledger as a test reads it."""

from __future__ import annotations

import json
from typing import Any

from poolkeeper.v1 import admin_pb2
from tests.inprocess.installation import Installation

WEST = "estates/acme/pools/west"


async def entries(installation: Installation, pool: str = WEST, event: str = "") -> list[dict[str, Any]]:
    """The entries of a pool, oldest first; only those of an event where one is named."""
    listed = await installation.admin.ledgers.ListEntries(admin_pb2.ListEntriesRequest(parent=pool, page_size=1000))
    found = [json.loads(entry.body) for entry in listed.entries]
    return [entry for entry in found if event in {"", entry["event"]}]
