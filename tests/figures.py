"""How long the fault tests go on, and the figures that they end with: a pytest plugin.

``--faults N`` kills the daemon N times, and makes the other faults as many as fit that; ``tests/faults`` asks for 200,
a run without it for 20. ``--figures`` runs only the tests that count something, and prints at the end what that was.
"""

from __future__ import annotations

from collections import Counter

import pytest

_FEW = 20
_COUNTED: pytest.StashKey[Counter[str]] = pytest.StashKey()


class Figures:
    """What one test counts."""

    def __init__(self, item: pytest.Item, faults: int) -> None:
        self._item = item
        self.faults = faults
        """How many kills there shall be."""

    @property
    def long(self) -> bool:
        """Whether this is a run that takes its time."""
        return self.faults > _FEW

    def add(self, name: str, count: int = 1) -> None:
        """Counts something; a count of none shows that it was looked for."""
        # Under xdist a report is all that reaches the process that prints.
        self._item.user_properties.append((f"figure: {name}", count))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """What this test counts."""
    return Figures(request.node, request.config.getoption("--faults"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the two options."""
    group = parser.getgroup("faults")
    group.addoption("--faults", metavar="N", type=int, default=_FEW, help=f"how often to kill the daemon ({_FEW})")
    group.addoption(
        "--figures", action="store_true", help="run the tests that count faults, and print what they counted"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begins to count."""
    config.stash[_COUNTED] = Counter()
    config.pluginmanager.register(_Counter(config.stash[_COUNTED]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Selects by ``--figures``."""
    if not config.getoption("--figures"):
        return
    counts = [item for item in items if "figures" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in counts])
    items[:] = counts


class _Counter:
    """Adds up what the tests' reports say."""

    def __init__(self, counted: Counter[str]) -> None:
        self._counted = counted

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            # A failed test has counted what it found before it failed.
            for key, count in report.user_properties:
                if key.startswith("figure: "):
                    self._counted[key.removeprefix("figure: ")] += int(str(count))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the figures."""
    counted = config.stash[_COUNTED]
    if config.getoption("--figures") and counted:
        terminalreporter.section("figures")
        for name, count in counted.items():
            terminalreporter.write_line(f"{count:>9,}  {name}")
