"""Retention at work: declared on a service, carried out by one process at a time, and never ahead of a reader."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from eventspine import Service, Spine, View
from eventspine.engine import upkeep
from eventspine.errors import DeclarationError
from eventspine.journal import _memory_retention, _sql_retention
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal, Replay, SetState
from eventspine.journal.sqlite import SQLiteJournal

from .material import ONCE, Broken, HandClock, Paid, Placed, Store, until

DAY_US = 24 * 3_600_000_000
KEEPS = {"orders": timedelta(days=30)}


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seconds' fractions."""
    monkeypatch.setattr(upkeep, "EVERY_S", 0.02)


@pytest.fixture(params=["memory", "sqlite"])
def timed(request: Any, tmp_path: Any) -> tuple[Store, HandClock]:
    """A store whose wall clock stands still until it is moved."""
    clock = HandClock()
    if request.param == "memory":
        journal = MemoryJournal(clock)
        return Store(lambda: journal, sql=False), clock
    return Store(lambda: SQLiteJournal(f"sqlite:///{tmp_path / 'spine.db'}", clock), sql=True), clock


def shop(retention: Any = None) -> Service[Any]:
    return Service("shop", publishes=("orders", "payments"), retention=retention)


def reading(name: str = "mail") -> tuple[Service[Any], list[int]]:
    service, handled = Service(name), list[int]()

    @service.on(Placed, start="earliest")
    async def note(event: Placed) -> None:
        handled.append(event.number)

    return service, handled


async def numbers(journal: Journal, kind: str = "orders.Placed") -> int:
    page = await journal.feed(0, limit=1000, types=[kind])
    return len(page.records)


async def left(journal: Journal, count: int, kind: str = "orders.Placed") -> None:
    async def so_many() -> bool:
        return count == await numbers(journal, kind)

    await until(so_many, f"for {count} to be left")


async def held(journal: Journal) -> list[str]:
    return [lease.owner for lease in await journal.leases() if lease.name == upkeep.UPKEEP and lease.owner]


async def several_rounds(spine: Spine) -> None:
    """Of each process at work."""
    before = {runtime: runtime.upkeep._heard for runtime in spine._runtimes}
    await until(lambda: all(runtime.upkeep._heard > heard + 4 for runtime, heard in before.items()))


async def taken_over(spine: Spine) -> bool:
    return [spine._runtimes[0].hosts[0].process.id] == await held(spine.journal)


