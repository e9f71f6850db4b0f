"""The daemon's settings: command line before environment before file before defaults."""

import difflib
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from poolkeeper_server.domain.purchasing import LONGEST_LEASE, SHORTEST_LEASE
from poolkeeper_server.services.address import Address
from poolkeeper_server.services.configuration import ConfigurationError, refused_by_system
from poolkeeper_server.services.sources import Network

__all__ = ["ConfigurationError", "Settings", "load_settings"]

_PREFIX = "POOLKEEPER_SERVER_"
_FILE = "poolkeeper.toml"
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
# How far two quartz clocks of different machines may drift apart: 200 parts in a million (section 3a).
_DRIFT_PER_MILLION = 200
_PASSWORD = re.compile(r"(://[^/@:\s]*):[^@\s]*@")
_UNITS = {"ms": 1_000, "s": _SECOND, "m": 60 * _SECOND, "h": 3_600 * _SECOND, "d": _DAY}


def _span(value: object) -> int:
    """Microseconds of a span written as 90, "90s", "15m", "24h" or "7d"; a bare number counts seconds."""
    found = re.fullmatch(r"\s*(\d+)\s*(ms|s|m|h|d)?\s*", str(value))
    if isinstance(value, bool) or found is None:
        raise ValueError(f"{value!r} is not a span such as 90s, 15m, 24h or 7d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def _address(value: object) -> Address:
    return value if isinstance(value, Address) else Address.parse(str(value))


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(f"{value!r} is not a path")
    return Path(value).expanduser().absolute()


def _networks(value: object) -> tuple[Network, ...]:
    """Addresses and networks, written behind one another with commas, or as a list."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError(f"{value!r} is not a list of addresses")  # noqa: TRY004 - pydantic tells these to people
    return tuple(ip_network(str(one).strip()) for one in listed if str(one).strip())


Span = Annotated[int, BeforeValidator(_span)]
"""An int of microseconds, read from text such as "90s" or "24h"."""
ListenAddress = Annotated[Address, NoDecode, BeforeValidator(_address)]
"""An Address, read from HOST:PORT."""
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
"""Addresses and networks such as 10.0.0.5 and 10.1.0.0/16."""
FilePath = Annotated[Path, BeforeValidator(_path)]
"""An absolute path, with ~ expanded."""


def is_postgres(text: str) -> bool:
    """Whether that is the URL of a PostgreSQL database."""
    try:
        parts = urlsplit(text)
        # Only when it is asked for does a port show that is none.
        return parts.scheme in {"postgresql", "postgres"} and "://" in text and parts.port != 0
    except ValueError:
        return False


def _default_data() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/poolkeeper")
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification tells programs to ignore a relative path here.
    return (Path(state) if state.startswith("/") else Path.home() / ".local/state") / "poolkeeper"


class Settings(BaseSettings):
    """What the daemon goes by; every span is an int of microseconds.

    Raises ConfigurationError when the values are good one by one and not together. Use load_settings, which
    also turns a bad value into a ConfigurationError and looks for the file.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True, validate_default=False)

    data: FilePath = Field(default_factory=_default_data)
    """The data directory."""
    listen: ListenAddress = Address("127.0.0.1", 7443)
    """Where gRPC listens."""
    http_listen: ListenAddress = Address("127.0.0.1", 7480)
    """Where health, readiness and metrics listen, in plain HTTP."""
    database: str = ""
    """A PostgreSQL database as postgresql://USER@HOST/NAME, for several daemons; else a file in the data directory."""
    secrets: FilePath = Field(default_factory=lambda known: known["data"] / "secrets.json")
    """The file of keys; shared by the daemons of a cluster."""
    tls: Literal["auto", "off", "off-anywhere"] = "auto"
    """auto: always TLS; off: plain, on loopback only; off-anywhere: plain wherever it listens."""
    certificate: FilePath | None = None
    """A certificate chain in PEM, instead of one from the installation's own CA."""
    private_key: FilePath | None = None
    """The private key of that certificate in PEM, without a passphrase."""
    lease_duration: Span = 120 * _SECOND
    """How long a renewal holds, for pools that do not say otherwise."""
    heartbeat_interval: Span = 30 * _SECOND
    """How often sessions renew, for pools that do not say otherwise."""
    margin: Span = 5 * _SECOND
    """What is added to a promise before its seat is given away, for pools that do not say otherwise."""
    minimum_allocation: Span = 0
    """How long a seat stays taken at least, for pools that do not say otherwise."""
    code_lifetime: Span = _DAY
    """How long an authentication code can be redeemed, unless it was issued with another lifetime."""
    outcome_retention: Span = 7 * _DAY
    """How long the effect of a request id is remembered."""
    queue_bound: int = Field(default=8_192, ge=64, le=1_000_000)
    """Commands that may wait for the store; beyond it check-outs are told to come back."""
    connections: int = Field(default=0, ge=0, le=1_000_000)
    """Connections at a time; 0: as many as the process may have open files, but for 256."""
    calls_per_second: int = Field(default=1_000, ge=1, le=1_000_000)
    """Calls a second of one node at one daemon, or of one address that is not known yet; a minute's come at once."""
    sessions_per_node: int = Field(default=10_000, ge=1, le=1_000_000)
    """Sessions that one node may have open, and streams at one daemon."""
    waits_per_node: int = Field(default=5_000, ge=1, le=1_000_000)
    """Check-outs of one node that may wait for a seat."""
    trusted_fronts: Networks = ()
    """Addresses or networks of proxies in front, which say in x-forwarded-for for whom they call."""
    front_certificate: FilePath | None = None
    """Where the daemon writes, at every start, its certificate with the key in PEM, for a proxy in front."""
    drain_timeout: Span = 10 * _SECOND
    """How long a stopping daemon waits for calls that are in progress."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe events that are logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources, best first; no .env file, since a daemon's working directory is an accident."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _relations(self) -> Self:
        if self.database and not is_postgres(self.database):
            raise ConfigurationError(
                f"database is {_masked(self.database)}, which is not the address of a PostgreSQL database.",
                hint="Write it as postgresql://USER@HOST/NAME, or leave it out for a file in the data directory.",
            )
        if self.tls == "off" and not self.listen.is_loopback:
            raise ConfigurationError(
                f"tls is off, and listen is {self.listen}, which other machines can reach.",
                hint="Leave tls at auto, listen on 127.0.0.1, or set tls = off-anywhere if something in front"
                " of the daemon encrypts.",
            )
        if (self.certificate is None) != (self.private_key is None):
            given, missing = ("certificate", "private_key") if self.certificate else ("private_key", "certificate")
            raise ConfigurationError(
                f"{given} is set and {missing} is not.",
                hint="Set both, or neither for a certificate from the installation's own CA.",
            )
        if self.certificate is not None and self.tls != "auto":
            raise ConfigurationError(
                f"certificate is set and tls is {self.tls}.",
                hint="Leave tls at auto, or take certificate and private_key out.",
            )
        if self.front_certificate is not None and self.tls != "auto":
            raise ConfigurationError(
                f"front_certificate is set and tls is {self.tls}.",
                hint="Leave tls at auto, so that there is a certificate, or take front_certificate out.",
            )
        self._span_relations()
        return self

    def _span_relations(self) -> None:
        if not SHORTEST_LEASE <= self.lease_duration <= LONGEST_LEASE:
            raise ConfigurationError(f"lease_duration is {_text(self.lease_duration)}.", hint="Set it from 6s to 5d.")
        if not 2 * _SECOND <= self.heartbeat_interval <= self.lease_duration // 3:
            raise ConfigurationError(
                f"heartbeat_interval is {_text(self.heartbeat_interval)} beside a lease_duration of"
                f" {_text(self.lease_duration)}.",
                hint="A lease must outlive two lost heartbeats: set heartbeat_interval to at least 2s and at"
                " most a third of lease_duration.",
            )
        least_margin = 2 * _SECOND + self.lease_duration * _DRIFT_PER_MILLION // 1_000_000
        if self.margin < least_margin:
            raise ConfigurationError(
                f"margin is {_text(self.margin)} beside a lease_duration of {_text(self.lease_duration)}.",
                hint=f"Clocks drift: set margin to at least {_text(least_margin)}.",
            )
        if not 60 * _SECOND <= self.code_lifetime <= 30 * _DAY:
            raise ConfigurationError(f"code_lifetime is {_text(self.code_lifetime)}.", hint="Set it from 1m to 30d.")
        # A retry may come after a wait of a day and the whole promise of any pool; its effect must still be known then.
        if self.outcome_retention < LONGEST_LEASE + 2 * _DAY:
            raise ConfigurationError(
                f"outcome_retention is {_text(self.outcome_retention)}.",
                hint="A late retry would take a second seat: set outcome_retention to at least 7d.",
            )


def load_settings(overrides: Mapping[str, Any], *, file: Path | None = None) -> Settings:
    """The settings of this start.

    `overrides` are those of the command line; None counts as not given. The file is `file`, else what
    POOLKEEPER_SERVER_CONFIG names, else poolkeeper.toml in the data directory if it exists. Raises
    ConfigurationError that names the key, where it was set, and what it should be.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    variables = {
        name.upper().removeprefix(_PREFIX).lower(): name for name in os.environ if name.upper().startswith(_PREFIX)
    }
    if file is None and "config" in variables:
        file = Path(os.environ[variables["config"]])
    variables.pop("config", None)
    for key, name in variables.items():
        if key not in Settings.model_fields:
            raise _unknown(name, where="the environment", known=_variables())
    if file is None:
        file = _beside(given.get("data") or os.environ.get(variables.get("data", "")))
    elif not file.is_file():
        raise ConfigurationError(f"There is no settings file {file}.", hint="Correct its path.")

    class SettingsOfThisStart(Settings, toml_file=file):
        """Settings that read this file too."""

    try:
        settings = SettingsOfThisStart(**given)
        if (
            file is not None
            and "database" not in {*given, *variables}
            and _masked(settings.database) != settings.database
        ):
            _require_closed(file)
        return settings
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}.", hint="Correct that line.") from error
    except OSError as error:
        raise refused_by_system(
            error,
            f"{file} cannot be read: {error.strerror}.",
            hint="Make it readable for the user that runs the daemon.",
        ) from error
    except ValidationError as error:
        raise _explained(error.errors()[0], given=given, variables=variables, file=file) from error


