"""Deleting a stream, and truncating one: who is told what afterwards, who holds it, and what a kill leaves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Aggregate, Delivery, Event, Service, Spine, View, acting, applies
from eventspine.errors import (
    Conflict,
    NoSuchAggregate,
    RegistrationRefused,
    SettingsError,
    StreamDeleted,
    StreamNeeded,
    TruncationRefused,
    VersionsDeleted,
    ViewRefused,
)
from eventspine.journal.port import Append, Note, Unit
from eventspine.state.ended import ENDED
from eventspine.state.streams import PAGE
from eventspine.sync import Spine as SyncSpine

from . import deleting_child
from .bank import Account, Deposited, Opened
from .child import started
from .conftest import Make


class Balanced(Event, context="bank", key="account"):
    """The books are closed: all that there is to know of the account."""

    account: str
    cents: int
    notes: tuple[str, ...]


class Noted(Event, context="bank", key="account"):
    account: str
    note: str


class Book(Aggregate, name="account", snapshot_every=3):
    cents: int = 0
    notes: tuple[str, ...] = ()

    def close(self, *, forgetting: bool = False) -> None:
        self.record(Balanced(account=self.id, cents=self.cents, notes=() if forgetting else self.notes))

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self.cents += event.cents

    @applies(Noted)
    def _noted(self, event: Noted) -> None:
        self.notes = (*self.notes, event.note)

    @applies(Balanced)
    def _balanced(self, event: Balanced) -> None:
        self.cents, self.notes = event.cents, event.notes


def bank() -> Service[None]:
    return Service("bank", publishes="bank")


@pytest.fixture
async def spine(journal: Make) -> AsyncIterator[Spine]:
    async with Spine(journal(), service=bank()) as spine:
        yield spine


async def save(spine: Spine, id: str = "ann", *, closing: bool = True, forgetting: bool = False) -> Book:
    """Versions 1 to 3, the closing one, and one more."""
    book = await spine.load_or_new(Book, id)
    for cents in (10, 20):
        book.record(Deposited(account=id, cents=cents))
    book.record(Noted(account=id, note="careful"))
    if closing:
        book.close(forgetting=forgetting)
        book.record(Deposited(account=id, cents=1))
    await spine.save(book)
    return book


class Customers(View, key="account"):
    account: str
    cents: int = 0


def keeping(version: int = 1, **options: Any) -> Service[Any]:
    reports = Service[Any]("reports")

    @reports.projection(Customers, Deposited, **options)
    def count(view: View[Customers], event: Deposited) -> None:
        view.row(event.account).cents += event.cents

    return reports


# --- deleting ---------------------------------------------------------------------------------------------------------


async def test_whoever_loads_it_is_told_that_it_was_deleted_when_by_whom_and_how_much(spine: Spine) -> None:
    await save(spine)
    with acting("user:42", why="asked to be forgotten"):
        done = await spine.delete_stream(Book, "ann")
    assert (5, 6) == done
    for loading in (spine.load, spine.load_or_new):
        with pytest.raises(StreamDeleted, match=r"by user:42 \(asked to be forgotten\) on .* with 5 versions") as told:
            await loading(Book, "ann")
    assert 5 == told.value.details["versions"]
    assert (datetime.now(UTC) - told.value.details["at"]).total_seconds() < 60
    with pytest.raises(StreamDeleted):
        await spine.load(Book, "ann", at_version=2)
    with pytest.raises(StreamDeleted):
        await spine.load(Book, "ann", at=datetime(1997, 6, 1, tzinfo=UTC))
    with pytest.raises(StreamDeleted):
        await spine.change(Book, "ann", lambda book: book.close(), new=True)


async def test_nothing_of_it_is_left(spine: Spine) -> None:
    await save(spine)
    assert await spine.journal.notes("bank", "snapshot", ["account-ann"])
    await spine.delete_stream(Book, "ann")
    assert not await spine.journal.notes("bank", "snapshot", ["account-ann"])
    page = await spine.journal.feed(0, limit=100, private=True)
    assert [ENDED] == [record.type for record in page.records]
    assert [] == list((await spine.journal.feed(0, limit=100)).records)  # subscribers never see that one


async def test_who_decided_before_has_a_conflict_and_who_begins_anew_too(spine: Spine) -> None:
    await save(spine)
    stale, anew = await spine.load(Book, "ann"), Book("ann")
    await spine.delete_stream(Book, "ann")
    for book in (stale, anew):
        book.record(Deposited(account="ann", cents=5))
        with pytest.raises(Conflict):
            await spine.save(book)


async def test_the_same_append_asked_again_after_the_deletion_is_refused(spine: Spine) -> None:
    await save(spine)
    records = await spine.journal.stream("bank", "account-ann")
    await spine.delete_stream(Book, "ann")
    (verdict,) = await spine.journal.commit([Unit([Append(records, "bank", "account-ann", 0)])])
    assert "conflict" == verdict.kind


async def test_asked_again_it_says_that_there_is_nothing_more(spine: Spine) -> None:
    await save(spine)
    await spine.delete_stream(Book, "ann")
    assert (0, 6) == await spine.delete_stream(Book, "ann")
    with pytest.raises(NoSuchAggregate, match="account-nobody"):
        await spine.delete_stream(Book, "nobody")


async def test_one_that_was_cut_in_between_goes_on(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody rewinds between the two commits: it is over, whole, and deleted when it is asked for again."""
    await save(spine)

    async def refuse(*_: Any, **__: Any) -> None:
        raise StreamNeeded("not now")

    with monkeypatch.context() as patched, pytest.raises(StreamNeeded):
        patched.setattr(spine.journal, "cut", refuse)
        await spine.delete_stream(Book, "ann")
    with pytest.raises(StreamDeleted):
        await spine.load(Book, "ann")
    assert 31 == (await spine.load(Book, "ann", at_version=5)).cents
    assert (5, 6) == await spine.delete_stream(Book, "ann")


