"""From one journal to another through a broker: once in effect, in order per key, whatever the way does to messages."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Delivery, Event, Service, Spine
from eventspine.brokers import open_broker
from eventspine.brokers.feed import FeedBroker
from eventspine.brokers.memory import MemoryBroker, Server, server
from eventspine.brokers.port import Message
from eventspine.clock import SystemClock
from eventspine.engine import relay
from eventspine.engine.claims import Claim
from eventspine.errors import BrokerError, BrokerTaken, JournalError, OutboxFull, SettingsError
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Replay
from eventspine.keys import slot_of_key

WAIT_S = 30.0


class Placed(Event, context="orders", key="customer"):
    customer: str
    number: int
    note: str = ""


storefront = Service("storefront", publishes="orders")


class Heard(list[tuple[str, int]]):
    def of(self, customer: str) -> list[int]:
        return [number for who, number in self if who == customer]


def inventory(heard: Heard, **options: Any) -> Service[None]:
    service: Service[None] = Service("inventory", publishes=[])

    async def take(event: Placed, delivery: Delivery) -> None:
        heard.append((event.customer, event.number))

    service.on(Placed, **options)(take)
    return service


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def broker() -> Server:
    return server(uuid4().hex)


def to(broker: Server, options: str = "") -> str:
    return f"memory://{broker.name}{options}"


KINDS = ["", "?kind=queue", "?kind=queue&order=none"]


@pytest.mark.parametrize("kind", KINDS)
async def test_every_event_arrives_once_and_in_order_per_key(broker: Server, kind: str):
    heard = Heard()
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker, kind)) as stock,
        stock.running(inventory(heard)),
    ):
        for number in range(10):
            await store.publish(*(Placed(customer=f"c{n}", number=number) for n in range(50)))
        await until(lambda: len(heard) == 500)
        assert all(heard.of(f"c{n}") == list(range(10)) for n in range(50))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_sent_twice_is_handled_once(broker: Server, kind: str):
    heard = Heard()
    broker.lose_answers = 2
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker, kind)) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(*(Placed(customer="ann", number=number) for number in range(20)))
        await store.publish(Placed(customer="ann", number=20))
        await until(lambda: 20 in heard.of("ann"))
        await until(lambda: broker.lose_answers == 0 and store.health()["broker"]["relays"][0]["behind"] == 0)
        assert broker.sent > 21
        await until(lambda: stock.health()["broker"]["intakes"][0]["known"] == broker.sent - 21)
        assert heard.of("ann") == list(range(21))


async def test_now_stays_where_it_was_although_nothing_has_come_since(broker: Server):
    heard, journal = Heard(), MemoryJournal()
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        async with Spine(journal, broker=to(broker)) as stock, stock.running(inventory(heard, start="now")):
            await until(lambda: len(stock.health()["broker"]["intakes"][0]["partitions"]) > 0)
        await store.publish(Placed(customer="ann", number=1))
        await until(lambda: broker.sent == 2)
        async with Spine(journal, broker=to(broker)) as stock, stock.running(inventory(heard, start="now")):
            await until(lambda: heard)
    assert heard.of("ann") == [1]


async def test_who_can_t_be_reached_is_named_once(caplog: pytest.LogCaptureFixture):
    pytest.importorskip("nats")
    async with Spine("memory://", service=storefront, broker="nats://127.0.0.1:1") as store:
        await until(lambda: "can't be used yet" in caplog.text)
        (problem,) = store.health()["problems"]
    told = [record.getMessage() for record in caplog.records if record.name == "eventspine.broker"]
    assert all(one.count("nats://127.0.0.1:1") == 1 for one in (problem, *told)), (problem, told)


async def test_what_was_made_anew_at_the_broker_is_read_from_its_first_message(broker: Server):
    heard, journal = Heard(), MemoryJournal()
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        async with Spine(journal, broker=to(broker)) as stock, stock.running(inventory(heard, start="now")):
            await until(lambda: len(stock.health()["broker"]["intakes"][0]["partitions"]) > 0)
            await store.publish(Placed(customer="ann", number=0))
            await until(lambda: heard)
        url = to(broker)
        broker.topics.clear()
        broker.name = uuid4().hex  # part of its feed's identity
        await store.publish(Placed(customer="ann", number=1))
        await until(lambda: broker.sent == 2)
        async with Spine(journal, broker=url) as stock, stock.running(inventory(heard, start="now")):
            await until(lambda: len(heard) == 2)
    assert heard.of("ann") == [0, 1]


async def test_publishing_goes_on_while_the_broker_is_away_and_all_arrives_later(broker: Server):
    heard = Heard()
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: heard)
        broker.stop()
        await store.publish(*(Placed(customer="ann", number=number) for number in range(1, 50)))
        await until(lambda: store.health()["status"] == "degraded")
        assert "away" in " ".join(store.health()["problems"])
        broker.restart()
        await until(lambda: len(heard) == 50)
        assert heard.of("ann") == list(range(50))


async def test_what_is_not_sent_when_a_program_ends_is_told(
    broker: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    heard, journal = Heard(), MemoryJournal()
    async with Spine(journal, service=storefront, broker=to(broker)) as store:
        store.drain_s = 0.1
        monkeypatch.setattr(relay, "SOON_S", 0.05)
        caplog.set_level("INFO")
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        broker.stop()
        await store.publish(*(Placed(customer="ann", number=number) for number in range(1, 4)))
    assert (
        "the relay of orders has events left, and waits for at most 0.1 s until the broker takes them: " in caplog.text
    )
    assert "did not take all of orders within 0.1 s: up to 3 events stay in the journal" in caplog.text
    broker.restart()
    caplog.clear()
    async with (
        Spine(journal, service=storefront, broker=to(broker)),
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        await until(lambda: heard.of("ann") == [0, 1, 2, 3])
    assert "did not take all" not in caplog.text


async def test_more_than_the_bound_is_refused_until_the_broker_is_back(broker: Server):
    async with Spine("memory://", service=storefront, broker=to(broker), outbox_max=10) as store:
        broker.stop()

        async def publish_on() -> None:
            while True:
                await store.publish(Placed(customer="ann", number=1))
                await asyncio.sleep(0.02)

        with pytest.raises(OutboxFull, match="away"):
            async with asyncio.timeout(WAIT_S):
                await publish_on()
        broker.restart()
        await until(lambda: store.health()["broker"]["relays"][0]["behind"] == 0)
        await store.publish(Placed(customer="ann", number=2))


async def test_an_event_that_the_broker_will_never_take_holds_up_its_key_and_no_other(broker: Server):
    heard = Heard()
    broker.refuse = lambda message: "no such customers" if b'"poison"' in message.data else ""
    journal = MemoryJournal()
    async with (
        Spine(journal, service=storefront, broker=to(broker)) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(Placed(customer="ann", number=0, note="poison"))
        await store.publish(Placed(customer="ann", number=1), Placed(customer="bob", number=0))
        await until(lambda: heard.of("bob"))
        dead = await journal.deliveries(states=["dead"])
        assert [(row.reason, row.error) for row in dead] == [("Refused", "no such customers")]

        await store.publish(Placed(customer="ann", number=2), Placed(customer="bob", number=1))
        await until(lambda: len(heard.of("bob")) == 2)
        assert 2 not in heard.of("ann")

        broker.refuse = lambda _: ""
        await journal.control([Replay([dead[0].number])])
        await until(lambda: 2 in heard.of("ann"))
        assert sorted(heard.of("ann")) == [0, 1, 2]
        assert stock.health()["broker"]["intakes"][0]["gaps"] == 0


async def test_what_is_too_large_waits_with_its_key_in_order(broker: Server):
    heard = Heard()
    journal = MemoryJournal()
    small = MemoryBroker(broker)
    async with (
        Spine(journal, service=storefront, broker=small) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        large = Placed(customer="ann", number=0, note="x" * 3000)
        broker.stop()
        await store.publish(large, Placed(customer="ann", number=1), Placed(customer="bob", number=0))
        object.__setattr__(small.features, "message_bytes_max", 2000)  # lowered after it was published
        broker.restart()
        await until(lambda: heard.of("bob"))
        dead = await journal.deliveries(states=["dead"])
        assert "2,000" in dead[0].error and "3," in dead[0].error
        assert not heard.of("ann")
        object.__setattr__(small.features, "message_bytes_max", 20_000)
        await journal.control([Replay([dead[0].number])])
        await until(lambda: len(heard.of("ann")) == 2)
        assert heard.of("ann") == [0, 1]


async def test_a_second_journal_that_publishes_or_consumes_the_same_is_refused(broker: Server):
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.owners)
        with pytest.raises(BrokerTaken, match="publishes the channel 'orders'"):
            await Spine("memory://", service=storefront, broker=to(broker)).open()
        async with Spine("memory://", service=storefront, broker=to(broker), take_over=True):
            pass
    async with Spine("memory://", broker=to(broker)) as one, one.running(inventory(Heard())):
        other = Spine("memory://", broker=to(broker))
        with pytest.raises(BrokerTaken, match=r"consumes as 'inventory\.orders'"):
            async with other, other.running(inventory(Heard())):
                pass


async def test_a_place_is_taken_over_once_and_not_back_again_by_who_loses_it(broker: Server):
    taken: dict[str, Any] = {"service": storefront, "broker": to(broker), "take_over": True, "lease_s": 0.3}
    async with Spine("memory://", **taken) as first, Spine("memory://", **taken) as second:
        await until(lambda: "publishes the channel" in " ".join(first.health()["problems"]))
        await second.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        await first.publish(Placed(customer="ann", number=1))
        first.drain_s = 0.0
    assert broker.sent == 1
    assert broker.owners["publisher", "orders"] == second.journal.id + ".1"


async def test_without_the_look_at_its_claim_two_journals_publish_one_channel(
    broker: Server, monkeypatch: pytest.MonkeyPatch
):
    async def not_looking(self: Claim, identity: str) -> None: ...

    monkeypatch.setattr(Claim, "others_by_now", not_looking)
    given: dict[str, Any] = {"service": storefront, "broker": to(broker), "lease_s": 0.3}
    async with Spine("memory://", **given) as first:
        await first.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        async with Spine("memory://", take_over=True, **given) as second:
            await second.publish(Placed(customer="ann", number=0))
            await until(lambda: broker.sent == 2)
            await first.publish(Placed(customer="ann", number=1))
            await until(lambda: broker.sent == 3)


async def test_who_lost_its_place_while_the_broker_was_away_finds_out_soon_after(broker: Server):
    """What it was sending may get there; what comes after that doesn't, though its next look was a long time off."""
    async with Spine("memory://", service=storefront, broker=to(broker), lease_s=1000.0) as first:
        await first.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        (relay,) = first._carrying.relays.values()  # type: ignore[union-attr]
        broker.stop()
        relay._claim._again_at = 0.0  # it looks while the broker is away
        await first.publish(Placed(customer="ann", number=1))
        await until(lambda: relay.trouble and relay._claim._again_at)
        broker.owners["publisher", "orders"] = "another.1"
        broker.restart()
        await until(lambda: "publishes the channel" in " ".join(first.health()["problems"]))
        sent = broker.sent
        await first.publish(Placed(customer="ann", number=2))
        first.drain_s = 0.0
    assert broker.sent == sent


