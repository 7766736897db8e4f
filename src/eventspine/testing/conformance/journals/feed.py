"""The feed: no gaps to a reader, pages, filters, and what leads to an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ....ids import id_text
from ....journal.port import Append, Journal, Record, Unit
from .material import Store, all_pages, caused_by, event, events, ids, publish, publish_to, whole_feed

MIB = 1024 * 1024


class Feed:
    async def test_an_empty_feed_ends_at_0(self, journal: Journal) -> None:
        assert 0 == await journal.head()
        page = await journal.feed(0, limit=10)
        assert ([], 0) == (list(page.records), page.scanned)

    @pytest.mark.parametrize("limit", [1, 3, 7, 100])
    async def test_pages_hold_everything_once_and_in_order(self, journal: Journal, limit: int) -> None:
        placed = await publish(journal, *events(20))
        pages = await all_pages(journal, limit=limit)
        assert placed == [record.position for page in pages for record in page.records]
        assert all(len(page.records) <= limit for page in pages)

    async def test_a_page_begins_after_and_ends_at_a_position(self, journal: Journal) -> None:
        placed = await publish(journal, *events(10))
        page = await journal.feed(placed[2], limit=100, upto=placed[5])
        assert placed[3:6] == [record.position for record in page.records]
        assert placed[5] == page.scanned

    async def test_a_full_page_has_scanned_no_further_than_its_last_event(self, journal: Journal) -> None:
        placed = await publish(journal, *events(10))
        assert placed[3] == (await journal.feed(0, limit=4)).scanned

    async def test_behind_the_end_nothing_is_scanned(self, journal: Journal) -> None:
        head = (await publish(journal, *events(3)))[-1]
        for after, upto in [(head, None), (head + 5, None), (head, 1), (2, 2), (2, 1)]:
            page = await journal.feed(after, limit=10, upto=upto)
            assert ([], after) == (list(page.records), page.scanned)

    @pytest.mark.parametrize("limit", [1, 2, 5, 500])
    @pytest.mark.parametrize(
        ("filters", "wanted"),
        [
            ({"channels": ["orders"]}, lambda r: r.channel == "orders"),
            ({"channels": ["orders", "billing"]}, lambda r: r.channel in ("orders", "billing")),
            ({"channels": ["nobody's"]}, lambda _: False),
            ({"channels": []}, lambda _: False),
            ({"channels": [], "private": True}, lambda r: r.channel is None),
            ({"types": []}, lambda _: False),
            ({"types": ["a"]}, lambda r: r.channel and r.type == "a"),
            ({"types": ["a", "c"], "channels": ["orders"]}, lambda r: r.channel == "orders" and r.type in "ac"),
            ({"partitions": [0, 5]}, lambda r: r.channel and r.slot % 16 in (0, 5)),
            ({"partitions": []}, lambda _: False),
            ({"partitions": [3], "types": ["b"], "channels": ["billing"]}, lambda r: r[2:4] == ("billing", 19) and r.type == "b"),
            ({"private": True}, lambda _: True),
            ({}, lambda r: r.channel),
        ],
    )  # fmt: skip
    async def test_filters_pass_what_is_not_wanted(
        self, journal: Journal, limit: int, filters: dict[str, Any], wanted: Callable[[Record], bool]
    ) -> None:
        channels, types, slots = ("orders", "billing", None), "abc", (0, 19, 5, 16, 959)
        material = [
            event(channel=channels[n % 3], type=types[n % 7 % 3], slot=slots[n % 11 % 5], data=b"%d" % n)
            for n in range(90)
        ]
        placed = await publish(journal, *material)
        expected = [at for at, record in zip(placed, material, strict=True) if wanted(record)]

        pages = await all_pages(journal, limit=limit, **filters)
        assert expected == [record.position for page in pages for record in page.records]
        assert all(len(page.records) <= limit for page in pages)
        assert await journal.head() == pages[-1].scanned
        for page in pages:
            assert all(record.position <= page.scanned for record in page.records)

    async def test_a_page_holds_some_megabytes_at_most(self, journal: Journal) -> None:
        placed = await publish(journal, *events(40, data=bytes(MIB // 2)))
        pages = await all_pages(journal, limit=1000)
        assert placed == [record.position for page in pages for record in page.records]
        assert max(sum(len(record.data) for record in page.records) for page in pages) <= 16 * MIB

    async def test_and_at_least_one_event(self, journal: Journal) -> None:
        await publish(journal, event(), event(data=bytes(17 * MIB)), event())
        assert 3 == len(await whole_feed(journal))

    async def test_a_reader_beside_writers_misses_nothing(self, journal: Journal, other: Journal) -> None:
        """Groups with refused units in between, from two that opened the store; whoever reads on sees every event."""
        seen: list[Record] = []
        writing = True

        async def read() -> None:
            after = 0
            while writing or after < await journal.head():
                page = await journal.feed(after, limit=7)
                seen.extend(page.records)
                after = page.scanned
                await asyncio.sleep(0)

        async def write(writer: Journal, name: str) -> None:
            for _ in range(15):
                verdicts = await writer.commit(
                    [
                        Unit([Append(events(2), "orders", name)]),
                        Unit([Append(events(3), "orders", name, 999)]),
                        Unit([Append([event()])]),
                    ]
                )
                assert ["done", "conflict", "done"] == [verdict.kind for verdict in verdicts]

        reading = asyncio.create_task(read())
        await asyncio.gather(*(write(writer, f"{n}") for n, writer in enumerate([journal, other, journal, other])))
        writing = False
        await reading

        assert 4 * 15 * 3 == len(seen)
        assert [record.position for record in seen] == [record.position for record in await whole_feed(journal)]
        assert len({record.position for record in seen}) == len({record.id for record in seen}) == len(seen)

    async def test_a_unit_that_was_refused_leaves_no_hole(self, journal: Journal) -> None:
        [first] = await publish(journal, event())
        await publish_to(journal, "s", event(), event(), expected=7)
        assert [first + 1] == await publish(journal, event())


class LookingUp:
    async def test_position_at_is_the_last_one_recorded_before_a_time(self, journal: Journal, store: Store) -> None:
        start = store.clock.us
        placed = []
        for _ in range(5):
            store.clock.forward(1_000)
            placed += await publish(journal, event(), event())
        assert 0 == await journal.position_at(0) == await journal.position_at(start + 1_000)
        assert placed[1] == await journal.position_at(start + 1_001)
        assert placed[5] == await journal.position_at(start + 4_000)
        assert placed[9] == await journal.position_at(start + 9_000_000)

    async def test_events_of_a_correlation_in_order(self, journal: Journal) -> None:
        root, stranger, private = event(), event(), event(channel=None)
        child = caused_by(root)
        private = caused_by(child, channel=None)
        await publish(journal, stranger, root, caused_by(stranger), child, private)
        assert ids([root, child, private]) == ids(await journal.correlated(id_text(root.id)))
        assert ids([root, child]) == ids(await journal.correlated(id_text(root.id), 2))
        assert ids([root]) == ids(await journal.correlated(id_text(root.id), 1))

    async def test_a_correlation_that_is_no_id_will_do(self, journal: Journal) -> None:
        mine = event(correlation="web request 7")
        await publish(journal, mine, event())
        assert ids([mine]) == ids(await journal.correlated("web request 7"))
        assert [] == await journal.correlated("web request 8")
