"""What a handler publishes: in its unit, under ids that a second run repeats, with the chain of causes (R19)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Delivery, Envelope, Service, Spine, correlate
from eventspine.engine.subscription import Subscription
from eventspine.errors import DeclarationError, EventRefused, SpineError, UnknownPublisher
from eventspine.journal import asking
from eventspine.journal.port import Record, Rewind
from eventspine.observe.logs import CorrelationFilter

from .material import ONCE, QUICK, Broken, Cancelled, Mailed, Placed, Reserved, dead, rows, subscription, until


async def of_type(spine: Spine, type: str) -> list[Record]:
    page = await spine.journal.feed(0, limit=1000, types=[type])
    return list(page.records)


async def published(spine: Spine, type: str, count: int) -> list[Record]:
    async def enough() -> list[Record] | None:
        found = await of_type(spine, type)
        return found if len(found) >= count else None

    found: list[Record] = await until(enough, f"for {count} of {type}")
    return found


async def test_a_handler_returns_one_event_or_several_or_nothing(spine: Spine) -> None:
    service = Service("inventory")

    @service.on(Placed)
    async def reserve(event: Placed) -> Reserved | list[Reserved] | tuple[Reserved, ...] | None:
        made = [Reserved(customer=event.customer, number=event.number * 10 + n) for n in range(event.number)]
        return {0: None, 1: made[0] if made else None, 2: made, 3: tuple(made)}[event.number]

    await spine.publish(*[Placed(number=number) for number in range(4)])
    async with spine.running(service):
        found = await published(spine, "inventory.Reserved", 6)
    assert [b'"number":%d}' % n for n in (10, 20, 21, 30, 31, 32)] == [record.data[-12:] for record in found]
    assert {"inventory"} == {record.source for record in found}


def splitting() -> Service[Any]:
    """Each event becomes as many as its number says, of a kilobyte each."""
    service = Service("shop", publishes="orders")

    @service.on(Placed, retry=ONCE)
    async def split(event: Placed) -> list[Cancelled]:
        return [Cancelled(customer="x" * 200) for _ in range(event.number)]

    return service


async def test_a_handler_that_publishes_more_than_one_unit_takes_has_failed_and_holds_up_nothing(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "UNIT_BYTES_MAX", 10_000)
    await spine.publish(Placed(number=20), Placed(number=5))
    async with spine.running(splitting()):
        (row,) = await dead(spine)
        await published(spine, "orders.Cancelled", 5)
    assert row.reason == "UnitFailed"
    assert "20 events of" in row.error
    assert "What a handler publishes and saves is one, however many calls it makes" in row.error
    assert 5 == len(await of_type(spine, "orders.Cancelled"))


async def test_without_that_bound_it_would_be_stored(spine: Spine) -> None:
    await spine.publish(Placed(number=20), Placed(number=5))
    async with spine.running(splitting()):
        await published(spine, "orders.Cancelled", 25)


async def test_a_run_that_publishes_more_than_one_unit_takes_is_handled_one_by_one(
    spine: Spine, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service("shop", publishes="orders")

    @service.on(Placed, batch=Batch(20), retry=ONCE)
    async def split(events: list[Placed], delivery: BatchDelivery) -> None:
        for event in events:
            delivery.publish(Cancelled(customer="x" * 200), cause=event)

    await spine.publish(*[Placed(number=number) for number in range(20)])
    monkeypatch.setattr(asking, "UNIT_BYTES_MAX", 10_000)
    async with spine.running(service):
        await published(spine, "orders.Cancelled", 20)
    assert [] == await rows(spine)


@pytest.mark.parametrize(("value", "kind"), [(3, "int"), ("done", "str"), ({"a": 1}, "dict"), (["done"], "str")])
async def test_a_handler_that_returns_no_event_is_told_so_once(spine: Spine, value: object, kind: str) -> None:
    """No attempt can succeed, so there is one."""
    service = Service("inventory")

    @service.on(Placed)
    async def reserve(event: Placed) -> object:
        return value

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert f"inventory.reserve returned {value!r}, and what a handler returns is published" in row.error
    assert f"{kind} is not an event" in row.error
    assert (row.reason, row.attempts) == ("DeclarationError", 1)


async def test_another_contexts_event_is_refused_inside_a_handler_too(spine: Spine) -> None:
    service = Service("inventory")

    @service.on(Placed)
    async def reserve(event: Placed) -> Mailed:
        return Mailed()

    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert (row.reason, row.attempts) == (UnknownPublisher.__name__, 1), "no attempt can succeed"
    assert await of_type(spine, "email.Mailed") == []


async def test_publishing_through_the_spine_inside_a_handler_commits_with_it_or_not_at_all(spine: Spine) -> None:
    service = Service("inventory")

    @service.on(Placed, retry=ONCE)
    async def reserve(event: Placed, delivery: Delivery) -> None:
        receipt = await spine.publish(Reserved(number=event.number))
        assert not receipt.durable
        (receipt,) = delivery.publish(Reserved(number=event.number + 1))
        assert not receipt.durable
        if event.number == 10:
            raise Broken

    await spine.publish(Placed(customer="a", number=10), Placed(customer="b", number=20))
    async with spine.running(service):
        await dead(spine)
        found = await published(spine, "inventory.Reserved", 2)
    assert len(found) == 2
    assert {"inventory"} == {record.source for record in found}, "the handler's service, not the spine's"


async def run_twice(spine: Spine) -> list[Record]:
    """A handler that publishes, and whose unit is done a second time after a rewind."""
    service, runs = Service("inventory"), 0

    @service.on(Placed, replayable=True)
    async def reserve(event: Placed, delivery: Delivery) -> Reserved:
        nonlocal runs
        delivery.publish(Reserved(number=1))
        runs += 1
        return Reserved(number=2)

    await spine.publish(Placed())
    async with spine.running(service):
        await published(spine, "inventory.Reserved", 2)
        (stored,) = await spine.journal.subscriptions("inventory")
        await spine.journal.control([Rewind(stored.number, 0)])
        await until(lambda: runs == 2)
    return await of_type(spine, "inventory.Reserved")


async def test_a_second_run_of_the_handler_publishes_nothing_twice(spine: Spine) -> None:
    found = await run_twice(spine)
    assert len(found) == 2
    placed = (await of_type(spine, "orders.Placed"))[0]
    assert {placed.id[:6]} == {record.id[:6] for record in found}, "derived ids have the time bits of their cause"


async def test_with_ids_that_are_made_anew_it_would(memory: Spine, monkeypatch: Any) -> None:
    original = Subscription.record_of
    monkeypatch.setattr(
        Subscription,
        "record_of",
        lambda one, event, id, time, cause: original(one, event, one.host.runtime.ids.one(), time, cause),
    )
    assert len(await run_twice(memory)) == 4


async def test_rewinding_with_publish_again_publishes_again(spine: Spine) -> None:
    service = Service("inventory")

    @service.on(Placed)
    async def reserve(event: Placed) -> Reserved:
        return Reserved()

    await spine.publish(Placed())
    async with spine.running(service):
        await published(spine, "inventory.Reserved", 1)
        (stored,) = await spine.journal.subscriptions("inventory")
        await spine.journal.control([Rewind(stored.number, 0, republish="again")])
        found = await published(spine, "inventory.Reserved", 2)
    assert found[0].id != found[1].id


async def test_correlation_causation_hops_and_trace_flow_across_three_services(spine: Spine) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    inventory, email = Service("inventory"), Service("email")
    seen: list[Envelope] = []

    @inventory.on(Placed)
    async def reserve(event: Placed) -> Reserved:
        return Reserved(customer=event.customer)

    @email.on(Reserved)
    async def confirm(event: Reserved, delivery: Delivery) -> Mailed:
        return Mailed(customer=event.customer)

    @inventory.on(Mailed)
    async def close(event: Mailed, delivery: Delivery) -> None:
        seen.append(delivery.envelope)
        assert delivery.correlation == delivery.envelope.correlationid

    with correlate("request-7", traceparent=f"00-{trace}-b7ad6b7169203331-01"):
        await spine.publish(Placed())
    await spine.publish(Placed(customer="bob"))
    async with spine.running(inventory, email):
        await until(lambda: len(seen) == 2)
        await published(spine, "inventory.Reserved", 2)
        mailed = await published(spine, "email.Mailed", 2)
    placed = await of_type(spine, "orders.Placed")
    reserved = await of_type(spine, "inventory.Reserved")
    chain = [Envelope(next(r for r in some if r.key == "ann")) for some in (placed, reserved, mailed)]

    assert ["request-7"] * 3 == [one.correlationid for one in chain]
    assert [None, chain[0].id, chain[1].id] == [one.causationid for one in chain]
    assert [0, 1, 2] == [one.hops for one in chain]
    assert [trace] * 3 == [one.traceparent.split("-")[1] for one in chain]
    assert len({one.traceparent.split("-")[2] for one in chain}) == 3, "each is the parent of what follows"

    other = [Envelope(next(r for r in some if r.key == "bob")) for some in (placed, reserved, mailed)]
    assert [other[0].id] * 3 == [one.correlationid for one in other], "an event begins its own, where nothing is said"
    assert len({one.traceparent.split("-")[1] for one in other}) == 1


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("batch", [None, Batch(10)])
async def test_a_correlation_can_not_be_begun_in_a_handler(spine: Spine, batch: Batch | None, blocking: bool) -> None:
    """What is published inside would leave the handler's unit: it would be stored though the handler fails."""
    service = Service("shop", publishes="orders")

    async def split(event: Any) -> None:
        with correlate("other"):
            await spine.publish(Cancelled())

    def split_blocking(event: Any) -> None:
        with correlate("other"):
            pass

    service.on(Placed, batch=batch)(split_blocking if blocking else split)  # type: ignore[call-overload]
    await spine.publish(Placed())
    async with spine.running(service):
        (row,) = await dead(spine)
    assert (row.reason, row.attempts) == ("DeclarationError", 1)
    assert f"shop.{'split_blocking' if blocking else 'split'} calls correlate() while it handles something" in row.error
    assert 1 == await spine.journal.head()