@pytest.mark.parametrize("kind", KINDS[:2])  # in no order the other waits for what the first has had
async def test_who_lost_its_place_does_not_bring_in_what_it_has_fetched(broker: Server, kind: str):
    """As after a pause: its look is due, and messages are there at once."""
    heard, other = Heard(), Heard()
    async with (
        Spine("memory://", service=storefront, broker=to(broker, kind)) as store,
        Spine("memory://", broker=to(broker, kind)) as first,
    ):
        async with first.running(inventory(heard)):
            await store.publish(Placed(customer="ann", number=0))
            await until(lambda: heard)
            (intake,) = first._carrying.intakes.values()  # type: ignore[union-attr]
            broker.owners["consumer", "inventory.orders"] = "another"
            intake._claim._again_at = 0.0
            await store.publish(Placed(customer="ann", number=1))
            await until(lambda: "consumes as" in (intake.trouble or ""))
        async with Spine("memory://", broker=to(broker, kind), take_over=True) as second:
            async with second.running(inventory(other)):
                await until(lambda: other.of("ann")[-1:] == [1])
    assert heard.of("ann") == [0]


async def test_who_can_t_get_rid_of_what_it_has_looks_whose_the_channel_is(broker: Server):
    """The broker answers, and takes nothing: its claim is looked at all the same."""
    given: dict[str, Any] = {"service": storefront, "broker": to(broker), "lease_s": 0.2}
    async with Spine("memory://", **given) as first:
        await first.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        (relay,) = first._carrying.relays.values()  # type: ignore[union-attr]

        async def full(messages: Any) -> Any:
            return [BrokerError("it is full")] * len(messages)

        relay.broker.send = full  # type: ignore[method-assign]
        await first.publish(Placed(customer="ann", number=1))
        await until(lambda: "it is full" in (relay.trouble or ""))
        broker.owners["publisher", "orders"] = "another.1"
        await until(lambda: "publishes the channel" in (relay.trouble or ""))
        first.drain_s = 0.0


