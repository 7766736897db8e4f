"""An aggregate's state is what its events made of it, and nothing else."""

from __future__ import annotations

from dataclasses import field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar

import pytest

from eventspine import Aggregate, Event, applies
from eventspine.errors import DeclarationError, EventRefused, KeyRefused, NotApplied, SpineError

from .bank import Account, Deposited, Opened, Withdrawn


def test_a_method_records_and_applies_changes_the_state() -> None:
    account = Account("ann")
    account.begin()
    account.deposit(500)
    assert (3 - 1, 500, True) == (account.version, account.cents, account.open)


def test_a_recorded_event_without_applies_is_an_error_and_no_silent_no_op() -> None:
    class Closed(Event, context="bank", key="account"):
        account: str

    account = Account("ann")
    with pytest.raises(NotApplied, match=r"Account records Closed.*@applies\(Closed\)"):
        account.record(Closed(account="ann"))
    assert 0 == account.version


def test_state_is_made_of_what_a_reader_will_see() -> None:
    """A struct takes whatever it is given; an aggregate finds out when it records, not at the next load."""
    with pytest.raises((EventRefused, SpineError)):
        Account("ann").record(Deposited(account="ann", cents="5"))  # type: ignore[arg-type]


def test_no_two_aggregates_share_what_can_be_changed_in_place() -> None:
    class Noted(Event, context="bank", key="account"):
        account: str

    class Book(Aggregate):
        lines: list[str] = []  # noqa: RUF012 -- state, of which each aggregate has its own
        by_day: dict[str, int] = field(default_factory=dict)

        @applies(Noted)
        def _noted(self, event: Noted) -> None:
            self.lines.append("x")
            self.by_day["x"] = 1

    first, second = Book("a"), Book("b")
    first.record(Noted(account="a"))
    assert (["x"], {"x": 1}, [], {}) == (first.lines, first.by_day, second.lines, second.by_day)


def test_applies_that_records_is_refused() -> None:
    class Twice(Aggregate):
        @applies(Opened)
        def _opened(self, event: Opened) -> None:
            self.record(event)

    with pytest.raises(SpineError, match="recorded anew at every load"):
        Twice("a").record(Opened(account="a"))


def test_an_aggregate_whose_applies_failed_is_of_no_version_and_is_not_used_again() -> None:
    class Careless(Aggregate):
        cents: int = 0

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.cents += event.cents
            raise ZeroDivisionError

    one = Careless("a")
    with pytest.raises(ZeroDivisionError):
        one.record(Deposited(account="a", cents=1))
    with pytest.raises(SpineError, match="Load it again"):
        one.record(Deposited(account="a", cents=1))


@pytest.mark.parametrize(
    ("id", "text"),
    [("ann", "ann"), (7, "7"), (("nl", 7), "nl:7"), (("a:b", "c"), "a%3Ab:c"), (date(2024, 2, 29), "2024-02-29")],
)
def test_a_natural_key_of_several_parts_is_an_id(id: Any, text: str) -> None:
    assert text == Account(id).id


@pytest.mark.parametrize("id", ["", "a\nb", "x" * 256, ()])
def test_what_can_be_no_id_is_refused(id: Any) -> None:
    with pytest.raises(KeyRefused):
        Account(id)


def test_an_override_is_the_one_that_is_called_and_a_subclass_inherits_the_rest() -> None:
    class Strict(Account, name="strict-account"):
        def _deposited(self, event: Deposited) -> None:
            self.cents += 1

    one = Strict("a")
    one.deposit(500)
    one.begin()
    assert (1, True) == (one.cents, one.open)


def test_one_event_has_one_method() -> None:
    with pytest.raises(DeclarationError, match="applies Opened twice"):

        class Double(Aggregate):
            @applies(Opened)
            def one(self, event: Opened) -> None: ...

            @applies(Opened, Withdrawn)
            def two(self, event: Any) -> None: ...


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "A"},
        {"snapshot_every": -1},
        {"snapshot_every": True},
        {"snapshot_version": 0},
        {"unknown": "skip"},
        {"conflict_tries": 0},
    ],
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):
        type("Wrong", (Aggregate,), {}, **wrong)


@pytest.mark.parametrize("wrong", [(), ("Opened",), (Opened(account="a"),)])
def test_applies_takes_classes(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="takes the classes of events"):
        applies(*wrong)


def test_a_base_is_no_aggregate() -> None:
    with pytest.raises(DeclarationError, match="derive a class"):
        Aggregate("a")


def test_the_name_of_a_stream_begins_with_that_of_the_class() -> None:
    from eventspine.state.shapes import shape_of

    class HTTPServerLog(Aggregate): ...

    assert ("http-server-log-a", "account-ann") == (
        shape_of(HTTPServerLog).stream("a"),
        shape_of(Account).stream("ann"),
    )


def test_when_it_happened_can_be_said() -> None:
    account = Account("ann")
    account.record(Opened(account="ann"), time=datetime(1997, 6, 1, tzinfo=UTC))
    assert 1 == account.version


def test_repr_tells_its_state() -> None:
    class Purse(Aggregate):
        held: Decimal = Decimal(0)

        @applies(Opened)
        def _opened(self, event: Opened) -> None:
            self.held = Decimal("1.50")

    purse = Purse("a")
    purse.record(Opened(account="a"))
    assert "Purse('a', version=1, held=Decimal('1.50'))" == repr(purse)


def test_state_without_a_default_is_refused_where_it_is_declared() -> None:
    with pytest.raises(DeclarationError, match=r"Box\.n has no default.*n: int = \.\.\."):

        class Box(Aggregate):
            n: int

    with pytest.raises(DeclarationError, match=r"Jar\.n has no default"):

        class Jar(Aggregate):
            n: int = field()

    class Base(Aggregate):
        kind: ClassVar[str]
        n: int = 0

    class Derived(Base):
        n: int

    assert 0 == Derived("d").n
