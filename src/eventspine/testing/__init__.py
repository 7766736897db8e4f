"""What users test with: the engine itself, in memory, on virtual time, with switches for what goes wrong.

    async with testing.spine(inventory, email) as spine:
        await spine.publish(OrderPlaced(order_id="A-1", sku="teapot", units=2))
        await spine.idle()
        assert spine.published(StockReserved) == [StockReserved(order_id="A-1", sku="teapot")]

`sync_spine` is the same without `async`; `delivery` and `sync_delivery` call a handler as the plain function that it is;
`given` tells what an aggregate decides.
Names are loaded when they are used, since pytest loads this package for its fixtures in every run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._later import later

if TYPE_CHECKING:
    from .blocking import SyncVirtualSpine, sync_spine
    from .clock import VirtualClock
    from .deliveries import Executed, HandDelivery, SyncHandDelivery, delivery, sync_delivery
    from .given import Given, Then, given
    from .making import spine
    from .quiet import NotIdle
    from .virtual import Kept, VirtualSpine

__all__ = [
    "Executed",
    "Given",
    "HandDelivery",
    "Kept",
    "NotIdle",
    "SyncHandDelivery",
    "SyncVirtualSpine",
    "Then",
    "VirtualClock",
    "VirtualSpine",
    "delivery",
    "given",
    "spine",
    "sync_delivery",
    "sync_spine",
]

_MODULES = {
    "blocking": ("SyncVirtualSpine", "sync_spine"),
    "clock": ("VirtualClock",),
    "deliveries": ("Executed", "HandDelivery", "SyncHandDelivery", "delivery", "sync_delivery"),
    "given": ("Given", "Then", "given"),
    "making": ("spine",),
    "quiet": ("NotIdle",),
    "virtual": ("Kept", "VirtualSpine"),
}


__getattr__ = later(__name__, _MODULES)
