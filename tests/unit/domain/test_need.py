import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolkeeper_server.domain.need import MOST, seats_needed
from poolkeeper_server.domain.records import Pairs, Product
from poolkeeper_server.domain.refusal import Reason, Refusal


def product(**units: int) -> Product:
    return Product(product_id="encoder", title="Encoder", units=tuple(units.items()), created_at=0)


ONE_IN_ONE_OUT = product(cameras=1, outputs=1)
FOUR_IN_ONE_OUT = product(cameras=4, outputs=1)
CORES = product(cpus=1, cores=2)


@pytest.mark.parametrize(
    ("of", "demand", "seats"),
    [
        (product(), (), 1),
        (ONE_IN_ONE_OUT, (), 1),
        (ONE_IN_ONE_OUT, (("cameras", 0), ("outputs", 0)), 1),
        (ONE_IN_ONE_OUT, (("cameras", 4),), 4),
        (ONE_IN_ONE_OUT, (("cameras", 4), ("outputs", 4)), 4),
        (ONE_IN_ONE_OUT, (("cameras", 4), ("outputs", 5)), 5),
        (FOUR_IN_ONE_OUT, (("cameras", 4),), 1),
        (FOUR_IN_ONE_OUT, (("cameras", 5),), 2),
        (FOUR_IN_ONE_OUT, (("cameras", 9),), 3),
        (FOUR_IN_ONE_OUT, (("cameras", 13), ("outputs", 1)), 4),
        (FOUR_IN_ONE_OUT, (("cameras", 1), ("outputs", 2)), 2),
        (CORES, (("cpus", 2), ("cores", 3)), 2),
        (CORES, (("cpus", 1), ("cores", 64)), 32),
        (ONE_IN_ONE_OUT, (("cameras", MOST),), MOST),
    ],
)
def test_the_unit_that_needs_most_decides(of: Product, demand: Pairs, seats: int) -> None:
    assert seats_needed(of, 0, demand) == seats


@pytest.mark.parametrize("quantity", [1, 7, MOST])
def test_a_quantity_is_the_need(quantity: int) -> None:
    assert seats_needed(FOUR_IN_ONE_OUT, quantity, ()) == quantity


@pytest.mark.parametrize(
    ("quantity", "demand", "field"),
    [
        (-1, (), "quantity"),
        (MOST + 1, (), "quantity"),
        (0, (("cores", 1),), "demand"),
        (0, (("cameras", -1),), "demand"),
        (0, (("outputs", MOST + 1),), "demand"),
    ],
)
def test_what_no_seats_could_cover_is_refused(quantity: int, demand: Pairs, field: str) -> None:
    with pytest.raises(Refusal) as refused:
        seats_needed(FOUR_IN_ONE_OUT, quantity, demand)
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_FIELD, field)


@given(cameras=st.integers(0, 10_000), outputs=st.integers(0, 10_000), covers=st.integers(1, 50))
def test_so_many_seats_cover_the_demand_and_one_less_does_not(cameras: int, outputs: int, covers: int) -> None:
    need = seats_needed(product(cameras=covers, outputs=1), 0, (("cameras", cameras), ("outputs", outputs)))
    assert need * covers >= cameras
    assert need >= outputs
    assert need == 1 or (need - 1) * covers < cameras or need - 1 < outputs
