"""The SDK's errors as problems of a command, with the exit status that belongs to each."""

import grpc

from poolkeeper import errors
from poolkeeper.cli.problem import Problem, Status

_CREDENTIAL_HINT = (
    "the token must be one of this installation that is neither revoked nor expired;\n"
    "`poolkeeper token create` makes one, and --token-file or POOLKEEPER_TOKEN gives it"
)


def problem(error: errors.PoolkeeperError, address: str = "") -> Problem:
    """What to tell the person at the terminal about an error of the SDK or the daemon."""
    if isinstance(error, errors.Unreachable) and not error.reason:
        return Problem(
            f"no daemon answers{f' at {address}' if address else ''}",
            why=error.message,
            hint=_sentence(error.hint) or "is it running (`poolkeeper serve`), and do address and --ca belong to it?",
            status=Status.UNREACHABLE,
        )
    status, hint = _outcome(error)
    return Problem(_sentence(error.message), why=_reason(error), hint=_sentence(error.hint) or hint, status=status)


def _outcome(error: errors.PoolkeeperError) -> tuple[Status, str]:
    # The status, and the hint for an error that brings none.
    match error:
        case errors.Unreachable():
            return Status.UNREACHABLE, "nothing was done that a retry would do twice: try again in a moment"
        case errors.NotTrusted():
            return Status.UNREACHABLE, "check --ca"
        case errors.PermissionDenied() | errors.Unauthenticated():
            return Status.FORBIDDEN, _CREDENTIAL_HINT
        case errors.IdentityUnusable():
            return Status.FORBIDDEN, ""
        case errors.InvalidRequest() if not error.reason:
            # The SDK found it before anything was sent.
            return Status.USAGE, ""
        case _:
            return Status.REFUSED, ""


def from_rpc(error: grpc.RpcError, address: str) -> Problem:
    """As `problem`, for a call that failed."""
    return problem(errors.from_rpc(error), address)


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".") if message[1:2].islower() else message


def _reason(error: errors.PoolkeeperError) -> str:
    return f"the daemon refused it: {error.reason}" if error.reason else ""
