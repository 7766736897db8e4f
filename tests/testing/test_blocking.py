"""`testing.sync_spine`: the same names, and every call waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from eventspine import Retry, Service, testing
from eventspine.errors import RowsUnexpected
from eventspine.testing import SyncVirtualSpine, VirtualSpine

from .shop import Mailed, Mailer, OrderPlaced, OrderReminded, SmtpDown, StockReserved, make_email, make_inventory


def test_a_chain_of_services_runs_to_its_end() -> None:
    email, mailer = make_email(), Mailer()
    with testing.sync_spine(make_inventory(), email, resources={email: mailer}) as spine:
        receipt = spine.publish(OrderPlaced(order_id="A"))
        spine.idle()
        assert receipt.position == 1
        assert spine.published(Mailed) == [Mailed(order_id="A")]
        assert spine.published(StockReserved, Mailed) == [StockReserved(order_id="A"), Mailed(order_id="A")]
        assert spine.envelopes(Mailed)[0].correlationid == receipt.id
        assert spine.query("select free from inventory_stock where sku = :sku", sku="teapot") == [{"free": 2}]
    assert mailer.sent == ["A"]


def test_what_a_handler_raised_is_raised_here() -> None:
    with testing.sync_spine(make_inventory()) as spine:
        spine.publish(OrderPlaced(order_id="A", units=9))
        with pytest.raises(RowsUnexpected) as caught:
            spine.idle()
    assert any(f"seed={spine.seed}" in note for note in caught.value.__notes__)


def test_what_was_not_asked_for_is_raised_at_the_end_unless_the_test_failed_by_itself() -> None:
    def run(sure: bool) -> None:
        with testing.sync_spine(make_inventory()) as spine:
            spine.publish(OrderPlaced(order_id="A", units=9))
            spine._loop.run(spine._spine._settle(10.0))
            assert sure

    with pytest.raises(RowsUnexpected):
        run(True)
    with pytest.raises(AssertionError) as caught:
        run(False)
    assert any("RowsUnexpected" in note for note in caught.value.__notes__)


def test_time_and_switches_work_as_in_the_other() -> None:
    service: Service[Any] = Service("watch", publishes="email")
    runs: list[str] = []

    @service.on(OrderReminded, retry=Retry(attempts=2, immediate=0, first_s=60.0))
    def remind(event: OrderReminded) -> Mailed:
        runs.append(event.sku)
        return Mailed(order_id=event.sku)

    with testing.sync_spine(service, failures="retry") as spine:
        began = spine.now
        spine.publish(OrderReminded(), after=timedelta(hours=2))
        spine.fail_next(remind, SmtpDown)
        spine.deliver_twice(remind)
        spine.advance(hours=2)
        assert runs == []
        (parked,) = spine.parked(remind)
        assert parked.event == OrderReminded()
        spine.advance(minutes=2)
        assert spine.now - began == timedelta(hours=2, minutes=2)
        assert runs == ["teapot", "teapot"]
        assert spine.published(Mailed) == [Mailed(order_id="teapot")]
        spine.fail_next("remind", SmtpDown, times=2)
        spine.publish(OrderReminded(sku="cup"))
        spine.advance(hours=1)
        assert [row.event.sku for row in spine.dead()] == ["cup"]
        assert spine.replay() == 1
        spine.idle()
        assert spine.dead() == []


def test_both_have_the_same_names() -> None:
    def names(cls: type) -> set[str]:
        return {name for one in cls.__mro__ for name in vars(one) if not name.startswith("_")}

    internal = {"records"}
    attributes = {"journal", "service", "middleware", "clock"}
    assert names(VirtualSpine) - names(SyncVirtualSpine) - internal - attributes == set()


def test_a_spine_that_does_not_start_leaves_no_thread_behind() -> None:
    import threading

    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="the real mailer"), testing.sync_spine(make_email()):
        pass
    assert set(threading.enumerate()) <= before
