"""The quickstart, as somebody runs it who has just got the repository."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.process.cli.conftest import process_state, until

QUICKSTART = Path(__file__).parents[2] / "deploy" / "quickstart"
# Nearly all of it is the minimum allocation time of its pool, 30 seconds.
LONGEST = 150.0


def test_the_tour_encodes_under_a_licence_and_proves_it(tmp_path: Path) -> None:
    directory = tmp_path / "tour"
    done = subprocess.run(
        [QUICKSTART, "--once", "--directory", directory],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    encoded = str(directory / "channel-1.mp4")
    probe = ["ffprobe", "-v", "error", "-show_entries", "stream=nb_frames", "-of", "json", encoded]
    (stream,) = json.loads(subprocess.check_output(probe))["streams"]
    assert int(stream["nb_frames"]) > 100
    events = re.findall(r"^ +\d+  \S+ \S+  ([A-Z_]+)", done.stdout, re.MULTILINE)
    assert events == ["POOL_CREATED", "MOVED_IN", "CHECKED_OUT", "CHECKED_IN", "RESUMED", "CHECKED_IN"]
    assert "\nPROVED: acme/west\n" in done.stdout
    # The second denial knows when the seat in quarantine is free; the first could not.
    assert len(re.findall("NO_SEAT_AVAILABLE in acme/west", done.stdout)) == 2
    assert len(re.findall("the next seat is expected at", done.stdout)) == 1
    assert "\nchannel-2 has the seat\n" in done.stdout
    assert not (directory / "data" / "endpoint.json").exists(), "the daemon was not stopped in order"


def test_a_tour_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [QUICKSTART], env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True
    ) as tour:
        assert tour.stdout is not None
        for line in tour.stdout:
            if line.startswith("gRPC with TLS"):
                break
        (directory,) = tmp_path.iterdir()
        daemon = int((directory / "data" / "daemon.lock").read_text())
        tour.send_signal(signal.SIGTERM)
        assert f"{directory} is removed" in tour.stdout.read()
    assert tour.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    until(lambda: process_state(daemon) == "", "the daemon still runs")


def test_a_directory_that_is_in_use_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    done = subprocess.run([QUICKSTART, "--directory", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path} is not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]
