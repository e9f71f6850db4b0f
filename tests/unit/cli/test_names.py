import pytest

from poolkeeper.cli import name
from poolkeeper.cli.problem import Problem


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("acme/west", "estates/acme/pools/west"),
        ("estates/acme/pools/west", "estates/acme/pools/west"),
        (" acme/default ", "estates/acme/pools/default"),
    ],
)
def test_a_pool_is_named_shortly_or_in_full(text: str, full: str) -> None:
    assert name.pool(text) == full


def test_every_kind_of_resource_has_a_short_name() -> None:
    assert name.estate("acme") == "estates/acme"
    assert name.product("encoder-1x1") == "products/encoder-1x1"
    assert name.licence("acme/L000001") == "estates/acme/licences/L000001"
    assert name.node("acme/studio-7") == "estates/acme/nodes/studio-7"
    assert name.allocation("acme/west/01JD") == "estates/acme/pools/west/allocations/01JD"
    assert name.code("acme/west/c7k2") == "estates/acme/pools/west/codes/c7k2"
    assert name.token("t7k2") == "tokens/t7k2"


@pytest.mark.parametrize("text", ["", "acme", "acme/", "/west", "a/b/c", "estates/acme/nodes/west"])
def test_what_names_no_pool_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Problem, match="does not name a pool") as caught:
        name.pool(text)
    assert caught.value.status == 2
    assert "acme/west" in caught.value.hint


def test_an_estate_or_a_pool_is_told_by_its_form() -> None:
    assert name.estate_or_pool("acme") == "estates/acme"
    assert name.estate_or_pool("estates/acme") == "estates/acme"
    assert name.estate_or_pool("acme/west") == "estates/acme/pools/west"
    assert name.estate_or_pool("estates/acme/pools/west") == "estates/acme/pools/west"


def test_a_pool_within_an_estate_needs_only_its_id() -> None:
    assert name.pool_in("estates/acme", "west") == "estates/acme/pools/west"
    assert name.pool_in("estates/acme", "acme/west") == "estates/acme/pools/west"
    with pytest.raises(Problem, match="not one of acme"):
        name.pool_in("estates/acme", "other/west")


def test_a_consumers_id_is_percent_encoded_once() -> None:
    assert name.consumer("acme/camera 4") == "estates/acme/consumers/camera%204"
    assert name.consumer("estates/acme/consumers/camera%204") == "estates/acme/consumers/camera%204"


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("estates/acme/pools/west/allocations/01JD", "acme/west/01JD"),
        ("estates/acme/nodes/studio-7/sessions/01J", "acme/studio-7/01J"),
        ("products/encoder-1x1", "encoder-1x1"),
        ("estates/acme/consumers/camera%204", "acme/camera 4"),
        ("", ""),
        ("something/else", "something/else"),
    ],
)
def test_names_are_shown_as_they_are_typed(full: str, short: str) -> None:
    assert name.short(full) == short
