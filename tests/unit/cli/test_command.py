import pytest

from tests.unit.cli.conftest import Command


@pytest.mark.parametrize(
    "words",
    ["estat list", "estate lst", "estate create", "pool create acme west --leas 1s", "pool create acme west --lease 5"],
)
def test_wrong_usage_is_status_2(poolkeeper: Command, words: str) -> None:
    done = poolkeeper(*words.split())
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("poolkeeper: ")
    assert "hint: " in done.err


def test_a_wrong_command_of_run_is_status_125(poolkeeper: Command) -> None:
    assert poolkeeper("run", "--", "true").status == 125
    assert poolkeeper("run", "--product", "p").status == 125
    assert poolkeeper("run", "--product", "p", "--wait", "soon", "--", "true").status == 125


@pytest.mark.parametrize(
    "command", ["", "estate", "pool create", "run", "enrol", "status", "ledger verify", "code issue"]
)
def test_every_command_explains_itself(poolkeeper: Command, command: str) -> None:
    done = poolkeeper(*command.split(), "--help")
    assert done.status == 0
    assert "Usage: poolkeeper" in done.out


def test_status_of_a_machine_that_is_not_enrolled(poolkeeper: Command) -> None:
    done = poolkeeper("status")
    assert done.status == 1
    assert "no enrolled node" in done.err.lower()


def test_nothing_typed_shows_a_traceback(poolkeeper: Command) -> None:
    done = poolkeeper("estate", "list", "--data", "\0")
    assert "Traceback" not in done.err
    assert done.status == 3
