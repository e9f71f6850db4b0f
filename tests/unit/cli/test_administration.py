import shlex

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1 import errors_pb2, licensing_pb2
from tests.unit.cli.canned import NOT_FOUND, CannedDaemon
from tests.unit.cli.conftest import Command

WEST = pb.Pool(
    name="estates/acme/pools/west",
    title="West [wing]",
    state=pb.POOL_STATE_ACTIVE,
    lease_duration=Duration(seconds=120),
    counts=errors_pb2.SeatCounts(total=4, allocated_automatically=1, quarantined=1, available=2),
    holdings=[
        pb.Holding(
            licence="estates/acme/licences/L000001",
            pool="estates/acme/pools/west",
            order_number="SO-1001",
            products=["products/encoder-1x1"],
            valid_until="2027-12-31",
            counts=errors_pb2.SeatCounts(total=4, allocated_automatically=1, quarantined=1, available=2),
        )
    ],
)


def test_an_estate_is_created_and_shown(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["CreateEstate"] = pb.Estate(name="estates/acme", title="Acme Broadcast")
    done = poolkeeper("estate", "create", "acme", "--title", "Acme Broadcast")
    assert (done.status, done.err) == (0, "")
    assert "Acme Broadcast" in done.out
    asked = daemon.requests[0]
    assert (asked.estate_id, asked.title) == ("acme", "Acme Broadcast")
    assert asked.request_id


def test_a_product_has_units(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["CreateProduct"] = lambda asked: pb.Product(name=f"products/{asked.product_id}", units=asked.units)
    done = poolkeeper("product", "create", "encoder-1x1", "--unit", "cameras=1", "--unit", "outputs=1")
    assert "cameras=1 outputs=1" in done.out
    assert dict(daemon.requests[0].units) == {"cameras": 1, "outputs": 1}


def test_a_licence_is_added(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["AddLicence"] = pb.Licence(name="estates/acme/licences/L000001", count=10)
    words = "licence add acme --product encoder-1x1 --count 10 --licensed-by CONCURRENT_USER --order SO-1001"
    done = poolkeeper(*words.split(), "--valid-until", "2027-12-31")
    assert done.status == 0
    asked = daemon.requests[0]
    assert list(asked.products) == ["products/encoder-1x1"]
    assert (asked.count, asked.licensed_by, asked.valid_until) == (10, pb.LICENSED_BY_CONCURRENT_USER, "2027-12-31")


@pytest.mark.parametrize("day", ["31.12.2027", "2027-13-01", "20271231", "2027-W01-1"])
def test_a_day_has_one_form(poolkeeper: Command, daemon: CannedDaemon, day: str) -> None:
    words = "licence add acme --product p --count 1 --licensed-by CONCURRENT_USER --valid-until"
    done = poolkeeper(*words.split(), day)
    assert done.status == 2
    assert "2027-12-31" in done.err
    assert daemon.requests == []


def test_a_pool_is_created_with_moves_and_settings(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["CreatePool"] = WEST
    words = "pool create acme west --move SO-1001=4 --minimum-allocation 30m --lease 120s --heartbeat 30s --margin 5s"
    done = poolkeeper(
        *words.split(), "--counting", "USER_HOST", "--skip-quarantine", "ENDED", "--skip-quarantine", "UNIT_REMOVED"
    )
    assert done.status == 0
    asked = daemon.requests[0]
    assert asked.pool_id == "west"
    assert [(move.line, move.count) for move in asked.moves] == [("SO-1001", 4)]
    assert asked.pool.minimum_allocation.seconds == 1800
    assert asked.pool.counting == pb.COUNTING_USER_HOST
    assert list(asked.pool.skip_quarantine) == [
        licensing_pb2.CHECK_IN_REASON_ENDED,
        licensing_pb2.CHECK_IN_REASON_UNIT_REMOVED,
    ]
    assert not asked.pool.HasField("reclaim_after")


def test_a_pool_is_shown_with_its_lines_and_its_title_as_it_is(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["GetPool"] = WEST
    done = poolkeeper("pool", "show", "acme/west")
    assert "West [wing]" in done.out
    assert "2 of 4 free, 1 allocated, 1 in quarantine" in done.out
    assert "SO-1001" in done.out
    assert "… to 2027-12-31" in done.out


def test_an_update_names_only_what_was_given(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["UpdatePool"] = WEST
    poolkeeper("pool", "update", "acme/west", "--title", "", "--no-reclaim", "--no-skip-quarantine", "--etag", "e1")
    asked = daemon.requests[0]
    assert set(asked.update_mask.paths) == {"title", "reclaim_after", "skip_quarantine"}
    assert asked.pool.etag == "e1"
    assert poolkeeper("pool", "update", "acme/west").status == 2


def test_seats_move_between_pools_of_one_estate(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["MoveSeats"] = pb.MoveSeatsResponse(source=pb.Pool(name="estates/acme/pools/default"), target=WEST)
    done = poolkeeper("pool", "move", "acme", "default", "west", "SO-1001=4", "L000002=1")
    assert done.status == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["Pool", "acme/default", "acme/west"]
    assert daemon.requests[0].target == "estates/acme/pools/west"
    assert poolkeeper("pool", "move", "acme", "default", "west").status == 2


def test_a_code_comes_with_the_line_to_type_and_the_risk(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["IssueCode"] = pb.IssueCodeResponse(
        code=pb.Code(name="estates/acme/pools/west/codes/c1", node="estates/acme/nodes/studio-7"),
        digits="01234567",
        pin="K7QF-2M4D-XR3P",
        risk=pb.GuessRisk(live_codes=9, yearly_probability=1.64e-4, warning="Too many live codes."),
    )
    done = poolkeeper("code", "issue", "acme/west", "--node", "studio-7", "--lifetime", "1h")
    address = f"plain://127.0.0.1:{daemon.port}"
    assert f"poolkeeper enrol {address} --pool acme/west --code 01234567 --pin K7QF-2M4D-XR3P" in done.out
    assert "1.6e-04 a year" in done.out
    assert "Too many live codes." in done.err
    assert daemon.requests[0].lifetime.seconds == 3600


def test_a_listing_fetches_all_pages(poolkeeper: Command, daemon: CannedDaemon) -> None:
    def page(asked: pb.ListEstatesRequest) -> pb.ListEstatesResponse:
        start = int(asked.page_token or 0)
        following = str(start + 2) if start < 4 else ""
        estates = [pb.Estate(name=f"estates/e{number}") for number in range(start, start + 2)]
        return pb.ListEstatesResponse(estates=estates, next_page_token=following)

    daemon.answers["ListEstates"] = page
    listed = poolkeeper("estate", "list", "--json")
    assert [estate["name"] for estate in listed.json["estates"]] == [f"estates/e{number}" for number in range(6)]
    assert not listed.json["next_page_token"]  # it was the last
    one = poolkeeper("estate", "list", "--json", "--page-size", "2", "--page-token", "2")
    assert [estate["name"] for estate in one.json["estates"]] == ["estates/e2", "estates/e3"]
    assert "4" in one.json.values()


def test_json_has_proto_names_and_every_field(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["GetPool"] = WEST
    shown = poolkeeper("pool", "show", "acme/west", "--json").json
    assert shown["lease_duration"] == "120s"
    assert shown["counts"]["allocated_manually"] == "0"
    assert shown["state"] == "POOL_STATE_ACTIVE"


def test_a_table_in_a_pipe_is_neither_cut_nor_coloured(poolkeeper: Command, daemon: CannedDaemon) -> None:
    long = "x" * 250
    daemon.answers["ListEstates"] = pb.ListEstatesResponse(
        estates=[pb.Estate(name="estates/acme", title=long), pb.Estate(name="estates/b", title="\x1b[31mred\r\n")]
    )
    done = poolkeeper("estate", "list")
    assert long in done.out
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == 3
    assert all(line == line.rstrip() for line in done.out.splitlines())


def test_an_empty_listing_says_what_to_do(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["ListEstates"] = pb.ListEstatesResponse()
    assert "poolkeeper estate create" in poolkeeper("estate", "list").out


@pytest.mark.invariant("SECRETS")
def test_a_line_to_be_typed_on_the_node_is_one_command_whatever_a_daemon_answers(
    poolkeeper: Command, daemon: CannedDaemon
) -> None:
    daemon.answers["IssueCode"] = pb.IssueCodeResponse(
        code=pb.Code(name="estates/acme/pools/west/codes/c1"), digits="1; reboot", pin="$(reboot)"
    )
    issued = poolkeeper("code", "issue", "acme/west", "--node", "n", "--domain", "a b's")
    line = issued.out.split("On the node:\n  ")[1].split("\n")[0]
    words = shlex.split(line)
    assert words[:2] == ["poolkeeper", "enrol"]
    assert words[-6:] == ["--code", "1; reboot", "--domain", "a b's", "--pin", "$(reboot)"]
    assert ";" not in shlex.join(words).replace("'1; reboot'", "")
    daemon.answers["ListEstates"] = pb.ListEstatesResponse(
        estates=[pb.Estate(name="estates/a")],
        next_page_token="-x; reboot",  # noqa: S106 # no password
    )
    listed = poolkeeper("estate", "list", "--page-size", "1").out.splitlines()[-1]
    assert shlex.split(listed) == ["More:", "--page-token=-x; reboot"]


def test_nodes_that_wait_are_listed_with_their_fingerprints(poolkeeper: Command, daemon: CannedDaemon) -> None:
    node = pb.Node(
        name="estates/acme/nodes/studio-7",
        state=pb.NODE_STATE_PENDING,
        pending_keys=[
            pb.PendingKey(
                fingerprint="ab" * 32,
                source="192.0.2.7",
                request_time=Timestamp(seconds=1_800_000_000),
                pool="estates/acme/pools/west",
            )
        ],
    )
    daemon.answers["ListNodes"] = pb.ListNodesResponse(nodes=[node])
    listed = poolkeeper("node", "list", "acme", "--pending")
    for shown in ("acme/studio-7", "ab" * 32, "acme/west", "192.0.2.7", "2027-01-15 08:00:00Z"):
        assert shown in listed.out
    assert daemon.requests[0].pending
    daemon.answers["ApproveNode"] = node
    spoken = " ".join(["ABAB"] * 16)
    poolkeeper("node", "approve", "acme/studio-7", "--fingerprint", spoken)
    assert daemon.requests[1].fingerprint == "ab" * 32
    daemon.answers["RejectNode"] = daemon.answers["GetNode"] = node
    poolkeeper("node", "reject", "acme/studio-7", "--fingerprint", spoken)
    assert daemon.requests[2].fingerprint == "ab" * 32
    assert "192.0.2.7" in poolkeeper("node", "show", "acme/studio-7").out


def test_a_copied_node_is_shown_with_its_sessions_and_one_is_picked(poolkeeper: Command, daemon: CannedDaemon) -> None:
    node = pb.Node(
        name="estates/acme/nodes/enc1",
        state=pb.NODE_STATE_COPIED,
        sessions=[
            pb.NodeSession(
                name="estates/acme/nodes/enc1/sessions/s2",
                source="192.0.2.8",
                host="laptop",
                open_time=Timestamp(seconds=1_800_000_000),
                open=True,
            )
        ],
    )
    daemon.answers["GetNode"] = daemon.answers["ApproveNode"] = node
    done = poolkeeper("node", "show", "acme/enc1")
    for shown in ("s2", "192.0.2.8", "laptop", "2027-01-15 08:00:00Z"):
        assert shown in done.out
    assert "poolkeeper node approve acme/enc1 --session ID" in done.out
    for given in ("s2", "estates/acme/nodes/enc1/sessions/s2"):
        poolkeeper("node", "approve", "acme/enc1", "--session", given)
        assert daemon.requests[-1].session == "estates/acme/nodes/enc1/sessions/s2"
    assert "poolkeeper node approve" not in poolkeeper("node", "show", "acme/enc1", "--json").out
    daemon.answers["ListNodes"] = pb.ListNodesResponse(nodes=[node])
    assert "poolkeeper node show acme/enc1" in poolkeeper("node", "list", "acme").out


def test_an_allocation_is_released_with_a_reason(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["ReleaseAllocation"] = licensing_pb2.Allocation(
        name="estates/acme/pools/west/allocations/01J",
        state=licensing_pb2.ALLOCATION_STATE_QUARANTINED,
        quarantine_end_time=Timestamp(seconds=1_800_000_000),
    )
    done = poolkeeper("allocation", "release", "acme/west/01J", "--reason", "broken", "--no-quarantine", "--force")
    assert "2027-01-15 08:00:00Z" in done.out
    asked = daemon.requests[0]
    assert (asked.reason, asked.no_quarantine, asked.force) == ("broken", True, True)
    assert poolkeeper("allocation", "release", "acme/west/01J").status == 2


def test_a_tokens_secret_is_shown_once(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["CreateToken"] = pb.CreateTokenResponse(
        token=pb.Token(name="tokens/t1", title="ci"),
        secret="shown-once",  # noqa: S106  # good for nothing
    )
    done = poolkeeper("token", "create", "ci", "--estate", "acme", "--lifetime", "90d")
    assert "shown-once" in done.out
    assert daemon.requests[0].lifetime.seconds == 90 * 86400
    daemon.answers["ListTokens"] = pb.ListTokensResponse(tokens=[pb.Token(name="tokens/t1", title="ci")])
    assert "never" in poolkeeper("token", "list").out


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("estate show acme", ("GetEstate", pb.Estate(name="estates/acme"))),
        ("estate unfreeze acme", ("UnfreezeEstate", pb.Estate(name="estates/acme"))),
        ("product list", ("ListProducts", pb.ListProductsResponse())),
        ("product show p", ("GetProduct", pb.Product(name="products/p"))),
        ("licence list acme", ("ListLicences", pb.ListLicencesResponse())),
        ("licence show acme/L000001", ("GetLicence", pb.Licence(name="estates/acme/licences/L000001"))),
        ("pool list acme", ("ListPools", pb.ListPoolsResponse(pools=[WEST]))),
        ("pool close acme/west", ("ClosePool", WEST)),
        ("pool unfreeze acme/west", ("UnfreezePool", WEST)),
        ("code list acme", ("ListCodes", pb.ListCodesResponse())),
        ("code revoke acme/west/c1", ("RevokeCode", pb.Code(name="estates/acme/pools/west/codes/c1"))),
        ("node show acme/n", ("GetNode", pb.Node(name="estates/acme/nodes/n"))),
        ("node reject acme/n", ("RejectNode", pb.Node(name="estates/acme/nodes/n"))),
        ("node revoke acme/n --reason sold --force", ("RevokeNode", pb.Node(name="estates/acme/nodes/n"))),
        ("node migrate acme/n", ("MigrateNode", pb.MigrateNodeResponse())),
        ("consumer add acme camera-4 --user ann", ("CreateConsumer", pb.Consumer(consumer="camera-4"))),
        ("consumer list acme", ("ListConsumers", pb.ListConsumersResponse())),
        ("consumer show acme/camera-4", ("GetConsumer", pb.Consumer(consumer="camera-4"))),
        ("consumer remove acme/camera-4", ("DeleteConsumer", pb.DeleteConsumerResponse())),
        ("allocation list acme/west --state REVOKED", ("ListAllocations", pb.ListPoolAllocationsResponse())),
        ("allocation show acme/west/a", ("GetAllocation", licensing_pb2.Allocation())),
        ("clock show", ("GetClock", pb.Clock(frozen=True, explanation="behind the mark"))),
        ("clock accept", ("AcceptClock", pb.Clock())),
        ("token revoke t1", ("RevokeToken", pb.Token(name="tokens/t1"))),
        ("alert list", ("ListAlerts", pb.ListAlertsResponse(alerts=[pb.Alert(kind=pb.ALERT_KIND_HONEY_CODE)]))),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_every_command_has_both_forms(
    poolkeeper: Command, daemon: CannedDaemon, words: str, call: tuple[str, Message], form: list[str]
) -> None:
    method, answer = call
    daemon.answers[method] = answer
    done = poolkeeper(*words.split(), *form)
    assert (done.status, done.err) == (0, "")
    assert done.out
    if form:
        assert isinstance(done.json, dict)


def test_a_refusal_has_its_reason_and_status_1(poolkeeper: Command, daemon: CannedDaemon) -> None:
    daemon.answers["GetPool"] = NOT_FOUND
    done = poolkeeper("pool", "show", "acme/east")
    assert done.status == 1
    assert done.out == ""
    assert "there is no pool estates/acme/pools/east" in done.err
    assert "NOT_FOUND" in done.err
