"""What went wrong, told to a person: what, why, and what to do about it."""

from enum import IntEnum


class Status(IntEnum):
    """Exit statuses of every command but `run`."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    FORBIDDEN = 4


class Problem(Exception):
    """Ends a command.

    `what` is one line; `why` and `hint` may have several; `status` is what the process exits with.
    """

    def __init__(self, what: str, *, why: str = "", hint: str = "", status: int = Status.REFUSED) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint
        self.status = int(status)

    def lines(self) -> list[str]:
        """The lines for standard error."""
        lines = [f"poolkeeper: {self.what}"]
        for label, words in (("why", self.why), ("hint", self.hint)):
            first, *others = words.split("\n")
            if first:
                lines.append(f"  {label}: {first}")
                lines.extend(f"  {' ' * len(label)}  {line}" for line in others)
        return lines


def usage(what: str, *, hint: str = "") -> Problem:
    """A problem with what was typed."""
    return Problem(what, hint=hint, status=Status.USAGE)


def sentence(message: str) -> str:
    """A message as part of a line: without its final stop, and without a capital that only began it."""
    bare = message.removesuffix(".")
    return bare[:1].lower() + bare[1:] if bare[1:2].islower() or bare[1:2] == " " else bare
