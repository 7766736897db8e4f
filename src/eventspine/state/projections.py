"""Projections: views kept by handlers that change rows and do nothing else.

A projection is a batch handler of a subscription. It takes runs of some hundred events, changes rows in memory (rows.py),
and what has changed is written in the unit that moves its cursor. So a killed process leaves rows and cursor of one moment;
a second owner is fenced in the commit, rows included; and a version that is built anew goes through the feed at the speed
of such runs. It is given no resources and nothing to publish with: running it again, over all that ever happened, has no
effect outside of its rows.

By default it is one lane over its feed, and stands at an event that it can't handle (on_dead="waits") until that is mended:
an event left out would be a wrong view. With order="key" events of different keys are handled side by side, and a failing
one holds up its key alone; then a row belongs to the key of its events."""

from __future__ import annotations

import inspect
import logging
import time
from asyncio import sleep
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from weakref import WeakKeyDictionary

from ..annotations import check_takes_one, positional
from ..declared import check_handler, check_handler_name, check_options
from ..errors import DeclarationError, RegistrationRefused
from ..events import EventType, describe
from ..journal.port import Deleted, Journal
from ..policies import Batch, Policies, Retry
from ..runs import BatchDelivery
from ..service import Handler, Service
from . import cut_streams, versions
from .code import code_of
from .progress import held_up_by, progress_of
from .rows import Missing, Rows
from .store import Store, store_of
from .views import ViewType, describe_view
from .windows import check_windows

if TYPE_CHECKING:
    from ..engine.subscription import Subscription

log = logging.getLogger("eventspine.state")

RUN = 2000  # events at most: about what a subscription has in memory. The more, the fewer rows are written twice
FAILED_MAX = 3  # events of one run that fail before they are tried one by one
TURN_S = 0.02  # for which a run may keep the event loop to itself
LOOK_EVENTS = 32  # between two looks at the clock


class ProjectionOptions(TypedDict, total=False):
    """What `projection` takes besides the view and its event types."""

    name: str  # of the subscription; by default the function's. From version 2 of the view on, `@2` is added
    order: Literal["feed", "key"]
    on_dead: Literal["waits", "goes_on"]
    retry: Retry
    errors: Policies
    timeout_s: float  # of a run
    concurrency: int  # with order="key": runs at work at once
    switch: Literal["caught_up", "by_hand"]  # to a version that was built beside another
    history: Literal["whole", "what_is_left"]  # what is to be done when events were deleted already


