"""The daemon's own commands, found by the `poolkeeper` command through its entry points."""

from poolkeeper_server.cli.serve import serve

__all__ = ["serve"]
