"""`given(events).when(command).then(events)` passes where it is true, and fails where it is not."""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from typing import Any

import pytest

from eventspine import Aggregate, Event, Spine, applies
from eventspine.errors import DeclarationError, NotApplied, SpineError
from eventspine.testing import given

from .bank import Account, Deposited, Opened, Overdrawn, Withdrawn, bank


class Closed(Event, context="bank", key="account"):
    account: str


PAST = (Opened(account="ann"), Deposited(account="ann", cents=500))


def test_it_passes_where_these_events_come_of_it() -> None:
    then = given(Account("ann"), *PAST).when(lambda account: account.withdraw(200))
    assert 300 == then.then(Withdrawn(account="ann", cents=200)).aggregate.cents


def test_a_command_may_change_nothing() -> None:
    given(Account("ann"), *PAST).when(Account.begin).then()


@pytest.mark.parametrize("wrong", [(), (Withdrawn(account="ann", cents=201),), (Opened(account="ann"),)])
def test_it_fails_where_others_come_of_it_and_shows_both(wrong: tuple[Opened | Withdrawn, ...]) -> None:
    then = given(Account("ann"), *PAST).when(lambda account: account.withdraw(200))
    with pytest.raises(AssertionError, match=r"\+ Withdrawn\(account='ann', cents=200\)"):
        then.then(*wrong)


def test_a_refusal_is_expected_by_its_class_and_its_words() -> None:
    when = given(Account("ann"), *PAST).when(lambda account: account.withdraw(501))
    when.raises(Overdrawn, match="has 500")
    for wrong in (when.then, lambda: when.raises(ValueError), lambda: when.raises(Overdrawn, match="600")):
        with pytest.raises(Overdrawn):
            wrong()


def test_no_refusal_where_one_is_expected_fails() -> None:
    with pytest.raises(AssertionError, match="raised nothing"):
        given(Account("ann")).when(Account.begin).raises(Overdrawn)


def test_one_that_had_recorded_before_it_refused_fails() -> None:
    def half(account: Account) -> None:
        account.begin()
        raise Overdrawn

    with pytest.raises(AssertionError, match="had recorded"):
        given(Account("ann")).when(half).raises(Overdrawn)


def test_the_past_is_made_of_events_that_it_applies_and_begins_with_a_new_one() -> None:
    with pytest.raises(NotApplied):
        given(Account("ann"), Closed(account="ann"))
    used = given(Account("ann"), *PAST).aggregate
    with pytest.raises(SpineError, match="has a past already"):
        given(used)


def test_what_is_no_event_and_no_aggregate_is_refused_with_what_to_write() -> None:
    with pytest.raises(SpineError, match="takes events that have happened to it, and 'withdraw 200' is none"):
        given(Account("ann"), "withdraw 200")
    with pytest.raises(SpineError, match=r"takes an aggregate that you make"):
        given(Account, *PAST)  # type: ignore[type-var]
    with pytest.raises(
        NotApplied, match=r"records the class Opened, and not one of its events: write Opened\(\.\.\.\)"
    ):
        given(Account("ann"), Opened)


# --- what only events may change, and whose they are ------------------------------------------------------------------


class Careless(Account):
    seen: list[str] = []  # noqa: RUF012 -- made anew for each

    def take(self, cents: int) -> None:
        self.withdraw(cents)
        self.seen.append("taken")

    def spoil(self) -> None:
        self.cents = 7

    def refuse(self) -> None:
        self.cents = 7
        raise Overdrawn

    def mistake(self) -> None:
        self.record(Deposited(account="bob", cents=1))


@pytest.mark.parametrize(
    ("command", "events", "told"),
    [
        (
            lambda account: account.take(1),
            (Withdrawn(account="ann", cents=1),),
            r"seen is \['taken'\], and its events make it \[\]",
        ),
        (Careless.spoil, (), "cents is 7, and its events make it 500"),
    ],
)
def test_state_that_no_event_explains_fails(command: Any, events: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=f"{told}: it was changed outside of @applies"):
        given(Careless("ann"), *PAST).when(command).then(*events)


def test_a_refusal_that_has_changed_something_fails() -> None:
    with pytest.raises(AssertionError, match="cents is 7"):
        given(Careless("ann"), *PAST).when(Careless.refuse).raises(Overdrawn)


def test_an_event_of_another_key_fails_unless_the_class_says_that_it_is_meant() -> None:
    recorded = Deposited(account="bob", cents=1)
    with pytest.raises(AssertionError, match=r"bank\.Deposited of Careless 'ann' has the key 'bob'"):
        given(Careless("ann"), *PAST).when(Careless.mistake).then(recorded)

    class Meant(Careless, keys="any"): ...

    class Private(Careless, private=True): ...

    for other in (Meant, Private):
        given(other("ann"), *PAST).when(other.mistake).then(recorded)


def test_an_event_without_a_key_fails() -> None:
    class Loose(Event, context="bank"): ...

    class Jar(Aggregate):
        def shake(self) -> None:
            self.record(Loose())

        @applies(Loose)
        def _shaken(self, event: Loose) -> None: ...

    with pytest.raises(AssertionError, match="has no key"):
        given(Jar("ann")).when(Jar.shake).then(Loose())


def test_state_that_knows_no_equality_and_what_is_remembered_beside_it_are_no_reason_to_fail() -> None:
    class Odd(Account):
        least: float = float("nan")
        tags: Tags = field(default_factory=Tags)

        @cached_property
        def label(self) -> str:
            return f"account {self.id}"

        def look(self) -> None:
            assert "account ann" == self.label

    given(Odd("ann"), *PAST).when(Odd.look).then()


class Tags:
    """Compared by identity."""


class Box:
    __slots__ = ("content",)

    def __init__(self, content: Any) -> None:
        self.content = content


@pytest.mark.parametrize("changed", [2, [Box(2)], {"a": Box(2)}])
def test_a_change_inside_of_what_knows_no_equality_is_found(changed: Any) -> None:
    class Boxed(Account):
        box: Any = field(default_factory=lambda: Box(1))

        def swap(self) -> None:
            self.box.content = changed

    with pytest.raises(AssertionError, match=r"box is .* changed outside of @applies"):
        given(Boxed("ann"), *PAST).when(Boxed.swap).then()


async def test_a_save_tells_once_of_events_with_another_key(caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Careless): ...

    class Meant(Careless, keys="any"): ...

    async with Spine("memory://", service=bank()) as spine:
        for id in ("ann", "eve"):
            for one in (Wrong(id), Meant(id)):
                one.mistake()
                one.deposit(1)
                await spine.save(one)
    told = [record.getMessage() for record in caplog.records if record.name == "eventspine.state"]
    assert 1 == len(told)
    assert told[0].startswith("bank.Deposited of Wrong 'ann' has the key 'bob', so who subscribes does not see")


def test_a_word_that_says_nothing_of_keys_is_refused() -> None:
    with pytest.raises(DeclarationError, match="keys='own' is neither 'id' nor 'any'"):

        class Wrong(Account, keys="own"):  # type: ignore[call-arg]
            ...
