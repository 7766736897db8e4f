"""What a view is: its columns, its key, its rows, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest

from eventspine import Event, Retry, Service, Spine, View
from eventspine.errors import BeyondColumn, DeclarationError, StatementRefused, UnitFailed, ViewRefused
from eventspine.journal.port import Journal
from eventspine.state.views import describe_view

from .material import OrderPlaced, OrdersByCustomer, counting, publisher, until


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Everything(View, key=("place", "day")):
    place: str
    day: date
    whole: int = 0
    part: float = 0.0
    money: Decimal = Decimal(0)
    yes: bool = False
    raw: bytes = b""
    at: datetime | None = None
    who: UUID | None = None
    colour: Colour = Colour.RED
    tags: list[str] = msgspec.field(default_factory=list)
    by_name: dict[str, int] = msgspec.field(default_factory=dict)


class Happened(Event, context="tests"):
    place: str = "here"
    day: date = date(1997, 1, 1)


FULL = {
    "whole": -(2**63),
    "part": 0.1,
    "money": Decimal("12345678901234567890.123456789"),
    "yes": True,
    "raw": b"\x00\xff",
    "at": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    "who": UUID(int=5),
    "colour": Colour.BLUE,
    "tags": ["a", "b"],
    "by_name": {"x": 1},
}


def everything(change) -> Service:
    tests = Service("tests")

    @tests.projection(Everything, Happened)
    def keep(view: View[Everything], event: Happened) -> None:
        change(view, event)

    return tests


async def test_every_type_of_column_comes_back_as_it_was(journal):
    def fill(view, event):
        for name, value in FULL.items():
            setattr(view.row(event.place, event.day), name, value)

    service = everything(fill)
    async with Spine(journal(), service=service) as spine, spine.running(service):
        receipt = await spine.publish(Happened())
        view = spine.view(Everything)
        await view.wait(receipt, timeout_s=20)
        row = await view.get("here", date(1997, 1, 1))
        assert row == Everything(place="here", day=date(1997, 1, 1), **FULL)
        assert await view.all(colour=Colour.BLUE, yes=True, money=FULL["money"]) == [row]
        assert await view.all(at=None) == []
        assert await view.get("there", date(1997, 1, 1)) is None


async def test_a_row_that_is_asked_for_is_there_with_its_defaults(journal):
    service = everything(lambda view, event: view.row(event.place, event.day))
    async with Spine(journal(), service=service) as spine, spine.running(service):
        await spine.view(Everything).wait(await spine.publish(Happened()), timeout_s=20)
        assert await spine.view(Everything).all() == [Everything(place="here", day=date(1997, 1, 1))]


async def test_a_mutable_column_that_was_changed_in_place_is_written(journal):
    def tag(view, event):
        view.row(event.place, event.day).tags.append("again")

    service = everything(tag)
    async with Spine(journal(), service=service) as spine, spine.running(service):
        for _ in range(2):  # of two runs: the second reads what the first has written
            await spine.view(Everything).wait(await spine.publish(Happened()), timeout_s=20)
        (row,) = await spine.view(Everything).all()
        assert row.tags == ["again", "again"]


async def test_rows_are_got_without_being_made_and_deleted_without_being_read(journal):
    def odd(view, event):
        if view.get(event.place, event.day) is None:
            view.row(event.place, event.day).whole = 7
        else:
            view.delete(event.place, event.day)
            assert view.get(event.place, event.day) is None

    service = everything(odd)
    async with Spine(journal(), service=service) as spine, spine.running(service):
        await spine.view(Everything).wait(*await spine.publish(Happened(), Happened(), Happened()), timeout_s=20)
        assert [row.whole for row in await spine.view(Everything).all()] == [7]
        await spine.view(Everything).wait(await spine.publish(Happened()), timeout_s=20)
        assert await spine.view(Everything).all() == []


async def test_rows_are_ordered_by_value_and_limited(journal):
    service = counting()
    async with Spine(journal(), service=publisher()) as spine, spine.running(service):
        amounts = {"ann": "9", "bob": "10", "cleo": "-1"}
        placed = [OrderPlaced(customer_id=who, amount=Decimal(amount)) for who, amount in amounts.items()]
        await spine.view(OrdersByCustomer).wait(*await spine.publish(*placed), timeout_s=20)
        view = spine.view(OrdersByCustomer)
        assert [row.customer_id for row in await view.all(order_by="-spent")] == ["bob", "ann", "cleo"]
        assert [row.customer_id for row in await view.all(order_by=["orders", "spent"], limit=2)] == ["cleo", "ann"]
        assert [row.customer_id for row in await view.all()] == ["ann", "bob", "cleo"]


async def test_a_query_sees_the_view_under_its_own_name(database):
    service = counting()
    async with Spine(database(), service=publisher()) as spine, spine.running(service):
        view = spine.view(OrdersByCustomer)
        await view.wait(*await spine.publish(*[OrderPlaced(customer_id=who) for who in "aab"]), timeout_s=20)
        plain = "select sum(orders) as orders from orders_by_customer where customer_id <= :most"
        assert await view.query(plain, most="a") == [{"orders": 2}]
        nested = "with most as (select max(orders) as n from orders_by_customer) select n from most"
        assert await view.query(nested) == [{"n": 2}]
        counting_up = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) select i from n"
        assert len(await view.query(counting_up)) == 3
        with pytest.raises(ViewRefused, match="its SQL is a SELECT"):
            await view.query("delete from orders_by_customer")
        with pytest.raises((StatementRefused, UnitFailed)):
            await view.query("with x as (select 1) delete from orders_by_customer")


async def test_in_memory_a_query_says_what_to_use_instead(journal):
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        if not spine.journal.sql:
            with pytest.raises(ViewRefused, match=r"get\(\) and all\(\)"):
                await spine.view(OrdersByCustomer).query("select 1")


async def test_a_view_that_nobody_keeps_says_so(journal):
    async with Spine(journal(), service=publisher()) as spine:
        with pytest.raises(ViewRefused, match="Run the service whose projection does"):
            await spine.view(OrdersByCustomer).get("ann")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [("many", "keeps int: it is of type str"), (2**63, "more than 64 bits"), (True, "of type bool")],
)
async def test_a_value_of_another_type_than_its_column_is_refused_and_nothing_is_stored(journal, wrong, complaint):
    def spoil(view, event):
        view.row(event.place, event.day).whole = wrong

    service = everything(spoil)
    async with Spine(journal(), service=service) as spine, spine.running(service):
        await spine.publish(Happened())
        (row,) = await until(lambda: spine.journal.deliveries(states=["parked", "dead"]))
        assert complaint in row.error
        assert await spine.view(Everything).all() == []


async def test_a_row_may_not_get_another_key(journal):
    def move(view, event):
        view.row(event.place, event.day).place = "elsewhere"

    service = everything(move)
    async with Spine(journal(), service=service) as spine, spine.running(service):
        await spine.publish(Happened())
        (row,) = await until(lambda: spine.journal.deliveries(states=["parked", "dead"]))
        assert "another key than it was asked for by" in row.error


async def test_reading_names_the_columns_that_there_are(journal):
    async with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        view = spine.view(OrdersByCustomer)
        with pytest.raises(ViewRefused, match="has no column 'name'; it has customer_id, orders, spent"):
            await view.all(name="ann")
        with pytest.raises(ViewRefused, match="has no column 'name' to order by"):
            await view.all(order_by="-name")
        with pytest.raises(ViewRefused, match="is named by customer_id; 2 values were given"):
            await view.get("ann", 1)
        with pytest.raises(ViewRefused, match="has no tenants"):
            spine.view(OrdersByCustomer, tenant="acme")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("class V(View): a: int = 0", 'has no key; .* key="a"'),
        ("class V(View, key='b'): a: int", "has 'b' in its key, but no such column; its columns are a"),
        ("class V(View, key='a'):\n a: int\n b: int", "has no default for b"),
        ("class V(View, key='a'): a: float", "'a' in its key, which is kept as real"),
        ("class V(View, key='a'): a: int | None", "kept as integer or null"),
        ("class V(View, key=('a', 'a')): a: int", "names a column twice"),
        ("class V(View, key='a', version=0): a: int", "version=0"),
        ("class V(View, key='a', version=2**63): a: int", "63 bits at most"),
        ("class V(View, key='a', name='spine_v'): a: int", "does not begin with spine_"),
        ("class V(View, key='a', name='Orders!'): a: int", "lower-case letters"),
        ("class V(View, key='row'): row: int", "none of delete, execute, get, happened, recorded, row, table"),
        ("class V(View, key='a'):\n a: int\n spine_x: int = 0", "not beginning with _ or spine_"),
        ("class V(View, key='a'):\n a: int\n A: int = 0", "differ in case alone"),
        ("class V(View, key='a'):\n a: int\n b: object = None", "can't be a column|default"),
    ],
)
def test_a_view_that_is_declared_wrongly_says_what_to_write(line, complaint):
    with pytest.raises(DeclarationError, match=complaint):
        exec(f"{line}\ndescribe_view(V)", {"View": View, "describe_view": describe_view})


def test_what_is_no_view_is_refused_where_a_view_is_wanted():
    with pytest.raises(DeclarationError, match="OrderPlaced is no view"):
        describe_view(OrderPlaced)


def test_times_are_kept_so_that_text_sorts_as_time_does():
    column = next(column for column in describe_view(Everything).columns if column.name == "at")
    early = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    texts = [column.store(early + timedelta(microseconds=us)) for us in (0, 1, 10, 500_000, 1_000_000)]
    assert texts == sorted(texts)
    assert column.loaded(column.store(early.astimezone(timezone(timedelta(hours=5))))) == early


@pytest.mark.parametrize(
    "sql", ["delete from orders_by_customer", "drop table orders_by_customer", "pragma user_version"]
)
async def test_query_only_reads_and_says_so(database: Callable[[], Journal], sql: str) -> None:
    async with Spine(database(), service=publisher()) as spine, spine.running(counting()):
        with pytest.raises(ViewRefused, match=r"its SQL is a SELECT, and this is (delete|drop|pragma)"):
            await spine.view(OrdersByCustomer).query(sql)


BEYOND = [
    ("name", "a\0b"),
    ("name", "caf\udce9"),
    ("whole", 2**63),
    ("whole", 10**5000),
    ("part", 10**400),
    ("money", Decimal("1E+131072")),
    ("money", Decimal("1E-16384")),
    ("money", Decimal("1E+999999999")),  # a gigabyte, written out
    ("at", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))),
    ("at", datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-12)))),
]


class Odd(View, key="key"):
    key: str
    name: str = ""
    whole: int = 0
    part: float = 0.0
    money: Decimal = Decimal(0)
    at: datetime | None = None


def odd() -> Service:
    tests = Service("tests", publishes="tests")

    @tests.projection(Odd, Happened, on_dead="goes_on", retry=Retry(attempts=1))
    def keep(view: View[Odd], event: Happened) -> None:
        if event.place.isdigit():
            name, value = BEYOND[int(event.place)]
            setattr(view.row(event.place), name, value)
        view.row("all").whole += 1

    return tests


async def test_what_no_column_can_have_is_no_event_s_to_write_and_nobody_s_to_find(
    journal: Callable[[], Journal],
) -> None:
    """On each database alike: what writes it is dead, in its words, and who asks for it finds nothing."""
    service = odd()
    async with Spine(journal(), service=service) as spine, spine.running(service):
        await spine.publish(*[Happened(place=str(number)) for number in range(len(BEYOND))])
        view, receipt = spine.view(Odd), await spine.publish(Happened())
        await view.wait(receipt, timeout_s=20)
        dead = await spine.journal.deliveries(states=["dead"])
        assert [row.reason for row in dead] == ["BeyondColumn"] * len(BEYOND)
        assert {row.error[:18] for row in dead} == {"BeyondColumn: Odd."}
        assert [(row.key, row.whole) for row in await view.all()] == [("all", 1)]
        then = await view.as_of(0)
        for name, value in BEYOND:
            assert await view.all(**{name: value}) == then.all(**{name: value}) == []
        for key in ("a\0b", "caf\udce9", "x" * 100_000):
            assert await view.get(key) is None
            assert then.get(key) is None


@pytest.mark.parametrize("limit", [-1, 2**63, "1", 1.5, True])
async def test_a_limit_that_is_no_number_of_rows_is_refused(journal: Callable[[], Journal], limit: Any) -> None:
    service = odd()
    async with Spine(journal(), service=service) as spine, spine.running(service):
        with pytest.raises(ViewRefused, match="no number of rows"):
            await spine.view(Odd).all(limit=limit)
        with pytest.raises(ViewRefused, match="no number of rows"):
            (await spine.view(Odd).as_of(0)).all(limit=limit)


@pytest.mark.parametrize("money", [Decimal("1E+131071"), Decimal("1E-16383")])
async def test_a_decimal_at_the_edge_is_kept_to_its_last_digit(journal: Callable[[], Journal], money: Decimal) -> None:
    tests = Service("tests", publishes="tests")

    @tests.projection(Odd, Happened)
    def keep(view: View[Odd], event: Happened) -> None:
        view.row("edge").money = money

    async with Spine(journal(), service=tests) as spine, spine.running(tests):
        await spine.view(Odd).wait(await spine.publish(Happened()), timeout_s=20)
        assert [row.money for row in await spine.view(Odd).all(money=money)] == [money]


async def test_the_longest_names_of_views_and_columns_are_kept_apart(journal: Callable[[], Journal]) -> None:
    """PostgreSQL cuts a name at 63 bytes; two that are the same up to there would be one table, or one column."""
    views = [_long("v" * 39 + end, version=2**63 - 1) for end in "ab"]
    assert [len(describe_view(view).name + f"_v{2**63 - 1}") for view in views] == [61, 61]
    tests = Service("tests", publishes="tests")
    for number, view in enumerate(views):

        @tests.projection(view, Happened, name=f"keep_{number}")
        def keep(view: Any, event: Happened, number: int = number) -> None:
            setattr(view.row("x"), "c" * 59 + "a", number)
            setattr(view.row("x"), "c" * 59 + "b", -1)

    async with Spine(journal(), service=tests) as spine, spine.running(tests):
        receipt = await spine.publish(Happened())
        for number, view in enumerate(views):
            await spine.view(view).wait(receipt, timeout_s=20)
            (row,) = await spine.view(view).all()
            assert (getattr(row, "c" * 59 + "a"), getattr(row, "c" * 59 + "b")) == (number, -1)


def _long(name: str, version: int) -> Any:
    said: dict[str, Any] = {"View": View}
    columns = "".join(f"    {'c' * 59}{end}: int = 0\n" for end in "ab")
    exec(f"class Long(View, key='k', name={name!r}, version={version}):\n    k: str\n{columns}", said)
    return said["Long"]


async def test_half_a_character_in_a_query_is_refused_as_what_it_is(database: Callable[[], Journal]) -> None:
    service = odd()
    async with Spine(database(), service=service) as spine, spine.running(service):
        view = spine.view(Odd)
        await view.wait(await spine.publish(Happened()), timeout_s=20)
        for wrong in ("caf\udce9", "a\0b"):
            with pytest.raises(BeyondColumn, match="^:key, of a query of Odd"):
                await view.query("select * from odd where key = :key", key=wrong)
            with pytest.raises(BeyondColumn, match="^its SQL, of a query of Odd"):
                await view.query(f"select '{wrong}' as x")
        with pytest.raises(UnitFailed, match="surrogates"):
            await spine.journal.query("select :x as x", {"x": "caf\udce9"})
        assert [{"n": 1}] == await view.query("select count(*) as n from odd")
