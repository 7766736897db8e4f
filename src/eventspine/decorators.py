"""What the decorators of a service take besides events, and what they give back: for those who write it, and type checkers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, TypeVar, overload

from .policies import Policies, Retry

if TYPE_CHECKING:
    from typing_extensions import TypeVar as WithDefault

    from .delivery import Delivery
    from .runs import BatchDelivery
    from .state.views import View
    from .sync import BatchDelivery as SyncBatchDelivery, Delivery as SyncDelivery

    R = WithDefault("R", default=None)  # a service without a lifespan has no resources
else:
    R = TypeVar("R")
E = TypeVar("E")
V = TypeVar("V")
T = TypeVar("T")
Order = Literal["key", "none", "feed"]


class HandlerOptions(TypedDict, total=False):
    """What `on` takes besides event types; each changes a promise and is named for it."""

    name: str  # of the subscription, durable; by default the function's
    renamed_from: str  # the name that the stored subscription still has
    start: Literal["earliest", "now"] | datetime  # of a subscription that is registered for the first time
    retry: Retry  # for errors that `errors` does not name
    errors: Policies
    on_dead: Literal["goes_on", "waits"]
    order: Order
    concurrency: int  # handlers of this subscription at work at once, in one process
    timeout_s: float
    replayable: bool  # running it again over old events is harmless: a rewind need not ask


class PeriodicOptions(TypedDict, total=False):
    """What `every` and `cron` take besides the schedule; the same as of `on`, as far as one run at a time needs it."""

    name: str
    renamed_from: str
    retry: Retry
    errors: Policies
    on_dead: Literal["goes_on", "waits"]
    timeout_s: float


class Decorator(Protocol[E, R]):
    """Takes a handler and gives it back unchanged."""

    @overload
    def __call__(self, handler: Callable[[E], T], /) -> Callable[[E], T]: ...
    @overload
    def __call__(self, handler: Callable[[E, Delivery[R]], T], /) -> Callable[[E, Delivery[R]], T]: ...
    @overload
    def __call__(self, handler: Callable[[E, SyncDelivery[R]], T], /) -> Callable[[E, SyncDelivery[R]], T]: ...


class BatchDecorator(Protocol[E, R]):
    @overload
    def __call__(self, handler: Callable[[list[E]], T], /) -> Callable[[list[E]], T]: ...
    @overload
    def __call__(self, handler: Callable[[list[E], BatchDelivery[R]], T], /) -> (
        Callable[[list[E], BatchDelivery[R]], T]
    ): ...  # fmt: skip
    @overload
    def __call__(self, handler: Callable[[list[E], SyncBatchDelivery[R]], T], /) -> (
        Callable[[list[E], SyncBatchDelivery[R]], T]
    ): ...  # fmt: skip


class PeriodicDecorator(Protocol[R]):
    @overload
    def __call__(self, handler: Callable[[], T], /) -> Callable[[], T]: ...
    @overload
    def __call__(self, handler: Callable[[Delivery[R]], T], /) -> Callable[[Delivery[R]], T]: ...
    @overload
    def __call__(self, handler: Callable[[SyncDelivery[R]], T], /) -> Callable[[SyncDelivery[R]], T]: ...


class ProjectionDecorator(Protocol[V, E]):
    """Takes a projection and gives it back unchanged."""

    def __call__(self, projection: Callable[[View[V], E], None], /) -> Callable[[View[V], E], None]: ...