async def test_a_hole_holds_up_its_slot_until_patience_ends_and_is_reported(broker: Server, caplog: Any):
    heard = Heard()
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(*(Placed(customer="ann", number=number) for number in range(6)))
        await until(lambda: broker.sent == 6)
    (part,) = [part for part in broker.topic("orders") if part]
    lost = part.pop(2)
    async with Spine("memory://", broker=to(broker)) as stock, stock.running(inventory(heard)):
        await until(lambda: len(heard) == 2)
        (intake,) = stock._carrying.intakes.values()  # type: ignore[union-attr]
        await until(lambda: intake.held == 3)
        assert heard.of("ann") == [0, 1]
        intake._patience_s = 0.0
        await until(lambda: len(heard) == 5)
        assert heard.of("ann") == [0, 1, 3, 4, 5]
        assert "numbers 3 to 3 never came" in caplog.text
        assert "1 numbers never came" in " ".join(stock.health()["problems"])
        broker.store(lost)
        broker.ring()
        await until(lambda: 2 in heard.of("ann"))
        assert intake.late == 1


async def test_what_comes_again_while_it_is_held_is_not_settled_before_the_journal_has_it(
    broker: Server, monkeypatch: pytest.MonkeyPatch
):
    """A queue had handed out the same message once more, and with that one the only one was deleted: it was then held in
    memory alone, and gone with it."""
    heard = Heard()
    store_message, kept_back = broker.store, []
    monkeypatch.setattr(
        broker, "store", lambda message: (kept_back.append if b'"first"' in message.data else store_message)(message)
    )
    journal, queue = MemoryJournal(), "?kind=queue&order=none"
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(Placed(customer="ann", number=0, note="first"), Placed(customer="ann", number=1))
        await until(lambda: broker.sent == 1)
    async with Spine(journal, broker=to(broker, queue)) as first, first.running(inventory(heard)):
        (intake,) = first._carrying.intakes.values()  # type: ignore[union-attr]
        await until(lambda: intake.held == 1)
        intake._intake.expire()  # type: ignore[union-attr]
        await until(lambda: intake.known == 1)
    async with Spine(journal, broker=to(broker, queue)) as second, second.running(inventory(heard)):
        store_message(kept_back[0])
        broker.ring()
        await until(lambda: heard.of("ann") == [0, 1])
        (intake,) = second._carrying.intakes.values()  # type: ignore[union-attr]
        await until(lambda: not any(broker.queue("orders", "inventory.orders")))
        await until(lambda: not any(intake._intake._unsettled.values()))  # type: ignore[union-attr]


