"""Pairs of a name and a whole number, as cameras=4 or SO-1001=10."""

from collections.abc import Iterable

from poolkeeper.cli.problem import usage


def pairs(texts: Iterable[str], *, option: str, example: str) -> dict[str, int]:
    """The numbers by name; a name may come once, a number must be at least 1."""
    found: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if not (equals and name.strip() and number.strip().isdecimal() and int(number) > 0):
            raise usage(
                f"{text!r} is not an amount for {option}",
                hint=f"write a name, an equals sign and a whole number, for example {example}",
            )
        if name.strip() in found:
            raise usage(f"{option} names {name.strip()} twice", hint="add the numbers up")
        found[name.strip()] = int(number)
    return found
