"""A daemon for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.inprocess.installation import DrivenTime, Installation


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    """A daemon on an empty data directory, whose time stands until the test moves it."""
    found = Installation(tmp_path / "data", DrivenTime(), {})
    await found.start()
    yield found
    await found.stop()
