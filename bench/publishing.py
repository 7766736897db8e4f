"""Durable publishing: batches one after another, and many publishers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from eventspine import Spine, correlate

from . import raw
from .figures import Figure, in_turns, per_second
from .material import TRACE, OrderPlaced, orders, portions, records, storefront
from .places import folder
from .sizes import Sizes

BATCH = 100
PUBLISHERS = 100
CORRELATION = "0190f5c1-7a52-7e7c-8e1e-2f9d6b1c0001"


async def batches(sizes: Sizes) -> list[Figure]:
    return [await _batches(keys, sizes) for keys in (1_000, 1_000_000)]


async def _batches(keys: int, sizes: Sizes) -> Figure:
    count = sizes.published
    events = orders(count, keys)
    made = records(events, correlated=True)
    with folder() as where:
        number = iter(range(1_000_000))

        async def ours() -> float:
            return await _publish_all(where / f"ours-{next(number)}.db", events)

        async def columns() -> float:
            return _insert_all(raw.SameColumns, where / f"columns-{next(number)}.db", raw.SameColumns.rows(made))

        async def bare() -> float:
            return _insert_all(raw.SameBytes, where / f"bare-{next(number)}.db", raw.SameBytes.rows(made))

        rounds = await in_turns({"ours": ours, "columns": columns, "bare": bare}, sizes.rounds)
    return Figure(
        f"durable publish in batches of {BATCH}, {keys:,} keys",
        per_second(rounds.rate("ours")),
        "≥ 0.5× the raw insert",
        rounds.spread("ours", "columns"),
        [
            f"raw insert of the same columns, AUTOINCREMENT, unique id: {per_second(rounds.rate('columns'))}",
            f"bare table of the same bytes: {per_second(rounds.rate('bare'))} ({rounds.spread('ours', 'bare')})",
        ],
        {"events": count, "rates": rounds.rates},
    )


async def _publish_all(path: Path, events: Sequence[OrderPlaced]) -> float:
    async with Spine(f"sqlite:///{path}", service=storefront) as spine:
        await spine.journal.head()
        with correlate(CORRELATION, TRACE):
            began = perf_counter()
            for some in portions(events, BATCH):
                await spine.publish(*some)
            return len(events) / (perf_counter() - began)


def _insert_all(table: Callable[[Path], raw.SameColumns | raw.SameBytes], path: Path, rows: Sequence[object]) -> float:
    twin = table(path)
    began = perf_counter()
    for some in portions(rows, BATCH):
        twin.insert(some)
    seconds = perf_counter() - began
    twin.connection.close()
    return len(rows) / seconds


async def concurrent(sizes: Sizes) -> list[Figure]:
    each = sizes.concurrent // PUBLISHERS
    events = orders(each * PUBLISHERS, 1_000)
    rows = raw.SameColumns.rows(records(events))
    with folder() as where:
        number = iter(range(1_000_000))

        async def ours() -> float:
            async with Spine(f"sqlite:///{where}/ours-{next(number)}.db", service=storefront) as spine:
                began = perf_counter()
                await asyncio.gather(*(_publish_each(spine, some) for some in portions(events, each)))
                return len(events) / (perf_counter() - began)

        async def one_by_one() -> float:
            twin = raw.SameColumns(where / f"raw-{next(number)}.db")
            some = rows[: max(200, len(rows) // 5)]
            began = perf_counter()
            for row in some:
                twin.insert([row])
            seconds = perf_counter() - began
            twin.connection.close()
            return len(some) / seconds

        rounds = await in_turns({"ours": ours, "raw": one_by_one}, sizes.rounds)
    return [
        Figure(
            f"durable publish, {PUBLISHERS} concurrent publishers awaiting each",
            per_second(rounds.rate("ours")),
            "≥ 3× one commit per event",
            rounds.spread("ours", "raw"),
            [f"sqlite3, one commit per event: {per_second(rounds.rate('raw'))}"],
            {"events": len(events), "rates": rounds.rates},
        )
    ]


async def _publish_each(spine: Spine, events: Sequence[OrderPlaced]) -> None:
    for event in events:
        await spine.publish(event)
