"""A handler that changes nothing lets the next of its key begin before it is stored: what both finish is stored together."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Delivery, Service, Spine
from eventspine.engine import calls
from eventspine.engine.lanes import Item, Lanes, Part
from eventspine.errors import Fenced, JournalError
from eventspine.journal import _sqlite_locks
from eventspine.journal.port import Unit, Verdict
from eventspine.sync import Delivery as SyncDelivery
from eventspine.within import Carrier

from . import material
from .material import QUICK, SHOP, Broken, Mailed, Placed, Store, finished_upto, subscription, turns, until

COUNT = 50
Handle = Callable[[Placed], Awaitable[Mailed | None]]


def service_of(handle: Handle) -> Service[Any]:
    service: Service[Any] = Service("mail", publishes=["email"])
    service.on(Placed, name="note")(handle)
    return service


async def of_one_key(spine: Spine, count: int = COUNT) -> None:
    await spine.publish(*[Placed(number=number) for number in range(count)])


Ask = Callable[[Sequence[Unit]], Awaitable[list[Verdict]]]


class Commits:
    """What the host asks its journal to commit, in the order of the commits; `refuse` says which are not."""

    def __init__(self, spine: Spine, refuse: Callable[[Unit], bool] = lambda _: False) -> None:
        self.units: list[list[Unit]] = []
        self._ask: Ask = spine.journal.commit
        self._refuse = refuse
        self.held: asyncio.Event | None = None  # until then nothing is answered
        spine.journal.commit = self.commit  # type: ignore[method-assign]

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        self.units.append(list(units))
        refused = [self._refuse(unit) for unit in units]
        taken = iter(await self._ask([unit for unit, no in zip(units, refused, strict=True) if not no]))
        verdicts = [Verdict("failed", error=Broken("of the test's")) if no else next(taken) for no in refused]
        if self.held is not None and any(unit.done for unit in units):
            await self.held.wait()
        return verdicts

    @property
    def of_handled(self) -> list[list[tuple[int, int]]]:
        return [
            ranges
            for units in self.units
            if (ranges := [one for unit in units for done in unit.done for one in done.ranges])
        ]


async def test_events_of_one_key_that_change_nothing_share_a_commit(store: Store) -> None:
    handled: list[int] = []

    async def note(event: Placed) -> None:
        handled.append(event.number)

    async with store.spine() as spine:
        await of_one_key(spine)
        commits = Commits(spine)
        async with spine.running(service_of(note)):
            await until(lambda: len(handled) == COUNT)
        assert handled == list(range(COUNT))
        assert await finished_upto(spine, "mail.note") == COUNT
        assert len(commits.of_handled) < COUNT / 2


async def test_what_changes_something_is_committed_when_what_it_follows_is_stored(store: Store) -> None:
    async def answer(event: Placed) -> Mailed | None:
        return Mailed(number=event.number) if event.number % 2 else None

    async with store.spine() as spine:
        await of_one_key(spine)
        commits = Commits(spine)
        async with spine.running(service_of(answer)):
            await until(lambda: sum(bool(unit.appends) for units in commits.units for unit in units) == COUNT // 2)
    for number in range(1, COUNT, 2):
        assert _commit_of(commits, number) < _commit_of(commits, number + 1), f"{number} is not known to be stored"


def _commit_of(commits: Commits, position: int) -> int:
    return next(
        at for at, ranges in enumerate(commits.of_handled) if any(after < position <= upto for after, upto in ranges)
    )


async def test_without_that_wait_both_could_be_in_one_commit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(*_: object) -> bool:
        return True

    monkeypatch.setattr(calls, "follows", at_once)
    with pytest.raises(AssertionError, match="is not known to be stored"):
        await test_what_changes_something_is_committed_when_what_it_follows_is_stored(store)


@pytest.mark.parametrize("ends", ["returns", "publishes", "fails"])
async def test_what_follows_one_that_could_not_be_stored_is_handled_again_behind_it(store: Store, ends: str) -> None:
    """However the second has ended, while the first was refused: by an error of ours, since there is nothing else to refuse."""
    handled: list[int] = []
    refused = asyncio.Event()

    async def note(event: Placed) -> Mailed | None:
        first = event.number not in handled
        handled.append(event.number)
        if event.number == 1 and first:
            await refused.wait()
            if ends == "fails":
                raise Broken
        return Mailed(number=1) if event.number == 1 and ends == "publishes" else None

    def refuse(unit: Unit) -> bool:
        if refused.is_set() or not any(upto == 1 for done in unit.done for _, upto in done.ranges):
            return False
        refused.set()
        return True

    async with store.spine() as spine:
        await of_one_key(spine, 3)
        Commits(spine, refuse)
        async with spine.running(service_of(note)):
            await until(lambda: handled[-1:] == [2])
        assert handled == [0, 1, 0, 1, 2]
        assert await finished_upto(spine, "mail.note") == 3 + (ends == "publishes")
        published = [record for record in await _feed(spine) if record.type == "email.Mailed"]
        assert len(published) == (ends == "publishes")
        assert await spine.journal.deliveries() == []


async def _feed(spine: Spine) -> Sequence[Any]:
    return (await spine.journal.feed(0, limit=100)).records


async def test_nothing_follows_one_whose_commit_is_under_way(store: Store) -> None:
    handled: list[int] = []

    async def note(event: Placed) -> None:
        handled.append(event.number)

    async with store.spine() as spine:
        commits = Commits(spine)
        async with spine.running(service_of(note)):
            commits.held = asyncio.Event()
            await spine.publish(Placed(number=0))
            await until(lambda: handled == [0] and commits.of_handled)
            await spine.publish(Placed(number=1), Placed(number=2))
            await until(lambda: subscription(spine).lanes.size == 3)
            await turns()
            assert handled == [0]
            commits.held.set()
            await until(lambda: handled == [0, 1, 2])


def tables(connection: Any) -> None:
    connection.execute("create table seen (number integer not null)")


async def test_one_that_takes_the_lock_waits_for_what_it_follows_before(store: Store) -> None:
    """Else it would hold the lock that the commit of the other one waits for, and wait for that commit."""
    if not store.sql:
        pytest.skip("this journal has no SQL")
    begun: list[int] = []

    async def note(event: Placed, delivery: Delivery) -> None:
        begun.append(event.number)
        if event.number % 3 == 2:
            async with delivery.transaction() as writing:
                await writing.execute("insert into seen values (:number)", number=event.number)

    service: Service[Any] = Service("mail", tables=tables)
    service.on(Placed, name="note")(note)
    async with store.spine() as spine:
        await of_one_key(spine)
        async with spine.running(service):
            await until(lambda: begun[-1:] == [COUNT - 1])
            await until(lambda: subscription(spine).at_work == 0)
        assert begun == list(range(COUNT))
        seen = [row["number"] for row in await spine.journal.query("select number from seen", {})]
        assert seen == [number for number in range(COUNT) if number % 3 == 2]
        assert await finished_upto(spine, "mail.note") == COUNT


async def test_without_that_wait_both_would_wait_for_each_other(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if not store.sql:
        pytest.skip("this journal has no SQL")

    async def lock(self: Any) -> Any:
        return await self._subscription.journal.begin(1.0)

    monkeypatch.setattr(material, "WAIT_S", 3.0)
    monkeypatch.setattr(Delivery, "_lock", lock)
    with pytest.raises(AssertionError, match="in vain"):
        await test_one_that_takes_the_lock_waits_for_what_it_follows_before(store)


async def test_a_thread_that_waits_for_what_it_follows_waits_no_longer_than_its_spine_lives(store: Store) -> None:
    """Nobody can cancel a thread; one that waited for ever would keep its process from ending."""
    begun: list[int] = []

    def note(event: Placed, delivery: SyncDelivery) -> None:
        begun.append(event.number)
        if event.number == 1:
            with delivery.transaction():
                pass

    service: Service[Any] = Service("mail")
    service.on(Placed, name="note")(note)
    async with store.spine() as spine:
        await of_one_key(spine, 2)
        commit = spine.journal.commit

        async def away(units: Sequence[Unit]) -> list[Verdict]:
            if any(unit.done for unit in units):
                raise JournalError("away")
            return await commit(units)

        spine.journal.commit = away  # type: ignore[method-assign]
        async with spine.running(service, drain_s=0.05) as running:
            await until(lambda: begun == [0, 1])
        await until(lambda: running.unfinished_threads == 0)


@pytest.mark.parametrize("swallowed", [False, True])
async def test_one_that_joins_behind_another_is_handled_again_when_that_is_stored(
    tmp_path: Path, swallowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the handler makes of the error. From then on nothing of its subscription follows before it may."""
    caplog.set_level("INFO", "eventspine.engine")
    begun: list[int] = []
    path = tmp_path / "journal.db"

    async def note(event: Placed, delivery: Delivery) -> None:
        begun.append(event.number)
        if event.number == 0:
            return
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            connection.execute("insert into seen values (?)", (event.number,))
            try:
                delivery.join(connection)
            except Fenced:
                if swallowed:
                    return
                raise
            connection.execute("commit")

    service: Service[Any] = Service("mail", tables=tables)
    service.on(Placed, name="note")(note)
    async with Spine(f"sqlite:///{path}", service=SHOP) as spine:
        await of_one_key(spine, 4)
        async with spine.running(service):
            await until(lambda: begun[-1:] == [3])
            await until(lambda: subscription(spine).at_work == 0)
        assert begun == [0, 1, 1, 2, 3]
        assert [row["number"] for row in await spine.journal.query("select number from seen", {})] == [1, 2, 3]
        assert await finished_upto(spine, "mail.note") == 4
        assert await spine.journal.deliveries() == []
    assert "is handled again, since what comes before it in its key was not stored yet" in caplog.text
    assert "no longer ours" not in caplog.text, "no lease was lost"


