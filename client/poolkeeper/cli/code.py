"""`poolkeeper code`: the eight digits that enrol a node."""

import shlex
from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, duration, name, output, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import CodeServiceStub

app = App(name="code", default_parameter=Parameter(negative=(), show_default=False))

COLUMNS: tuple[Column[pb.Code], ...] = (
    Column("Code", lambda code: name.short(code.name)),
    Column("Node", lambda code: name.short(code.node)),
    Column("Domain", lambda code: code.domain),
    Column("State", lambda code: phrase.choice(code, "state")),
    Column("Replaces", lambda code: phrase.yes(code.replace)),
    Column("Expires", lambda code: phrase.instant(code, "expire_time")),
    Column("Redeemed", lambda code: phrase.instant(code, "redeem_time")),
)


@app.command
def issue(
    pool: argument.Pool,
    /,
    *,
    node: Annotated[str, Parameter(help="The node's friendly name, as studio-7.")],
    domain: Annotated[str, Parameter(help="Bind only this domain of the node.")] = "",
    replace: Annotated[bool, Parameter(help="The name is enrolled already and is to be bound anew.")] = False,
    lifetime: Annotated[str, Parameter(help="How long it may be redeemed, 1m to 30d; 24h unless told.")] = "",
    connection: Connection = HERE,
) -> None:
    """Issue a code, and print the line to type on the node.

    The digits are shown this once and kept nowhere.
    """
    parent = name.pool(pool)
    request = pb.IssueCodeRequest(
        parent=parent,
        node_id=node.rpartition("/")[2],
        domain=domain,
        replace=replace,
        lifetime=duration.message(lifetime, option="--lifetime") if lifetime else None,
        request_id=new_request_id(),
    )
    with connection.open() as admin:
        issued = admin.call(CodeServiceStub(admin.channel).IssueCode, request)
        address = admin.endpoint.advertised
    printer = connection.printer
    words = ["poolkeeper", "enrol", address, "--pool", name.short(parent), "--code", issued.digits]
    words += ["--domain", domain] if domain else []
    words += ["--pin", issued.pin] if issued.pin else []
    line = shlex.join(words)
    if printer.as_json:
        printer.json(output.document(issued) | {"enrol_command": line})
        return
    printer.one(
        issued.code,
        COLUMNS[1:],
        extra={
            "Digits": issued.digits,
            "Pin": issued.pin,
            "Guess risk": _risk(issued.risk),
            "May come to wait": _waiting(issued.risk),
            "Failed attempts": _seen(issued.risk),
        },
    )
    printer.line()
    printer.line("On the node:")
    printer.line(f"  {line}")
    _caution(issued.risk)


@app.command(name="list")
def list_(parent: argument.EstateOrPool, /, *, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List codes, never their digits."""
    above = name.estate_or_pool(parent)
    risk = pb.GuessRisk()

    def items(page: pb.ListCodesResponse) -> "list[pb.Code]":
        risk.CopyFrom(page.risk)
        return list(page.codes)

    with connection.open() as admin:
        found = admin.pages(
            CodeServiceStub(admin.channel).ListCodes,
            lambda size, token: pb.ListCodesRequest(parent=above, page_size=size, page_token=token),
            items,
            paging,
        )
    printer = connection.printer
    if printer.as_json:
        printer.json(
            {
                "codes": [output.document(code) for code in found.items],
                "next_page_token": found.next_page_token,
                "risk": output.document(risk),
            }
        )
        return
    printer.many(
        found.items,
        COLUMNS,
        field="codes",
        next_page_token=found.next_page_token,
        empty="No codes: issue one with `poolkeeper code issue`.",
    )
    printer.line()
    printer.line(f"Guess risk: {_risk(risk)}")
    printer.line(f"May come to wait for approval: {_waiting(risk)}")
    printer.line(f"Failed attempts: {_seen(risk)}")
    _caution(risk)


@app.command
def revoke(code: argument.Code, /, *, connection: Connection = HERE) -> None:
    """Make a code worthless."""
    with connection.open() as admin:
        revoked = admin.call(
            CodeServiceStub(admin.channel).RevokeCode,
            pb.RevokeCodeRequest(name=name.code(code), request_id=new_request_id()),
        )
    connection.printer.one(revoked, COLUMNS)


def _risk(risk: pb.GuessRisk) -> str:
    codes = "1 live code" if risk.live_codes == 1 else f"{risk.live_codes} live codes"
    return f"{risk.yearly_probability:.1e} a year that a stranger guesses one, with {codes}"


def _waiting(risk: pb.GuessRisk) -> str:
    return f"{risk.yearly_pending:.2g} keys of strangers a year, if {risk.sources:,} sources never stop guessing"


def _seen(risk: pb.GuessRisk) -> str:
    if not risk.attempts:
        return "none"
    return f"{risk.attempts} since {phrase.instant(risk, 'attempts_since')}"


def _caution(risk: pb.GuessRisk) -> None:
    if risk.warning:
        output.warn(f"Warning: {risk.warning}")
