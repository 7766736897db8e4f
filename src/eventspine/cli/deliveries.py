"""Stored deliveries as they are shown: a row of a list, JSON, or one in full."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from ..ids import id_text
from ..journal.port import Delivery, Journal, Subscription
from ..observe.printable import printable, printable_json, printable_lines
from ..wording import plural
from .choosing import type_of
from .records import cloud_event, data_of
from .standings import failure, title
from .times import clock_time, due_in, iso, now_us, span

Subscriptions = Mapping[int, Subscription]


async def all_subscriptions(journal: Journal) -> Subscriptions:
    return {row.number: row for row in await journal.subscriptions()}


def handler_of(delivery: Delivery, subscriptions: Subscriptions) -> str:
    row = subscriptions.get(delivery.subscription)
    return title(row) if row is not None else f"subscription {delivery.subscription}"


def dead_row(delivery: Delivery, subscriptions: Subscriptions) -> list[object]:
    return [
        delivery.number,
        clock_time(delivery.last_us),
        handler_of(delivery, subscriptions),
        type_of(delivery),
        "" if delivery.key is None else delivery.key,
        delivery.attempts,
        failure(delivery, 80),
    ]


def lane_of(delivery: Delivery) -> tuple[object, ...]:
    """Deliveries of one subscription and key, of which only the first is tried."""
    return delivery.subscription, delivery.feed, delivery.slot, delivery.key


def parked_row(
    delivery: Delivery, subscriptions: Subscriptions, firsts: Mapping[tuple[object, ...], Delivery] | None = None
) -> list[object]:
    """`firsts`: of each key that waits."""
    first = (firsts or {}).get(lane_of(delivery))
    if delivery.due_us is not None:
        due = due_in(delivery.due_us, now_us())
    elif first is None or first.number == delivery.number:
        due = "behind another" if first is None else "next of its key"
    else:
        due = f"behind {first.number}"
    number, _, *rest = dead_row(delivery, subscriptions)
    return [number, due, *rest]


def view(delivery: Delivery, subscriptions: Subscriptions, *, full: bool = False) -> dict[str, Any]:
    """For JSON; `full` adds the traceback and the event."""
    row = subscriptions.get(delivery.subscription)
    record = delivery.record
    shown: dict[str, Any] = {
        "number": delivery.number,
        "service": row.service if row else None,
        "subscription": row.name if row else None,
        "state": delivery.state,
        "type": type_of(delivery) or None,
        "key": delivery.key,
        "position": delivery.position,
        "event": id_text(record.id) if record is not None else None,
        "attempts": delivery.attempts,
        "deaths": delivery.deaths,
        "late": delivery.late,
        "due": None if delivery.due_us is None else iso(delivery.due_us),
        "reason": delivery.reason,
        "error": delivery.error,
        "first": iso(delivery.first_us),
        "last": iso(delivery.last_us),
    }
    if full and record is not None:
        shown |= {"traceback": delivery.traceback, "event": cloud_event(record)}
    return shown


def in_full(delivery: Delivery, subscriptions: Subscriptions) -> str:
    """Everything that is known about one delivery, for people."""
    lines = [
        f"delivery {delivery.number}: {delivery.state} in {handler_of(delivery, subscriptions)}",
        f"  reason     {failure(delivery, 1000)}",
        f"  attempts   {_attempts(delivery)}",
        f"  first      {clock_time(delivery.first_us)}",
        f"  last       {clock_time(delivery.last_us)} ({span(now_us() - delivery.last_us)} ago)",
    ]
    if delivery.state == "parked":
        lines.append(f"  due        {parked_row(delivery, subscriptions)[1]}")
    if delivery.traceback:
        lines += ["traceback", _indented(printable_lines(delivery.traceback.rstrip()))]
    if delivery.record is not None:
        lines += ["event", *_envelope(cloud_event(delivery.record)), *_data(delivery.record.data)]
    return "\n".join(lines)


def _attempts(delivery: Delivery) -> str:
    deaths = f", {plural(delivery.deaths, 'death')} of its process" if delivery.deaths else ""
    return f"{delivery.attempts}{deaths}{', late' if delivery.late else ''}"


def _envelope(event: Mapping[str, Any]) -> list[str]:
    shown = {name: value for name, value in event.items() if name not in ("data", "data_base64", "specversion")}
    width = max(map(len, shown))
    return [f"  {printable(name):<{width}}  {printable(value)}" for name, value in shown.items()]


def _data(data: bytes) -> list[str]:
    if "data" in data_of(data):
        return ["data", _indented(printable_json(msgspec.json.format(data, indent=2).decode()))]
    readable = _indented(printable_lines(data.decode("utf-8", "backslashreplace")))
    encoded = _indented(base64.encodebytes(data).decode().rstrip())
    return [f"data: {plural(len(data), 'byte')} that are no JSON", readable, "in base64", encoded]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
