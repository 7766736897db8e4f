"""Numbers of another origin as a broker may bring them: repeated, reordered, in any grouping, some refused on the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eventspine.journal.cursors import Range, fold
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Append, Fence, Journal, Seen, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .material import event, one_subscription, whole_feed

FATES = ["accepted", "accepted", "fenced", "conflict"]
arrivals = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(FATES)))
spans = st.tuples(st.integers(0, 20), st.integers(1, 6)).map(lambda given: (given[0], sum(given)))
on_one_journal = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
_origins = count(1)  # each example has its own


@pytest.fixture(params=["memory", "sqlite"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    opened: Journal = MemoryJournal() if request.param == "memory" else SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    yield opened
    await opened.close()


def arrived(mark: Seen, fate: str) -> Unit:
    unit = Unit([Append([event()])], marks=[mark])
    if fate == "fenced":
        unit.fences.append(Fence("lost", 1))
    if fate == "conflict":
        unit.appends.append(Append([], "orders", "o-1", 5))
    return unit


def kind_of(fate: str, finished: bool) -> str:
    """Fences are asked first, then whether it is a repetition, then what it expects."""
    if fate == "fenced":
        return "fenced"
    return "repeated" if finished else "conflict" if fate == "conflict" else "done"


@given(groups=st.lists(arrivals, max_size=6))
@on_one_journal
async def test_r1_each_number_has_its_effect_once(journal: Journal, groups: list[list[tuple[int, str]]]) -> None:
    mine, origin = await one_subscription(journal), f"{next(_origins)}:1"
    done: set[int] = set()
    before = len(await whole_feed(journal))
    for group in groups:
        expected = []
        for number, fate in group:
            expected.append(kind_of(fate, number in done))
            done |= {number} if expected[-1] == "done" else set()
        marks = [Seen(mine.number, origin, "orders", 7, [(number - 1, number)]) for number, _ in group]
        units = [arrived(mark, fate) for mark, (_, fate) in zip(marks, group, strict=True)]
        assert expected == [verdict.kind for verdict in await journal.commit(units)]

    mark = fold(0, [], [(number - 1, number) for number in done])
    assert ({7: mark} if done else {}) == await journal.marks(mine.number, origin, "orders")
    assert len(done) == len(await whole_feed(journal)) - before


@given(ranges=st.lists(spans, min_size=1), data=st.data())
@on_one_journal
async def test_r3_in_any_order_and_grouping_they_end_alike(
    journal: Journal, ranges: list[Range], data: st.DataObject
) -> None:
    mine, origin = await one_subscription(journal), f"{next(_origins)}:1"
    rest = data.draw(st.permutations(ranges))
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        marks = [Seen(mine.number, origin, "orders", 7, [one]) for one in rest[:size]]
        await journal.commit([Unit(marks=[mark]) for mark in marks])
        rest = rest[size:]

    assert {7: fold(0, [], ranges)} == await journal.marks(mine.number, origin, "orders")
