"""Event-driven services in Python: publish a fact once; every subscriber handles it, in order per key, exactly once in
effect. The names users import, and nothing else."""

import typing as _typing

from ._version import RELEASE as __version__  # noqa: N811
from .delivery import Delivery
from .envelope import Envelope
from .errors import HandlerTimeout, Reject, RetryAfter, SpineError
from .events import Event, OpenEnum, event, upcast
from .observe.acting import acting
from .observe.correlation import correlate
from .policies import Batch, Dead, Drop, Retry
from .publishing import Receipt
from .running import Running
from .runs import BatchDelivery
from .service import Middleware, Service
from .spine import Spine

if _typing.TYPE_CHECKING:
    from .commands.declare import Command
    from .foreign import Foreign
    from .state.aggregate import Aggregate, applies
    from .state.caches import invalidating
    from .state.views import View
    from .state.windows import Tumbling

__all__ = [
    "Aggregate",
    "Batch",
    "BatchDelivery",
    "Command",
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
    "Tumbling",
    "View",
    "__version__",
    "acting",
    "applies",
    "correlate",
    "event",
    "invalidating",
    "upcast",
]

_LATER = {  # names that not every service needs
    "Aggregate": "state.aggregate",
    "Tumbling": "state.windows",
    "Command": "commands.declare",
    "Foreign": "foreign",
    "View": "state.views",
    "applies": "state.aggregate",
    "invalidating": "state.caches",
}


def __getattr__(name: str) -> _typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found
