"""Who has something done, and why, travels with what is published, and with what comes of it."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import (
    Batch,
    BatchDelivery,
    Delivery,
    Envelope,
    Event,
    Middleware,
    Service,
    Spine,
    acting,
    correlate,
    testing,
)
from eventspine.errors import ActorRefused
from eventspine.observe.acting import of_meta
from eventspine.sync import Spine as BlockingSpine


class Ordered(Event, context="shop", key="customer"):
    customer: str = "ann"


class Reserved(Event, context="stock", key="customer"):
    customer: str = "ann"


SHOP: Service[Any] = Service("shop")
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def said(spine: Any) -> list[tuple[str | None, str | None]]:
    page = await spine.journal.feed(0, limit=1000, private=True)
    return [(Envelope(record).actor, Envelope(record).why) for record in page.records]


def stock() -> Service[Any]:
    service: Service[Any] = Service("stock")

    @service.on(Ordered)
    async def reserve(event: Ordered) -> Reserved:
        return Reserved(customer=event.customer)

    return service


async def test_what_comes_of_an_event_has_its_actor_and_its_reason() -> None:
    async with testing.spine(SHOP, stock()) as spine:
        with acting("user:42", why="ticket 811"):
            await spine.publish(Ordered())
        await spine.publish(Ordered())
        await spine.idle()
        assert sorted(await said(spine), key=str) == 2 * [("user:42", "ticket 811")] + 2 * [(None, None)]


async def test_they_are_attributes_of_the_envelope_beside_the_trace(tmp_path: Path) -> None:
    async with Spine(f"sqlite:///{tmp_path}/spine.db", service=SHOP) as spine:
        with correlate("web-1", TRACE), acting('Zoë "the \\ cat"', why="тест"):
            await spine.publish(Ordered())
        (record,) = (await spine.journal.feed(0, limit=1)).records
    envelope = Envelope(record)
    assert envelope.attributes() | {"actor": 'Zoë "the \\ cat"', "why": "тест"} == envelope.attributes()
    assert (envelope.correlationid, envelope.traceparent[3:35]) == ("web-1", TRACE[3:35])


async def test_the_inner_word_wins_and_what_it_leaves_out_stays() -> None:
    async with testing.spine(SHOP) as spine:
        with acting("ann", why="sale"):
            with acting(why="gift"):
                await spine.publish(Ordered())
            with acting("bob"), correlate("job"):
                await spine.publish(Ordered())
            await spine.publish(Ordered())
        assert await said(spine) == [("ann", "gift"), ("bob", "sale"), ("ann", "sale")]


async def test_a_handler_may_act_for_somebody_else_and_its_next_event_is_not_concerned() -> None:
    service: Service[Any] = Service("stock")

    @service.on(Ordered)
    def reserve(event: Ordered, delivery: Delivery) -> Reserved:
        with acting("system:stock", why="lowest shelf"):
            delivery.publish(Reserved())
        return Reserved()

    async with testing.spine(SHOP, service) as spine:
        with acting("ann"):
            await spine.publish(Ordered())
        await spine.idle()
        assert await said(spine) == [("ann", None), ("system:stock", "lowest shelf"), ("ann", None)]


async def test_in_a_batch_each_event_has_the_actor_of_the_one_that_it_answers() -> None:
    service: Service[Any] = Service("stock")

    @service.on(Ordered, batch=Batch(10, within_ms=1))
    async def reserve(events: list[Ordered], delivery: BatchDelivery) -> None:
        for event in events:
            delivery.publish(Reserved(customer=event.customer), cause=event)

    async with testing.spine(SHOP, service) as spine:
        for name in ("ann", "bob"):
            with acting(name):
                await spine.publish(Ordered(customer=name))
        await spine.idle()
        page = await spine.journal.feed(0, limit=10)
        assert {(record.key, Envelope(record).actor) for record in page.records} == {("ann", "ann"), ("bob", "bob")}


async def test_services_begun_inside_act_for_nobody_but_whom_their_events_name(tmp_path: Path) -> None:
    """Tasks inherit the context in which they begin, for as long as they live."""
    async with Spine(f"sqlite:///{tmp_path}/spine.db", service=SHOP) as spine:
        with acting("whoever started it"):
            running = spine.running(stock())
            await running.__aenter__()
        await spine.publish(Ordered())
        while len(found := await said(spine)) < 2:
            await asyncio.sleep(0.01)
        await running.__aexit__(None, None, None)
    assert found == [(None, None), (None, None)]


async def test_a_middleware_has_the_last_word() -> None:
    class Nightly(Middleware):
        def publish(self, event: Any, attributes: dict[str, Any], proceed: Any) -> Any:
            attributes["actor"] = "nightly"
            return proceed()

    async with Spine("memory://", service=SHOP, middleware=[Nightly()]) as spine:
        with acting("ann", why="stays"):
            await spine.publish(Ordered())
        assert await said(spine) == [("nightly", "stays")]


def test_it_holds_without_async_too(tmp_path: Path) -> None:
    with BlockingSpine(f"sqlite:///{tmp_path}/spine.db", service=SHOP) as spine, acting("ann"):
        spine.publish(Ordered(), Ordered())
    with closing(sqlite3.connect(tmp_path / "spine.db")) as file:
        assert [row[0] for row in file.execute("select meta from spine_events")] == [b'{"actor":"ann"}'] * 2


@pytest.mark.parametrize(
    ("actor", "why", "told"),
    [
        (None, None, 'was told nothing: acting("user:42")'),
        ("", None, "actor is plain text of 1 to 255 characters"),
        ("a" * 256, None, "this one has 256"),
        ("a\nb", None, "control character"),
        ("\ud800", None, "control character"),
        (42, None, "actor is text, and this is of type int; write actor=str(...)"),
        ("ann", "w" * 1001, "why is plain text of 1 to 1,000 characters"),
    ],
)
def test_what_could_not_travel_is_refused_where_it_is_said(actor: Any, why: Any, told: str) -> None:
    with pytest.raises(ActorRefused, match=re.escape(told)), acting(actor, why=why):
        pytest.fail("it was taken")


@pytest.mark.parametrize(
    ("told", "shown"), [(("ann", "ticket 811"), "'ticket 811'"), (("ann", 1, 2), "1, 2")], ids=["two", "three"]
)
def test_the_reason_has_a_name(told: tuple[Any, ...], shown: str) -> None:
    with pytest.raises(ActorRefused, match=f"takes who, and why=; not {shown}"):
        acting(*told)


def test_a_misspelt_name_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ActorRefused, match="not reason="):
        acting("ann", reason="ticket 811")  # type: ignore[arg-type]
    with pytest.raises(ActorRefused, match="of type int"):
        acting(42)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("meta", "actor"),
    [
        ({"actor": "ann"}, "ann"),
        ({"authtype": "user", "authid": "u-7"}, "u-7"),
        ({"actor": "ann", "authid": "u-7"}, "ann"),
        ({"actor": "a" * 300}, None),
        ({"actor": "a\x1b[2J"}, None),
        ({"actor": 7}, None),
        ({"tier": '"actor"'}, None),
    ],
)
def test_of_a_foreign_producer_what_could_be_said_again_is_taken(meta: dict[str, Any], actor: str | None) -> None:
    """CloudEvents' own `authid` among it: who says that is another system, which has no `actor`."""
    assert of_meta(json.dumps(meta).encode()).actor == actor
    assert of_meta(b"\xff" + json.dumps(meta).encode()).actor is None
