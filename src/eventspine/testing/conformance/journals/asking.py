"""Streams asked for by names and numbers that none can have: the same words everywhere, and never a store's or a driver's own."""

from __future__ import annotations

from typing import Any

import pytest

from ....errors import Conflict, StreamRefused, TruncationRefused, UnitFailed
from ....journal.asking import NAME_BYTES_MAX, NUMBER_MAX
from ....journal.port import Append, Journal, StreamCut, Unit
from .material import event, events, ids, publish_to, whole_feed

UNFIT_NAMES = [
    "half a \ud800",
    "\udc80",
    "nul \0",
    "x" * (NAME_BYTES_MAX + 1),
    "é" * (NAME_BYTES_MAX // 2 + 1),
    "x" * 1_000_000,
]
FIT_NAMES = ["", " ", "x" * NAME_BYTES_MAX, "é" * (NAME_BYTES_MAX // 2), "a\u202eb", "a%b_c'd\"e", "😀"]
NO_NUMBERS: list[Any] = [-1, -(2**63), -(2**70), True, False, 1.0, "1"]


def by_size(name: str) -> str:
    return f"{name[:12]!a} of {len(name)}"


class AskingForStreams:
    @pytest.mark.parametrize("name", UNFIT_NAMES, ids=by_size)
    async def test_a_name_that_none_can_have_is_refused(self, journal: Journal, name: str) -> None:
        await publish_to(journal, "o-1", event())
        for service, stream in (("orders", name), (name, "o-1")):
            with pytest.raises(StreamRefused, match="can't be the name of a stream"):
                await journal.stream(service, stream)
            with pytest.raises(StreamRefused, match="can't be the name of a stream"):
                await journal.stream_version(service, stream)
            with pytest.raises(StreamRefused, match="can't be the name of a stream"):
                await journal.cut(service, stream, before=1)
            with pytest.raises(StreamRefused, match="can't be the name of a stream"):
                await journal.streams(None, (service, stream), 10)
        with pytest.raises(StreamRefused) as told:
            await journal.streams(name, ("", ""), 10)
        assert 400 > len(str(told.value)), "however long the name is"

    @pytest.mark.parametrize("name", UNFIT_NAMES, ids=by_size)
    async def test_none_comes_to_be_with_such_a_name_and_others_in_the_commit_do(
        self, journal: Journal, name: str
    ) -> None:
        records = events(3)
        for service, stream in (("orders", name), (name, "o-1")):
            bad, good = await journal.commit(
                [
                    Unit(appends=[Append([records[0]], service, stream)]),
                    Unit(appends=[Append([event()], "orders", "o-1")]),
                ]
            )
            assert ("failed", UnitFailed, "done") == (bad.kind, type(bad.error), good.kind)
        assert records[0].id not in ids(await whole_feed(journal))
        assert [("orders", "o-1", 2)] == [row[:3] for row in await journal.streams(None, ("", ""), 10)]

    @pytest.mark.parametrize("name", FIT_NAMES, ids=by_size)
    async def test_any_other_text_is_one(self, journal: Journal, name: str) -> None:
        for service, stream in (("orders", name), (name, "o-1")):
            assert (0, []) == (await journal.stream_version(service, stream), await journal.stream(service, stream))
            with pytest.raises(TruncationRefused, match="0 versions"):
                await journal.cut(service, stream, before=1)
            (verdict,) = await journal.commit([Unit(appends=[Append(events(2), service, stream)])])
            assert [2] == verdict.versions
            assert 2 == await journal.stream_version(service, stream) == len(await journal.stream(service, stream))
            assert [(service, stream, 2)] == [row[:3] for row in await journal.streams(service, ("", ""), 10)][:1]
            assert StreamCut(1, 2) == await journal.cut(service, stream, before=2)

    @pytest.mark.parametrize("number", [*NO_NUMBERS, NUMBER_MAX + 1, 2**70])
    async def test_what_is_no_number_of_versions_is_refused(self, journal: Journal, number: Any) -> None:
        await publish_to(journal, "o-1", *events(3))
        with pytest.raises(StreamRefused, match=r"after=.* is no number of versions"):
            await journal.stream("orders", "o-1", after=number)
        with pytest.raises(StreamRefused, match=r"limit=.* is no number of versions"):
            await journal.stream("orders", "o-1", limit=number)
        with pytest.raises(StreamRefused, match=r"limit=.* is no number of versions"):
            await journal.streams(None, ("", ""), number)

    @pytest.mark.parametrize("number", NO_NUMBERS)
    async def test_nothing_is_cut_before_what_is_no_number(self, journal: Journal, number: Any) -> None:
        await publish_to(journal, "o-1", *events(3))
        with pytest.raises(StreamRefused, match=r"before=.* is no number of versions"):
            await journal.cut("orders", "o-1", before=number)
        with pytest.raises(StreamRefused, match=r"expected=.* is no number of versions"):
            await journal.cut("orders", "o-1", before=2, expected=number)
        assert 3 == len(await journal.stream("orders", "o-1"))

    @pytest.mark.parametrize("number", [4, NUMBER_MAX, NUMBER_MAX + 1, 2**70])
    async def test_nor_before_or_at_one_beyond_its_versions(self, journal: Journal, number: int) -> None:
        await publish_to(journal, "o-1", *events(3))
        with pytest.raises(TruncationRefused, match="3 versions"):
            await journal.cut("orders", "o-1", before=number)
        with pytest.raises(Conflict, match="at version 3"):
            await journal.cut("orders", "o-1", before=2, expected=number)
        assert 3 == len(await journal.stream("orders", "o-1"))

    async def test_the_smallest_and_the_largest_numbers_are_answered(self, journal: Journal) -> None:
        await publish_to(journal, "o-1", *events(3))
        assert [] == await journal.stream("orders", "o-1", after=NUMBER_MAX, limit=NUMBER_MAX)
        assert [] == await journal.stream("orders", "o-1", limit=0)
        assert [] == await journal.streams(None, ("", ""), 0)
        assert 3 == len(await journal.stream("orders", "o-1", limit=NUMBER_MAX))
        assert 1 == len(await journal.streams(None, ("", ""), NUMBER_MAX))
        assert StreamCut(0, 1) == await journal.cut("orders", "o-1", before=0)