async def test_one_that_joins_behind_another_that_was_refused_is_handled_again_behind_it(tmp_path: Path) -> None:
    handled: list[int] = []
    refused = asyncio.Event()
    path = tmp_path / "journal.db"

    async def note(event: Placed, delivery: Delivery) -> None:
        handled.append(event.number)
        if event.number == 0:
            return
        await refused.wait()
        await until(lambda: delivery._subscription.committer.idle)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("begin immediate")
            connection.execute("insert into seen values (?)", (len(handled),))
            delivery.join(connection)
            connection.execute("commit")

    def refuse(unit: Unit) -> bool:
        if refused.is_set() or not unit.done:
            return False
        refused.set()
        return True

    service: Service[Any] = Service("mail", tables=tables)
    service.on(Placed, name="note")(note)
    async with Spine(f"sqlite:///{path}", service=SHOP) as spine:
        await of_one_key(spine, 2)
        Commits(spine, refuse)
        async with spine.running(service):
            await until(lambda: len(handled) == 4)
            await until(lambda: subscription(spine).at_work == 0)
        assert handled == [0, 1, 0, 1]
        assert [row["number"] for row in await spine.journal.query("select number from seen", {})] == [4]
        assert await spine.journal.deliveries() == []


def stored_after(spine: Spine, happened: Callable[[], Any]) -> None:
    """What is handled without effects is stored after this has happened, and no sooner."""
    commit = spine.journal.commit

    async def later(units: Sequence[Unit]) -> list[Verdict]:
        if any(unit.done for unit in units):
            await until(happened)
        return await commit(units)

    spine.journal.commit = later  # type: ignore[method-assign]


