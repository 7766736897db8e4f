"""No tenant sees another's: whatever tenants and people are called, in events, streams, aggregates, snapshots, views, audit."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eventspine import Aggregate, Event, Service, Spine, View, applies
from eventspine.cli.audit_trail import trail
from eventspine.cli.tail import Wanted
from eventspine.errors import BeyondColumn
from eventspine.events import describe
from eventspine.integrations.http import answer_of
from eventspine.journal import open_journal
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Journal
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.keys import key_text
from eventspine.state.shapes import shape_of
from eventspine.sync import Spine as Blocking
from eventspine.testing.servers import Server


class Bought(Event, context="shop", key="who", tenant="shop"):
    shop: str
    who: str


class Bills(View, key="who", tenant="shop"):
    shop: str
    who: str
    items: int = 0


class Purse(Aggregate, snapshot_every=2):
    items: int = 0
    bought_by: str = ""

    def buy(self, shop: str, who: str) -> None:
        self.record(Bought(shop=shop, who=who))

    @applies(Bought)
    def _bought(self, event: Bought) -> None:
        self.items += 1
        self.bought_by = f"{event.shop}/{event.who}"


# What keys, streams, SQL patterns and names of columns are made of, so that a part that is not kept apart is found.
NAMES = st.text(alphabet=":%/\\_'\"a1 *?", min_size=1, max_size=4)
Pair = tuple[str, str]


def reports() -> Service[Any]:
    service: Service[Any] = Service("shop")

    @service.projection(Bills, Bought)
    def count(view: View[Bills], event: Bought) -> None:
        view.row(event.who).items += 1

    return service


async def check(journal: Journal, bought: list[Pair]) -> None:
    service, wanted = reports(), Counter(bought)
    async with Spine(journal, service=service) as spine, spine.running(service):
        for shop, who in bought:
            purse = await spine.load_or_new(Purse, (shop, who))
            purse.buy(shop, who)
            last = (await spine.save(purse))[-1]
        for (shop, who), items in wanted.items():
            await _is_his_own(spine, shop, who, items)
        await spine.view(Bills, tenant=bought[-1][0]).wait(last, timeout_s=30)
        for shop in {shop for shop, _ in bought} | {"nobody"}:
            await _are_its_own(spine, shop, {who: items for (of, who), items in wanted.items() if of == shop})


async def _is_his_own(spine: Spine, shop: str, who: str, items: int) -> None:
    """Events by key, the stream, the aggregate with its snapshot, and the audit trail."""
    key, kind = key_text((shop, who)), describe(Bought)
    purse = await spine.load(Purse, (shop, who))
    assert (purse.items, purse.bought_by, purse.version) == (items, f"{shop}/{who}", items)
    stream = shape_of(Purse).stream(purse.id)
    found = [
        await spine.journal.stream("shop", stream),
        [record async for record in trail(spine.journal, Wanted(key=key, private=True, ticks=False), (), None, None)],
    ]
    for records in found:
        events = [kind.read(record.data, record.version) for record in records]
        assert [(event.shop, event.who) for event in events] == [(shop, who)] * items
    if items > 2:
        assert len(await spine.journal.notes("shop", "snapshot", [stream])) == 1


async def _are_its_own(spine: Spine, shop: str, items: dict[str, int]) -> None:
    view = spine.view(Bills, tenant=shop)
    then = await view.as_of(await spine.journal.head())
    rows = await view.all()
    assert {row.who: row.items for row in rows} == items == {row.who: row.items for row in then.all()}
    assert {row.shop for row in rows} <= {shop}
    for who, bills in items.items():
        assert (await view.get(who)) == then.get(who) == Bills(shop=shop, who=who, items=bills)
    assert len(await view.all(shop="a")) == len(rows)  # it can't be asked for another's
    if spine.journal.sql:
        assert (await view.query("select coalesce(sum(items), 0) as n from bills")) == [{"n": sum(items.values())}]


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_trap_22_no_tenant_sees_another_s_whatever_they_are_called(bought: list[Pair]) -> None:
    asyncio.run(check(MemoryJournal(), bought))


@given(st.lists(st.tuples(NAMES, NAMES), min_size=4, max_size=12))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trap_22_in_a_file_as_well(tmp_path_factory: pytest.TempPathFactory, bought: list[Pair]) -> None:
    path: Path = tmp_path_factory.mktemp("tenants") / "spine.db"
    asyncio.run(check(SQLiteJournal(f"sqlite:///{path}"), bought))


@given(st.lists(st.tuples(NAMES, NAMES), min_size=4, max_size=12))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_trap_22_in_postgresql_as_well(postgres_server: Server, bought: list[Pair]) -> None:
    asyncio.run(check(open_journal(f"{postgres_server.url}?schema=tenants_{next(_schemas)}"), bought))


_schemas = count(1)
HARD: list[Pair] = [("a", "b:c"), ("a:b", "c"), ("a%3Ab", "c"), ("a", "b%3Ac"), ("A", "b"), ("a", "b"), ("a", "b ")]


def test_names_that_meet_where_a_separator_is_forgotten(journal: Callable[[], Journal]) -> None:
    asyncio.run(check(journal(), HARD * 3))


@pytest.mark.parametrize("tenant", ["a\0b", "caf\udce9"])
def test_a_tenant_that_none_can_be_is_no_error_of_the_servers(tenant: str) -> None:
    """It comes from a client: a header, a part of a path."""
    with Blocking("memory://", service=reports()) as spine, pytest.raises(BeyondColumn) as refused:
        spine.view(Bills, tenant=tenant)
    answer = answer_of(refused.value)
    assert answer is not None
    assert (422, "No such value") == (answer.status, answer.body["title"])
