"""Which behaviour or invariant each test proves: a pytest plugin, and the account of what has no test yet.

A test names the behaviour it proves with a literal marker, one id to a marker::

    @pytest.mark.behaviour("EV-5")
    async def test_a_move_of_more_than_is_unused_changes_nothing(daemon): ...

The ids stand in ``behaviours.toml`` beside this module. ``--behaviour CC-5`` runs only the tests of that id;
``@pytest.mark.invariant("INV-3")``, ``invariants.toml`` and ``--invariant INV-3`` are the same for invariants.
``--behaviours-proved FILE`` writes the ids whose tests ran and passed. As a program, this module reads such a
file of a whole run, prints the ids without a test, and fails if an id that once had one has none now.
"""

import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

CATALOGUE = Path(__file__).with_name("behaviours.toml")
INVARIANTS = CATALOGUE.with_name("invariants.toml")
#: The catalogue of each marker.
CATALOGUES = {"behaviour": CATALOGUE, "invariant": INVARIANTS}


@dataclass(frozen=True, slots=True)
class Sabotage:
    """A one-line change of the code that breaks a behaviour: ``find`` stands once in ``file``."""

    file: str
    find: str
    replace: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Something the product must do."""

    id: str
    text: str
    tested: bool
    """Whether a test has carried this id since it was last recorded."""
    sabotages: tuple[Sabotage, ...]


class CatalogueError(Exception):
    """The catalogue is not what this module can read."""


class MarkerError(Exception):
    """A test is marked with what it cannot prove."""


def read_catalogue(path: Path = CATALOGUE) -> Mapping[str, Behaviour]:
    """All behaviours by id, in the order of the file.

    Raises `CatalogueError` on an entry with missing or unknown fields.
    """
    catalogue = {}
    for id_, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        try:
            behaviour = Behaviour(
                id=id_,
                text=entry.pop("text"),
                tested=entry.pop("tested"),
                sabotages=tuple(Sabotage(**one) for one in entry.pop("sabotage", ())),
            )
        except (KeyError, TypeError) as error:
            raise CatalogueError(f"{path.name}: {id_}: {error!r}") from error
        if entry:
            raise CatalogueError(f"{path.name}: {id_}: unknown field {next(iter(entry))!r}")
        catalogue[id_] = behaviour
    return catalogue


def carried_ids(item: pytest.Item, kind: str) -> list[str]:
    """The ids that a test carries, by that kind of marker.

    Raises `MarkerError` on a marker that is not one id of its catalogue, or a behaviour's on a unit test: a
    behaviour is proved on a real daemon, through gRPC, the SDK or the command line.
    """
    ids = []
    known = item.config.stash[_CATALOGUES][kind]
    for marker in item.iter_markers(kind):
        match marker.args:
            case (str() as id_,) if id_ in known and not marker.kwargs:
                ids.append(id_)
            case _:
                article = "an" if kind[0] in "aeiou" else "a"
                raise MarkerError(
                    f"{article} {kind} marker takes one id of {CATALOGUES[kind].name}, not {marker.args!r}"
                )
    if ids and kind == "behaviour" and "unit" in item.path.relative_to(item.config.rootpath).parts:
        raise MarkerError(f"a unit test cannot prove {', '.join(ids)}")
    return ids


_CATALOGUES: pytest.StashKey[Mapping[str, Mapping[str, Behaviour]]] = pytest.StashKey()
_MISMARKED: pytest.StashKey[MarkerError] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options."""
    group = parser.getgroup("behaviours")
    for kind in CATALOGUES:
        group.addoption(f"--{kind}", metavar="ID", help=f"run only the tests that carry this id of {kind}s")
    group.addoption(
        "--behaviours-proved",
        metavar="FILE",
        type=Path,
        help="write the ids whose tests ran and passed to this file, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Reads the catalogues and declares the markers."""
    for kind in CATALOGUES:
        config.addinivalue_line("markers", f"{kind}(id): the {kind} that this test proves")
    config.stash[_CATALOGUES] = {kind: read_catalogue(path) for kind, path in CATALOGUES.items()}
    path = config.getoption("--behaviours-proved")
    # A worker of xdist has "workerinput"; the file is the controller's to write.
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ProvedBehaviours(path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Checks the markers, hangs the ids on the reports, and selects by ``--behaviour`` or ``--invariant``."""
    wanted = {(kind, id_) for kind in CATALOGUES if (id_ := config.getoption(f"--{kind}")) is not None}
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        try:
            ids = [(kind, id_) for kind in CATALOGUES for id_ in carried_ids(item, kind)]
        except MarkerError as error:
            # Raised when the test runs: a worker of xdist that fails while it collects cannot say why.
            item.stash[_MISMARKED] = error
            ids = []
        # Under xdist a report is all that reaches the process that writes the file.
        item.user_properties.extend(ids)
        (selected if not wanted or wanted.intersection(ids) else deselected).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = selected


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fails a test whose markers are wrong."""
    if error := item.stash.get(_MISMARKED, None):
        pytest.fail(str(error), pytrace=False)


class ProvedBehaviours:
    """Gathers the ids of passed tests and writes them at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ids: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._ids.update(str(id_) for key, id_ in report.user_properties if key == "behaviour")

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(sorted(self._ids)), encoding="utf-8")


def record(path: Path, ids: set[str]) -> None:
    """Marks these ids as tested in the catalogue, leaving the rest of the file as it is."""
    text = path.read_text(encoding="utf-8")
    for id_ in ids:
        text, changed = re.subn(rf"(?ms)^(\[{re.escape(id_)}\]\n[^\[]*?^tested = )false$", r"\g<1>true", text)
        if changed != 1:
            raise CatalogueError(f"{path.name}: {id_} cannot be recorded as tested")
    path.write_text(text, encoding="utf-8")


def account(catalogue: Mapping[str, Behaviour], proved: set[str]) -> tuple[list[str], list[str]]:
    """The ids without a test, and those of them that once had one."""
    missing = [id_ for id_ in catalogue if id_ not in proved]
    return missing, [id_ for id_ in missing if catalogue[id_].tested]


def main(arguments: list[str]) -> int:
    """Prints the ids without a test after a whole run, and records the others. 1 if one was lost."""
    (proved_file,) = arguments
    catalogue = read_catalogue()
    proved = set(json.loads(Path(proved_file).read_text(encoding="utf-8")))
    missing, lost = account(catalogue, proved)
    record(CATALOGUE, {id_ for id_ in proved if not catalogue[id_].tested})
    sys.stdout.write(f"{len(proved)} of {len(catalogue)} behaviours have a test. Without one:\n")
    by_system: dict[str, list[str]] = {}
    for id_ in missing:
        by_system.setdefault(id_.partition("-")[0], []).append(id_)
    for ids in by_system.values():
        sys.stdout.write(f"  {' '.join(ids)}\n")
    untried = [id_ for id_ in sorted(proved) if id_.startswith("CC-") and not catalogue[id_].sabotages]
    if untried:
        sys.stdout.write(f"With a test but no sabotage that it catches: {' '.join(untried)}\n")
    for id_ in lost:
        sys.stdout.write(f"LOST {id_}: {catalogue[id_].text}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
