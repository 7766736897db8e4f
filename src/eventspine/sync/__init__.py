"""The same names for programs without an event loop: Django, Flask, scripts, and `def` handlers.

    from eventspine.sync import Spine

One loop in one background thread does the work; every call here waits for it. Nothing is written twice."""

from .delivery import BatchDelivery, Delivery
from .spine import Spine

__all__ = ["BatchDelivery", "Delivery", "Spine"]
