"""The `poolkeeper` command: `enrol`, `run` and `status` for nodes, and everything that an admin does.

Importing this package loads nothing but the standard library, so that `poolkeeper --version` answers at once and a
missing extra can be told by name.
"""

import sys
from collections.abc import Sequence

_EXTRA = frozenset({"cyclopts", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status of one run of the command; `arguments` default to the process's own.

    0 done, 1 refused by the daemon, 2 wrong usage or a missing extra, 3 not reachable, 4 not permitted; `run` has
    statuses of its own, see `poolkeeper.cli.run`.
    """
    from poolkeeper.cli import screen

    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:
        from importlib.metadata import version

        screen.say(version("poolkeeper"))
        return 0
    try:
        from poolkeeper.cli.application import execute
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        screen.tell(
            f"poolkeeper: the command line needs the extra [cli], and the module {error.name} is missing",
            "  hint: pip install 'poolkeeper[cli]'",
        )
        return 2
    return execute(words)