THEN = ["leaks", "commits"]  # its connection, when join() has raised


@pytest.mark.parametrize("then", THEN)
async def test_a_transaction_that_joins_too_early_is_rolled_back_whatever_its_handler_does_with_it(
    tmp_path: Path, then: str
) -> None:
    """Left as it is, it would keep the lock from the commit that it waits for; committed, its row would come again."""
    path = tmp_path / "journal.db"
    begun: list[int] = []
    left: list[sqlite3.Connection] = []

    def note(event: Placed, delivery: SyncDelivery) -> None:
        begun.append(event.number)
        if event.number == 0:
            return
        own = sqlite3.connect(path, check_same_thread=False)
        own.execute("insert into seen values (?)", (event.number,))
        left.append(own)
        try:
            delivery.join(own)
        except Fenced:
            if then == "leaks":
                raise
        own.commit()

    service: Service[Any] = Service("mail", tables=tables)
    service.on(Placed, name="note")(note)
    try:
        async with Spine(f"sqlite:///{path}", service=SHOP) as spine:
            await of_one_key(spine, 2)
            stored_after(spine, lambda: left)
            async with spine.running(service, drain_s=0.5):
                await until(lambda: begun == [0, 1, 1])
                await until(lambda: subscription(spine).at_work == 0)
            assert [row["number"] for row in await spine.journal.query("select number from seen", {})] == [1]
            assert await finished_upto(spine, "mail.note") == 2
            assert await spine.journal.deliveries() == []
    finally:
        for own in left:
            own.close()


@pytest.mark.parametrize("then", THEN)
async def test_without_that_all_stands_still_or_its_row_is_there_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr(material, "WAIT_S", 2.0)
    monkeypatch.setattr(Carrier, "roll_back", lambda _: None)
    with pytest.raises(AssertionError, match="in vain" if then == "leaks" else r"\[1, 1\]"):
        await test_a_transaction_that_joins_too_early_is_rolled_back_whatever_its_handler_does_with_it(tmp_path, then)


