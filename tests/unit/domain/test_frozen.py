"""That a value of the domain stays as it is, is the type checker's to see: it is a step of tests/run."""

from poolkeeper_server.domain.moment import Moment


def test_equal_values_are_one_in_a_set() -> None:
    assert {Moment(lease=1, civil=2), Moment(lease=1, civil=2)} == {Moment(lease=1, civil=2)}


def _change(instant: Moment) -> None:
    """Called by nobody: if the type checker let a field be assigned, it would find the comment unused."""
    instant.lease = 1  # type: ignore[misc] # That it is refused is what is tested.
