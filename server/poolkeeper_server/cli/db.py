"""`poolkeeper db`: backs up, verifies, restores and moves the daemon's store."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from poolkeeper_server.cli.proof import Proof
    from poolkeeper_server.cli.stores import Keys
    from poolkeeper_server.config import Settings
    from poolkeeper_server.storage.copying import Snapshot, Source, Told

app = App(name="db", default_parameter=Parameter(negative=(), show_default=False))

#: How many problems people are shown; JSON has all of them.
_SHOWN = 50


@Parameter(name="*", group="Store")
@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Which store, found as `serve` finds it, and how the answer is written."""

    data: Annotated[Path | None, Parameter(name="--data", help="The data directory.")] = None
    database: Annotated[
        str | None, Parameter(name="--database", help="postgresql://USER@HOST/NAME, where daemons share a database.")
    ] = None
    secrets: Annotated[
        Path | None, Parameter(name="--secrets", help="The file of keys; else secrets.json in the data directory.")
    ] = None
    config: Annotated[Path | None, Parameter(name="--config", help="The settings file of the daemon.")] = None
    json: Annotated[bool, Parameter(name="--json", help="Print JSON instead of lines.")] = False

    def settings(self) -> "Settings":
        """The settings with which `serve` would start."""
        from poolkeeper_server.config import load_settings

        given = {"data": self.data, "database": self.database, "secrets": self.secrets}
        return load_settings(given, file=self.config)


HERE = Store()


@app.command
def backup(
    file: Annotated[Path, Parameter(help="File to write: a SQLite database, whatever the store is.")],
    /,
    *,
    replace: Annotated[bool, Parameter(help="Replace the file if it is there.")] = False,
    store: Store = HERE,
) -> int:
    """Write the store into one file, beside running daemons.

    The file is there only when it is whole and proved. It has no keys in it: back the secrets file up as well.
    """
    return _ended(lambda: _backup(file.expanduser().absolute(), store, replace=replace), store)


@app.command
def verify(
    file: Annotated[Path | None, Parameter(help="A backup; without it, the store itself.")] = None,
    /,
    *,
    store: Store = HERE,
) -> int:
    """Replay every ledger and prove that the store, or a backup, says the same.

    Works beside running daemons. Exits with 1 when anything does not fit.
    """
    return _ended(lambda: _verify(file, store), store)


@app.command
def restore(
    file: Annotated[Path, Parameter(help="A backup that `db backup` wrote.")],
    /,
    *,
    replace: Annotated[bool, Parameter(help="Replace the data that the store has.")] = False,
    store: Store = HERE,
) -> int:
    """Make a backup the store again; no daemon may be working on it.

    The backup is proved before, and what was restored is proved before it takes its place.
    """
    return _ended(lambda: _restore(file, store, replace=replace), store)


@app.command
def migrate(
    *,
    to: Annotated[str, Parameter(help="postgresql://USER@HOST/NAME, or a data directory; without data.")],
    store: Store = HERE,
) -> int:
    """Move the store to PostgreSQL, or back into a data directory; no daemon may be working on either.

    Every lease goes on. The old store stays as it was and must not be used again.
    """
    return _ended(lambda: _migrate(to, store), store)


class _NotProved(Exception):
    """A store or a copy that is not as its ledgers say; no draft takes its place."""

    def __init__(self, subject: str, keys: "Keys", proof: "Proof") -> None:
        super().__init__(subject)
        self.subject = subject
        self.keys = keys
        self.proof = proof


def _ended(work: Callable[[], Coroutine[Any, Any, int]], store: Store) -> int:
    """The exit status of a command; its errors in the words of every other command."""
    from poolkeeper.cli.problem import Problem, Status
    from poolkeeper_server.config import ConfigurationError
    from poolkeeper_server.services.directory import DirectoryInUse
    from poolkeeper_server.storage.store import StoreRefused, StoreUnreachable, StoreUnusable

    try:
        return asyncio.run(work())
    except _NotProved as found:
        return _refused(store, found.subject, found.keys, found.proof)
    except (ConfigurationError, StoreUnusable) as error:
        status = Status.USAGE
        if isinstance(error, StoreRefused | DirectoryInUse):
            status = Status.REFUSED
        elif isinstance(error, StoreUnreachable):
            status = Status.UNREACHABLE
        raise Problem(error.message, hint=error.hint, status=status) from error