async def test_what_is_no_event_is_kept_as_a_dead_delivery_with_its_bytes(broker: Server):

    heard = Heard()
    journal = MemoryJournal()
    broker.store(Message("orders", 3, "ann", "1", {"x": "y"}, "text/plain", b"\xff\x00 hello"))
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine(journal, broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: heard)
        (row,) = await journal.deliveries(states=["dead"])
        assert row.reason == "not-an-event"
        assert row.record is not None
        assert row.record.data == b"\xff\x00 hello"


async def test_a_channel_that_this_journal_publishes_itself_is_not_brought_in(broker: Server):
    heard = Heard()
    async with Spine("memory://", service=storefront, broker=to(broker)) as both, both.running(inventory(heard)):
        await both.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1 and heard)
        assert both.health()["broker"]["intakes"] == []
        assert heard == [("ann", 0)]


async def test_who_comes_second_begins_where_the_first_decided(broker: Server):
    """By then the service is known, and would begin with now: what was published in between never arrived."""
    heard = Heard()
    journal = MemoryJournal()
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        broker.stop()
        async with Spine(journal, broker=to(broker)) as first, first.running(inventory(heard)):
            pass  # it has registered the service, and never reached the broker
        broker.restart()
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: store.health()["broker"]["relays"][0]["behind"] == 0)
        async with Spine(journal, broker=to(broker)) as second, second.running(inventory(heard)):
            await until(lambda: heard.of("ann") == [0])


