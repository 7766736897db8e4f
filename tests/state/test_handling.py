"""Aggregates in handlers belong to the delivery: they are stored with it, once, or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Batch, BatchDelivery, Dead, Delivery, Event, Service, testing
from eventspine.errors import NoSuchAggregate, SettingsError, SpineError
from eventspine.sync import Delivery as SyncDelivery

from .bank import Account, Overdrawn


class Ordered(Event, context="orders", key="account"):
    account: str
    cents: int = 200


def paying() -> Service[None]:
    service = Service("bank")

    @service.on(Ordered)
    async def pay(event: Ordered, delivery: Delivery) -> None:
        account = await delivery.load(Account, event.account)
        account.withdraw(event.cents)
        delivery.save(account)

    return service


async def opened(spine: Any, service: str = "bank") -> None:
    from eventspine.journal.port import Append, Unit
    from eventspine.testing.conformance.journals.material import event as record

    past = [
        record(type="bank.Opened", data=b'{"account":"ann"}'),
        record(type="bank.Deposited", data=b'{"account":"ann","cents":500}'),
    ]
    (verdict,) = await spine.journal.commit([Unit([Append(past, service, "account-ann")])])
    assert verdict.ok


async def balance(spine: Any) -> int:
    from eventspine.state.streams import load

    return (await load(spine.journal, "bank", Account, "ann")).cents


async def test_it_is_loaded_changed_and_saved_with_the_delivery() -> None:
    async with testing.spine(paying()) as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert 300 == await balance(spine)
        (own,) = [one for one in spine.envelopes() if one.type == "bank.Withdrawn"]
        assert own.causationid is not None


async def test_an_event_that_is_delivered_twice_is_paid_once() -> None:
    service = paying()
    async with testing.spine(service) as spine:
        await opened(spine)
        spine.deliver_twice()
        await spine.publish(Ordered(account="ann", cents=100), Ordered(account="ann", cents=100))
        await spine.idle()
        assert 300 == await balance(spine)


async def test_when_the_handler_raises_nothing_is_saved() -> None:
    service = Service("bank")

    @service.on(Ordered)
    async def pay(event: Ordered, delivery: Delivery) -> None:
        account = await delivery.load(Account, event.account)
        account.deposit(1)
        delivery.save(account)
        raise Overdrawn

    async with testing.spine(service, failures="retry") as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert 500 == await balance(spine)


async def test_what_is_recorded_and_not_saved_fails_the_attempt() -> None:
    service = Service("bank")

    @service.on(Ordered)
    async def forget(event: Ordered, delivery: Delivery) -> None:
        (await delivery.load(Account, event.account)).deposit(1)

    async with testing.spine(service) as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        with pytest.raises(SpineError, match=r"Deposited recorded in Account 'ann' and not saved"):
            await spine.idle()


async def test_loading_again_gives_the_same_with_what_it_recorded() -> None:
    service, seen = Service("bank"), []

    @service.on(Ordered)
    async def twice(event: Ordered, delivery: Delivery) -> None:
        first = await delivery.load(Account, event.account)
        first.deposit(1)
        second = await delivery.load_or_new(Account, event.account)
        seen.append((first is second, second.cents))
        delivery.save(second)
        first.deposit(1)
        delivery.save(first)

    async with testing.spine(service) as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert ([(True, 501)], 502) == (seen, await balance(spine))


async def test_a_conflict_calls_the_handler_again_with_what_is_there_now() -> None:
    service, calls = Service("bank"), []

    @service.on(Ordered)
    async def pay(event: Ordered, delivery: Delivery) -> None:
        account = await delivery.load(Account, event.account)
        calls.append(account.cents)
        if len(calls) == 1:
            await opened_meanwhile(delivery)
        account.withdraw(event.cents)
        delivery.save(account)

    async def opened_meanwhile(delivery: Delivery) -> None:
        from eventspine.journal.port import Append, Unit
        from eventspine.testing.conformance.journals.material import event as record

        one = record(type="bank.Deposited", data=b'{"account":"ann","cents":7}')
        await delivery._subscription.journal.commit([Unit([Append([one], "bank", "account-ann")])])

    async with testing.spine(service, failures="retry") as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert ([500, 507], 307) == (calls, await balance(spine))


async def test_a_plain_def_handler_has_the_same_names() -> None:
    service = Service("bank")

    @service.on(Ordered)
    def pay(event: Ordered, delivery: SyncDelivery) -> None:
        account = delivery.load(Account, event.account)
        other = delivery.load_or_new(Account, "bob")
        account.withdraw(event.cents)
        other.deposit(event.cents)
        delivery.save(account, other)

    async with testing.spine(service) as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert 300 == await balance(spine)


async def test_what_is_not_saved_when_the_delivery_joins_is_refused_there(tmp_path: Path) -> None:
    """Nothing of a handler that returned with it could be tried again: its transaction would have committed."""
    service = Service("bank")

    @service.on(Ordered, errors={SpineError: Dead})
    async def forgets(event: Ordered, delivery: Delivery) -> None:
        account = await delivery.load_or_new(Account, event.account)
        account.begin()
        with closing(sqlite3.connect(tmp_path / "spine.db")) as connection, connection:
            connection.execute("begin immediate")
            delivery.join(connection)

    async with testing.spine(service, url=f"sqlite:///{tmp_path}/spine.db") as spine:
        await spine.publish(Ordered(account="ann"))
        with pytest.raises(SpineError, match="recorded in Account 'ann' and not saved"):
            await spine.idle()


async def test_as_it_was_can_be_loaded_beside_as_it_is() -> None:
    service, seen = Service("bank"), []

    @service.on(Ordered)
    async def look(event: Ordered, delivery: Delivery) -> None:
        seen.append([(await delivery.load(Account, "ann", at_version=n)).cents for n in (1, 2)])
        with pytest.raises(NoSuchAggregate):
            await delivery.load(Account, "bob")

    async with testing.spine(service) as spine:
        await opened(spine)
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
    assert [[0, 500]] == seen


async def test_a_command_inside_a_handler_is_refused_and_says_what_to_use() -> None:
    service, outer = Service("bank"), []

    @service.on(Ordered)
    async def wrong(event: Ordered) -> None:
        await outer[0].change(Account, "ann", Account.begin, new=True)

    async with testing.spine(service) as spine:
        outer.append(spine)
        await spine.publish(Ordered(account="ann"))
        with pytest.raises(SpineError, match=r"Use await delivery.load\(...\) and delivery.save"):
            await spine.idle()


async def test_spine_save_inside_a_handler_belongs_to_the_delivery() -> None:
    service, outer = Service("bank"), []

    @service.on(Ordered)
    async def pay(event: Ordered) -> None:
        account = Account("new")
        account.begin()
        (receipt,) = await outer[0].save(account)
        assert not receipt.durable

    async with testing.spine(service, service=service) as spine:
        outer.append(spine)
        spine._publisher.contexts |= {"orders"}
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        assert 1 == (await spine.load(Account, "new")).version


async def test_runs_have_no_aggregates() -> None:
    service = Service("bank")

    @service.on(Ordered, batch=Batch(10))
    async def many(events: list[Ordered], delivery: BatchDelivery) -> None:
        with pytest.raises(SpineError, match="can't load aggregates, for the run or for one event of it"):
            await delivery.of(events[0]).load(Account, "ann")
        with pytest.raises(SpineError, match="can't save aggregates, for the run or for one event of it"):
            delivery.of(events[0]).save(Account("ann"))

    async with testing.spine(service) as spine:
        await spine.publish(Ordered(account="ann"))
        await spine.idle()


async def test_a_delivery_made_by_hand_says_where_to_test_it() -> None:
    by_hand = testing.delivery(Ordered(account="ann"))
    account = Account("ann")
    account.begin()
    with pytest.raises(SettingsError, match=r"testing.spine\(service\)"):
        await by_hand.load(Account, "ann")
    with pytest.raises(SettingsError, match=r"testing.given"):
        by_hand.save(account)


async def test_who_loads_what_another_service_has_is_told_which() -> None:
    """A test that speaks for nobody is told so by the service `test`, which is nobody's."""
    service = Service("bank")

    @service.on(Ordered)
    async def begins(event: Ordered, delivery: Delivery) -> None:
        account = await delivery.load_or_new(Account, event.account)
        account.begin()
        delivery.save(account)

    async with testing.spine(service) as spine:
        await spine.publish(Ordered(account="ann"))
        await spine.idle()
        with pytest.raises(NoSuchAggregate, match=r"no Account 'ann' in test, .* is in bank\. .* service="):
            await spine.load(Account, "ann")
        with pytest.raises(NoSuchAggregate, match="To make one, write Account"):
            await spine.load(Account, "bob")
    assert (await _spoken_for(service)).version == 1


async def _spoken_for(service: Service[None]) -> Account:
    async with testing.spine(service, service=service) as spine:
        account = await spine.load_or_new(Account, "ann")
        account.begin()
        await spine.save(account)
        return await spine.load(Account, "ann")
