"""What text may be that comes from outside: the one rule for names, free texts and tokens of every method.

gRPC has seen to it already that a text is UTF-8. What is refused beyond that is what some store cannot keep, what a
terminal would obey, and what would be too long for an index.
"""

import unicodedata

from poolkeeper_server.domain.refusal import invalid

LONGEST_TEXT = 250
"""Characters; four times as many bytes at most, so that every key of ours fits into an index of every store."""


def canonical(value: str) -> str | None:
    """The text in the form in which it is kept and compared (Unicode's NFC); None when it is none that we keep.

    One that looks the same is the same, whichever way its accents were typed. NUL, lone surrogates, and all else that
    controls instead of showing, are no text.
    """
    if not value.isascii():
        if len(value) > LONGEST_TEXT:
            return None
        value = unicodedata.normalize("NFC", value)
    return value if len(value) <= LONGEST_TEXT and value.isprintable() else None


def text(value: str, field: str, *, required: bool = False) -> str:
    """A text for people or of theirs: at most 250 characters, none of which is a control character."""
    if not (value or required):
        return value
    found = canonical(value)
    if found is not None and (not required or found.strip()):
        return found
    if len(value) > LONGEST_TEXT or not value.strip():
        least = 1 if required else 0
        raise invalid(field, f"{field} has {len(value)} characters.", hint=f"It may have {least} to {LONGEST_TEXT}.")
    raise invalid(field, f"{field} holds a control character.", hint="Leave line breaks and the like out.")


def argument(value: str, field: str, *, required: bool = False) -> str:
    """A text as `text` takes it that is also a name: it can stand in a line that somebody is given to type."""
    found = text(value, field, required=required)
    if is_no_word(found):
        raise invalid(
            field, f"{field} begins with a hyphen, or is a dot or two.", hint="Begin it with another character."
        )
    return found


def is_no_word(name: str) -> bool:
    """Whether it would be an option, or a way through folders, to whatever it is handed to."""
    return name.startswith("-") or name in {".", ".."}
