"""A bar on the terminal for work that takes its time; elsewhere nothing is shown."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poolkeeper_server.storage.copying import Told


@contextmanager
def progress() -> Iterator[Callable[[str], Told]]:
    """Begins a part of the work, given in words; what it gives is told how far that part is."""
    if not sys.stderr.isatty():
        yield lambda _words: _unseen
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:

        def part(words: str) -> Told:
            task = bar.add_task(words, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield part


def _unseen(done: int, total: int) -> None:
    del done, total
