"""All commands under one name, and the one place where their problems become words and an exit status."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version

from cyclopts import App, CycloptsError, Group, Parameter

from poolkeeper.cli import screen
from poolkeeper.cli.problem import Problem, Status, usage

# `run` takes the statuses from 0 to 122 for the command's own, so its failures have one of their own.
_RUN_FAILED = 125
_INTERRUPTED = 130

_NODES = {
    "enrol": "Enrol this machine with a code.",
    "run": "Run a program under a licence.",
    "status": "Show this node, and whether its daemon answers.",
}
_ADMINISTRATION = {
    "estate": "Customer accounts; everything else lies in one.",
    "product": "The catalogue of what licences permit to use.",
    "licence": "Purchases.",
    "pool": "Pools: where licences are drawn from.",
    "code": "Authentication codes: eight digits that enrol a node, once.",
    "node": "Nodes: enrolled servers and encoders.",
    "consumer": "Registered consumers: they may take up their seats from any node.",
    "allocation": "Allocations: who holds what.",
    "ledger": "The record of every change of seats in a pool, and its proof.",
    "clock": "The civil time that the installation goes by.",
    "token": "Credentials of admins.",
    "alert": "What an admin should know of.",
}
_DAEMON = {
    "serve": "Run the daemon.",
    "db": "Back up, verify, restore and migrate the daemon's store.",
}

# Not the daemon, whose log is another's, and not `run`, whose environment is the program's too.
_QUIET = _ADMINISTRATION.keys() | {"enrol", "status"}


def build(typed: Sequence[str] = ()) -> App:
    """The `poolkeeper` command; a command's module is imported when it is run or its help is wanted."""
    app = App(
        name="poolkeeper",
        help="A licence server: pools, check-out, heartbeat and quarantine, with a ledger you can verify.",
        version=lambda: version("poolkeeper"),
        default_parameter=Parameter(negative=(), show_default=False),
    )
    nodes, administration, daemon = map(Group.create_ordered, ("Nodes", "Administration", "Daemon"))
    # The words are given here, or --help would have to import every command.
    for name, words in _NODES.items():
        app.command(f"poolkeeper.cli.{name}:{name}", name=name, help=words, group=nodes)
    for name, words in _ADMINISTRATION.items():
        app.command(f"poolkeeper.cli.{name}:app", name=name, help=words, group=administration)
    for entry in entry_points(group="poolkeeper.commands"):
        # Without the extra [server] the target cannot even be imported, which only its own command should notice.
        target = entry.value if entry.name in typed[:1] else _unasked
        app.command(target, name=entry.name, help=_DAEMON.get(entry.name, ""), group=daemon)
    return app


def _unasked() -> None:
    """Stands for a command that was not typed."""


def execute(words: Sequence[str]) -> int:
    """The exit status of the command that `words` name; whatever goes wrong is told on standard error."""
    if words and words[0] in _QUIET:
        # gRPC's own lines about a lost connection would stand beside our words, and it reads this when it is loaded.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    screen.speak_warnings()
    try:
        result = build(words)(list(words), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.DONE
    except Exception as error:
        if os.environ.get("POOLKEEPER_TRACEBACK"):
            raise
        problem = _problem(error, words)
        screen.tell(*problem.lines())
        return _RUN_FAILED if words[:1] == ["run"] and problem.status in set(Status) else problem.status
    return result if isinstance(result, int) else Status.DONE


def _problem(error: Exception, words: Sequence[str]) -> Problem:
    match error:
        case Problem():
            return error
        case CycloptsError():
            return usage(_one_line(str(error)), hint=f"see `{_help_of(error, words)}`")
        case ImportError():
            return _missing(error, words)
    from poolkeeper.errors import PoolkeeperError

    if isinstance(error, PoolkeeperError):
        from poolkeeper.cli.refusal import problem

        return problem(error)
    return Problem(
        "a fault of poolkeeper's own",
        why=f"{type(error).__name__}: {error}",
        hint="POOLKEEPER_TRACEBACK=1 shows where; please report it with that",
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")


def _help_of(error: CycloptsError, words: Sequence[str]) -> str:
    chain = error.command_chain or (words[:1] if words and words[0] in _ADMINISTRATION else ())
    return " ".join(("poolkeeper", *chain, "--help"))


def _missing(error: ImportError, words: Sequence[str]) -> Problem:
    module = _module(error)
    served = {entry.name: entry.module.partition(".")[0] for entry in entry_points(group="poolkeeper.commands")}
    command = words[0] if words else ""
    if command in served:
        return Problem(
            f"`poolkeeper {command}` needs the extra [server], and the module {module} is missing",
            hint="pip install 'poolkeeper[server]'",
            status=Status.USAGE,
        )
    return Problem(
        f"the module {module} is missing or damaged",
        why=str(error),
        hint="pip install --force-reinstall 'poolkeeper[cli]'",
        status=Status.USAGE,
    )


def _module(error: ImportError) -> str:
    # Whoever loads a command lazily wraps the first error, which alone names what is missing.
    found: BaseException | None = error
    name = error.name or ""
    while found is not None:
        name = (isinstance(found, ImportError) and found.name) or name
        found = found.__cause__ or found.__context__
    return (name or "of the command").partition(".")[0]
