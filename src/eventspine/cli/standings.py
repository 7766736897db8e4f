"""How an event stands with each subscription that wants it; read, never guessed.

    done     the cursor is past it and no failure is kept          settled  done, after it failed or waited, which is kept
    waiting  the cursor is not there yet                           parked   waits for its next attempt
    dead     given up, with its reason                             held     in the care of another process

A journal doesn't keep where a subscription began. So `done` says why it may have been passed, where an event is older
than a handler that was added to its service later, and nothing is there that this has answered it with.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from ..ids import derived_id
from ..journal.cursors import is_finished
from ..journal.port import BEHIND, OWN_FEED, Cursor, Delivery, Journal, Record, Subscription
from ..observe.printable import printable
from ..wording import plural
from .output import shorten
from .times import due_in, iso, now_us

IDS_AT_ONCE = 100


class Standing(NamedTuple):
    subscription: Subscription
    state: str
    delivery: Delivery | None
    why: str  # of waiting: what it waits for, where that is known; of done: why it may never have been handled


async def standings(journal: Journal, records: Sequence[Record]) -> dict[int, list[Standing]]:
    """By position; subscriptions in order of service and name. Of a correlation, all that there is, for the answers."""
    stored = await journal.subscriptions()
    began = {row.service: min(each.created_us for each in stored if each.service == row.service) for row in stored}
    subscriptions = sorted((row for row in stored if row.state != "retired"), key=lambda row: (row.service, row.name))
    cursors = await cursors_of(journal, subscriptions)
    deliveries = await _deliveries(journal, records)
    ids = {record.id for record in records}
    return {
        record.position: [
            _standing(row, record, cursors, deliveries.get((row.number, record.position)), began[row.service], ids)
            for row in subscriptions
            if wants(row, record)
        ]
        for record in records
    }


def wants(subscription: Subscription, record: Record) -> bool:
    types = subscription.types  # none: all of its channels
    return record.channel in subscription.channels and (not types or any(record.type == type for type, _ in types))


async def cursors_of(journal: Journal, subscriptions: Sequence[Subscription]) -> dict[tuple[int, int], Cursor]:
    """Those on this journal's own feed, by subscription and partition."""
    cursors = await journal.cursors([row.number for row in subscriptions])
    return {(row.subscription, row.partition): row for row in cursors if row.feed == OWN_FEED}


def finished(subscription: Subscription, record: Record, cursors: Mapping[tuple[int, int], Cursor]) -> bool:
    cursor = cursors.get((subscription.number, subscription.partition_of(record)))
    return cursor is not None and is_finished(cursor.position, cursor.beyond, record.position)


async def _deliveries(journal: Journal, records: Sequence[Record]) -> dict[tuple[int, int], Delivery]:
    found: dict[tuple[int, int], Delivery] = {}
    ids = [record.id for record in records]
    for start in range(0, len(ids), IDS_AT_ONCE):
        after = 0
        while rows := await journal.deliveries(events=ids[start : start + IDS_AT_ONCE], after=after, records=False):
            found.update({(row.subscription, row.position): row for row in rows if row.feed == OWN_FEED})
            after = rows[-1].number
    return found


def _standing(
    subscription: Subscription,
    record: Record,
    cursors: Mapping[tuple[int, int], Cursor],
    delivery: Delivery | None,
    began_us: int,
    ids: Container[bytes],
) -> Standing:
    if delivery is not None:
        return Standing(subscription, delivery.state, delivery, "")
    if finished(subscription, record, cursors):
        return Standing(subscription, "done", None, _may_be_passed(subscription, record, began_us, ids))
    return Standing(subscription, "waiting", None, _waits_for(subscription, record))


def _may_be_passed(subscription: Subscription, record: Record, began_us: int, ids: Container[bytes]) -> str:
    """A service's first handlers begin with the earliest event, those added later with the next one, unless told."""
    older = began_us < subscription.created_us and record.recorded_us < subscription.created_us
    if not older or _first_answer(subscription, record) in ids:
        return ""
    return "older than this handler: passed, unless it began earlier or was rewound"


def _first_answer(subscription: Subscription, record: Record) -> bytes:
    """The id of the first event that it publishes as it handles this one."""
    return derived_id(subscription.uid, subscription.republish, record.source, record.id, 0)


def _waits_for(subscription: Subscription, record: Record) -> str:
    if subscription.state != "active":
        return f"the subscription is {subscription.state}"
    known = next((version for type, version in subscription.types if type == record.type), None)
    if known is not None and record.version > known:
        return f"the event is version {record.version}, the running release knows {known}"
    return ""


def title(subscription: Subscription) -> str:
    """Its name, which by default begins with its service's, or is it, as a relay's; otherwise both."""
    if f"{subscription.name}.".startswith(f"{subscription.service}."):
        return printable(subscription.name)
    return printable(f"{subscription.service}/{subscription.name}")


def failure(delivery: Delivery, length: int = 120) -> str:
    """`SmtpDown: no route to host`, on one line."""
    error = delivery.error.strip().partition("\n")[0]
    if delivery.reason == "rejected":  # by the handler's own words
        error = error.removeprefix("Reject: ")
    told = error if error.startswith(delivery.reason) else f"{delivery.reason}: {error}" if error else delivery.reason
    return shorten(printable(told), length)


def in_words(standing: Standing) -> str:
    delivery = standing.delivery
    if delivery is None:
        return standing.state + (f" ({standing.why})" if standing.why else "")
    attempts = plural(delivery.attempts, "attempt")
    if delivery.state == "parked":
        if delivery.due_us is None:
            return "parked behind an earlier event of its key"
        return f"parked after {attempts}, next {due_in(delivery.due_us, now_us())}: {failure(delivery)}"
    if delivery.state == "dead":
        return f"dead after {attempts}: {failure(delivery)} (spine dead show {delivery.number})"
    if delivery.state == "settled":
        waited = delivery.reason == BEHIND and not delivery.error
        after = f" after {attempts}" if delivery.attempts > 1 or not waited else ""
        return f"settled{after}; {'it waited behind its key' if waited else f'failed with {failure(delivery)}'}"
    return f"held by another process: {failure(delivery)}"


def view(standing: Standing) -> dict[str, Any]:
    """For JSON."""
    shown: dict[str, Any] = {
        "subscription": standing.subscription.name,
        "service": standing.subscription.service,
        "state": standing.state,
    }
    if standing.why:
        shown["why"] = standing.why
    if (delivery := standing.delivery) is not None:
        shown |= {
            "number": delivery.number,
            "attempts": delivery.attempts,
            "deaths": delivery.deaths,
            "due": None if delivery.due_us is None else iso(delivery.due_us),
            "reason": delivery.reason,
            "error": delivery.error,
            "late": delivery.late,
            "first": iso(delivery.first_us),
            "last": iso(delivery.last_us),
        }
    return shown
