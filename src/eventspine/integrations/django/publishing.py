"""Publishing from Django: always on Django's own connection to the database that has the journal.

    in transaction.atomic()    in that transaction, whatever becomes of it or of the savepoint around the call
    in autocommit              in a transaction of its own: durable when publish() returns
    in a handler               with what the handler does: see deliveries.py

There is no second connection that could wait for the first, and no moment between two commits for a kill to fall into.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, overload
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.utils.asyncio import async_unsafe

from ... import Spine
from ...commands.deliveries import CommandDelivery
from ...delivery import Delivery
from ...errors import EventRefused, SettingsError, WouldDeadlock
from ...journal.port import Record, Unit, Verdict
from ...observe.correlation import Cause, current
from ...observe.written import wrote
from ...publishing import Receipt, due_us, receipts, unit_of
from ...runs import BatchDelivery
from ...service import Service
from ...within import write
from . import settings
from .journals import journal_of, wrapper as journal_wrapper
from .store import Store
from .within import OfDjango, in_transaction

_ASYNC = "publish() waits for the database, and would hold up the event loop: `await apublish(...)` instead."


@overload
def publish(
    event: Any,
    /,
    *,
    time: datetime | None = None,
    at: datetime | None = None,
    after: timedelta | None = None,
    id: str | UUID | None = None,
) -> Receipt: ...
@overload
def publish(
    event: Any,
    second: Any,
    /,
    *events: Any,
    time: datetime | None = None,
    at: datetime | None = None,
    after: timedelta | None = None,
) -> list[Receipt]: ...


def publish(
    *events: Any,
    time: datetime | None = None,
    at: datetime | None = None,
    after: timedelta | None = None,
    id: str | UUID | None = None,
) -> Receipt | list[Receipt]:
    """Publish facts: all of them, or none. Inside `transaction.atomic()` they are stored when it commits, and only then;
    outside they are durable when this returns. The options are those of `Spine.publish`."""
    made: list[Receipt] = _publish(events, time, at, after, id)
    return made[0] if len(events) == 1 else made


@async_unsafe(_ASYNC)
def _publish(
    events: Sequence[Any], time: datetime | None, at: datetime | None, after: timedelta | None, id: str | UUID | None
) -> list[Receipt]:
    wrapper, cause = journal_wrapper(), current.get()
    handling = isinstance(cause, (Delivery, BatchDelivery)) and cause._open
    if handling and id is not None:
        raise EventRefused("id= is for publishing outside of handlers; inside one, ids derive from the delivery.")
    inside = in_transaction(wrapper)
    if not inside:
        refuse_dual_write(wrapper)
    journal, spine = journal_of(wrapper), spine_of(settings.service())
    due = due_us(spine.clock, at, after)
    if handling and (not inside or isinstance(cause, CommandDelivery)):  # it goes with the delivery
        assert isinstance(cause, (Delivery, BatchDelivery))
        refuse_other_journal(cause, journal)
        return cause._publish(tuple(events), cause, time, due)
    records = _records(spine, events, cause, time, id)
    with nullcontext() if inside else transaction.atomic(using=wrapper.alias):
        verdict = _write(wrapper, journal, unit_of(records, due))
    wrote(records if due is None else ())
    return receipts(records, None if inside else verdict, due)


@overload
async def apublish(
    event: Any,
    /,
    *,
    time: datetime | None = None,
    at: datetime | None = None,
    after: timedelta | None = None,
    id: str | UUID | None = None,
) -> Receipt: ...
@overload
async def apublish(
    event: Any,
    second: Any,
    /,
    *events: Any,
    time: datetime | None = None,
    at: datetime | None = None,
    after: timedelta | None = None,
) -> list[Receipt]: ...


async def apublish(*events: Any, **options: Any) -> Any:
    """`publish` for async views: in the thread in which Django's own async calls use the database."""
    return await sync_to_async(publish)(*events, **options)


def cancel(*published: Receipt) -> int:
    """Cancel events scheduled with `at=` or `after=`; how many were still to come. It shares the transaction's fate."""
    wrapper = journal_wrapper()
    journal = journal_of(wrapper)
    with nullcontext() if in_transaction(wrapper) else transaction.atomic(using=wrapper.alias):
        return _write(wrapper, journal, Unit(cancels=[receipt.event_id for receipt in published])).cancelled


def _write(wrapper: Any, journal: Store, unit: Unit) -> Verdict:
    verdict = write(OfDjango(wrapper), journal, unit)  # type: ignore[arg-type]  # all that it asks for is there
    journal.ring_after_commit(wrapper)
    return verdict


def _records(
    spine: Spine, events: Sequence[Any], cause: Cause | None, time: datetime | None, id: str | UUID | None
) -> list[Record]:
    if isinstance(cause, Delivery) and cause._open:
        cause._changeable()  # refuses a handler that has returned, or run out of time
        record_of = cause._subscription.record_of
        return [record_of(event, cause._next_id(), time, cause) for event in events]
    return spine.records(events, cause=cause, time=time, id=id)


@lru_cache(maxsize=16)
def spine_of(service: Service[Any] | None) -> Spine:
    """Makes records, and is never opened: what is written goes over Django's connection."""
    return Spine("memory://", service=service)


def refuse_dual_write(wrapper: Any) -> None:
    """An event that is stored at once, beside rows that may yet be rolled back, would be a fact that never happened."""
    others = [other.alias for other in connections.all(initialized_only=True) if other.in_atomic_block]
    if others:
        raise SettingsError(
            f"This is inside transaction.atomic(using={others[0]!r}), and the journal is in the database "
            f"{wrapper.alias!r}: the event would be stored even if those rows are rolled back. Keep both in one database, "
            f"or say what decides over the event with a transaction.atomic(using={wrapper.alias!r}) around publish()."
        )


def refuse_other_journal(delivery: Delivery[Any] | BatchDelivery[Any], journal: Store) -> None:
    handling = delivery._subscription.journal
    if not journal.is_same(handling):
        raise WouldDeadlock(
            f"{delivery.handler} is handling an event of the journal {handling.url}, and publish() goes to {journal.url}: "
            f"the two would not commit together. Run the handlers with `manage.py spine run`, or use delivery.publish(...)."
        )