def _require_closed(file: Path) -> None:
    """Raises ConfigurationError for a file that holds a password and that others can read or write."""
    found = file.stat()
    # Root may hand it to the daemon's group.
    open_to = 0o027 if found.st_uid == 0 and os.geteuid() != 0 else 0o077
    if found.st_mode & open_to:
        raise ConfigurationError(
            f"{file} holds the database's password and is open to others than its owner"
            f" (mode {stat.S_IMODE(found.st_mode):04o}).",
            hint=f"Run: chmod 600 {shlex.quote(str(file))}",
        )


def _masked(text: str) -> str:
    """The text without the password of a URL in it."""
    return _PASSWORD.sub(r"\1:…@", text)


def _beside(data: object) -> Path | None:
    directory = Path(str(data)).expanduser() if data else _default_data()
    file = directory / _FILE
    return file if file.is_file() else None


def _variables() -> list[str]:
    return [f"{_PREFIX}{key.upper()}" for key in ("config", *Settings.model_fields)]


def _explained(
    error: ErrorDetails,
    *,
    given: Mapping[str, object],
    variables: Mapping[str, str],
    file: Path | None,
) -> ConfigurationError:
    key = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return _unknown(key, where=str(file), known=list(Settings.model_fields))
    if key in given:
        source = "on the command line"
    elif key in variables:
        source = f"in {variables[key]}"
    else:
        source = f"in {file}"
    detail = error["msg"].removeprefix("Value error, ")
    return ConfigurationError(f"{key} {source}: {detail}.", hint=f"It was {_masked(repr(error['input']))}.")


def _unknown(name: str, *, where: str, known: list[str]) -> ConfigurationError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"The settings are {', '.join(known)}."
    return ConfigurationError(f"{name} in {where} is not a setting.", hint=hint)


def _text(span: int) -> str:
    """The span as somebody would write it in a settings file, rounded up to whole units."""
    for unit in ("d", "h", "m", "s"):
        if span >= _UNITS[unit] and span % _UNITS[unit] == 0:
            return f"{span // _UNITS[unit]}{unit}"
    return f"{-(-span // _UNITS['ms'])}ms"
