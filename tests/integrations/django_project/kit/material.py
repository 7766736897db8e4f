"""What tests of the kit have in common: an event, and a view of the project that `test_kit.py` runs them in."""

from eventspine import Reject, Service, View
from shop.events import OrderPlaced

PLACED = OrderPlaced(order="A", sku="pot", units=1)


class UnitsOf(View, key="sku"):
    sku: str
    units: int = 0


reports = Service("reports", publishes=())


@reports.projection(UnitsOf, OrderPlaced)
def count(rows: View[UnitsOf], event: OrderPlaced) -> None:
    if event.units == 13:
        raise Reject("thirteen")
    rows.row(event.sku).units += event.units