class Kept:
    """What a projection knows of its view on one journal."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.settled = False  # this version is the one that is read, or is not to become so by itself
        self.head: int | None = None  # of the feed, when this version was last looked at


class Projection:
    """What keeps one version of a view."""

    def __init__(
        self,
        view: ViewType,
        function: Callable[[Any, Any], Any],
        types: Sequence[EventType],
        *,
        name: str,
        order: str,
        switch: str,
        history: str,
    ) -> None:
        self.view = view
        self.function = function
        self.types = tuple(types)
        self.name = name  # of the handler
        self.order = order
        self.switch = switch
        self.history = history
        self.channels = sorted({kind.context for kind in types})
        self.tenant_of = {kind.cls: attrgetter(kind.tenant) for kind in types if kind.tenant and view.tenant}
        self._kept: WeakKeyDictionary[Journal, Kept] = WeakKeyDictionary()

    # --- starting -----------------------------------------------------------------------------------------------------

    async def prepare(self, journal: Journal, service: str) -> None:
        """Before the service registers: the table is there, and the version is known."""
        subscription = f"{service}.{self.name}"
        stored = await versions.known(journal, self.view.name)
        versions.declared(self.view, service, subscription, stored)  # raises what refuses
        before = None if stored is None else stored.versions.get(self.view.version)
        if before is not None:
            await self._refuse_retired(journal, service, subscription)
        await self.check_history(journal, service)
        if before is not None and before.code and self.code and before.code != self.code:
            self._say_that_it_changed(service)
        await self._on(journal).store.prepare(journal, service)
        await versions.change(
            journal, self.view.name, lambda now: versions.declared(self.view, service, subscription, now, self.code)
        )

    async def _refuse_retired(self, journal: Journal, service: str, subscription: str) -> None:
        """Its rows are still there, and a subscription that began anew would count all once more."""
        states = {row.state for row in await journal.subscriptions(service) if row.name == subscription}
        if states == {"retired"}:
            raise RegistrationRefused(
                f"{subscription}, which kept version {self.view.version} of the view {self.view.name}, was retired, and the rows are "
                f"as it left them. To have them built anew, raise the version: class {self.view.where}(View, "
                f"version={self.view.version + 1}, ...). To be rid of the view, take its class and projection out of the code.",
                service=service,
                view=self.view.name,
            )

    def _say_that_it_changed(self, service: str) -> None:
        log.warning(
            "%s.%s, or a default of %s, is other code than version %d of the view was kept by until now: rows that are there "
            "stay as they are, and only new events are handled by the new code. Raise the version, to have it built anew "
            "beside the old one; if it does the same as before, there is nothing to do.",
            service, self.name, self.view.where, self.view.version,
        )  # fmt: skip

    @cached_property
    def code(self) -> str:
        return code_of(self.view, self.function)

    async def check_history(self, journal: Journal, service: str) -> None:
        """A new version is made of all that ever happened, so that has to be there. Asked before it registers, and once more
        when it has: from then on nothing is deleted that it has still to read."""
        if (gone := await self.lacks(journal)) is not None and await self._is_new(journal, service):
            raise RegistrationRefused(
                f"{self.view.where} would be built without what was deleted: events of {gone.channel} up to position "
                f"{gone.position:,}{await cut_streams.told(journal, gone)}. "
                'Say history="what_is_left" to build it without them, or keep the version that has them.',
                service=service,
                view=self.view.name,
            )

    async def _is_new(self, journal: Journal, service: str) -> bool:
        """Nobody has begun to make it. One that was rewound has begun: who did that was told what it will lack."""
        name = f"{service}.{self.name}"
        found = [row for row in await journal.subscriptions(service) if row.name == name]
        cursors = await journal.cursors([row.number for row in found])
        return all(row.generation == 1 for row in found) and not any(cursor.position for cursor in cursors)

    async def lacks(self, journal: Journal) -> Deleted | None:
        """Deleted events, and that this is not to be built without."""
        if self.history != "whole":
            return None
        gone = [*await journal.deleted(), *await journal.cut_off()]
        return next((row for row in gone if row.channel in self.channels), None)

    def _on(self, journal: Journal) -> Kept:
        found = self._kept.get(journal)
        if found is None:
            found = self._kept[journal] = Kept(store_of(self.view, journal))
        return found

    # --- runs ---------------------------------------------------------------------------------------------------------

    async def handle(self, events: list[Any], delivery: BatchDelivery[Any]) -> None:
        """One run. An event that fails is left out of it, with what follows it in its lane."""
        journal = delivery._subscription.journal
        store = self._on(journal).store
        rows, failed = store.rows(), dict[int, Exception]()
        rows.record_of = lambda event: delivery.of(event).record
        lanes = [delivery.of(event).key for event in events] if self.order == "key" else None
        while True:
            broken = await self._through(rows, events, lanes, failed)
            if rows.wanted:
                rows.found(await store.read(journal, list(rows.wanted)))
            elif broken is None:
                break
            else:
                failed[broken[0]] = broken[1]
                if len(events) == 1 or len(failed) > FAILED_MAX:
                    raise broken[1]
        for index, error in failed.items():
            delivery.retry(events[index], error)
        store.write(delivery._unit, rows)

    async def _through(
        self, rows: Rows, events: Sequence[Any], lanes: Sequence[str | None] | None, failed: dict[int, Exception]
    ) -> tuple[int, Exception] | None:
        """Call the projection with each event, beginning with the rows as they were committed; where it failed."""
        rows.begin()
        function, tenants = self.function, self.tenant_of
        stopped: set[str | None] = set()
        rows.turn_to(None, None)
        until = time.perf_counter() + TURN_S
        for index, event in enumerate(events):
            lane = lanes[index] if lanes else None
            if failed and (index in failed or lane in stopped):
                stopped.add(lane)
                continue
            if tenants or lanes:
                rows.turn_to(tenants[type(event)](event) if tenants else None, lane)
            rows.current = event
            try:
                function(rows, event)
            except Missing:
                pass
            except Exception as error:  # noqa: BLE001 -- whatever it raises has an outcome
                if not rows.wanted:  # else it may come of rows that were not there yet
                    return index, error
            if not index % LOOK_EVENTS and time.perf_counter() > until:
                await sleep(0)
                until = time.perf_counter() + TURN_S
        return None

    # --- switching ----------------------------------------------------------------------------------------------------

    async def look(self, subscription: Subscription) -> None:
        """Once a second or so: have this version read as soon as it has caught up with the feed, and with the version that
        is read now."""
        journal = subscription.journal
        kept = self._on(journal)
        if kept.settled or self.switch != "caught_up":
            return
        stored = await versions.known(journal, self.view.name)
        number = self.view.version
        if stored is None or versions.switched_by_itself(stored, number) is None:
            kept.settled = stored is not None
            return
        if await self._has_caught_up(journal, kept, stored):
            await versions.change(journal, self.view.name, lambda now: now and versions.switched_by_itself(now, number))
            log.info("%s is read as version %d from now on", self.view.name, number)

    async def _has_caught_up(self, journal: Journal, kept: Kept, stored: versions.Known) -> bool:
        """With the head as it was at the last look, so that it is not chased for ever while events come."""
        head, kept.head = kept.head, await journal.head()
        if head is None:
            return False
        own = await progress_of(journal, stored.service, stored.versions[self.view.version].subscription)
        if own is None or await held_up_by(journal, own.subscription) is not None:
            return False
        before = await progress_of(journal, stored.service, stored.versions[stored.active].subscription)
        return own.position >= max(head, 0 if before is None else before.position)


# --- declaring --------------------------------------------------------------------------------------------------------


def declare(
    service: Service[Any],
    view: Any,
    types: Sequence[Any],
    function: Callable[[Any, Any], Any],
    options: ProjectionOptions,
) -> Handler:
    """The handler that keeps this view."""
    kind, where = describe_view(view), f"{service.name}.{getattr(function, '__name__', function)}"
    check_options(where, options, ProjectionOptions)
    check_words(where, options)
    name = check_handler_name(service.name, options.get("name"), function, "projection")
    if kind.version > 1:
        name = f"{name}@{kind.version}"
    described = tuple(describe(cls) for cls in types)
    check_projection(where, kind, described, function)
    _refuse_second(service, kind, function)
    order = options.get("order", "feed")
    projection = Projection(
        kind,
        function,
        described,
        name=name,
        order=order,
        switch=options.get("switch", "caught_up"),
        history=options.get("history", "whole"),
    )
    kind.projection = projection
    handler = Handler(
        name=name,
        function=_runs_of(projection),
        types=described,
        start="earliest",
        retry=options.get("retry", Retry()),
        errors=options.get("errors", {}),
        on_dead=options.get("on_dead", "waits"),
        order=order,
        concurrency=options.get("concurrency", 4),
        timeout_s=options.get("timeout_s", 60.0),
        batch=Batch(RUN),
        projection=projection,
    )
    check_handler(handler, service.name)
    return handler


def _refuse_second(service: Service[Any], view: ViewType, function: Callable[..., Any]) -> None:
    for handler in service.handlers.values():
        if handler.projection is not None and handler.projection.view is view:
            raise DeclarationError(
                f"{service.name}: {handler.projection.name} and {function.__name__} would both keep {view.where}. A view is kept "
                f"by one projection, which may read several types: @{service.name}.projection({view.where}, A, B). Or give one "
                "of the two a view of its own.",
                view=view.name,
            )


def _runs_of(projection: Projection) -> Callable[..., Any]:
    """A function of its own for each, which is known by the one that was declared."""

    @wraps(projection.function)
    async def run(events: list[Any], delivery: BatchDelivery[Any]) -> None:
        await projection.handle(events, delivery)

    return run


def check_words(where: str, options: Any) -> None:
    for name, words in (("order", ("feed", "key")), ("switch", ("caught_up", "by_hand")), ("history", _HISTORY)):
        if options.get(name, words[0]) not in words:
            raise DeclarationError(f"{where}: {name}={options[name]!r} is neither {words[0]!r} nor {words[1]!r}.")
    if "concurrency" in options and options.get("order", "feed") == "feed":
        raise DeclarationError(
            f"{where} reads the feed in its order, one event after the other, so concurrency={options['concurrency']!r} has no effect. "
            "Leave it out, or let it keep the order of each key alone: order='key'."
        )


_HISTORY = ("whole", "what_is_left")


def check_projection(where: str, view: ViewType, types: Sequence[EventType], function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise DeclarationError(
            f"{where} keeps a view, so it is a plain `def`: it changes rows, and waits for nothing. What has effects elsewhere "
            "is a handler of its own."
        )
    if len(positional(function)) != 2:
        raise DeclarationError(f"{where} takes the view and the event: def {function.__name__}(view, event).")
    check_takes_one(function, 1, types, where, "projection")
    names = [name for kind in types for name in kind.names]
    if len(set(names)) < len(names):
        raise DeclarationError(f"{where}: two of its classes stand for one event type; it reads each type one way.")
    check_windows(where, view, function)
    if view.tenant is not None and (without := [kind.cls.__name__ for kind in types if kind.tenant is None]):
        raise DeclarationError(
            f"{where}: the rows of {view.where} belong to tenants, and {', '.join(without)} says no tenant. Declare it with "
            'class ...(Event, tenant="..."), or keep it in another view.'
        )