async def test_a_task_that_a_handler_has_left_may_begin_one(spine: Spine) -> None:
    service, left = Service("shop", publishes="orders"), []
    returned = asyncio.Event()

    async def later() -> None:
        await returned.wait()
        with correlate("other"):
            await spine.publish(Cancelled())

    @service.on(Placed)
    async def begin(event: Placed) -> None:
        left.append(asyncio.create_task(later()))

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: subscription(spine).handled == 1)
        returned.set()
        await left[0]
    assert ["other"] == [record.correlation for record in await of_type(spine, "orders.Cancelled")]


async def test_services_that_answer_one_another_in_a_circle_are_stopped(spine: Spine, monkeypatch: Any) -> None:
    monkeypatch.setattr("eventspine.publishing.HOPS_MAX", 7)
    ping, pong = Service("inventory"), Service("email")

    @ping.on(Mailed, Placed)
    async def answer(event: Mailed | Placed) -> Reserved:
        return Reserved()

    @pong.on(Reserved)
    async def answer_too(event: Reserved) -> Mailed:
        return Mailed()

    await spine.publish(Placed())
    async with spine.running(ping, pong):
        (row,) = await dead(spine)
    assert (row.reason, row.attempts) == ("EventsInCircle", 1)
    assert "in a circle" in row.error
    assert await spine.journal.head() == 8


