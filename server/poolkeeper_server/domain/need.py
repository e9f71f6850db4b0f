"""How many seats a request needs (CC-19)."""

from __future__ import annotations

from poolkeeper_server.domain.records import Pairs, Product
from poolkeeper_server.domain.refusal import invalid, some

#: The most seats that one request may ask for.
MOST = 1_000_000


def seats_needed(product: Product, quantity: int, demand: Pairs) -> int:
    """Seats for a quantity, or for a demand in the product's units: max(1, ceil(demand / units) over all units).

    Raises:
        Refusal: INVALID_FIELD for a size out of range or a unit that the product does not have.
    """
    if quantity:
        if not 1 <= quantity <= MOST:
            raise invalid("quantity", f"The quantity must lie between 1 and {MOST:,}, not be {quantity:,}.")
        return quantity
    if not demand:
        return 1
    units = dict(product.units)
    need = 1
    for unit, amount in demand:
        if unit not in units:
            known = some(units) or "none"
            raise invalid("demand", f"Product {product.product_id} has no such unit.", hint=f"Its units are: {known}.")
        if amount < 0:
            raise invalid("demand", f"The demand of {unit} must not be negative.")
        need = max(need, -(-amount // units[unit]))
    if need > MOST:
        raise invalid("demand", f"The demand needs {need:,} seats; one request may take {MOST:,} at most.")
    return need
