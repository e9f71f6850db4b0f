"""What holds for the files of the repository, whatever they contain."""

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
THIRD_PARTY = {".github/LICENSE"}
STUBS = "client/poolkeeper/v1/"


def tracked(*suffixes: str) -> list[Path]:
    """The files under version control, or about to be, with one of these suffixes if any is given."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    paths = [Path(name) for name in run.stdout.splitlines() if (REPOSITORY / name).is_file()]
    return [path for path in paths if not suffixes or path.suffix in suffixes]


def lines() -> Iterator[tuple[str, str]]:
    """Every line of our own text files, with the place where it stands."""
    for path in tracked():
        if str(path) in THIRD_PARTY or path.suffix == ".binpb":
            continue
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            yield f"{path}:{number}", line


def python_files() -> list[Path]:
    return [path for path in tracked(".py") if not str(path).startswith(STUBS)]


def test_the_top_level_holds_what_the_layout_says_and_dotfiles() -> None:
    top = {path.parts[0] for path in tracked()}
    assert {name for name in top if not name.startswith(".")} == {
        "README.md",
        "client",
        "deploy",
        "proto",
        "pyproject.toml",
        "server",
        "tests",
    }


def test_the_stubs_are_those_of_the_protocol() -> None:
    run = subprocess.run(["deploy/stubs", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        # Each pattern is written so that it does not find itself.
        ("a registry", r"py[p]i\.org|pythonhoste[d]|npmj[s]\.|\b(deb|security)\.debia[n]\."),
        (
            "how a registry is reached",
            r"(^|\s)--(extra-)?inde[x]-url|(^|\s)--fin[d]-links|\bPI[P]_[A-Z]",
        ),
        ("a folder of one machine", r"(?<![\w.~-])/(wor[k]|roo[t]|opt/whee[l]s|opt/py[p]i)\b"),
        ("the American noun", r"(?i)\b(a|an|each|every|no|one|of|the|this) licens[e]s?\b"),
    ],
)
def test_no_file_of_ours_names(what: str, pattern: str) -> None:
    found = [place for place, line in lines() if re.search(pattern, line)]
    assert found == [], f"{what} is named"


def test_names_spell_the_noun_the_british_way() -> None:
    american = re.compile(r"licens[e](?!d)", re.IGNORECASE)
    names = [str(path) for path in tracked() if str(path) not in THIRD_PARTY]
    for path in python_files():
        with (REPOSITORY / path).open("rb") as file:
            tokens = tokenize.tokenize(file.readline)
            names += [f"{path}: {token.string}" for token in tokens if token.type == tokenize.NAME]
    for path in tracked(".proto"):
        names += [f"{path}: {word}" for word in re.findall(r"\w+", (REPOSITORY / path).read_text())]
    assert [name for name in names if american.search(name)] == []


def test_the_domain_imports_nothing_beyond_the_standard_library() -> None:
    allowed = sys.stdlib_module_names | {"poolkeeper_server.domain"}
    domain = [path for path in python_files() if "poolkeeper_server/domain/" in str(path)]
    assert domain
    found = []
    for path in domain:
        for node in ast.walk(ast.parse((REPOSITORY / path).read_bytes())):
            match node:
                case ast.Import(names=names):
                    modules = [alias.name for alias in names]
                case ast.ImportFrom(module=str(module), level=0):
                    modules = [module]
                case _:
                    continue
            found += [
                f"{path}:{node.lineno}: {module}"
                for module in modules
                if module.partition(".")[0] not in allowed and not module.startswith("poolkeeper_server.domain")
            ]
    assert found == []


def test_a_check_is_switched_off_only_with_a_reason() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        lint = tomllib.load(file)["tool"]["ruff"]["lint"]
    rules = {
        *lint["ignore"],
        *(rule for some in lint["per-file-ignores"].values() for rule in some),
    }
    silenced = re.compile(r"#\s*(noqa\b(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?|type:\s*ignore(\[[^]]*\])?)")
    found = []
    for place, line in lines():
        if place.startswith("pyproject.toml:") and (rule := re.match(r'\s*"([A-Z]+\d*)",(.*)', line)):
            if rule[1] in rules and "#" not in rule[2]:
                found.append(place)
        elif place.partition(":")[0].endswith(".py") and not place.startswith(STUBS):
            switch = silenced.search(line)
            if switch and not re.match(r"\s+(-|#)\s*\w", line[switch.end() :]):
                found.append(place)
    assert found == []


def test_behaviour_markers_are_literal_so_that_a_search_finds_them() -> None:
    found = []
    for path in tracked(".py"):
        if path.parts[0] != "tests":
            continue
        for node in ast.walk(ast.parse((REPOSITORY / path).read_bytes())):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="behaviour", value=ast.Attribute(attr="mark")),
                    args=[ast.Constant(value=str())],
                    keywords=[],
                ):
                    continue
                case ast.Call(func=ast.Attribute(attr="behaviour", value=ast.Attribute(attr="mark"))):
                    found.append(f"{path}:{node.lineno}")
                case _:
                    continue
    assert found == []


def test_the_locks_pin_every_file_by_hash() -> None:
    for path in tracked(".txt"):
        if path.parent.name != "locks":
            continue
        text = (REPOSITORY / path).read_text()
        requirements = re.findall(r"^(\S+==\S+).*((?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+)$", text, re.MULTILINE)
        assert len(requirements) == len(re.findall(r"^\S", text, re.MULTILINE)), path