async def _backup(file: Path, store: Store, *, replace: bool) -> int:
    from poolkeeper_server.cli.progress import progress
    from poolkeeper_server.cli.stores import place_of_settings
    from poolkeeper_server.storage.files import new_file

    settings = store.settings()
    place = place_of_settings(settings)
    with progress() as part:
        async with new_file(file, replace=replace) as draft:
            await draft.fill(place.source(), part("Copying"))
            async with draft.snapshot() as snapshot:
                keys, proof = await _proved(snapshot, settings, part("Proving"))
            if proof.problems:
                raise _NotProved(f"the store {place.name}; no backup was written", keys, proof)
    if not store.json:
        _lines(f"PROVED: {file}, a backup of {place.name}", keys, proof)
        _line()
        _line(
            f"Back up {settings.secrets} as well, and keep it apart: it has the keys, and nothing is restored without."
        )
        return 0
    return _json({"file": str(file), "store": place.name}, keys, proof)


async def _verify(file: Path | None, store: Store) -> int:
    from poolkeeper_server.cli.progress import progress

    settings = store.settings()
    async with _wanted(file, settings) as source:
        with progress() as part:
            async with _now(source) as snapshot:
                name = str(file) if file else snapshot.name
                keys, proof = await _proved(snapshot, settings, part("Proving"))
    if proof.problems:
        raise _NotProved(name, keys, proof)
    if store.json:
        return _json({"store": name}, keys, proof)
    _lines(f"PROVED: {name}", keys, proof)
    _line()
    _line("Every ledger is whole, comes to what the store holds, and never held a seat twice.")
    return 0


@asynccontextmanager
async def _wanted(file: Path | None, settings: "Settings") -> "AsyncIterator[Source]":
    """The backup, or the store."""
    from poolkeeper_server.cli.stores import place_of_settings
    from poolkeeper_server.storage.files import at_this_release

    if file is not None:
        async with at_this_release(file) as backup_file:
            yield backup_file
    else:
        yield place_of_settings(settings).source()


@asynccontextmanager
async def _now(source: "Source") -> "AsyncIterator[Snapshot]":
    """A store as it is now, if it has the schema of this release."""
    from poolkeeper_server.storage.migration import VERSION, is_older

    async with source.snapshot() as snapshot:
        if snapshot.version != VERSION:
            raise is_older(snapshot.name, snapshot.version)
        yield snapshot


