"""Tries every sabotage of the catalogues on a copy of the code and reports which ones the tests catch.

A sabotage is caught when tests that carry its id run and fail. No such tests, tests that cannot be collected,
a text that does not stand exactly once in its file, and a run without end count as not caught.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.behaviours import CATALOGUES, Behaviour, Sabotage, read_catalogue

REPOSITORY = Path(__file__).parent.parent
COPIED = ("README.md", "client", "deploy", "proto", "pyproject.toml", "server", "tests")
TIME_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one sabotage."""

    id: str
    sabotage: Sabotage
    caught: bool
    reason: str


class SabotageError(Exception):
    """The sabotage cannot be carried out as it is written."""


def apply(sabotage: Sabotage, tree: Path) -> None:
    """Changes the one place in the copy.

    Raises `SabotageError` if there is not exactly one, or if what results is not Python: code that cannot be
    imported fails every test and shows nothing.
    """
    path = tree / sabotage.file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SabotageError("the file does not exist") from None
    if (count := text.count(sabotage.find)) != 1:
        raise SabotageError(f"the text stands {count} times in the file")
    broken = text.replace(sabotage.find, sabotage.replace)
    try:
        compile(broken, sabotage.file, "exec")
    except SyntaxError as error:
        raise SabotageError(f"the result is not Python: {error}") from error
    path.write_text(broken, encoding="utf-8")


def copy_sources(tree: Path) -> None:
    """Puts what the tests need into an empty folder, without caches."""
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)


def carriers(kind: str, identity: str, tree: Path) -> list[str]:
    """The test modules that carry the id, those with processes of their own last."""
    marker = f'{kind}("{identity}")'
    found = [path for path in (tree / "tests").rglob("test_*.py") if marker in path.read_text(encoding="utf-8")]
    return [str(path) for path in sorted(found, key=lambda path: ("process" in path.parts, path))] or ["tests/unit"]


def attempt(kind: str, behaviour: Behaviour, sabotage: Sabotage) -> Outcome:
    """Runs the tests of the behaviour or invariant against a copy with the sabotage in it."""
    with tempfile.TemporaryDirectory(prefix="poolkeeper-sabotage-") as folder:
        tree = Path(folder)
        copy_sources(tree)
        try:
            apply(sabotage, tree)
        except SabotageError as error:
            return Outcome(behaviour.id, sabotage, caught=False, reason=str(error))
        # Ahead of the editable install on the path, in the tests and in every process that they start.
        sources = os.pathsep.join(str(tree / name) for name in ("client", "server"))
        command = [sys.executable, "-m", "pytest", "--quiet", f"--{kind}", behaviour.id]
        # One failure is enough, however large its example, and the quick tests are asked first.
        command += ["--exitfirst", "--hypothesis-profile", "found"]
        command += ["-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", folder]
        command += carriers(kind, behaviour.id, tree)
        try:
            run = subprocess.run(
                command,
                cwd=tree,
                env={**os.environ, "PYTHONPATH": sources},
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(behaviour.id, sabotage, caught=False, reason="the tests hang")
    last = (run.stdout.strip() or run.stderr.strip()).rpartition("\n")[2]
    caught = run.returncode == pytest.ExitCode.TESTS_FAILED
    if run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        last = "no test carries the id"
    return Outcome(behaviour.id, sabotage, caught=caught, reason=last)


def main(arguments: Sequence[str]) -> int:
    """Tries the sabotages and prints a line for each. 1 if one was not caught."""
    parser = argparse.ArgumentParser(prog="tests/sabotage", description=__doc__)
    parser.add_argument("--id", action="append", help="only this behaviour or invariant; may be repeated")
    parser.add_argument("--jobs", type=int, default=2, help="how many at the same time")
    options = parser.parse_args(arguments)
    catalogues = {kind: read_catalogue(path) for kind, path in CATALOGUES.items()}
    for unknown in set(options.id or ()).difference(*catalogues.values()):
        parser.error(f"there is no behaviour or invariant {unknown}")
    tried = [
        (kind, behaviour, sabotage)
        for kind, catalogue in catalogues.items()
        for behaviour in catalogue.values()
        if options.id is None or behaviour.id in options.id
        for sabotage in behaviour.sabotages
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(lambda one: attempt(*one), tried))
    for outcome in outcomes:
        verdict = "caught" if outcome.caught else "NOT CAUGHT"
        where = f"{outcome.sabotage.file}: {outcome.sabotage.find.strip()}"
        sys.stdout.write(f"{outcome.id:10} {verdict:10} {where}\n{'':22}{outcome.reason}\n")
    missed = sum(not outcome.caught for outcome in outcomes)
    sys.stdout.write(f"{len(outcomes)} sabotages, {missed} not caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
