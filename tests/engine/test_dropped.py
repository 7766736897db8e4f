"""Dropped deliveries are handled no more, whoever runs when they are dropped, or runs next; and replayed ones are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventspine import Delivery, Event, Retry as Policy, Service, Spine
from eventspine.journal.cursors import Range
from eventspine.journal.port import Drop, Replay, Retry, Rewind, Unit, Verdict

from .material import (
    ONCE,
    SHORT_LEASE_S,
    Broken,
    Cancelled,
    Placed,
    Store,
    abandon,
    dead,
    host,
    parked,
    rows,
    subscription,
    until,
)

LATER = Policy(immediate=0, first_s=3600, most_s=3600)
ORDERS = pytest.mark.parametrize("order", ["key", "feed"])
ENDS = pytest.mark.parametrize("end", ["dead", "parked"])


class Bug:
    """A handler that fails for 5 until it is mended; 4 is of a type that it doesn't want."""

    def __init__(self) -> None:
        self.broken = {5}
        self.began: list[int] = []
        self.handled: list[int] = []
        self.go = asyncio.Event()
        self.go.set()

    async def handle(self, event: Placed, delivery: Delivery) -> None:
        self.began.append(event.number)
        await self.go.wait()
        if event.number in self.broken:
            raise Broken
        self.handled.append(event.number)
        delivery.publish(Mended(number=event.number))

    def service(self, order: Any = "feed", end: str = "dead", on_dead: Any = "waits") -> Service[Any]:
        service: Service[Any] = Service("mail")
        retry = ONCE if end == "dead" else LATER
        service.on(Placed, name="note", retry=retry, order=order, on_dead=on_dead)(self.handle)
        return service


class Mended(Event, context="mail", key="number"):
    number: int = 0


async def failed(spine: Spine, end: str) -> int:
    """The number of the first that is dead, or parked."""
    found = await (dead(spine) if end == "dead" else parked(spine))
    return found[0].number


async def published(spine: Spine) -> list[int]:
    """By the handler, as stored."""
    page = await spine.journal.feed(0, limit=1000, types=["mail.Mended"])
    return [int(record.key or 0) for record in page.records]


async def stands(spine: Spine) -> tuple[int, Sequence[Range]]:
    (row,) = await spine.journal.subscriptions("mail")
    (cursor,) = await spine.journal.cursors([row.number])
    return cursor.position, cursor.beyond


async def some(spine: Spine) -> None:
    """The first at position 2: what comes before it is not wanted."""
    await spine.publish(Cancelled(number=4), Placed(number=5), Placed(number=6))


@ORDERS
@ENDS
async def test_dropped_while_nobody_runs(spine: Spine, order: Any, end: str) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(order, end)):
        number = await failed(spine, end)
    assert 1 == await spine.journal.control([Drop([number])])
    async with spine.running(bug.service(order, end)):
        await until(lambda: 6 in bug.handled)
    assert [6] == bug.handled
    assert 1 == bug.began.count(5)
    assert {"settled"} == {row.state for row in await rows(spine)}
    if order == "feed":
        position, beyond = await stands(spine)
        assert position >= 3
        assert not beyond


@ORDERS
@ENDS
async def test_dropped_while_one_runs(spine: Spine, order: Any, end: str) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(order, end)):
        await spine.journal.control([Drop([await failed(spine, end)])])
        await until(lambda: bug.handled == [6])
        await until(lambda: subscription(spine).at_work == 0)
        if order == "feed":
            position, beyond = await stands(spine)
            assert position >= 3
            assert not beyond, "what lies before it is finished by who has passed it"
    async with spine.running(bug.service(order, end)):
        await spine.publish(Placed(number=7))
        await until(lambda: bug.handled == [6, 7])
    assert 1 == bug.began.count(5)


@ENDS
async def test_who_ran_when_it_was_dropped_dies_before_it_knows(store: Store, end: str) -> None:
    bug = Bug()
    async with store.spine(lease_s=SHORT_LEASE_S) as spine:
        await some(spine)
        async with spine.running(bug.service(end=end), drain_s=0.0):
            number = await failed(spine, end)
            await abandon(spine)
        await spine.journal.control([Drop([number])])
        async with spine.running(bug.service(end=end)):
            await until(lambda: 6 in bug.handled)
    assert [6] == bug.handled
    assert 1 == bug.began.count(5)


