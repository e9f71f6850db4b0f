"""What README.md shows is typed here, line by line: its five minutes in a shell, its Python examples as programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.process.cli.conftest import PATIENCE

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
# Between two commands in the background a person takes longer than the machine.
UNTIL_READY = 'until [ -e "$POOLKEEPER_SERVER_DATA/endpoint.json" ]; do read -rt 0.05 <> <(:) || true; done'
UNTIL_HELD = "until poolkeeper allocation list acme | grep -q ACTIVE; do :; done"


def five_minutes() -> str:
    """The section's commands, as a script that ends when one of them has another status than it should."""
    section = README.partition("## Five minutes by hand\n")[2].partition("\n## ")[0]
    script = ["trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines():
        status = re.search(r"# .*status (\d+)$", line)
        script.append(f"{line}\n[ $? -eq {status[1] if status else 0} ] || {{ echo failed: {line!r}; exit 99; }}")
        if line.endswith("&"):
            script.append(UNTIL_READY if "serve" in line else UNTIL_HELD)
    return "\n".join(script)


def test_the_five_minutes_can_be_typed_as_they_stand() -> None:
    done = subprocess.run(
        ["bash", "-c", five_minutes()],
        cwd=REPOSITORY,
        # Any free ports: a daemon may have those of the manual.
        env=os.environ | {"POOLKEEPER_SERVER_LISTEN": "127.0.0.1:0", "POOLKEEPER_SERVER_HTTP_LISTEN": "127.0.0.1:0"},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with a seat\n" in done.stdout
    assert "its own seat again\n" in done.stdout
    assert "NO_SEAT_AVAILABLE in acme/west: 1 seat was needed, 0 of 2 free" in done.stderr
    assert done.stdout.count("PROVED: ") == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"example-{number}" for number in range(1, len(EXAMPLES) + 1)])
def test_an_example_in_python_runs(example: str, tmp_path: Path) -> None:
    program = tmp_path / "test_example.py"
    program.write_text(example)
    is_test = "def test_" in example
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)] if is_test else []
    with FakeServer() as server:
        server.add_product("encoder-1x1", seats=2)
        done = subprocess.run(
            [sys.executable, *words, program],
            cwd=tmp_path,
            env=os.environ | {"POOLKEEPER_IDENTITY": str(server.enrol_identity(tmp_path / "identity"))},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert is_test or done.stderr == ""
        assert server.available("encoder-1x1") == 2, "the example kept its seat"
