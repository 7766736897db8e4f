"""Event-driven services in Python: publish a fact once; every subscriber handles it, in order per key, exactly once in
effect. The names users import, and nothing else."""

from ._version import RELEASE as __version__  # noqa: N811
from .delivery import BatchDelivery, Delivery
from .envelope import Envelope
from .errors import HandlerTimeout, Reject, RetryAfter, SpineError
from .events import Event, OpenEnum, event, upcast
from .foreign import Foreign
from .observe.correlation import correlate
from .policies import Batch, Dead, Drop, Retry
from .publishing import Receipt
from .service import Middleware, Service
from .spine import Running, Spine

__all__ = [
    "Batch",
    "BatchDelivery",
    "Dead",
    "Delivery",
    "Drop",
    "Envelope",
    "Event",
    "Foreign",
    "HandlerTimeout",
    "Middleware",
    "OpenEnum",
    "Receipt",
    "Reject",
    "Retry",
    "RetryAfter",
    "Running",
    "Service",
    "Spine",
    "SpineError",
    "__version__",
    "correlate",
    "event",
    "upcast",
]
