"""Which store a command is about, who has it, and the keys that belong to it."""

import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from poolkeeper.cli.problem import sentence
from poolkeeper_server.config import ConfigurationError, Settings, is_postgres, load_settings
from poolkeeper_server.services.configuration import without_driver
from poolkeeper_server.services.directory import DataDirectory
from poolkeeper_server.services.grants import Signer
from poolkeeper_server.services.secrets import Secrets, read_secrets
from poolkeeper_server.storage.contents import secrets_check
from poolkeeper_server.storage.copying import Draft, Snapshot, Source
from poolkeeper_server.storage.files import SqliteFile, has_data, new_file
from poolkeeper_server.storage.store import StoreRefused, StoreUnusable

_DATABASE = "poolkeeper.sqlite"


class StorePlace(Protocol):
    """Where a store is, or is to be."""

    @property
    def name(self) -> str:
        """For people to read."""

    def source(self) -> Source:
        """The store beside the daemons that work on it."""

    def alone(self) -> AbstractAsyncContextManager[Source]:
        """The store while no daemon works on it. Raises StoreRefused or ConfigurationError when one does."""

    def draft(self, *, replace: bool) -> AbstractAsyncContextManager[Draft]:
        """What becomes the store; refused while a daemon has it, and, without `replace`, when it has data."""

    def serve(self, settings: Settings) -> str:
        """The line that starts a daemon on it."""


@dataclass(frozen=True, slots=True)
class DirectoryPlace:
    """The store in a data directory."""

    directory: Path

    @property
    def path(self) -> Path:
        """Its file."""
        return self.directory / _DATABASE

    @property
    def name(self) -> str:
        """For people to read."""
        return str(self.path)

    def source(self) -> SqliteFile:
        """The store beside the daemon that works on it."""
        return SqliteFile(self.path, live=True)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Source]:
        """The store while no daemon works on it."""
        source = self.source()
        # Where there is none, no directory is made either.
        with source.opened():
            pass
        with DataDirectory(self.directory):
            yield source

    @asynccontextmanager
    async def draft(self, *, replace: bool) -> AsyncIterator[Draft]:
        """What becomes the store."""
        with DataDirectory(self.directory):
            if has_data(self.path) and not replace:
                raise StoreRefused(
                    f"The data directory {self.directory} has a store.",
                    hint="Name another one; `poolkeeper db restore` replaces what is there with --replace.",
                )
            async with new_file(self.path, replace=True, store=True) as draft:
                yield draft

    def serve(self, settings: Settings) -> str:
        """The line that starts a daemon on it."""
        words = ["poolkeeper", "serve", "--data", str(self.directory)]
        if settings.secrets != self.directory / settings.secrets.name:
            words += ["--secrets", str(settings.secrets)]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """The store in a PostgreSQL database."""

    url: str

    @property
    def name(self) -> str:
        """For people to read."""
        return self.source().name

    def source(self) -> Source:
        """The store beside the daemons that work on it."""
        from poolkeeper_server.storage.postgres.copying import PostgresSource

        return PostgresSource(self.url)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[Source]:
        """The store while no daemon works on it."""
        from poolkeeper_server.storage.postgres.copying import PostgresSource

        async with PostgresSource(self.url).alone() as source:
            yield source

    @asynccontextmanager
    async def draft(self, *, replace: bool) -> AsyncIterator[Draft]:
        """What becomes the store."""
        from poolkeeper_server.storage.postgres.copying import new_database

        async with new_database(self.url, replace=replace) as draft:
            yield draft

    def serve(self, settings: Settings) -> str:
        """The line that starts a daemon on it; a password is left for its owner to write."""
        parts = urlsplit(self.url)
        url = self.url.replace(f":{parts.password}@", ":PASSWORD@", 1) if parts.password else self.url
        words = ["poolkeeper", "serve", "--data", str(settings.data), "--database", url]
        if settings.secrets != settings.data / settings.secrets.name:
            words += ["--secrets", str(settings.secrets)]
        return shlex.join(words)


def place_of(text: str) -> StorePlace:
    """The place that a URL or a directory names."""
    if is_postgres(text):
        try:
            import poolkeeper_server.storage.postgres.copying  # noqa: F401 - whether its driver is there
        except ModuleNotFoundError as error:
            raise without_driver(error) from error
        return PostgresPlace(text)
    if not text or "://" in text:
        raise ConfigurationError(
            f"{text!r} is neither a PostgreSQL database nor a directory.",
            hint="Write a database as postgresql://USER@HOST/NAME.",
        )
    return DirectoryPlace(Path(text).expanduser().absolute())


def place_of_settings(settings: Settings) -> StorePlace:
    """The place of the store that `serve` would open with these settings."""
    return place_of(settings.database or str(settings.data))


def other_store(directory: Path) -> str:
    """The database that a daemon would open with that data directory because a file or a variable says so."""
    return load_settings({"data": directory}).database


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The public keys that belong to a store; None, and `missing` says why, where they are not at hand."""

    public: Mapping[str, bytes] | None
    missing: str = ""


async def keys_of(snapshot: Snapshot, path: Path) -> Keys:
    """The keys in the secrets file, if it is there and is that of the store."""
    try:
        held = read_secrets(path)
    except ConfigurationError as error:
        return Keys(public=None, missing=sentence(error.message.partition(", and")[0]))
    if held.check_value() != await secrets_check(snapshot):
        return Keys(public=None, missing=f"the secrets in {path} are of another installation, or of another time")
    return Keys(public=_public(held))


async def required_keys(snapshot: Snapshot, path: Path) -> Keys:
    """The keys of a backup that is to be restored.

    Raises:
        ConfigurationError: when there is no secrets file, or it cannot be read.
        StoreRefused: when the backup was made with other secrets.
    """
    check = await secrets_check(snapshot)
    if not check:
        raise StoreUnusable(f"{snapshot.name} holds nothing: no daemon has used it.", hint="Name another backup.")
    held = read_secrets(path)
    if held.check_value() != check:
        raise StoreRefused(
            f"The backup {snapshot.name} was made with other secrets than those in {path}.",
            hint="Put the secrets file back that was in use when the backup was made, or name it with --secrets.",
        )
    return Keys(public=_public(held))


def _public(held: Secrets) -> Mapping[str, bytes]:
    return {key.key_id: key.public_key for key in Signer(held).published()}