async def _restore(file: Path, store: Store, *, replace: bool) -> int:
    from poolkeeper_server.cli.progress import progress
    from poolkeeper_server.cli.proof import prove
    from poolkeeper_server.cli.stores import place_of_settings, required_keys
    from poolkeeper_server.storage.files import at_this_release

    settings = store.settings()
    place = place_of_settings(settings)
    async with at_this_release(file) as source:
        async with source.snapshot() as snapshot:
            keys = await required_keys(snapshot, settings.secrets)
        with progress() as part:
            async with place.draft(replace=replace) as draft:
                async with source.snapshot() as snapshot:
                    proof = await prove(snapshot, keys.public, part("Proving the backup"))
                if proof.problems:
                    raise _NotProved(f"{file}; nothing was restored", keys, proof)
                await draft.fill(source, part("Restoring"))
                await draft.renew(restored=True, civil=time.time_ns() // 1000)
                async with draft.snapshot() as snapshot:
                    proof = await prove(snapshot, keys.public, part("Proving the store"))
                if proof.problems:
                    raise _lost(f"What was restored from {file} is not what the backup holds", proof)
    return _taken_up(store, f"{place.name}, restored from {file}", keys, proof, place.serve(settings))


async def _migrate(to: str, store: Store) -> int:
    from poolkeeper_server.cli.progress import progress
    from poolkeeper_server.cli.proof import heads
    from poolkeeper_server.cli.stores import DirectoryPlace, other_store, place_of, place_of_settings
    from poolkeeper_server.storage import contents
    from poolkeeper_server.storage.store import MOVED, StoreRefused

    settings = store.settings()
    origin, place = place_of_settings(settings), place_of(to)
    if origin == place:
        raise StoreRefused(f"The store is in {place.name} already.", hint="Name another place with --to.")
    with progress() as part:
        async with origin.alone() as source:
            async with place.draft(replace=False) as draft:
                async with _now(source) as snapshot:
                    check = await contents.secrets_check(snapshot)
                    if check.startswith(MOVED):
                        raise StoreRefused(f"The store {origin.name} was {check}.", hint="Move it from there.")
                    before = heads(await contents.pools(snapshot))
                await draft.fill(source, part("Moving"))
                async with draft.snapshot() as snapshot:
                    keys, proof = await _proved(snapshot, settings, part("Proving"))
                if proof.problems:
                    raise _NotProved(f"the store {origin.name}; nothing was moved", keys, proof)
                if proof.heads != before:
                    raise _lost("The ledgers in the new store end elsewhere than those in the old one", proof)
                # After the comparison: every ledger of the new store says that an epoch has begun.
                await draft.renew(restored=False, civil=time.time_ns() // 1000)
            await source.retire(place.name)
    told = f"{place.name}, with every ledger as in {origin.name}"
    status = _taken_up(store, told, keys, proof, place.serve(settings))
    if not store.json:
        _line(f"No daemon starts on {origin.name} any more: it would give the same seats a second time.")
        if isinstance(place, DirectoryPlace) and other_store(place.directory):
            _line("Take `database` out of the daemon's settings first: it still names a PostgreSQL database.")
    return status


async def _proved(snapshot: "Snapshot", settings: "Settings", told: "Told") -> "tuple[Keys, Proof]":
    from poolkeeper_server.cli.proof import prove
    from poolkeeper_server.cli.stores import keys_of

    keys = await keys_of(snapshot, settings.secrets)
    return keys, await prove(snapshot, keys.public, told)


def _lost(what: str, proof: "Proof") -> Exception:
    """A fault of ours or of the disk: the copy is not the original, and does not take its place."""
    from poolkeeper_server.storage.store import StoreUnusable

    first = proof.problems[0] if proof.problems else "their heads differ"
    return StoreUnusable(f"{what}: {first}.", hint="Nothing was changed. Check the disk, and report it.")


def _taken_up(store: Store, subject: str, keys: "Keys", proof: "Proof", serve: str) -> int:
    """What is said of a store that daemons can go on with."""
    if store.json:
        return _json({"store": subject, "serve": serve}, keys, proof)
    _lines(f"PROVED: {subject}", keys, proof)
    _line()
    _line("Start the daemon again:")
    _line(f"  {serve}")
    return 0


def _refused(store: Store, subject: str, keys: "Keys", proof: "Proof") -> int:
    from poolkeeper.cli.problem import Status

    if store.json:
        _json({"store": subject}, keys, proof)
        return Status.REFUSED
    _lines(f"NOT PROVED: {subject}", keys, proof)
    _line()
    for problem in proof.problems[:_SHOWN]:
        _line(f"- {problem}")
    if len(proof.problems) > _SHOWN:
        _line(f"- and {len(proof.problems) - _SHOWN} more; --json has all of them")
    return Status.REFUSED


def _lines(subject: str, keys: "Keys", proof: "Proof") -> None:
    from poolkeeper.cli.output import Printer

    checked = f"{proof.checkpoints} checkpoints checked" if proof.with_keys else f"not checked: {keys.missing}"
    found = {
        "pools": f"{len(proof.heads):,}",
        "entries": f"{proof.entries:,}",
        "allocations": f"{proof.allocations:,} with {proof.seats:,} seats",
        "signatures": checked,
    }
    printer = Printer(as_json=False)
    printer.line(subject, style="bold red" if proof.problems else "bold green")
    printer.table([("", False), ("", False)], list(found.items()), header=False)


def _json(told: dict[str, Any], keys: "Keys", proof: "Proof") -> int:
    from poolkeeper.cli.output import Printer
    from poolkeeper_server.cli.proof import document

    Printer(as_json=True).json({**told, **document(proof), "signatures_missing": keys.missing})
    return 0


def _line(text: str = "") -> None:
    from poolkeeper.cli.output import Printer

    Printer(as_json=False).line(text)
