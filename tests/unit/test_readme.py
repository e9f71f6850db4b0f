"""README.md is the manual: its tables are those of the code, and its links lead somewhere."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cyclopts import App
from cyclopts.argument import Argument
from prometheus_client.metrics import MetricWrapperBase

from poolkeeper.cli import argument as declarations
from poolkeeper.cli.application import build
from poolkeeper.cli.duration import phrase
from poolkeeper.cli.problem import Status
from poolkeeper_server import config
from poolkeeper_server.cli import serve
from poolkeeper_server.services import metrics
from poolkeeper_server.services.events import Event

README = Path(__file__).parents[2] / "README.md"
# What every administrative command has is told once, before the commands.
COMMON = ("Connection", "Paging", "Store")
RESOURCES = {
    declared.__metadata__[0].help
    for name, declared in vars(declarations).items()
    if name[0].isupper() and hasattr(declared, "__metadata__")
}


def readme() -> str:
    return README.read_text(encoding="utf-8")


def between_marks(name: str) -> str:
    """The part of the manual that is compared with the code."""
    found = re.search(rf"<!-- {name}: .*?-->\n(.*?)\n<!-- end -->", readme(), re.DOTALL)
    assert found is not None, f"README.md has no part {name}"
    return found[1]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


#: Settings that are a number of something, and no span.
COUNTS = {"queue_bound", "connections", "calls_per_second", "sessions_per_node", "waits_per_node"}


def settings() -> Iterator[str]:
    """A row for each setting."""
    (declared,) = (
        node
        for node in ast.parse(inspect.getsource(config)).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    meanings = {
        field.target.id: text.value.value
        for field, text in zip(declared.body, declared.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    made = {
        "data": "`/var/lib/poolkeeper` as root, else `poolkeeper` in the XDG state directory",
        "secrets": "`secrets.json` in the data directory",
        "database": "`poolkeeper.sqlite` in the data directory",
    }
    options = inspect.signature(serve).parameters
    yield row("setting", "option of `serve`", "default", "meaning")
    yield "|---|---|---|---|"
    for name, field in config.Settings.model_fields.items():
        default = field.default
        if name in made:
            text = made[name]
        elif default is None or default == ():
            text = "none"
        elif isinstance(default, int) and name not in COUNTS:
            text = f"`{phrase(timedelta(microseconds=default))}`"
        else:
            text = f"`{default}`"
        option = f"`--{name.replace('_', '-')}`" if name in options else ""
        yield row(f"`{name}`", option, text, str(meanings[name]))


def declared_metrics() -> Iterator[str]:
    """A row for each metric of our own."""
    yield row("metric", "kind", "labels", "meaning")
    yield "|---|---|---|---|"
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            # Prometheus adds _total to the name of a counter when it is read.
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(metric._labelnames)  # noqa: SLF001 - the library has no public way to ask.
            yield row(f"`{name}`", family.type, labels, family.documentation)


def commands() -> Iterator[str]:
    """Every command, with a line for each of its options."""
    for name in words(build()):
        command = build([name])[name]
        below = words(command)
        if below:
            yield f"#### `{name}`\n"
            yield f"{command.help}\n"
        else:
            yield f"#### `{name}`\n"
        for sub in below or [""]:
            yield from described(f"{name} {sub}".strip(), command[sub] if sub else command)
        yield ""


def words(app: App) -> list[str]:
    return [name for name in app if not name.startswith("-")]


def described(name: str, command: App) -> Iterator[str]:
    """The command's line and those of its options."""
    arguments = [one for one in command.assemble_argument_collection() if one.parse and one.name != "*"]
    own = [one for one in arguments if group_of(one) not in COMMON]
    # A program to run comes last, whatever order it is declared in.
    own.sort(key=lambda one: one.name == "COMMAND")
    paged = any(group_of(one) == "Paging" for one in arguments)
    optional = [one for one in own if not is_positional(one) and not one.required]
    typed = [*filter(None, map(in_usage, own))]
    typed.insert(len(typed) - (own[-1:] != [] and own[-1].name == "COMMAND"), "[OPTIONS]" if optional else "")
    usage = " ".join(filter(None, (name, *typed)))
    summary = " ".join((command.help or "").partition("\n\n")[0].split())
    yield f"- `poolkeeper {usage}`: {summary}{' Paged.' if paged else ''}"
    for one in own:
        # How estates, pools and other resources are written is told once, and the options of `serve` are settings.
        if one.parameter.help and one.parameter.help not in RESOURCES:
            yield f"  - `{one.name}`: {one.parameter.help}{choices(one)}"


def group_of(argument: Argument) -> str:
    groups = argument.parameter.group
    assert isinstance(groups, tuple)
    return str(getattr(groups[0], "name", groups[0]))


def is_positional(argument: Argument) -> bool:
    return not argument.name.startswith("-")


def in_usage(argument: Argument) -> str:
    """What stands for an argument in the line that shows how to type the command."""
    if is_positional(argument):
        several = argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL
        text = f"{argument.name}…" if several else argument.name
        text = f"-- {text}" if argument.name == "COMMAND" else text
        return text if argument.required or several else f"[{text}]"
    return f"{argument.name} {argument.name.lstrip('-').upper()}" if argument.required else ""


def choices(argument: Argument) -> str:
    found = argument.get_choices()
    return f" One of {', '.join(f'`{one}`' for one in found)}." if found else ""


@pytest.mark.parametrize(
    ("name", "from_code"), [("settings", settings), ("metrics", declared_metrics), ("commands", commands)]
)
def test_the_manual_says_what_the_code_says(name: str, from_code: Callable[[], Iterator[str]]) -> None:
    expected = "\n".join(from_code()).strip()
    assert between_marks(name).strip() == expected, f"This belongs between the marks:\n\n{expected}"


def test_every_event_is_in_the_manual() -> None:
    told = re.findall(r"^\| `(\w+)` \|", between_marks("events"), re.MULTILINE)
    assert told == [event.value for event in Event]


def test_every_exit_status_is_in_the_manual() -> None:
    told = re.findall(r"^\| (\d+) \|", between_marks("statuses"), re.MULTILINE)
    assert [int(number) for number in told] == [int(status) for status in Status]


def test_every_link_leads_somewhere() -> None:
    text = re.sub(r"```.*?```", "", readme(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert len(anchors) == len(headings), "two headings have one anchor"
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    lost = [
        target
        for target in targets
        if not (
            target[1:] in anchors if target.startswith("#") else (README.parent / target.partition("#")[0]).exists()
        )
    ]
    assert targets
    assert lost == []
