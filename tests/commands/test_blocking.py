"""The same without a loop: handlers are called in the thread that sends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from eventspine import Reject, Service, correlate
from eventspine.errors import HandlerTimeout, SpineClosed
from eventspine.sync import Delivery, Spine

from .shop import Cancel, Customer, OrderPlaced, PlaceOrder, Shop

language: ContextVar[str] = ContextVar("language", default="en")


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'spine.db'}"


def blocking(inside: Callable[[], Any] = lambda: None) -> Service[None]:
    orders: Service[None] = Service("orders", publishes=["orders", "accounts"])

    @orders.command(PlaceOrder)
    def place(command: PlaceOrder, delivery: Delivery) -> UUID:
        inside()
        customer = delivery.load_or_new(Customer, command.customer)
        customer.charge(command.units)
        delivery.save(customer)
        delivery.publish(OrderPlaced(order_id="1", sku=command.sku, units=command.units))
        return UUID(int=command.units)

    return orders


def test_a_plain_function_is_called_in_the_thread_that_sends_with_its_context(url: str) -> None:
    told: list[Any] = []
    service = blocking(lambda: told.append((threading.get_ident(), language.get())))
    language.set("nl")
    with Spine(url, service=service) as spine, correlate("request-1"):
        assert UUID(int=2) == spine.send(PlaceOrder(units=2), command_id="k")
        assert UUID(int=2) == spine.send(PlaceOrder(units=2), command_id="k")
        assert 2 == spine.load(Customer, "ann").units
    assert told == [(threading.get_ident(), "nl")]


def test_an_async_handler_is_awaited_on_the_spines_loop(url: str) -> None:
    shop = Shop(sql=url != "memory://")
    with Spine(url, service=shop.service) as spine:
        assert type(spine.send(PlaceOrder())) is UUID


def test_many_threads_send_one_command_and_it_is_called_once(url: str) -> None:
    called: list[int] = []
    with Spine(url, service=blocking(lambda: called.append(1))) as spine, ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda _: spine.send(PlaceOrder(), command_id="k"), range(20)))
    assert [UUID(int=1)] * 20 == results
    assert [1] == called


def test_what_the_handler_raises_is_raised_here_with_its_own_lines(url: str) -> None:
    def no() -> None:
        raise Reject("not today")

    with Spine(url, service=blocking(no)) as spine, pytest.raises(Reject, match="not today") as caught:
        spine.send(PlaceOrder())
    assert "no" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize("error", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_odd_errors_end_nothing_but_the_command(url: str, error: type[BaseException]) -> None:
    def odd() -> None:
        raise error

    with Spine(url, service=blocking(odd)) as spine:
        with pytest.raises(BaseException):  # noqa: B017 -- which one is Python's business
            spine.send(PlaceOrder())
        assert 0 == spine.load_or_new(Customer, "ann").version  # it is alive


def test_an_interrupt_reaches_the_program_and_nothing_is_stored(url: str) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with Spine(url, service=blocking(interrupted)) as spine:
        with pytest.raises(KeyboardInterrupt):
            spine.send(PlaceOrder())
        assert 0 == spine.load_or_new(Customer, "ann").version


def test_one_that_takes_too_long_has_done_nothing(url: str) -> None:
    orders: Service[None] = Service("orders")

    @orders.command(Cancel, timeout_s=0.001)
    def cancel(command: Cancel, delivery: Delivery) -> None:
        delivery.publish(OrderPlaced(order_id="1", sku="x", units=1))
        threading.Event().wait(0.01)

    with Spine(url, service=orders) as spine, pytest.raises(HandlerTimeout):
        spine.send(Cancel(order_id="1"))


def test_a_closed_spine_sends_nothing(url: str) -> None:
    spine = Spine(url, service=blocking())
    spine.open()
    spine.close()
    with pytest.raises(SpineClosed):
        spine.send(PlaceOrder())


def test_the_settings_way_takes_commands_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSPINE_JOURNAL", f"sqlite:///{tmp_path / 'spine.db'}")
    monkeypatch.chdir(tmp_path)
    with Spine.from_settings(commands=[blocking()]) as spine:
        assert UUID(int=1) == spine.send(PlaceOrder())


def test_in_memory_with_virtual_time() -> None:
    from eventspine.testing import sync_spine

    with sync_spine(blocking()) as spine:
        assert UUID(int=4) == spine.send(PlaceOrder(units=4))
        assert [OrderPlaced(order_id="1", sku="teapot", units=4)] == spine.published(OrderPlaced)
