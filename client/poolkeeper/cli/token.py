"""`poolkeeper token`: credentials of admins."""

from typing import Annotated

from cyclopts import App, Parameter

from poolkeeper._request_id import new_request_id
from poolkeeper.cli import argument, duration, name, phrase
from poolkeeper.cli.connection import ALL, HERE, Connection, Paging
from poolkeeper.cli.output import Column
from poolkeeper.v1 import admin_pb2 as pb
from poolkeeper.v1.admin_pb2_grpc import TokenServiceStub

app = App(name="token", default_parameter=Parameter(negative=(), show_default=False))


def _state(token: pb.Token) -> str:
    return "revoked" if token.HasField("revoke_time") else "valid"


COLUMNS: tuple[Column[pb.Token], ...] = (
    Column("Token", lambda token: name.short(token.name)),
    Column("Title", lambda token: token.title),
    Column("For", lambda token: name.short(token.estate) if token.estate else "everything"),
    Column("State", _state),
    Column("Created", lambda token: phrase.instant(token, "create_time")),
    Column("Expires", lambda token: phrase.instant(token, "expire_time") or "never"),
)


@app.command
def create(
    title: Annotated[str, Parameter(help="Whose it is or what it is for.")],
    /,
    *,
    estate: Annotated[str, Parameter(help="The only estate that it may touch; without it, all.")] = "",
    lifetime: Annotated[str, Parameter(help="How long it is valid, as 90d; without it, until revoked.")] = "",
    connection: Connection = HERE,
) -> None:
    """Make a credential; its secret is shown this once."""
    request = pb.CreateTokenRequest(
        title=title,
        estate=name.estate(estate) if estate else "",
        lifetime=duration.message(lifetime, option="--lifetime") if lifetime else None,
        request_id=new_request_id(),
    )
    with connection.open() as admin:
        made = admin.call(TokenServiceStub(admin.channel).CreateToken, request)
    printer = connection.printer
    if printer.as_json:
        printer.one(made, ())
        return
    printer.one(made.token, COLUMNS, extra={"Secret": made.secret})
    printer.line()
    printer.line("Keep the secret now, it is not shown again. To use it: export POOLKEEPER_TOKEN=SECRET")


@app.command(name="list")
def list_(*, paging: Paging = ALL, connection: Connection = HERE) -> None:
    """List the credentials, never their secrets."""
    with connection.open() as admin:
        found = admin.pages(
            TokenServiceStub(admin.channel).ListTokens,
            lambda size, token: pb.ListTokensRequest(page_size=size, page_token=token),
            lambda page: page.tokens,
            paging,
        )
    connection.printer.many(
        found.items, COLUMNS, field="tokens", next_page_token=found.next_page_token, empty="No tokens."
    )


@app.command
def revoke(token: argument.Token, /, *, connection: Connection = HERE) -> None:
    """End a credential."""
    with connection.open() as admin:
        revoked = admin.call(
            TokenServiceStub(admin.channel).RevokeToken,
            pb.RevokeTokenRequest(name=name.token(token), request_id=new_request_id()),
        )
    connection.printer.one(revoked, COLUMNS)
