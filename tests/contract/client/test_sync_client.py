"""The sync client is the async one on a loop of its own; here is what that adds."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import poolkeeper
from poolkeeper import Allocation, Client, HoldState
from poolkeeper._connector import Transport
from tests.contract.client.backend import Backend, state_of


def test_three_lines_hold_a_seat(backend: Backend, identity: Path, transport: Transport) -> None:
    with Client(identity=identity, transport=transport) as client:
        with client.check_out("enc") as seat:
            assert state_of(seat) is HoldState.HELD
            assert backend.available("enc") == 1
        assert state_of(seat) is HoldState.ENDED
        assert backend.available("enc") == 2


def test_denials_and_batches_are_those_of_the_async_client(backend: Backend, identity: Path) -> None:
    with Client(identity=identity) as client:
        results = client.batch_check_out([poolkeeper.Wanted("enc", quantity=2), poolkeeper.Wanted("enc")])
        assert results[0].unwrap().quantity == 2
        with pytest.raises(poolkeeper.NoSeatAvailable):
            results[1].unwrap()
        with pytest.raises(poolkeeper.NoSeatAvailable):
            client.check_out("enc")
        assert len(client.list_allocations()) == 1
    assert backend.available("enc") == 2


def test_the_same_consumer_gives_the_same_seat(backend: Backend, identity: Path) -> None:
    with Client(identity=identity) as client:
        one, two = [client.check_out("enc", consumer="a") for _ in range(2)]
        assert one.name == two.name
        assert backend.available("enc") == 1


def test_a_callback_may_call_back(backend: Backend, identity: Path) -> None:
    done = threading.Event()
    seen: list[object] = []

    def on_lost(seat: Allocation, error: poolkeeper.LeaseLost) -> None:
        seen.extend((seat, type(error)))
        seat.check_in()
        done.set()

    with Client(identity=identity) as client:
        seat = client.check_out("enc", on_lost=on_lost)
        backend.revoke(seat.name)
        assert done.wait(10)
        assert seen == [seat, poolkeeper.Revoked]
        assert backend.available("enc") == 2


def test_many_threads_share_a_client(backend: Backend, identity: Path) -> None:
    outcomes: list[str] = []

    def work() -> None:
        try:
            with client.check_out("enc", wait=30):
                outcomes.append("held")
        except poolkeeper.PoolkeeperError as error:
            outcomes.append(error.reason)

    with Client(identity=identity) as client:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == ["held"] * 8
    assert backend.available("enc") == 2


PROGRAM = """
import signal, sys, poolkeeper
client = poolkeeper.Client(identity=sys.argv[1])
seat = client.check_out("enc")
print("HELD" if seat.held_for else "LOST", flush=True)
"""


def run(identity: Path, rest: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + rest, str(identity)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("ending", "status"),
    [("", 0), ("sys.exit(3)", 3), ("raise SystemError('bug')", 1)],
    ids=["end", "exit", "exception"],
)
def test_at_interpreter_exit_what_is_held_is_checked_in(
    backend: Backend, identity: Path, ending: str, status: int
) -> None:
    done = run(identity, ending)
    assert (done.stdout, done.returncode) == ("HELD\n", status), done.stderr
    assert backend.available("enc") == 2


def test_an_exit_without_a_daemon_takes_a_few_seconds_at_most(backend: Backend, identity: Path) -> None:
    command = [sys.executable, "-c", PROGRAM + "sys.stdin.read()", str(identity)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "HELD\n"
        backend.stop()
        began = time.monotonic()
        program.stdin.close()
        assert program.wait(timeout=20) == 0
    assert time.monotonic() - began < 6
    backend.start()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there")
def test_signals_are_the_program_s_own(backend: Backend, identity: Path) -> None:
    rest = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint('ready', flush=True)\nsignal.pause()"
    command = [sys.executable, "-c", PROGRAM + rest, str(identity)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert [program.stdout.readline() for _ in range(2)] == ["HELD\n", "ready\n"]
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=20) == 7
    assert backend.available("enc") == 2


def test_in_another_process_than_its_own_a_client_refuses(
    backend: Backend, identity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No fork in here: gRPC itself may crash in a forked child.
    with Client(identity=identity) as client:
        client.check_out("enc")
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(os, "getpid", lambda: -1)
            with pytest.raises(poolkeeper.FailedPrecondition, match="fork"):
                client.check_out("enc")
        assert backend.available("enc") == 1
