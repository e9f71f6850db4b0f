"""`poolkeeper serve`: runs the daemon."""

import gc
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from poolkeeper.cli import screen
from poolkeeper.cli.problem import Problem

WRONG_USAGE = 2
"""The exit status for settings, or a machine, with which the daemon cannot run."""
NOT_YET = 3
"""The exit status for what may be there at the next start: the database, an address or its name, a lock, room."""


def serve(
    *,
    data: Annotated[Path | None, Parameter(name="--data")] = None,
    listen: Annotated[str | None, Parameter(name="--listen")] = None,
    http_listen: Annotated[str | None, Parameter(name="--http-listen")] = None,
    config: Annotated[Path | None, Parameter(name="--config")] = None,
    secrets: Annotated[Path | None, Parameter(name="--secrets")] = None,
    database: Annotated[str | None, Parameter(name="--database")] = None,
    tls: Annotated[Literal["auto", "off", "off-anywhere"] | None, Parameter(name="--tls")] = None,
) -> int:
    """Run the daemon until it is told to stop (SIGTERM, SIGHUP or Ctrl-C).

    Every option can also stand in the settings file, or in a variable such as POOLKEEPER_SERVER_LISTEN; an option
    goes before a variable, and a variable before the file.

    Parameters
    ----------
    data
        The data directory: database, secrets, operator's token. [default: /var/lib/poolkeeper as root, else
        poolkeeper in the XDG state directory]
    listen
        HOST:PORT for gRPC; port 0 takes any free one. [default: 127.0.0.1:7443]
    http_listen
        HOST:PORT for health, readiness and metrics. [default: 127.0.0.1:7480]
    config
        The settings file. [default: poolkeeper.toml in the data directory]
    secrets
        The file of keys; the daemons of one database share it. [default: secrets.json in the data directory]
    database
        postgresql://USER@HOST/NAME, for several daemons on one database. [default: a file in the data directory]
    tls
        auto: TLS everywhere; off: plain, on loopback only; off-anywhere: plain, whoever can listen. [default: auto]
    """
    from poolkeeper_server.config import ConfigurationError, load_settings
    from poolkeeper_server.services.configuration import NotYet

    given = {
        "data": data,
        "listen": listen,
        "http_listen": http_listen,
        "secrets": secrets,
        "database": database,
        "tls": tls,
    }
    try:
        settings = load_settings(given, file=config)
        # What is loaded stays. To search it for garbage would take a fifth of the time that loading takes, and at any
        # moment later would hold up every call for a tenth of a second.
        gc.disable()
        # The daemon takes half a second to load; whoever mistyped an option is told sooner.
        from poolkeeper_server import daemon

        gc.freeze()
        # What a batch makes is gone by itself when it has ended; to search for rings in it every 700 objects takes a
        # tenth of all that a daemon does. gRPC leaves one behind with each unary call: a search in a hundred thousand
        # objects would be noticed by everybody for a tenth of a second.
        gc.set_threshold(10_000, 50, 50)
        gc.enable()
        daemon.run(settings)
    except ConfigurationError as error:
        # The same two lines as every other command writes.
        screen.tell(*Problem(error.message, hint=error.hint).lines())
        return NOT_YET if isinstance(error, NotYet) else WRONG_USAGE
    return 0