@pytest.fixture
def collected_by_chance() -> Iterator[None]:
    """As good as never: in a test there may be much that has the collector run, in a service that waits there is nothing."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("collected_by_chance")
async def test_one_that_fails_with_a_connection_left_open_does_not_keep_its_lock_from_what_it_follows(
    tmp_path: Path,
) -> None:
    """Nobody has that connection but the frames of the error, which the attempt has in hand while it waits."""
    path = tmp_path / "journal.db"
    begun: list[int] = []
    wrote: list[int] = []

    def note(event: Placed) -> None:
        begun.append(event.number)
        if event.number == 0:
            return
        own = sqlite3.connect(path)
        own.execute("insert into seen values (?)", (event.number,))
        wrote.append(event.number)
        if begun == [0, 1]:
            try:
                raise KeyError(event.number)
            except KeyError as error:
                raise Broken from error
        own.commit()
        own.close()

    service: Service[Any] = Service("mail", tables=tables)
    service.on(Placed, name="note", retry=QUICK)(note)
    async with Spine(f"sqlite:///{path}", service=SHOP) as spine:
        await of_one_key(spine, 2)
        stored_after(spine, lambda: wrote)
        async with spine.running(service, drain_s=0.5):
            await until(lambda: begun == [0, 1, 1])
            await until(lambda: subscription(spine).at_work == 0)
        assert [row["number"] for row in await spine.journal.query("select number from seen", {})] == [1]


@pytest.mark.usefixtures("collected_by_chance")
@pytest.mark.parametrize("held_by", ["its frames", "the collector"])
async def test_without_letting_go_of_it_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_by: str) -> None:
    monkeypatch.setattr(material, "WAIT_S", 2.0)
    if held_by == "its frames":
        monkeypatch.setattr(calls, "_let_go", lambda _: None)
    else:
        monkeypatch.setattr(_sqlite_locks, "_begun_without_what_nobody_has", lambda _: False)
    with pytest.raises(AssertionError, match="in vain"):
        await test_one_that_fails_with_a_connection_left_open_does_not_keep_its_lock_from_what_it_follows(tmp_path)


async def test_who_has_passed_an_error_on_to_one_that_follows_goes_on(store: Store) -> None:
    """A task of the program's own that has caught the error stands in its traceback, and is alive."""
    asked = asyncio.Queue[asyncio.Future[None]]()
    handled, attempts = list[int](), list[int]()

    async def trouble() -> None:
        raise Broken

    async def answer() -> None:
        while True:
            question = await asked.get()
            try:
                await trouble() if len(attempts) == 2 else None
            except Broken as error:
                question.set_exception(error)
            else:
                question.set_result(None)

    async def note(event: Placed) -> None:
        attempts.append(event.number)
        if event.number:
            question = asyncio.get_running_loop().create_future()
            await asked.put(question)
            await question
        handled.append(event.number)

    service: Service[Any] = Service("mail")
    service.on(Placed, name="note", retry=QUICK)(note)
    answering = asyncio.create_task(answer())
    async with store.spine() as spine:
        await of_one_key(spine, 2)
        stored_after(spine, lambda: len(attempts) > 1)
        async with spine.running(service, drain_s=0.5):
            await until(lambda: handled == [0, 1])
    answering.cancel()


# --- lanes ------------------------------------------------------------------------------------------------------------


def part() -> Part:
    return Part(0, "mail//0", 1, 0, [], 1, 0)


def lanes_with(*parts: Part) -> tuple[Lanes, Item]:
    """One key, an event for each; the first is handled in turn 7."""
    lanes = Lanes()
    for position, one in enumerate(parts, 1):
        lanes.add(Item(_record(position), one, position - 1), "ann")
    first = lanes.take(7)
    assert first is not None
    lanes.follow(first, 7)
    return lanes, first


def _record(position: int) -> Any:
    return (position, *[None] * 13, b"")


def test_the_next_is_handed_out_in_the_same_turn_only() -> None:
    one = part()
    lanes, _ = lanes_with(one, one)
    second = lanes.take(7)
    assert second is not None and second.turn == 7
    lanes, first = lanes_with(one, one)
    assert lanes.take(8) is None and not lanes.ready
    lanes.release(first)
    second = lanes.take(8)
    assert second is not None and second.turn == 0


def test_none_follows_from_another_reading_of_the_partition() -> None:
    lanes, _ = lanes_with(part(), part())
    assert lanes.take(7) is None


def test_none_follows_that_has_failed_before() -> None:
    one = part()
    lanes, first = lanes_with(one, one)
    first.lane.queue[0].plain = False
    assert lanes.take(7) is None