async def test_what_is_old_enough_is_deleted_and_the_rest_is_kept(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = reading()
    async with store.spine(service=shop(KEEPS), clock=clock) as spine:
        await spine.publish(*(Placed(number=n) for n in range(1200)))
        await spine.publish(*(Paid(number=n) for n in range(3)))
        clock.us += 20 * DAY_US
        await spine.publish(*(Placed(number=n) for n in range(5)))
        async with spine.running(service):
            await until(lambda: len(handled) == 1205)
            clock.us += 15 * DAY_US
            await left(spine.journal, 5)
            assert 3 == await numbers(spine.journal, "payments.Paid")
            assert (1200, "orders") == next((row.events, row.channel) for row in await spine.journal.deleted())


async def test_without_retention_everything_is_kept_and_nobody_looks(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = reading()
    async with store.spine(service=shop(), clock=clock) as spine:
        await spine.publish(*(Placed(number=n) for n in range(5)))
        async with spine.running(service):
            await until(lambda: len(handled) == 5)
            clock.us += 1000 * DAY_US
            await several_rounds(spine)
            assert 5 == await numbers(spine.journal)
            assert [] == await held(spine.journal)


async def test_a_new_process_listens_before_it_sweeps(
    timed: tuple[Store, HandClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another release at work may keep for longer, and gets to say so; without that wait it would come too late."""
    store, clock = timed
    swept: list[int] = []
    sweep = upkeep.Upkeep._sweep

    async def noted(self: upkeep.Upkeep, keeps: dict[str, int]) -> None:
        swept.append(self._heard)
        await sweep(self, keeps)

    monkeypatch.setattr(upkeep.Upkeep, "_sweep", noted)
    service, _ = reading()
    async with store.spine(service=shop(KEEPS), clock=clock) as spine, spine.running(service):
        await until(lambda: len(swept) > 2)
    assert upkeep.ROUNDS_HEARD == swept[0]


async def test_while_a_release_that_keeps_for_longer_runs_its_word_counts(timed: tuple[Store, HandClock]) -> None:
    """Whichever of the two does the sweeping."""
    store, clock = timed

    def release(days: int) -> Service[Any]:
        return Service("shop", publishes=("orders", "payments"), retention=timedelta(days=days))

    async with store.spine(service=shop(), clock=clock) as spine:
        await spine.publish(*(Placed(number=n) for n in range(5)))
        async with store.spine(clock=clock) as other, other.running(release(90)), spine.running(release(30)):
            clock.us += 40 * DAY_US
            await several_rounds(spine)
            await several_rounds(other)
            assert 5 == await numbers(spine.journal)
        async with spine.running(release(30)):
            clock.us += 2 * DAY_US
            await left(spine.journal, 1)


async def test_one_process_sweeps_and_another_takes_over(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    first, second = reading("mail")[0], reading("audit")[0]
    async with (
        store.spine(service=shop(KEEPS), clock=clock) as one,
        store.spine(service=shop(KEEPS), clock=clock) as two,
    ):
        await one.publish(*(Placed(number=n) for n in range(5)))
        async with two.running(second):
            async with one.running(first):
                await until(lambda: held(one.journal))
                await several_rounds(one)
                await several_rounds(two)
                (owner,) = await held(one.journal)
                assert owner in {
                    host.process.id for runtime in (*one._runtimes, *two._runtimes) for host in runtime.hosts
                }
            await until(lambda: taken_over(two))
            clock.us += 40 * DAY_US
            await left(two.journal, 1)
        assert [] == await held(two.journal)


async def test_a_paused_subscription_holds_what_it_has_not_read(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, handled = reading()
    async with store.spine(service=shop(KEEPS), clock=clock) as spine:
        async with spine.running(service):
            pass
        (subscription,) = await spine.journal.subscriptions("mail")
        await spine.journal.control([SetState(subscription.number, "paused")])
        await spine.publish(*(Placed(number=n) for n in range(5)))
        clock.us += 40 * DAY_US
        async with spine.running(service):
            await several_rounds(spine)
            assert 5 == await numbers(spine.journal)
            assert "mail.note (paused) holds orders at 0 of 5" == (await spine.journal.describe())["retention_held_by"]
            await spine.journal.control([SetState(subscription.number, "active")])
            await until(lambda: len(handled) == 5)
            await left(spine.journal, 1)


class Counted(View, key="customer"):
    customer: str
    events: int = 0


def counting() -> tuple[Service[Any], list[bool]]:
    """A view that stops at the third event, until it is mended."""
    service, broken = Service("reports"), [True]

    @service.projection(Counted, Placed, retry=ONCE)
    def count(view: Any, event: Placed) -> None:
        if event.number == 2 and broken:
            raise Broken
        view.row(event.customer).events += 1

    return service, broken


async def test_a_view_that_stands_still_holds_what_it_still_needs(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, broken = counting()
    async with store.spine(service=shop(KEEPS), clock=clock) as spine:
        await spine.publish(*(Placed(number=n) for n in range(5)))
        async with spine.running(service):
            await until(lambda: spine.journal.deliveries(states=["dead"]))
            clock.us += 40 * DAY_US
            await left(spine.journal, 3)
            await several_rounds(spine)
            assert 3 == await numbers(spine.journal)
            broken.clear()
            (dead,) = await spine.journal.deliveries(states=["dead"])
            await spine.journal.control([Replay([dead.number])])
            await until(lambda: counted(spine, 5))
            clock.us += 2 * DAY_US
            await left(spine.journal, 1)


async def test_without_that_a_view_loses_what_it_had_not_read(
    timed: tuple[Store, HandClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = timed
    service, _ = counting()
    monkeypatch.setattr(_memory_retention, "held", lambda *_: None)
    monkeypatch.setattr(_sql_retention, "held", lambda *_: None)
    async with store.spine(service=shop(KEEPS), clock=clock) as spine:
        await spine.publish(*(Placed(number=n) for n in range(5)))
        async with spine.running(service):
            await until(lambda: spine.journal.deliveries(states=["dead"]))
            clock.us += 40 * DAY_US
            await left(spine.journal, 2)  # the fourth is gone: of the third there is a row, and the fifth ends the feed


async def counted(spine: Spine, events: int) -> bool:
    row = await spine.view(Counted).get("ann")
    return row is not None and row.events == events


async def test_a_dead_delivery_is_replayed_long_after(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    service, broken, handled = Service("mail"), [True], list[int]()

    @service.on(Placed, start="earliest", retry=ONCE)
    async def note(event: Placed) -> None:
        if event.number == 2 and broken:
            raise Broken
        handled.append(event.number)

    async with store.spine(service=shop(KEEPS), clock=clock) as spine:
        await spine.publish(*(Placed(number=n, customer=f"{n}") for n in range(5)))
        async with spine.running(service):
            await until(lambda: len(handled) == 4)
            clock.us += 40 * DAY_US
            await left(spine.journal, 2)  # that one, and the end of the feed
            (dead,) = await spine.journal.deliveries(states=["dead"])
            broken.clear()
            await spine.journal.control([Replay([dead.number])])
            await until(lambda: spine.journal.deliveries(states=["settled"]))
            assert 2 in handled
            clock.us += 2 * DAY_US  # what was passed for its sake is looked at again
            await left(spine.journal, 1)


async def test_a_publisher_that_runs_nothing_says_it_too(timed: tuple[Store, HandClock]) -> None:
    store, clock = timed
    async with store.spine(service=shop(timedelta(hours=1)), clock=clock) as spine:
        stored = [(row.channel, row.keep_us) for row in await spine.journal.keeps()]
        assert [("orders", 3_600_000_000), ("payments", 3_600_000_000)] == stored


async def test_a_publisher_with_settings_says_what_they_say(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `spine run` does, so that the two agree."""
    (tmp_path / "spine.toml").write_text('[retention]\norders = "2h"\n"*" = "keep"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPINE_RETENTION", raising=False)
    async with Spine.from_settings(service=shop(timedelta(hours=1))) as spine:
        stored = [(row.channel, row.keep_us) for row in await spine.journal.keeps()]
        assert [("orders", 7_200_000_000), ("payments", 3_600_000_000)] == stored


# --- declaring --------------------------------------------------------------------------------------------------------


def test_one_time_for_all_contexts_or_one_for_each() -> None:
    assert {"orders": DAY_US, "payments": DAY_US} == shop(timedelta(days=1)).keeps
    assert {"orders": 30 * DAY_US, "payments": None} == shop(KEEPS).keeps
    assert {"orders": None, "payments": None} == shop().keeps == shop({"orders": None}).keeps
    assert {"till": DAY_US} == Service("till", retention=timedelta(days=1)).keeps


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (90, r"timedelta\(days=90\)"),
        ("90d", r"timedelta\(days=90\)"),
        (timedelta(0), "above 0"),
        (timedelta(days=-1), "above 0"),
        ({"orders": 90}, "of 'orders' is 90"),
        ({"invoices": timedelta(days=1)}, "'invoices', which it does not publish"),
    ],
)
def test_what_is_no_time_or_not_its_own_is_refused_where_it_is_written(given: Any, word: str) -> None:
    with pytest.raises(DeclarationError, match=word):
        shop(given)