async def test_log_records_name_the_delivery(spine: Spine, caplog: pytest.LogCaptureFixture) -> None:
    service = Service("mail")
    done = []
    caplog.handler.addFilter(CorrelationFilter())
    caplog.set_level(logging.INFO, "test.mail")

    @service.on(Placed)
    async def note(event: Placed, delivery: Delivery) -> None:
        logging.getLogger("test.mail").info("hello")
        done.append(delivery)

    @service.on(Placed)
    def note_in_a_thread(event: Placed) -> None:
        logging.getLogger("test.mail").info("hello")
        done.append(event)

    receipt = await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: len(done) == 2)
    records = [record for record in caplog.records if record.name == "test.mail"]
    assert {"mail.note", "mail.note_in_a_thread"} == {vars(record)["spine_handler"] for record in records}
    for record in records:
        stamped = vars(record)
        assert (stamped["spine_event_id"], stamped["spine_key"], stamped["spine_attempt"]) == (receipt.id, "ann", 1)
        assert stamped["spine_correlation"] == receipt.id


async def test_nothing_can_be_published_in_a_delivery_that_is_over(spine: Spine) -> None:
    service = Service("inventory")
    kept: list[Delivery] = []

    @service.on(Placed)
    async def reserve(event: Placed, delivery: Delivery) -> None:
        kept.append(delivery)

    await spine.publish(Placed())
    async with spine.running(service):
        await until(lambda: kept and not kept[0]._open)
        with pytest.raises(SpineError, match="has returned"):
            kept[0].publish(Reserved())
        with pytest.raises(SpineError, match="has returned"):
            kept[0].execute("insert into t values (1)")
    assert await of_type(spine, "inventory.Reserved") == []