@ENDS
async def test_what_is_dropped_before_it_is_read_again_is_not_handled(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The partition was loaded a moment before; nobody has come to the event yet."""
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(end=end)):
        number = await failed(spine, end)
    bug.broken.clear()
    async with spine.running(bug.service(end=end)):
        async with spine._runtimes[0].gate.alone(lambda: False):
            await until(lambda: subscription(spine).lanes.size == 2)
            await spine.journal.control([Drop([number])])
            changed = await spine.journal.control_version()
            await until(lambda: host(spine).control == changed)
        await until(lambda: bug.handled == [6])
    assert 1 == bug.began.count(5)


async def test_what_is_retried_before_it_is_read_again_is_handled_at_once(spine: Spine) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(end="parked")):
        number = await failed(spine, "parked")
    bug.broken.clear()
    async with spine.running(bug.service(end="parked")):
        async with spine._runtimes[0].gate.alone(lambda: False):
            await until(lambda: subscription(spine).lanes.size == 2)
            await spine.journal.control([Retry([number])])
            changed = await spine.journal.control_version()
            await until(lambda: host(spine).control == changed)
        await until(lambda: bug.handled == [5, 6])


@ORDERS
@pytest.mark.parametrize("then", ["succeeds", "fails"])
async def test_dropped_while_it_is_handled_again_nothing_of_it_is_stored(spine: Spine, order: Any, then: str) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(order, "parked")):
        number = await failed(spine, "parked")
        bug.go.clear()
        if then == "succeeds":
            bug.broken.clear()
        await spine.journal.control([Retry([number])])
        await until(lambda: bug.began.count(5) == 2)
        await spine.journal.control([Drop([number])])
        bug.go.set()
        await until(lambda: 6 in bug.handled)
        await until(lambda: subscription(spine).at_work == 0)
    assert [6] == await published(spine)
    assert 2 == bug.began.count(5)
    assert ["dropped"] == [row.reason for row in await rows(spine, "settled") if row.number == number]
    assert not await rows(spine, "parked", "dead")


@ORDERS
@pytest.mark.parametrize("on_dead", ["waits", "goes_on"])
@pytest.mark.parametrize("word", ["replay", "replay and drop"])
async def test_replayed_while_nobody_runs(spine: Spine, order: Any, on_dead: Any, word: str) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(order, on_dead=on_dead)):
        number = await failed(spine, "dead")
        if on_dead == "goes_on":
            await until(lambda: bug.handled == [6])
    bug.broken.clear()
    assert 1 == await spine.journal.control([Replay([number])])
    if word != "replay":
        assert 1 == await spine.journal.control([Drop([number])])
    handled = {"replay": {5, 6}}.get(word, {6})
    async with spine.running(bug.service(order, on_dead=on_dead)):
        await until(lambda: handled <= set(bug.handled))
        await spine.publish(Placed(number=7))
        await until(lambda: 7 in bug.handled)
    assert {"settled"} == {row.state for row in await rows(spine)}
    assert sorted(handled | {7}) == sorted(bug.handled), "each once"
    assert on_dead == "goes_on" or bug.handled == sorted(bug.handled)


@ORDERS
async def test_a_rewind_makes_what_was_dropped_new(spine: Spine, order: Any) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(order)):
        number = await failed(spine, "dead")
    bug.broken.clear()
    await spine.journal.control([Drop([number])])
    (row,) = await spine.journal.subscriptions("mail")
    await spine.journal.control([Rewind(row.number, 0)])
    async with spine.running(bug.service(order)):
        await until(lambda: bug.handled == [5, 6])


async def test_what_a_wider_filter_wants_before_what_was_dropped_is_handled(spine: Spine) -> None:
    """It was passed, and not finished: the cursor stood before it."""
    bug, seen = Bug(), list[int]()
    await some(spine)
    async with spine.running(bug.service()):
        number = await failed(spine, "dead")
    await spine.journal.control([Drop([number])])
    wider: Service[Any] = Service("mail")

    async def note(event: Placed | Cancelled) -> None:
        seen.append(event.number)

    wider.on(Placed, Cancelled, name="note", order="feed", on_dead="waits")(note)
    async with spine.running(wider):
        await until(lambda: 6 in seen)
    assert [4, 6] == seen


async def test_what_is_dropped_while_the_answer_to_its_parking_is_lost_stays_dropped(spine: Spine) -> None:
    """The same is asked again, after the drop, and parks no row."""
    bug, dropped = Bug(), list[int]()
    commit = spine.journal.commit

    async def loses_the_answer(units: Sequence[Unit]) -> list[Verdict]:
        verdicts = await commit(units)
        for unit, verdict in zip(units, verdicts, strict=True):
            if unit.puts and not dropped:
                dropped.append(await spine.journal.control([Drop(verdict.numbers)]))
                verdict.kind = "unknown"
        return verdicts

    spine.journal.commit = loses_the_answer  # type: ignore[method-assign]
    await some(spine)
    async with spine.running(bug.service(end="parked")):
        await until(lambda: 6 in bug.handled)
    assert dropped == [1]
    assert await published(spine) == [6]
    assert {"settled"} == {row.state for row in await rows(spine)}


@pytest.mark.parametrize("ways", [("goes_on", "waits"), ("waits", "goes_on")])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_replayed_where_a_deploy_has_changed_what_the_dead_do_to_the_feed(
    spine: Spine, ways: tuple[str, str], when: str
) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(on_dead=ways[0])):
        number = await failed(spine, "dead")
        if ways[0] == "goes_on":
            await until(lambda: bug.handled == [6])
    if when == "before":
        await spine.journal.control([Replay([number])])
        bug.broken.clear()
    async with spine.running(bug.service(on_dead=ways[1])):
        if when == "after":
            bug.broken.clear()
            await spine.publish(Placed(number=7))
            await until(lambda: 7 in bug.handled)
            await spine.journal.control([Replay([number])])
        await until(lambda: {5, 6} <= set(bug.handled))
        await spine.publish(Placed(number=8))
        await until(lambda: 8 in bug.handled)
    assert sorted(bug.handled) == [5, 6, *[7] * (when == "after"), 8]
    assert bug.began.count(5) == 2, "once in each way"
    assert {"settled"} == {row.state for row in await rows(spine)}


async def test_a_feed_does_not_stand_at_what_it_has_gone_on_without(spine: Spine) -> None:
    bug = Bug()
    await some(spine)
    async with spine.running(bug.service(on_dead="goes_on")):
        number = await failed(spine, "dead")
        await until(lambda: bug.handled == [6])
    async with spine.running(bug.service(on_dead="waits")):
        await spine.journal.control([Replay([number])])
        await until(lambda: bug.began.count(5) == 2)
        await spine.publish(Placed(number=7))
        await until(lambda: bug.handled == [6, 7])
        assert number == await failed(spine, "dead")
        bug.broken.clear()
        await spine.journal.control([Replay([number])])
        await until(lambda: bug.handled == [6, 7, 5])
