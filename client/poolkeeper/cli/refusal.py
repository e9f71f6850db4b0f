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
    place = f" at {address}" if address else ""
    match error:
        case errors.Unreachable() if not error.reason:
            return Problem(
                f"no daemon answers{place}",
                why=error.message,
                hint=error.hint or "is it running (`poolkeeper serve`), and do address and --ca belong to it?",
                status=Status.UNREACHABLE,
            )
        case errors.Unreachable():
            return Problem(
                _sentence(error.message),
                why=_reason(error),
                hint=error.hint or "nothing was done that a retry would do twice: try again in a moment",
                status=Status.UNREACHABLE,
            )
        case errors.NotTrusted():
            return Problem(_sentence(error.message), hint=error.hint or "check --ca", status=Status.UNREACHABLE)
        case errors.PermissionDenied() | errors.Unauthenticated():
            return Problem(
                _sentence(error.message),
                why=_reason(error),
                hint=error.hint or _CREDENTIAL_HINT,
                status=Status.FORBIDDEN,
            )
        case errors.IdentityUnusable():
            return Problem(_sentence(error.message), hint=error.hint, status=Status.FORBIDDEN)
        case _:
            return Problem(_sentence(error.message), why=_reason(error), hint=error.hint)


def from_rpc(error: grpc.RpcError, address: str) -> Problem:
    """As `problem`, for a call that failed."""
    return problem(errors.from_rpc(error), address)


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(".") if message[1:2].islower() else message


def _reason(error: errors.PoolkeeperError) -> str:
    return f"the daemon refused it: {error.reason}" if error.reason else ""
