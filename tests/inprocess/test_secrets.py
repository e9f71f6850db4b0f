"""Secrets stay where they belong: out of logs, in files of their owner alone, and in lines that can be run."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import structlog

from poolkeeper.v1 import admin_pb2
from poolkeeper_server.services.configuration import ConfigurationError
from poolkeeper_server.services.events import configure_logging
from tests.inprocess.installation import Installation, Refused
from tests.inprocess.ledgers import WEST

pytestmark = [pytest.mark.invariant("SECRETS"), pytest.mark.parametrize("store", ["sqlite"], indirect=True)]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    yield stream
    structlog.reset_defaults()


async def refused(call: Awaitable[object]) -> Refused:
    with pytest.raises(Refused) as caught:
        await call
    assert caught.value.reason in {"INVALID_FIELD", "NOT_FOUND", "CODE_NOT_ACCEPTED", "TOO_MANY_ATTEMPTS"}
    return caught.value


async def test_a_token_or_code_typed_where_a_name_belongs_stands_in_no_log(
    installation: Installation, log: io.StringIO
) -> None:
    await installation.studio()
    admin = installation.admin
    secret = (await admin.tokens.CreateToken(admin_pb2.CreateTokenRequest(title="Robot"))).secret
    digits = await installation.code("studio-7")
    bare = secret.removeprefix("pk_")
    for typed in (secret, bare, digits):
        answers = [
            await refused(admin.tokens.RevokeToken(admin_pb2.RevokeTokenRequest(name=f"tokens/{typed}"))),
            await refused(admin.tokens.RevokeToken(admin_pb2.RevokeTokenRequest(name=typed))),
            await refused(admin.codes.RevokeCode(admin_pb2.RevokeCodeRequest(name=f"{WEST}/codes/{typed}"))),
            await refused(admin.estates.GetEstate(admin_pb2.GetEstateRequest(name=f"estates/{typed}"))),
            await refused(admin.pools.GetPool(admin_pb2.GetPoolRequest(name=f"estates/acme/pools/{typed}"))),
            await refused(
                admin.allocations.GetAllocation(admin_pb2.GetAllocationRequest(name=f"{WEST}/allocations/{typed}"))
            ),
            await refused(
                admin.products.CreateProduct(admin_pb2.CreateProductRequest(product_id=typed, title="Encoder"))
            ),
            await refused(installation.stranger().enrol(typed, digits)),
            await refused(installation.stranger().enrol(f"estates/{typed}/pools/west", digits)),
        ]
        # Whoever is answered sees it nowhere either: it would be copied into a ticket.
        assert not any(typed in f"{one.message} {one.hint}" for one in answers)
        # Names of nodes may look like anything, a code too, so the answer may repeat them.
        await refused(admin.nodes.GetNode(admin_pb2.GetNodeRequest(name=f"estates/acme/nodes/{typed.lower()}")))
        text = f"x {typed} y"
        await refused(installation.admin.consumers.GetConsumer(admin_pb2.GetConsumerRequest(name=f"estates/{text}")))
    written = log.getvalue()
    assert written.count("call_refused") >= 33
    assert secret not in written
    assert bare not in written
    assert digits not in written


@pytest.mark.parametrize("name", ["-rf", "--force", ".", "..", ".hidden"])
async def test_a_name_that_would_be_an_option_or_a_way_through_folders_is_refused(
    installation: Installation, name: str
) -> None:
    await installation.studio()
    admin = installation.admin
    await refused(admin.codes.IssueCode(admin_pb2.IssueCodeRequest(parent=WEST, node_id=name)))
    await refused(admin.nodes.GetNode(admin_pb2.GetNodeRequest(name=f"estates/acme/nodes/{name}")))
    await refused(admin.estates.CreateEstate(admin_pb2.CreateEstateRequest(estate_id=name, title="x")))
    if name != ".hidden":
        code = admin_pb2.IssueCodeRequest(parent=WEST, node_id="n", domain=name)
        await refused(admin.codes.IssueCode(code))
        consumer = admin_pb2.CreateConsumerRequest(parent="estates/acme", consumer=name)
        await refused(admin.consumers.CreateConsumer(consumer))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


async def test_files_are_made_for_their_owner_alone_whatever_the_umask(installation: Installation) -> None:
    data = installation.data
    await installation.stop()
    for path in data.iterdir():
        path.unlink()
    data.rmdir()
    before = os.umask(0)
    try:
        await installation.start()
    finally:
        os.umask(before)
    await installation.studio()
    found = modes(data)
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    public = {"endpoint.json", "ca.pem"}
    assert {name for name, mode in found.items() if mode & 0o077} <= public
    assert {"poolkeeper.sqlite", "poolkeeper.sqlite-wal", "poolkeeper.sqlite-shm", "secrets.json"} <= found.keys()


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("name", "change", "said", "mends"),
    [
        ("", lambda path: path.chmod(0o755), "open to others than its owner (mode 0755)", "chmod 700 "),
        ("", lambda path: path.chmod(0o770), "open to others than its owner (mode 0770)", "chmod 700 "),
        ("poolkeeper.sqlite", lambda path: path.chmod(0o644), "(mode 0644)", "chmod 600 "),
        ("poolkeeper.sqlite", linked, "is a symbolic link", "Put the database itself"),
        ("operator.token", lambda path: path.chmod(0o640), "(mode 0640)", "chmod 600 "),
        ("operator.token", linked, "is a symbolic link", "Put the file itself"),
        ("operator.token", dangling, "is a symbolic link", "Put the file itself"),
        ("secrets.json", lambda path: path.chmod(0o604), "(mode 0604)", "chmod 600 "),
        ("secrets.json", linked, "is a symbolic link", "Put the file itself"),
        ("secrets.json", dangling, "is a symbolic link", "Put the file itself"),
        ("secrets.json", piped, "is not a file", "Put the file"),
    ],
)
async def test_a_start_with_what_others_can_reach_is_refused_and_says_what_mends_it(
    installation: Installation, name: str, change: Callable[[Path], object], said: str, mends: str
) -> None:
    await installation.stop()
    path = installation.data / name
    change(path)
    with pytest.raises(ConfigurationError) as caught:
        await installation.start()
    assert said in caught.value.message
    assert caught.value.hint.removeprefix("Run: ").startswith(mends)
    if mends.startswith("chmod"):
        path.chmod(int(mends.split()[1], 8))
        await installation.start()


async def test_what_was_put_under_the_name_of_a_draft_is_not_written_to(installation: Installation) -> None:
    data = installation.data
    await installation.stop()
    (data / "operator.token").unlink()
    target = data / "target"
    target.write_text("mine")
    for name in (".operator.token.new", ".endpoint.json.new", ".ca.pem.new"):
        (data / name).symlink_to(target)
    await installation.start()
    assert target.read_text() == "mine"
    (data / "endpoint.json").unlink()
    (data / "endpoint.json").symlink_to(target)
    await installation.stop()
    await installation.start()
    assert target.read_text() == "mine"
    assert not (data / "endpoint.json").is_symlink()
