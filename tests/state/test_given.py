"""`given(events).when(command).then(events)` passes where it is true, and fails where it is not."""

from __future__ import annotations

import pytest

from eventspine import Event
from eventspine.errors import NotApplied, SpineError
from eventspine.testing import given

from .bank import Account, Deposited, Opened, Overdrawn, Withdrawn


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