async def test_now_stays_where_it_was_though_nothing_has_come_yet(broker: Server):
    heard = Heard()
    journal = MemoryJournal()
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: broker.sent == 1)
        async with Spine(journal, broker=to(broker)) as first, first.running(inventory(heard, start="now")):
            await until(lambda: len(first.health()["broker"]["intakes"][0]["partitions"]) == 4)
        await store.publish(Placed(customer="ann", number=1))
        await until(lambda: broker.sent == 2)
        async with Spine(journal, broker=to(broker)) as second, second.running(inventory(heard, start="now")):
            await until(lambda: heard.of("ann"))
            assert heard.of("ann") == [1]


async def test_a_relay_that_can_not_give_back_its_lease_goes_on(broker: Server, monkeypatch: pytest.MonkeyPatch):
    """The journal was away as it wanted to leave, which ended it for good, and in silence."""
    heard = Heard()
    journal = MemoryJournal()
    away = 2

    async def leave(process: Any) -> None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise JournalError("away")
        await real(process)

    real = journal.leave
    async with (
        Spine(journal, service=storefront, broker=to(broker), lease_s=1.0) as store,
        Spine("memory://", broker=to(broker)) as stock,
        stock.running(inventory(heard)),
    ):
        await store.publish(Placed(customer="ann", number=0))
        await until(lambda: heard)
        monkeypatch.setattr(journal, "leave", leave)
        with monkeypatch.context() as patch:
            patch.setattr(journal, "feed", no_journal)
            journal._ring()
            await until(lambda: away <= 0)
        await store.publish(Placed(customer="ann", number=1))
        await until(lambda: heard.of("ann") == [0, 1])


async def test_a_relay_that_takes_up_again_while_the_broker_is_away_is_well_when_it_is_back(
    broker: Server, monkeypatch: pytest.MonkeyPatch
):
    """With nothing to send: its health spoke of what was over until the next event was published."""
    journal = MemoryJournal()
    async with Spine(journal, service=storefront, broker=to(broker)) as store:
        (relay,) = store._carrying.relays.values()  # type: ignore[union-attr]
        await until(lambda: relay.leads)
        broker.stop()
        with monkeypatch.context() as patch:
            patch.setattr(journal, "feed", no_journal)
            relay._changed.set()
            await until(lambda: relay.trouble)
        await until(lambda: broker.name in (relay.trouble or ""))
        broker.restart()
        await until(lambda: store.health()["status"] == "ok")


async def test_a_hole_in_one_slot_holds_up_no_other_after_a_restart(broker: Server, monkeypatch: pytest.MonkeyPatch):
    """What had been brought in from beyond the hole was finished again together with what is new, and refused for ever."""
    heard = Heard()
    journal = MemoryJournal()
    store_message = broker.store
    monkeypatch.setattr(broker, "store", lambda message: b'"lost"' in message.data or store_message(message))
    near = next(f"b{n}" for n in range(100) if (slot_of_key(f"b{n}") - slot_of_key("ann")) % 4 == 0)
    async with Spine("memory://", service=storefront, broker=to(broker)) as store:
        await store.publish(Placed(customer="ann", number=0), Placed(customer="ann", number=1, note="lost"))
        await store.publish(Placed(customer="ann", number=2), Placed(customer=near, number=0))
        async with Spine(journal, broker=to(broker)) as first, first.running(inventory(heard)):
            await until(lambda: heard.of(near) == [0])
        await store.publish(Placed(customer="ann", number=3), Placed(customer=near, number=1))
        async with Spine(journal, broker=to(broker)) as second, second.running(inventory(heard)):
            async with asyncio.timeout(10):
                await until(lambda: heard.of(near) == [0, 1])
        assert heard.of("ann") == [0]


async def no_journal(*_: Any, **__: Any) -> Any:
    raise JournalError("away")


class Copied(MemoryJournal):
    """Of one identity, as an original and its restored copy."""

    def __init__(self, incarnation: str) -> None:
        super().__init__()
        self.id, self.incarnation = "one and the same", incarnation


