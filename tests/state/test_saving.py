"""Loading and saving: at the version that was loaded, all or nothing, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import pytest

from eventspine import Aggregate, Event, Spine, applies, upcast
from eventspine.errors import (
    CommandReused,
    Conflict,
    DeclarationError,
    NewerVersion,
    NoSuchAggregate,
    OutcomeUnknown,
    SettingsError,
    SpineError,
    Undecodable,
    UnknownEvent,
    UnknownPublisher,
)
from eventspine.journal.port import Append, Journal, Unit, Verdict
from eventspine.state import changing
from eventspine.state.shapes import figures
from eventspine.testing.conformance.journals.material import event as record

from .bank import Account, Opened, Overdrawn, bank
from .material import connection_to


@pytest.fixture
async def spine(journal: Callable[[], Journal]) -> AsyncIterator[Spine]:
    async with Spine(journal(), service=bank()) as spine:
        yield spine


async def opened(spine: Spine, id: str = "ann", cents: int = 500) -> Account:
    account = Account(id)
    account.begin()
    account.deposit(cents)
    await spine.save(account)
    return account


async def stored(spine: Spine, stream: str, *records: Any) -> None:
    (verdict,) = await spine.journal.commit([Unit([Append(records, "bank", stream)])])
    assert verdict.ok


# --- load and save ------------------------------------------------------------------------------------------------------


async def test_what_is_saved_is_loaded(spine: Spine) -> None:
    account = Account("ann")
    account.begin()
    account.deposit(500)
    receipts = await spine.save(account)
    found = await spine.load(Account, "ann")
    assert (500, True, 2) == (found.cents, found.open, found.version)
    assert [True, True] == [receipt.durable for receipt in receipts]
    assert receipts[0].position < receipts[1].position


async def test_saving_goes_on_from_where_it_was(spine: Spine) -> None:
    account = await opened(spine)
    account.withdraw(200)
    await spine.save(account)
    assert [] == await spine.save(account)  # there is nothing new
    assert 300 == (await spine.load(Account, "ann")).cents


async def test_pages_of_a_long_stream_are_all_read(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventspine.state.streams.PAGE", 3)
    account = Account("ann")
    for _ in range(10):
        account.deposit(1)
    await spine.save(account)
    assert 10 == (await spine.load(Account, "ann")).cents


async def test_one_that_has_no_events_is_not_there(spine: Spine) -> None:
    with pytest.raises(NoSuchAggregate, match=r"There is no Account 'bob' in bank.*load_or_new"):
        await spine.load(Account, "bob")
    with pytest.raises(NoSuchAggregate, match="in change[(][)], new=True"):
        await spine.change(Account, "bob", lambda one: one.deposit(1))
    assert 0 == (await spine.load_or_new(Account, "bob")).version


async def test_trap_13_of_two_writers_at_one_version_exactly_one_wins(spine: Spine) -> None:
    await opened(spine)
    first, second = await spine.load(Account, "ann"), await spine.load(Account, "ann")
    first.withdraw(400)
    second.withdraw(400)
    outcomes = await asyncio.gather(spine.save(first), spine.save(second), return_exceptions=True)
    assert [Conflict] == [type(one) for one in outcomes if isinstance(one, Exception)]
    assert 100 == (await spine.load(Account, "ann")).cents


async def test_two_that_make_the_same_one_do_not_both_succeed(spine: Spine) -> None:
    await opened(spine)
    again = Account("ann")
    again.begin()
    with pytest.raises(Conflict):
        await spine.save(again)


async def test_trap_15_several_are_saved_as_one_or_not_at_all(spine: Spine) -> None:
    ann, bob = await opened(spine), await opened(spine, "bob")
    stale = await spine.load(Account, "bob")
    bob.deposit(1)
    await spine.save(bob)
    ann.withdraw(100)
    stale.deposit(100)
    with pytest.raises(Conflict):
        await spine.save(ann, stale)
    assert (500, 501) == ((await spine.load(Account, "ann")).cents, (await spine.load(Account, "bob")).cents)


async def test_trap_12_a_save_whose_outcome_was_unknown_is_asked_again_with_the_same_ids(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, lost = spine.journal.commit, 2

    async def forgetful(units: Any) -> list[Verdict]:
        nonlocal lost
        verdicts = await commit(units)
        if lost:
            lost -= 1
            return [Verdict("unknown") for _ in units]
        return verdicts

    monkeypatch.setattr(spine.journal, "commit", forgetful)
    await opened(spine)
    assert 2 == (await spine.load(Account, "ann")).version


async def test_trap_12_where_it_stays_unknown_the_same_aggregate_is_saved_again_and_once(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = spine.journal.commit

    async def silent(units: Any) -> list[Verdict]:
        await commit(units)
        return [Verdict("unknown") for _ in units]

    account = Account("ann")
    account.begin()
    with monkeypatch.context() as patched:
        patched.setattr(spine.journal, "commit", silent)
        with pytest.raises(OutcomeUnknown):
            await spine.save(account)
    await spine.save(account)
    assert 1 == await spine.journal.stream_version("bank", "account-ann")


async def test_what_is_no_aggregate_is_not_saved(spine: Spine) -> None:
    account = Account("ann")
    for wrong in (("ann",), (account, account)):
        with pytest.raises(SpineError):
            await spine.save(*wrong)  # type: ignore[arg-type]


async def test_a_spine_that_speaks_for_no_service_has_no_aggregates(journal: Callable[[], Journal]) -> None:
    async with Spine(journal()) as spine:
        with pytest.raises(UnknownPublisher, match="speaks for no service"):
            await spine.load(Account, "ann")


async def test_services_have_streams_of_their_own(journal: Callable[[], Journal]) -> None:
    from eventspine import Service

    async with Spine(journal(), service=bank()) as first, Spine(journal(), service=Service("other")) as second:
        await opened(first)
        with pytest.raises(NoSuchAggregate):
            await second.load(Account, "ann")


async def test_events_are_published_where_the_service_owns_them_and_private_elsewhere(spine: Spine) -> None:
    class Drawn(Event, context="art", key="id"):
        id: str

    class Picture(Aggregate):
        @applies(Drawn, Opened)
        def _any(self, event: Any) -> None: ...

    class Secret(Picture, private=True): ...

    picture, secret = Picture("p"), Secret("s")
    picture.record(Drawn(id="p"))
    picture.record(Opened(account="p"))
    secret.record(Opened(account="s"))
    await spine.save(picture, secret)
    own = [one.type for one in (await spine.journal.feed(0, limit=10)).records]
    assert ["bank.Opened"] == own
    assert 2 == (await spine.load(Picture, "p")).version


# --- events that have changed ---------------------------------------------------------------------------------------------


class Paid(Event, context="bank", key="account", version=2, renamed_from="bank.Payed"):
    account: str
    cents: int


@upcast(Paid, from_version=1)
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"account": data["account"], "cents": data["euros"] * 100}


class Till(Aggregate):
    cents: int = 0

    @applies(Paid)
    def _paid(self, event: Paid) -> None:
        self.cents += event.cents


async def test_trap_19_and_21_old_versions_and_former_names_are_read_as_the_class_of_now(spine: Spine) -> None:
    old = record(type="bank.Payed", version=1, data=b'{"account":"a","euros":5}')
    await stored(spine, "till-a", old, record(type="bank.Paid", version=2, data=b'{"account":"a","cents":1}'))
    assert 501 == (await spine.load(Till, "a")).cents


async def test_trap_19_an_unknown_type_fails_the_load_unless_the_class_says_otherwise(spine: Spine) -> None:
    class Lenient(Till, name="till", unknown="ignore"): ...

    await stored(spine, "till-a", record(type="bank.Gone", data=b"{}"), record(type="bank.Paid", version=2, data=b'{"account":"a","cents":1}'))  # fmt: skip
    with pytest.raises(UnknownEvent, match=r"till-a has bank.Gone as its version 1.*renamed_from="):
        await spine.load(Till, "a")
    assert (1, 2) == ((await spine.load(Lenient, "a")).cents, (await spine.load(Lenient, "a")).version)
    assert 2 == figures(Lenient)["ignored bank.Gone"]


async def test_trap_20_what_a_newer_release_wrote_is_not_misread(spine: Spine) -> None:
    await stored(spine, "till-a", record(type="bank.Paid", version=3, data=b'{"account":"a","cents":1}'))
    with pytest.raises(NewerVersion, match="written as version 3, and this code knows 2"):
        await spine.load(Till, "a")


async def test_trap_20_a_class_that_says_no_version_is_the_first(spine: Spine) -> None:
    class Filled(Event, context="bank", key="account"):
        account: str

    class Jar(Aggregate, name="jar"):
        @applies(Filled)
        def _filled(self, event: Filled) -> None: ...

    await stored(spine, "jar-a", record(type="bank.Filled", data=b'{"account":"a"}'))
    await spine.load(Jar, "a")
    await stored(spine, "jar-b", record(type="bank.Filled", version=2, data=b'{"account":"b","cents":1}'))
    with pytest.raises(NewerVersion, match="written as version 2, and this code knows 1"):
        await spine.load(Jar, "b")


async def test_what_can_not_be_read_names_the_stream_and_the_version(spine: Spine) -> None:
    await stored(spine, "till-a", record(type="bank.Paid", version=2, data=b'{"account":"a"}'))
    with pytest.raises(Undecodable, match="till-a, version 1"):
        await spine.load(Till, "a")


async def test_a_missing_upcaster_is_found_at_the_first_use(spine: Spine) -> None:
    class Moved(Event, context="bank", key="account", version=3):
        account: str

    class House(Aggregate):
        @applies(Moved)
        def _moved(self, event: Moved) -> None: ...

    upcast(Moved, from_version=2)(dict)
    await stored(spine, "house-a", record(type="bank.Moved", version=3, data=b'{"account":"a"}'))
    with pytest.raises(DeclarationError, match="none from version 1"):
        await spine.load(House, "a")


# --- commands -------------------------------------------------------------------------------------------------------------


async def test_a_command_loads_decides_and_saves(spine: Spine) -> None:
    await opened(spine)
    changed = await spine.change(Account, "ann", lambda account: account.withdraw(200))
    assert (300, 1, False) == (changed.aggregate.cents, len(changed.receipts), changed.repeated)


async def test_a_command_may_decide_by_waiting(spine: Spine) -> None:
    async def decide(account: Account) -> None:
        await asyncio.sleep(0)
        account.deposit(1)

    assert 1 == (await spine.change(Account, "ann", decide, new=True)).aggregate.cents


async def test_a_command_that_is_refused_changes_nothing(spine: Spine) -> None:
    await opened(spine)
    with pytest.raises(Overdrawn):
        await spine.change(Account, "ann", lambda account: account.withdraw(501), command_id="x")
    assert 2 == (await spine.load(Account, "ann")).version
    changed = await spine.change(Account, "ann", lambda account: account.withdraw(500), command_id="x")
    assert not changed.repeated  # what was refused may be sent again


async def test_create_or_get(spine: Spine) -> None:
    for _ in range(2):
        changed = await spine.change(Account, "ann", Account.begin, new=True)
        assert (1, True) == (changed.aggregate.version, changed.aggregate.open)
    with pytest.raises(NoSuchAggregate):
        await spine.change(Account, "bob", Account.begin)


async def test_a_state_that_a_command_changed_without_an_event_is_refused(spine: Spine) -> None:
    """The answer would show a change that no load knows of."""
    await opened(spine)
    with pytest.raises(
        SpineError, match="set cents of Account 'ann' to 10, where it was 500, and no event was recorded"
    ):
        await spine.change(Account, "ann", lambda account: setattr(account, "cents", 10))
    with pytest.raises(SpineError, match="set open of Account 'bob' to True, where it was False"):
        await spine.change(Account, "bob", lambda account: setattr(account, "open", True), new=True)
    assert (await spine.load(Account, "ann")).cents == 500


async def test_a_command_that_records_nothing_may_set_what_is_there_and_what_is_no_state(spine: Spine) -> None:
    await opened(spine)

    def looks(account: Account) -> None:
        account.cents = int("500")
        account.seen = True  # type: ignore[attr-defined]  # a cache, or whatever a method keeps by it

    changed = await spine.change(Account, "ann", looks)
    assert (changed.aggregate.version, changed.receipts) == (2, [])


async def test_conflicts_are_decided_anew_and_none_is_lost(spine: Spine) -> None:
    await opened(spine, cents=0)
    await asyncio.gather(*(spine.change(Account, "ann", lambda account: account.deposit(1)) for _ in range(8)))
    assert 8 == (await spine.load(Account, "ann")).cents


def test_a_dozen_who_want_the_same_aggregate_wait_over_a_time_in_which_each_can_have_its_turn(monkeypatch):
    """Over 0.25 s, as it was, the tries of some were used up: each commit takes some milliseconds, and only one can win."""
    monkeypatch.setattr(changing, "uniform", max)
    longest = [changing.pause_s(tries) for tries in range(1, 10)]
    assert longest[0] == 0.0, "mostly there are two, and one of them is done by now"
    assert sum(longest[:6]) >= 0.5
    assert changing.pause_s(5000) == changing.PAUSE_MOST_S


async def test_a_conflict_is_raised_after_as_many_tries_as_the_class_says(spine: Spine) -> None:
    class Impatient(Account, name="account", conflict_tries=2): ...

    await opened(spine)
    decided = 0

    async def too_late(account: Impatient) -> None:
        nonlocal decided
        decided += 1
        await spine.change(Account, "ann", lambda other: other.deposit(1))
        account.deposit(100)

    with pytest.raises(Conflict):
        await spine.change(Impatient, "ann", too_late)
    assert (2, 502) == (decided, (await spine.load(Account, "ann")).cents)


async def test_a_command_id_makes_it_happen_once(spine: Spine) -> None:
    await opened(spine)
    first = await spine.change(Account, "ann", lambda account: account.withdraw(200), command_id="c-1")
    await spine.change(Account, "ann", lambda account: account.deposit(7))
    again = await spine.change(Account, "ann", lambda account: account.withdraw(200), command_id="c-1")
    assert (first.receipts, True) == (again.receipts, again.repeated)
    assert [one.position for one in first.receipts] == [one.position for one in again.receipts]
    assert (300, 300) == (first.aggregate.cents, again.aggregate.cents)  # as the first answer said
    assert 307 == (await spine.load(Account, "ann")).cents


async def test_of_one_command_that_is_sent_twice_at_once_one_is_the_repetition(spine: Spine) -> None:
    await opened(spine)

    def send() -> Any:
        return spine.change(Account, "ann", lambda account: account.withdraw(200), command_id="c-1")

    outcomes = await asyncio.gather(*(send() for _ in range(6)))
    assert [False, *[True] * 5] == sorted(one.repeated for one in outcomes)
    assert 300 == (await spine.load(Account, "ann")).cents


async def test_a_command_that_recorded_nothing_is_answered_the_same_again(spine: Spine) -> None:
    await opened(spine)
    first = await spine.change(Account, "ann", Account.begin, command_id="c-1")
    again = await spine.change(Account, "ann", Account.begin, command_id="c-1")
    assert ([], [], False, True) == (first.receipts, again.receipts, first.repeated, again.repeated)


async def test_an_answer_is_kept_for_a_week(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    assert timedelta(days=7) == changing.ANSWERS_KEPT
    await opened(spine)
    monkeypatch.setattr(changing, "ANSWERS_KEPT", timedelta(days=-1))
    sent = [await spine.change(Account, "ann", Account.begin, command_id="c-1") for _ in range(2)]
    assert [False, False] == [one.repeated for one in sent]  # the first answer had ended by then


async def test_trap_12_a_command_whose_outcome_was_unknown_happens_once(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(spine)
    commit = spine.journal.commit

    async def silent(units: Any) -> list[Verdict]:
        await commit(units)
        return [Verdict("unknown") for _ in units]

    with monkeypatch.context() as patched:
        patched.setattr(spine.journal, "commit", silent)
        with pytest.raises(OutcomeUnknown):
            await spine.change(Account, "ann", lambda account: account.withdraw(200), command_id="c-1")
    again = await spine.change(Account, "ann", lambda account: account.withdraw(200), command_id="c-1")
    assert (True, 300) == (again.repeated, again.aggregate.cents)


async def test_a_command_id_stands_for_one_command(spine: Spine) -> None:
    await opened(spine)
    await opened(spine, "bob")
    await spine.change(Account, "ann", Account.begin, command_id="c-1")
    with pytest.raises(CommandReused, match="account-ann before, and now to one to account-bob"):
        await spine.change(Account, "bob", Account.begin, command_id="c-1")


@pytest.mark.parametrize("wrong", ["", "a\0b", "x" * 513, 7])
async def test_what_can_be_no_command_id_is_refused(spine: Spine, wrong: Any) -> None:
    with pytest.raises(SettingsError, match="command_id="):
        await spine.change(Account, "ann", Account.begin, command_id=wrong)


async def test_trap_17_what_a_failed_command_did_to_its_aggregate_is_seen_by_nobody(spine: Spine) -> None:
    await opened(spine)

    def half(account: Account) -> None:
        account.deposit(1000)
        raise Overdrawn

    with pytest.raises(Overdrawn):
        await spine.change(Account, "ann", half)
    assert 500 == (await spine.load(Account, "ann")).cents


async def test_within_a_transaction_of_the_caller(database: Callable[[], Journal]) -> None:
    async with Spine(database(), service=bank()) as spine:
        with closing(connection_to(spine.journal)) as connection:
            for end in (connection.rollback, connection.commit):
                account = Account("ann")
                account.begin()
                (receipt,) = await spine.save(account, within=connection)
                assert not receipt.durable
                end()
        assert 1 == (await spine.load(Account, "ann")).version
