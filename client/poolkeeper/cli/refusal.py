"""The SDK's errors as problems of a command, with the exit status that belongs to each."""

import grpc

from poolkeeper import errors
from poolkeeper.cli.problem import Problem, Status, sentence
from poolkeeper.cli.screen import plain

_CREDENTIAL_HINT = (
    "the token must be one of this installation that is neither revoked nor expired;\n"
    "`poolkeeper token create` makes one, and --token-file or POOLKEEPER_TOKEN gives it"
)
_OUTCOMES: tuple[tuple[type[errors.PoolkeeperError], Status, str], ...] = (
    (
        errors.Unreachable,
        Status.UNREACHABLE,
        "nothing was done that a retry would do twice: try again in a moment",
    ),
    (errors.NotTrusted, Status.UNREACHABLE, "check --ca"),
    (
        errors.PermissionDenied,
        Status.FORBIDDEN,
        "use a token that reaches it; the operator's reaches everything",
    ),
    (errors.Unauthenticated, Status.FORBIDDEN, _CREDENTIAL_HINT),
    (errors.IdentityUnusable, Status.FORBIDDEN, ""),
)


def problem(error: errors.PoolkeeperError, address: str = "") -> Problem:
    """What to tell the person at the terminal about an error of the SDK or the daemon.

    Its words may be a hostile daemon's, who could write a line of ours with a line break.
    """
    if isinstance(error, errors.Unreachable) and not error.reason:
        # Somebody answers there; gRPC has no other way to say so.
        if "CERTIFICATE_VERIFY_FAILED" in error.message:
            return Problem(
                f"the daemon{f' at {address}' if address else ''} is not one that this machine trusts",
                why="its certificate is signed by a CA that is unknown here",
                hint="give the installation's CA certificate, ca.pem in its data directory, with --ca or POOLKEEPER_CA",
                status=Status.UNREACHABLE,
            )
        return Problem(
            f"no daemon answers{f' at {address}' if address else ''}",
            why=plain(error.message),
            hint=sentence(plain(error.hint))
            or "is it running (`poolkeeper serve`), and do address and --ca belong to it?",
            status=Status.UNREACHABLE,
        )
    status, hint = _outcome(error)
    return Problem(
        sentence(plain(error.message)), why=_reason(error), hint=sentence(plain(error.hint)) or hint, status=status
    )


def _outcome(error: errors.PoolkeeperError) -> tuple[Status, str]:
    # The status, and the hint for an error that brings none.
    if isinstance(error, errors.InvalidRequest) and not error.reason:
        return Status.USAGE, ""  # The SDK found it before anything was sent.
    for kind, status, hint in _OUTCOMES:
        if isinstance(error, kind):
            return status, hint
    return Status.REFUSED, ""


def from_rpc(error: grpc.RpcError, address: str) -> Problem:
    """As `problem`, for a call that failed."""
    return problem(errors.from_rpc(error), address)


def _reason(error: errors.PoolkeeperError) -> str:
    return f"the daemon refused it: {plain(error.reason)}" if error.reason else ""