async def test_of_two_with_the_claim_of_an_earlier_release_the_first_has_it_and_the_other_is_refused(broker: Server):
    broker.owners["consumer", "inventory.orders"] = "one and the same"
    async with Spine(Copied("1"), broker=to(broker)) as original, original.running(inventory(Heard())):
        assert broker.owners["consumer", "inventory.orders"] == "one and the same.1"
        copy = Spine(Copied("2"), broker=to(broker))
        with pytest.raises(BrokerTaken, match=r"one and the same\.1.*restored copy"):
            async with copy, copy.running(inventory(Heard())):
                pass


async def test_of_two_that_complete_such_a_claim_at_once_one_has_it(broker: Server):
    """The other has written its own between our writing and our looking."""
    broker.owners["consumer", "stock.orders"] = "j"
    here = open_broker(to(broker))

    class Crossed:
        async def claim(self, role: str, name: str, identity: str, *, force: bool) -> str:
            owner = await here.claim(role, name, identity, force=force)  # type: ignore[arg-type]
            if force:
                broker.owners["consumer", name] = "j.2"
            return owner

    crossed: Any = Crossed()
    claim = Claim(crossed, SystemClock(), "consumer", "stock.orders", 1.0, force=False, formerly="j")
    assert await claim.others("j.1") == "j.2"


async def test_what_is_no_broker_is_refused_where_it_is_given(broker: Server):
    whole = MemoryBroker(broker)
    assert Spine("memory://", broker=whole).broker is whole
    with pytest.raises(SettingsError, match="neither a URL.*nor a broker: it has no url, features, open, close, send"):
        Spine("memory://", broker=object())  # type: ignore[arg-type]
    with pytest.raises(
        SettingsError, match=r"broker=MemoryBroker is a class. Give a broker that is made: MemoryBroker\(…\)"
    ):
        Spine("memory://", broker=MemoryBroker)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="it has no url, open"):
        Spine("memory://", broker=FeedBroker(MemoryJournal()))  # type: ignore[arg-type]
    whole.features = FeedBroker(MemoryJournal()).features  # type: ignore[assignment]
    with pytest.raises(SettingsError, match="have to be eventspine.brokers.port.Features"):
        Spine("memory://", broker=whole)
    with pytest.raises(SettingsError, match="'mine' names no broker.*One of your own is given as an object"):
        Spine("memory://", broker="mine://here")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"broker": "kakfa://a"}, r"'kakfa' names no broker\. Did you mean kafka://\?"),
        ({"take_over": True}, "take_over=True takes a place at a broker, and none is named"),
        ({"lease_s": 0}, "lease_s=0 is not a number of seconds above 0"),
        ({"lease_s": "10"}, "lease_s='10' is not"),
        ({"outbox_max": 0}, "outbox_max=0 is not a whole number of events, 1 at least"),
    ],
)
def test_what_can_not_be_meant_is_refused_where_it_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Spine("memory://", **options)


def test_a_url_whose_scheme_was_forgotten_is_refused_without_its_password() -> None:
    for refused in (
        lambda: Spine("memory://", broker="shop:s3cret@broker:5672/%2F"),
        lambda: Spine("shop:s3cret@db/shop"),
    ):
        with pytest.raises(SettingsError, match=r"…@(broker|db).* names no (broker|journal)") as error:
            refused()
        assert "s3cret" not in str(error.value)


async def test_what_a_key_waits_for_may_have_come_to_another_process(
    broker: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody changes the number of partitions under load its events are in two of them: neither is missing."""
    heard, journal, store_message = Heard(), MemoryJournal(), broker.store
    async with (
        Spine("memory://", service=storefront, broker=to(broker)) as store,
        Spine(journal, broker=to(broker), lease_s=1.0) as one,
        Spine(journal, broker=to(broker), lease_s=1.0) as other,
        one.running(inventory(heard)),
        other.running(inventory(heard)),
    ):
        halves = [intake for spine in (one, other) for intake in spine._carrying.intakes.values()]  # type: ignore[union-attr]
        await until(lambda: [2, 2] == [len(half.partitions) for half in halves])
        ways = [half.partitions[0] for half in halves]

        def in_turn(message: Message) -> None:
            store_message(message._replace(slot=ways[int(message.headers["ce_sequence"]) % 2]))

        monkeypatch.setattr(broker, "store", in_turn)
        for number in range(4):
            await store.publish(Placed(customer="ann", number=number))
            await until(lambda: len(heard) > number)  # noqa: B023 -- it is waited for here
        assert [0, 1, 2, 3] == heard.of("ann")
        assert [0, 0] == [half.gaps for half in halves]