async def test_publishing_on_another_journal_inside_a_handler_is_refused(spine: Spine) -> None:
    other = Spine("memory://", service=Service("inventory"))
    service = Service("inventory")

    @service.on(Placed, retry=ONCE)
    async def reserve(event: Placed) -> None:
        await other.publish(Reserved())

    await spine.publish(Placed())
    async with other, spine.running(service):
        (row,) = await dead(spine)
        assert row.reason == "WouldDeadlock"
        assert "delivery.publish" in row.error
        assert await other.journal.head() == 0


async def test_an_idempotency_key_is_the_same_in_every_attempt_and_unlike_any_others(spine: Spine) -> None:
    service = Service("mail")
    keys: dict[tuple[str, int], set[str]] = {}

    async def fail(event: Placed, delivery: Delivery) -> None:
        keys.setdefault((delivery.handler, event.number), set()).add(delivery.idempotency_key)
        if delivery.attempt < 3:
            raise Broken

    service.on(Placed, name="one", retry=QUICK)(fail)
    service.on(Placed, name="other", retry=QUICK)(fail)
    await spine.publish(Placed(number=1), Placed(number=2))
    async with spine.running(service):
        await until(lambda: len(keys) == 4)

        async def settled() -> bool:
            return len(await rows(spine, "settled")) == 4

        await until(settled)
    assert all(len(each) == 1 for each in keys.values())
    assert len(set.union(*keys.values())) == 4


async def test_a_service_may_handle_what_a_class_of_its_own_reads(spine: Spine) -> None:
    """Another team's event, declared again with only the fields that are read; both classes in one process."""
    from eventspine import Event

    def theirs() -> type[Any]:
        class Placed(Event, context="orders", key="customer"):
            customer: str

        return Placed

    full, few = Service("full"), Service("few")
    seen: list[Any] = []
    Few = theirs()

    @full.on(Placed)
    async def read_all(event: Placed) -> None:
        seen.append(event)

    @few.on(Few)
    async def read_few(event: Any) -> None:
        seen.append(event)

    await spine.publish(Placed(number=7))
    async with spine.running(full, few):
        await until(lambda: len(seen) == 2)
    assert {Placed, Few} == {type(event) for event in seen}
    with pytest.raises(DeclarationError, match="one event type"):
        few.on(Placed, Few)(read_few)


async def test_an_id_of_ones_own_is_refused_inside_a_handler(spine: Spine) -> None:
    """Ids derive from the delivery there, so that a second run publishes nothing twice; a given one would be ignored."""
    answering = Service("answering", publishes="orders")
    said: list[str] = []

    @answering.on(Placed)
    async def answer(event: Placed) -> None:
        try:
            await spine.publish(Placed(customer="bob"), id="01a20a6d-f6ae-7246-8a51-2c9483ed34a3")
        except EventRefused as error:
            said.append(str(error))

    async with spine.running(answering):
        await spine.publish(Placed())
        await until(lambda: said)

    assert "ids derive from the delivery" in said[0]