@pytest.mark.parametrize("moment", ["stream", "deliveries"])
async def test_two_that_delete_it_at_once_are_both_told_how_it_is(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other is through while this one looks at what it has found."""
    await save(spine)
    with monkeypatch.context() as patched:
        before_first_call_of(patched, spine, moment, lambda: spine.delete_stream(Book, "ann"))
        if moment == "stream":
            assert (0, 6) == await spine.delete_stream(Book, "ann")
        else:
            with pytest.raises(Conflict):
                await spine.delete_stream(Book, "ann")
    assert (0, 6) == await spine.delete_stream(Book, "ann")


def before_first_call_of(
    patched: pytest.MonkeyPatch, spine: Spine, method: str, first: Callable[[], Awaitable[Any]], *, calls: int = 1
) -> None:
    """What somebody else does just before this method of the journal is called for the first time, or a later one."""
    own, left = getattr(spine.journal, method), [calls]

    async def call(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            await first()
        return await own(*given, **named)

    patched.setattr(spine.journal, method, call)


async def test_a_view_that_has_not_come_past_it_holds_it_and_nothing_has_changed(spine: Spine) -> None:
    reports = keeping()
    await save(spine)
    async with spine.running(reports):
        await spine.view(Customers).wait(*await _receipts(spine))
    await save(spine, "ben")
    with pytest.raises(StreamNeeded, match="count has come to position"):
        await spine.delete_stream(Book, "ben")
    assert 31 == (await spine.load(Book, "ben")).cents
    assert 5 == await spine.journal.stream_version("bank", "account-ben")
    async with spine.running(reports):
        await spine.view(Customers).wait(*await _receipts(spine))
    assert (5, 6) == await spine.delete_stream(Book, "ben")
    assert 31 == (await spine.view(Customers).get("ben")).cents  # type: ignore[union-attr]  # rows are the view's


async def test_what_the_broker_does_not_have_yet_is_held_by_the_relay(journal: Make) -> None:
    here, broker = journal(), f"memory://{uuid4().hex}"
    async with Spine(here, service=bank(), broker=broker) as spine:
        await save(spine)

        async def gone() -> bool:
            try:
                await spine.delete_stream(Book, "ann")
            except StreamNeeded as error:
                assert "relay" in str(error)
                return False
            return True

        async with asyncio.timeout(20):
            while not await gone():
                await asyncio.sleep(0.01)
    async with Spine(here, service=bank()) as spine:  # nobody sends meanwhile
        await save(spine, "ben")
        with pytest.raises(StreamNeeded, match="relay"):
            await spine.delete_stream(Book, "ben")


async def _receipts(spine: Spine) -> list[str]:
    """The last event that there is."""
    from eventspine.ids import id_text

    return [id_text((await spine.journal.feed(0, limit=1000)).records[-1].id)]


async def test_a_handler_may_delete_and_is_tried_again_while_it_is_held(spine: Spine) -> None:
    await save(spine)
    privacy, deleted = Service[Any]("privacy"), asyncio.Event()

    @privacy.on(Opened)
    async def forget(event: Opened, delivery: Delivery[Any]) -> None:
        await spine.delete_stream(Book, event.account)
        await spine.delete_stream(Book, event.account)  # as a second attempt does
        deleted.set()

    async with spine.running(privacy):
        await spine.publish(Opened(account="ann"))
        await asyncio.wait_for(deleted.wait(), 20)
    with pytest.raises(StreamDeleted):
        await spine.load(Book, "ann")


async def test_a_handler_of_an_event_of_that_stream_may_not(spine: Spine) -> None:
    """Its own delivery is not settled while it runs."""
    privacy, refused = Service[Any]("privacy"), list[StreamNeeded]()
    done = asyncio.Event()

    @privacy.on(Noted)
    async def forget(event: Noted, delivery: Delivery[Any]) -> None:
        with pytest.raises(StreamNeeded) as told:
            await spine.delete_stream(Book, event.account)
        refused.append(told.value)
        done.set()

    async with spine.running(privacy):
        await save(spine)
        await asyncio.wait_for(done.wait(), 20)
    assert ["privacy.forget"] == refused[0].details["subscriptions"]


@pytest.mark.parametrize("held", [True, False])
async def test_without_the_safeguard_a_paused_subscription_loses_events(database: Make, held: bool) -> None:
    """Switched off, what a subscriber has still to read is gone."""
    journal = database()
    journal._safeguards.needs = held  # type: ignore[attr-defined]
    async with Spine(journal, service=bank()) as spine:
        reader = keeping()
        await spine.publish(Deposited(account="zoe", cents=1))
        async with spine.running(reader):
            await spine.view(Customers).wait(*await _receipts(spine))
        await save(spine)
        if held:
            with pytest.raises(StreamNeeded):
                await journal.cut("bank", "account-ann", before=5)
        else:
            await journal.cut("bank", "account-ann", before=5)
        async with spine.running(reader):
            await spine.view(Customers).wait(*await _receipts(spine))
        row = await spine.view(Customers).get("ann")
        assert row is not None
        assert held == (31 == row.cents)


# --- views that are built later ---------------------------------------------------------------------------------------


async def test_a_view_that_would_be_built_without_it_is_refused_unless_it_says_so(spine: Spine) -> None:
    await save(spine)
    await save(spine, "ben")
    await spine.delete_stream(Book, "ann")
    with pytest.raises(RegistrationRefused, match="what was deleted: events of bank"):
        async with spine.running(keeping()):
            pass
    reports = keeping(history="what_is_left")
    async with spine.running(reports):
        await spine.view(Customers).wait(*await _receipts(spine))
    assert ["ben"] == [row.account for row in await spine.view(Customers).all()]


async def test_who_is_refused_is_told_whose_events_they_were(spine: Spine) -> None:
    for name in ("ann", "ben", "cid", "dee"):
        await save(spine, name)
    ways_on = r"Say history="
    await spine.delete_stream(Book, "ann")
    await spine.journal.cut("bank", "account-cid", before=3)
    await _refused(spine, rf"\(of account-ann, account-cid\)\. {ways_on}")
    for name in ("ben", "dee"):
        await spine.delete_stream(Book, name)
    await _refused(spine, rf"\(of account-ann, account-ben, account-cid and others\)\. {ways_on}")


async def _refused(spine: Spine, told: str) -> None:
    with pytest.raises(RegistrationRefused, match=told):
        async with spine.running(keeping()):
            pass


async def test_the_past_of_a_view_that_had_its_events_is_told_no_more(spine: Spine) -> None:
    reports = keeping()
    await save(spine)
    async with spine.running(reports):
        await spine.view(Customers).wait(*await _receipts(spine))
    head = await spine.journal.head()
    assert 31 == (await spine.view(Customers).as_of(head)).get("ann").cents  # type: ignore[union-attr]
    await spine.delete_stream(Book, "ann")
    with pytest.raises(
        ViewRefused, match=rf"5 events of bank were deleted, the last at position {head} \(of account-ann\)\."
    ):
        await spine.view(Customers).as_of(head)


async def test_a_past_whose_events_go_while_it_is_told_is_refused(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = keeping()
    await save(spine)
    async with spine.running(reports):
        await spine.view(Customers).wait(*await _receipts(spine))
    head = await spine.journal.head()
    with monkeypatch.context() as patched, pytest.raises(ViewRefused, match="deleted"):
        before_first_call_of(patched, spine, "feed", lambda: spine.delete_stream(Book, "ann"))
        await spine.view(Customers).as_of(head)


async def test_a_view_whose_events_go_while_its_service_starts_is_refused_and_when_it_starts_again(
    spine: Spine,
) -> None:
    """It has said which version it keeps, and has not registered yet, so nothing is held for it."""
    await save(spine)

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        await spine.delete_stream(Book, "ann")
        yield

    reports = Service[Any]("reports", lifespan=slow)

    @reports.projection(Customers, Deposited)
    def count(view: View[Customers], event: Deposited) -> None:
        view.row(event.account).cents += event.cents

    for service in (reports, keeping()):
        with pytest.raises(RegistrationRefused, match="what was deleted: events of bank"):
            async with spine.running(service):
                pass
    async with spine.running(keeping(history="what_is_left")):
        await spine.publish(Deposited(account="zoe", cents=1))
        await spine.view(Customers).wait(*await _receipts(spine))


# --- truncating -------------------------------------------------------------------------------------------------------


async def test_it_begins_with_the_event_that_says_what_it_had_come_to(spine: Spine) -> None:
    before = await save(spine)
    assert (3, 4) == await spine.truncate_stream(Book, "ann", before=4)
    after = await spine.load(Book, "ann")
    assert (31, ("careful",), 5) == (after.cents, after.notes, after.version) == (before.cents, before.notes, 5)
    after.record(Deposited(account="ann", cents=9))
    await spine.save(after)
    assert (40, 6) == ((await spine.load(Book, "ann")).cents, 6)


async def test_the_past_before_it_is_refused_and_not_told_wrongly(spine: Spine) -> None:
    await save(spine)
    first, *_, last = [record.position for record in await spine.journal.stream("bank", "account-ann")]
    await spine.truncate_stream(Book, "ann", before=4)
    assert [30, 31] == [(await spine.load(Book, "ann", at_version=n)).cents for n in (4, 5)]
    assert 31 == (await spine.load(Book, "ann", at_position=last)).cents
    for at in ({"at_version": 3}, {"at_version": 1}, {"at_position": first}, {"at": datetime(1997, 6, 1, tzinfo=UTC)}):
        with pytest.raises(VersionsDeleted, match="begins with version 4"):
            await spine.load(Book, "ann", **at)  # type: ignore[arg-type]


async def test_who_reads_it_page_by_page_meanwhile_has_it_all_the_same(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Book("ann")
    for _ in range(PAGE + 50):
        book.record(Deposited(account="ann", cents=1))
    book.close()
    await spine.save(book)
    with monkeypatch.context() as patched:
        before_first_call_of(
            patched, spine, "stream", lambda: spine.journal.cut("bank", "account-ann", before=PAGE + 51), calls=2
        )
        await spine.journal.commit([Unit(notes=[Note("bank", "snapshot", "account-ann", None)])])
        found = await spine.load(Book, "ann")
    assert (PAGE + 50, PAGE + 51) == (found.cents, found.version)


@pytest.mark.parametrize("call", [2, 3, 4])
async def test_two_that_truncate_it_at_once_compare_what_is_left(
    spine: Spine, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    book = Book("ann")
    for _ in range(PAGE + 50):
        book.record(Deposited(account="ann", cents=1))
    book.close()
    for _ in range(5):
        book.record(Deposited(account="ann", cents=1))
    book.close()
    await spine.save(book)
    with monkeypatch.context() as patched:
        before_first_call_of(
            patched, spine, "stream", lambda: spine.journal.cut("bank", "account-ann", before=PAGE + 51), calls=call - 1
        )
        assert (6, PAGE + 57) == await spine.truncate_stream(Book, "ann", before=PAGE + 57)
    with pytest.raises(VersionsDeleted, match=f"begins with version {PAGE + 57}"):
        await spine.truncate_stream(Book, "ann", before=2)


async def test_a_command_that_is_sent_again_is_told_that_it_was_done_and_that_its_answer_is_gone(spine: Spine) -> None:
    def pay(book: Book) -> None:
        book.record(Deposited(account="ann", cents=5))

    def pay_and_close(book: Book) -> None:
        pay(book)
        book.close()

    await spine.change(Book, "ann", pay, new=True, command_id="first")
    await spine.change(Book, "ann", pay_and_close, command_id="second")
    await spine.truncate_stream(Book, "ann", before=3)
    for id, told in (("first", "from version 0 to 1"), ("second", "from version 1 to 3")):
        with pytest.raises(VersionsDeleted, match=f"{id}' has been done, and brought account-ann {told}"):
            await spine.change(Book, "ann", pay, command_id=id)
    assert (10, 3) == ((book := await spine.load(Book, "ann")).cents, book.version)


async def test_a_snapshot_from_before_is_not_believed(spine: Spine) -> None:
    """It is of version 3, whose event is gone, so nothing proves that it is one of this stream."""
    await save(spine, closing=False)
    book = await spine.load(Book, "ann")
    assert await spine.journal.notes("bank", "snapshot", ["account-ann"])
    book.close()
    await spine.save(book)
    await spine.truncate_stream(Book, "ann", before=4)
    assert (30, ("careful",)) == ((loaded := await spine.load(Book, "ann")).cents, loaded.notes)


@pytest.mark.parametrize(
    ("before", "told"),
    [(2, "leaves out cents"), (5, "leaves out cents, notes"), (6, "no version 6"), (0, "no version")],
)
async def test_an_event_that_does_not_restate_all_is_refused(spine: Spine, before: int, told: str) -> None:
    await save(spine)
    with pytest.raises(TruncationRefused if before else SettingsError, match=told):
        await spine.truncate_stream(Book, "ann", before=before)
    assert 5 == len(await spine.journal.stream("bank", "account-ann"))


async def test_one_that_forgets_something_is_refused_by_the_name_of_it(spine: Spine) -> None:
    await save(spine, forgetting=True)
    # The fold has no notes from there on either, so this one restates what is left: nothing is forgotten unsaid.
    assert (3, 4) == await spine.truncate_stream(Book, "ann", before=4)


async def test_one_that_was_deleted_is_not_truncated(spine: Spine) -> None:
    await save(spine)
    with acting("user:42"):
        await spine.delete_stream(Book, "ann")
    for before in (2, 6):
        with pytest.raises(StreamDeleted, match="by user:42"):
            await spine.truncate_stream(Book, "ann", before=before)


async def test_it_is_truncated_again_later(spine: Spine) -> None:
    await save(spine)
    await spine.truncate_stream(Book, "ann", before=4)
    await save(spine)
    assert (5, 9) == await spine.truncate_stream(Book, "ann", before=9)
    assert (62 - 1 + 1, 10) == ((book := await spine.load(Book, "ann")).cents, book.version)


async def test_a_long_one_is_compared_over_all_its_pages(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventspine.state.deleting.PAGE", 2)
    monkeypatch.setattr("eventspine.state.streams.PAGE", 2)
    await save(spine)
    await spine.truncate_stream(Book, "ann", before=4)
    assert 31 == (await spine.load(Book, "ann")).cents
    assert (2, 6) == await spine.delete_stream(Book, "ann")


async def test_without_the_comparison_the_aggregate_becomes_another(spine: Spine) -> None:
    """What `journal.cut` alone, or `--unchecked`, does before an event that restates nothing."""
    await save(spine)
    await spine.journal.cut("bank", "account-ann", before=2)
    await spine.journal.commit([Unit(notes=[Note("bank", "snapshot", "account-ann", None)])])
    assert (await spine.load(Book, "ann", at_version=3)).cents == 20, "not 30"


async def test_a_command_that_is_sent_again_is_not_done_again(spine: Spine) -> None:
    """Its answer can't be told any more, and it is not taken for a new one."""
    command = {"command_id": "form-1", "new": True}
    await spine.change(Book, "ann", lambda book: book.record(Deposited(account="ann", cents=5)), **command)  # type: ignore[arg-type]
    await save(spine)
    await spine.truncate_stream(Book, "ann", before=5)
    with pytest.raises(VersionsDeleted):
        await spine.change(Book, "ann", lambda book: book.record(Deposited(account="ann", cents=5)), **command)  # type: ignore[arg-type]
    assert 36 == (await spine.load(Book, "ann")).cents
    await spine.delete_stream(Book, "ann")
    with pytest.raises(StreamDeleted):
        await spine.change(Book, "ann", lambda book: book.record(Deposited(account="ann", cents=5)), **command)  # type: ignore[arg-type]


def test_both_without_await(journal: Make) -> None:
    with SyncSpine(journal(), service=bank()) as spine:
        for id in ("ann", "ben"):
            account = Account(id)
            account.begin()
            account.deposit(3)
            spine.save(account)
        assert (1, 2) == spine.truncate_stream(Opening, "ann", before=2)
        assert (2, 3) == spine.delete_stream(Account, "ben")
        with pytest.raises(StreamDeleted):
            spine.load(Account, "ben")


class Opening(Aggregate, name="account"):
    """Knows only how much was the last."""

    cents: int = 0

    @applies(Opened)
    def _opened(self, event: Opened) -> None: ...

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self.cents = event.cents


# --- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["delete", "truncate"])
async def test_killed_at_any_moment_it_is_whole_or_cut_and_asked_again_it_ends(database: Make, verb: str) -> None:
    url = database().url
    kinds = set[str]()
    for round in range(6):
        id = f"{verb}-{round}"
        async with Spine(url, service=bank()) as spine:
            await deleting_child.fill(spine, id)
        child = started(url, verb, id, module="tests.state.deleting_child")
        await asyncio.sleep(round * 0.004)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        async with Spine(url, service=bank()) as spine:
            kinds.add(await deleting_child.checked(spine, verb, id))
    assert kinds <= {"whole", "over", "cut"}
