"""What a fork leaves of the SDK: a child of a process that has used gRPC is refused, every other one works."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolkeeper.testing import FakeServer
from tests.contract.client.backend import LEASE

#: Each begins by itself, forks, and has the child say what it got; a child that hangs is killed.
HEAD = """
import asyncio, multiprocessing, os, signal, sys, time, warnings
import poolkeeper, poolkeeper.aio, poolkeeper.sync
identity = sys.argv[1]
def said(work):
    began = time.monotonic()
    try:
        work()
    except poolkeeper.PoolkeeperError as error:
        outcome = f"{type(error).__name__}: {error.message} {error.hint}"
    else:
        outcome = "works"
    print(outcome if time.monotonic() - began < 3 else f"late: {outcome}", flush=True)
def in_child(*works, leave=lambda: os._exit(0)):
    if (pid := os.fork()) == 0:
        signal.alarm(20)
        for work in works:
            said(work)
        leave()
    _, status = os.waitpid(pid, 0)
    print("child", status, flush=True)
def use():
    with poolkeeper.Client(identity=identity, timeout=5) as client, client.check_out("enc"):
        pass
def use_async():
    async def main():
        async with poolkeeper.AsyncClient(identity=identity, timeout=5) as client, await client.check_out("enc"):
            pass
    asyncio.run(main())
def make():
    poolkeeper.Client(identity=identity, timeout=5)
def enrol():
    poolkeeper.enrol("127.0.0.1:1", "12345678", pool="acme/west", identity=identity + "-2", timeout=5)
"""
REFUSED = "FailedPrecondition: This process was forked from one that has used gRPC"
OTHERS = "FailedPrecondition: This client was made before a fork"


# gRPC's own handlers may crash the child of one that is using it; that is no matter of ours.
ENVIRONMENT = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}


def run(program: str, identity: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program, str(identity)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.behaviour("CC-37")
@pytest.mark.parametrize(
    "parent",
    [
        "use()",
        "use_async()",
        "client = poolkeeper.Client(identity=identity); client.check_out('enc')",
        # Not by the SDK at all.
        "import grpc; channel = grpc.insecure_channel('127.0.0.1:1'); channel.subscribe(print, try_to_connect=True)",
    ],
    ids=["the SDK", "the SDK on asyncio", "a client that is open", "gRPC itself"],
)
def test_the_child_of_one_that_used_grpc_is_refused_at_once(fake_identity: Path, parent: str) -> None:
    if "subscribe" in parent and not sys.platform.startswith("linux"):
        pytest.skip("what others have done with gRPC is known on Linux only")
    lines = run(
        parent.replace("print", "lambda _: None") + "\nin_child(make, use, use_async, enrol)",
        fake_identity,
    )
    assert lines[-1] == "child 0"
    assert len(lines) == 5
    assert all(line.startswith(REFUSED) for line in lines[:4]), lines
    assert "post_fork" in lines[0]
    assert "worker_process_init" in lines[0]
    assert "spawn" in lines[0]


@pytest.mark.behaviour("CC-37")
def test_the_child_of_one_that_never_used_grpc_works(fake: FakeServer, fake_identity: Path) -> None:
    lines = run("in_child(use, use_async)\nin_child(use)\nuse()", fake_identity)
    assert lines == ["works", "works", "child 0", "works", "child 0"]
    assert fake.available("enc") == 2


@pytest.mark.behaviour("CC-37")
def test_the_child_of_a_child_that_used_grpc_is_refused_too(fake_identity: Path) -> None:
    lines = run("def nest():\n    use(); in_child(make)\nin_child(nest)\n", fake_identity)
    assert lines[0].startswith(REFUSED)
    assert lines[1:] == ["child 0", "works", "child 0"]


@pytest.mark.behaviour("CC-37")
def test_a_client_from_before_a_fork_is_refused_in_the_child_though_it_was_never_used(fake_identity: Path) -> None:
    program = """
client = poolkeeper.Client(identity=identity)
other = poolkeeper.AsyncClient(identity=identity)
in_child(lambda: client.check_out("enc"), client.list_allocations, lambda: asyncio.run(other.check_out("enc")))
"""
    lines = run(program, fake_identity)
    assert all(line.startswith(OTHERS) for line in lines[:3]), lines
    assert lines[3:] == ["child 0"]


@pytest.mark.behaviour("CC-37")
@pytest.mark.parametrize("ending", ["sys.exit(0)", "os._exit(0)", "None"])
def test_a_child_s_end_leaves_the_parent_s_seats_alone(fake: FakeServer, fake_identity: Path, ending: str) -> None:
    program = f"""
import gc
with poolkeeper.Client(identity=identity) as client, client.check_out("enc") as seat:
    def forget():
        global client, seat
        del client, seat
        gc.collect()
    if (pid := os.fork()) == 0:
        signal.alarm(20)
        said(seat.check_in)
        said(client.close)
        {ending}
    else:
        print("child", os.waitpid(pid, 0)[1], flush=True)
        print(seat.state, flush=True)
        print(sys.stdin.readline().strip(), flush=True)
if pid == 0:
    forget()
"""
    command = [sys.executable, "-W", "error", "-c", HEAD + program, str(fake_identity)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        lines = [parent.stdout.readline().strip() for _ in range(4)]
        held = fake.available("enc")
        out, _ = parent.communicate("go on\n", timeout=30)
    assert lines[0].startswith(OTHERS)
    assert lines[1:] == ["works", "child 0", "HELD"]
    assert held == 1
    assert (out, parent.returncode) == ("go on\n", 0)
    assert fake.available("enc") == 2


@pytest.mark.behaviour("CC-37")
@pytest.mark.parametrize(("method", "expected"), [("fork", REFUSED), ("spawn", "works"), ("forkserver", "works")])
def test_multiprocessing_is_refused_or_works_but_never_hangs(
    fake: FakeServer, fake_identity: Path, tmp_path: Path, method: str, expected: str
) -> None:
    module = tmp_path / "program.py"
    module.write_text(
        HEAD
        + f"""
def work():
    said(use)
if __name__ == "__main__":
    use()
    process = multiprocessing.get_context({method!r}).Process(target=work)
    process.start()
    process.join(30)
    print(process.exitcode, flush=True)
"""
    )
    began = time.monotonic()
    command = [sys.executable, str(module), str(fake_identity)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(expected), done.stderr
    assert lines[1] == "0"
    assert time.monotonic() - began < LEASE
    assert fake.available("enc") == 2
