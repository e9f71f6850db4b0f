"""Short names for resources: `acme/west` is estates/acme/pools/west."""

from urllib.parse import quote, unquote

from poolkeeper.cli.problem import usage

_EXAMPLES = {
    ("estates",): "acme",
    ("products",): "encoder-1x1",
    ("tokens",): "t7k2",
    ("estates", "licences"): "acme/L000001",
    ("estates", "pools"): "acme/west",
    ("estates", "nodes"): "acme/studio-7",
    ("estates", "consumers"): "acme/camera-4",
    ("estates", "pools", "allocations"): "acme/west/01JD8Q",
    ("estates", "pools", "codes"): "acme/west/c7k2",
}


def _expand(text: str, *collections: str) -> str:
    parts = text.strip().strip("/").split("/")
    if len(parts) == 2 * len(collections) and tuple(parts[::2]) == collections:
        parts = parts[1::2]
    if len(parts) != len(collections) or not all(parts):
        example = _EXAMPLES[collections]
        full = _expand(example, *collections)
        kind = collections[-1].removesuffix("s")
        raise usage(
            f"{text!r} does not name {'an' if kind[0] in 'aeiou' else 'a'} {kind}",
            hint=f"write it as {example}, or in full as {full}",
        )
    return "/".join(f"{collection}/{part}" for collection, part in zip(collections, parts, strict=True))


def estate(text: str) -> str:
    """The resource name of an estate given as `acme` or in full."""
    return _expand(text, "estates")


def product(text: str) -> str:
    """The resource name of a product given as `encoder-1x1` or in full."""
    return _expand(text, "products")


def token(text: str) -> str:
    """The resource name of a token given as `t7k2` or in full."""
    return _expand(text, "tokens")


def licence(text: str) -> str:
    """The resource name of a licence given as `acme/L000001` or in full."""
    return _expand(text, "estates", "licences")


def pool(text: str) -> str:
    """The resource name of a pool given as `acme/west` or in full."""
    return _expand(text, "estates", "pools")


def node(text: str) -> str:
    """The resource name of a node given as `acme/studio-7` or in full."""
    return _expand(text, "estates", "nodes")


def allocation(text: str) -> str:
    """The resource name of an allocation given as `acme/west/ID` or in full."""
    return _expand(text, "estates", "pools", "allocations")


def code(text: str) -> str:
    """The resource name of a code given as `acme/west/ID` or in full."""
    return _expand(text, "estates", "pools", "codes")


def consumer(text: str) -> str:
    """The resource name of a consumer given as `acme/NAME` or in full; what its id may not hold is percent-encoded."""
    expanded = _expand(text, "estates", "consumers")
    head, _, identifier = expanded.rpartition("/")
    return f"{head}/{quote(unquote(identifier), safe='')}"


def pool_in(estate_name: str, text: str) -> str:
    """The resource name of a pool given as `west`, `acme/west` or in full, which must lie in that estate."""
    identifier = text.strip().strip("/")
    name = f"{estate_name}/pools/{identifier}" if "/" not in identifier else pool(identifier)
    if not name.startswith(f"{estate_name}/pools/"):
        raise usage(
            f"the pool {text!r} is not one of {short(estate_name)}",
            hint="seats move between pools of one estate",
        )
    return name


def estate_or_pool(text: str) -> str:
    """The resource name of an estate or of a pool, whichever the text has the form of."""
    words = text.strip("/").split("/")
    is_estate = len(words) == 1 or (len(words) == 2 and words[0] == "estates")  # noqa: PLR2004  # estates/ACME
    return estate(text) if is_estate else pool(text)


def short(name: str) -> str:
    """A resource name as a person writes it: the ids alone, for example acme/west."""
    parts = name.split("/")
    known = {collection for collections in _EXAMPLES for collection in collections} | {"sessions"}
    if len(parts) % 2 == 0 and all(part in known for part in parts[::2]):
        parts = parts[1::2]
    return unquote("/".join(parts))
