"""Deleting what is old enough from memory. A position stays in the list, empty, since it is its event's place in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..errors import Fenced
from ._memory_tables import Tables
from .cutting import Old, Open, check_version, refuse_needed, summed
from .port import OWN_FEED, ChannelSize, Cursor, Deleted, Fence, Record, StreamCut, Sweep
from .retention import Facts, held, held_back, kept

SPAN = 20_000  # positions that one step may pass


def sweep(tables: Tables, channel: str, after: int, upto: int, limit: int, fence: Fence | None) -> Sweep:
    _check_fence(tables, fence)
    hindmost = held(tables.subscriptions.values(), list(_cursors(tables)), channel)
    last = min(upto, len(tables.feed) - 1, upto if hindmost is None else hindmost.position)
    end = min(last, after + SPAN)
    if end <= after:
        return Sweep(0, after, False)
    needed, settled = _needed(tables), _settled(tables)
    old = [row for row in tables.feed[after:end] if row.channel == channel and row.position not in needed]
    if len(old) >= limit:
        end = old[limit - 1].position
    for record in old[:limit]:
        _delete(tables, record)
        for number in settled.get(record.position, ()):
            tables.remove_delivery(number)
    return Sweep(min(limit, len(old)), end, end < last)


def _check_fence(tables: Tables, fence: Fence | None) -> None:
    lease = tables.leases.get(fence.lease) if fence else None
    if fence is not None and (lease is None or lease.epoch != fence.epoch):
        raise Fenced(f"The lease {fence.lease!r} is no longer held with epoch {fence.epoch}.", lease=fence.lease)


def _cursors(tables: Tables) -> Iterator[Cursor]:
    for number, rows in tables.cursors.items():
        for (feed, partition), (position, beyond) in rows.items():
            yield Cursor(number, partition, position, beyond, feed)


def _needed(tables: Tables) -> set[int]:
    """Positions of streams, and of deliveries that are not settled."""
    open_ones = {row.position for row in tables.deliveries.values() if row.feed == OWN_FEED and row.state != "settled"}
    return open_ones.union(*tables.streams.values())


def _settled(tables: Tables) -> dict[int, list[int]]:
    """Numbers of deliveries, by position."""
    found: dict[int, list[int]] = {}
    for row in tables.deliveries.values():
        if row.feed == OWN_FEED and row.state == "settled":
            found.setdefault(row.position, []).append(row.number)
    return found


def _delete(tables: Tables, record: Record) -> None:
    position = record.position
    _take_out(tables, record)
    before = tables.deleted.get(record.channel or "", Deleted("", 0, 0, 0))
    last = max((before.position, before.recorded_us), (position, record.recorded_us))
    tables.deleted[record.channel or ""] = Deleted(record.channel or "", *last, before.events + 1)


def _take_out(tables: Tables, record: Record) -> None:
    tables.feed[record.position - 1] = _empty(record)
    del tables.by_id[record.id]
    if record.correlation is not None:
        tables.by_correlation[record.correlation].remove(record.position)
    tables.deleted_bytes += len(record.data)
    tables.holes = True


def cut(tables: Tables, service: str, stream: str, before: int, expected: int | None) -> StreamCut:
    positions = tables.streams.get((service, stream), [])
    check_version(service, stream, len(positions), before, expected)
    records = [tables.feed[position - 1] for position in positions[: max(0, before - 1)] if position]
    old = [Old(row.position, row.channel, row.slot, row.recorded_us) for row in records]
    subscriptions = list(tables.subscriptions.values())
    refuse_needed(service, stream, old, subscriptions, _cursors(tables), _open(tables, {row.position for row in old}))
    cut_off = {row.position for row in old}
    for number, row in list(tables.deliveries.items()):  # settled, or of a retired subscription: others were refused
        if row.feed == OWN_FEED and row.position in cut_off:
            tables.remove_delivery(number)
    for version, record in enumerate(records, tables.first(service, stream)):
        _take_out(tables, record)
        positions[version - 1] = 0
    tables.cut_off = summed(tables.cut_off, old)
    return StreamCut(len(old), tables.first(service, stream))


def _open(tables: Tables, positions: set[int]) -> list[Open]:
    return [
        Open(number, row.subscription, row.state)
        for number, row in tables.deliveries.items()
        if row.feed == OWN_FEED and row.state != "settled" and row.position in positions
    ]


def _empty(record: Record) -> Record:
    """Without an id; `position_at` still needs its time."""
    return Record(
        record.position, b"", None, record.slot, None, "", 0, 0, record.recorded_us, "", None, None, 0, None, b""
    )


def there(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.id]


def facts(tables: Tables, now_us: int) -> Facts:
    oldest = next(((row.position, row.recorded_us) for row in tables.feed if row.id), None)
    keeps = kept(tables.keeps, now_us)
    due = {channel: tables.position_at(now_us - keep_us) for channel, keep_us in keeps.items()}
    deleted = [row for _, row in sorted(tables.deleted.items())]
    return Facts(oldest, keeps, deleted, held_back(due, list(tables.subscriptions.values()), list(_cursors(tables))))


def channel_sizes(tables: Tables) -> list[ChannelSize]:
    counted = Counter(record.channel for record in there(tables.feed))
    rows = (ChannelSize(channel, events, True) for channel, events in counted.items())
    return sorted(rows, key=lambda row: (row.channel is None, row.channel or ""))
