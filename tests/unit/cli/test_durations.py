from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper.cli import amount, duration
from poolkeeper.cli.problem import Problem


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("24h", 86400),
        ("7d", 604800),
        ("1h30m", 5400),
        ("0", 0),
        ("1.5s", 1.5),
        ("250ms", 0.25),
    ],
)
def test_spans_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert duration.parse(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "5 minutes", "-5m", "1h-30m", "5y", "99999999d", "1e3s"])
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Problem, match="is not a span of time for --lease") as caught:
        duration.parse(text, option="--lease")
    assert caught.value.status == 2
    assert "1h30m" in caught.value.hint


@given(st.integers(min_value=0, max_value=10**12))
def test_a_span_survives_being_written_and_read(milliseconds: int) -> None:
    span = timedelta(milliseconds=milliseconds)
    assert duration.parse(duration.phrase(span)) == span


def test_amounts_are_names_with_whole_numbers() -> None:
    assert amount.pairs(["cameras=4", "outputs=1"], option="--unit", example="cameras=4") == {
        "cameras": 4,
        "outputs": 1,
    }


@pytest.mark.parametrize("texts", [["cameras"], ["=4"], ["cameras=0"], ["cameras=-1"], ["cameras=x"], ["a=1", "a=2"]])
def test_what_is_no_amount_is_refused(texts: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        amount.pairs(texts, option="--unit", example="cameras=4")
    assert caught.value.status == 2
