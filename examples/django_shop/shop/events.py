"""What happens in the shop. Django imports it at start, as it does with each app's `events` and `handlers`."""

from eventspine import Event, Service


class OrderPlaced(Event, context="orders", key="sku"):
    order: str
    sku: str
    units: int


class StockReserved(Event, context="warehouse", key="order"):
    order: str


class StockShort(Event, context="warehouse", key="order"):
    order: str
    missing: int


storefront = Service("storefront", publishes="orders")
