"""Time that is far off comes soon: what is scheduled, due or periodic happens at its time, and the hours before it cost nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from eventspine import Delivery, Event, Retry, RetryAfter, Service
from eventspine.testing.simulate import Faults, SimulationFailed, World, nothing_is_dead, simulate

HOUR_US = 3_600_000_000


class Ordered(Event, context="orders", key="order"):
    order: str


class Reminded(Event, context="reminders", key="order"):
    order: str
    round: int


def reminding(rounds: int, after: timedelta) -> Service[Any]:
    service: Service[Any] = Service("reminders")

    @service.on(Ordered)
    async def begin(event: Ordered, delivery: Delivery) -> None:
        delivery.publish(Reminded(order=event.order, round=1), after=after)

    @service.on(Reminded)
    async def again(event: Reminded, delivery: Delivery) -> None:
        if event.round < rounds:
            delivery.publish(Reminded(order=event.order, round=event.round + 1), after=after)

    return service


async def two_orders(world: World) -> None:
    await world.publish(Ordered(order="A"), Ordered(order="B"))


def recorded(world: World) -> list[int]:
    return [record.recorded_us for record in world.records if record.type == "reminders.Reminded"]


@pytest.mark.parametrize("broker", [None, "log", "queue"])
def test_what_is_scheduled_for_next_month_is_waited_for(broker: Any) -> None:
    def comes_at_its_time(world: World) -> None:
        ordered = next(record.recorded_us for record in world.records if record.type == "orders.Ordered")
        waited = [at - ordered - 720 * HOUR_US for at in recorded(world)]
        assert len(waited) == 2
        assert -120e6 < min(waited) <= max(waited) < 400e6, (
            waited
        )  # clocks are set by up to a minute, and processes away

    done = simulate(
        reminding(1, timedelta(days=30)),
        drive=two_orders,
        invariants=[comes_at_its_time],
        histories=5,
        seed=1,
        broker=broker,
    )
    assert done.steps < 100_000  # awake for all of that time they would take forty million


def test_each_of_a_long_row_of_timers_comes_in_its_turn() -> None:
    def each_came(world: World) -> None:
        assert len(recorded(world)) == 2 * 48

    simulate(reminding(48, timedelta(hours=1)), drive=two_orders, invariants=[each_came], histories=2, seed=1)


def test_no_process_finds_its_lease_lost_by_a_jump() -> None:
    def nothing_changed_hands(world: World) -> None:
        (site,) = world.sites
        assert {lease.epoch for lease in site.journal._tables.leases.values()} == {1}

    one = {"processes": 1, "faults": Faults.none(), "histories": 3, "seed": 1}
    simulate(reminding(3, timedelta(days=1)), drive=two_orders, invariants=[nothing_changed_hands], **one)  # type: ignore[arg-type]


def test_a_periodic_handler_runs_each_hour_of_a_day() -> None:
    service: Service[Any] = Service("cleaning")
    runs = list[int]()

    @service.every(timedelta(hours=1))
    async def clean(delivery: Delivery) -> None:
        runs.append(delivery.time.hour)

    async def a_day(world: World) -> None:
        runs.clear()
        await world.sleep(hours=24)

    def each_hour(world: World) -> None:
        assert len(set(runs)) >= 23, runs

    done = simulate(service, drive=a_day, invariants=[each_hour], histories=2, seed=1, faults=Faults.none())
    assert done.steps < 200_000


def test_who_sleeps_is_woken_in_order() -> None:
    woken = list[tuple[str, float]]()

    async def sleeping(world: World, name: str, hours: float) -> None:
        began = world.now
        await world.sleep(hours=hours)
        woken.append((name, round((world.now - began).total_seconds() / 3600, 2)))
        await world.publish(Ordered(order=name))

    async def three(world: World) -> None:
        woken.clear()
        await asyncio.gather(
            sleeping(world, "b", 5), sleeping(world, "a", 2), asyncio.sleep(3600), sleeping(world, "c", 5.01)
        )

    done = simulate(reminding(1, timedelta(hours=1)), drive=three, histories=1, seed=1, faults=Faults.none())
    assert woken == [("a", 2.0), ("b", 5.0), ("c", 5.01)]
    assert done.steps < 50_000


def test_attempts_that_are_far_off_are_waited_for() -> None:
    service: Service[Any] = Service("mail", publishes="reminders")

    @service.on(Ordered, retry=Retry(attempts=5))
    async def send(event: Ordered, delivery: Delivery) -> Reminded:
        if delivery.attempt < 4:
            raise RetryAfter(timedelta(hours=20))
        return Reminded(order=event.order, round=1)

    def both(world: World) -> None:
        assert len(recorded(world)) == 2

    faults = Faults(failing=0)
    simulate(service, drive=two_orders, invariants=[both, nothing_is_dead], histories=5, seed=1, faults=faults)


def test_a_handler_at_work_is_waited_for_and_no_time_is_jumped_over() -> None:
    service: Service[Any] = Service("slow", publishes="reminders")

    @service.on(Ordered, timeout_s=4000)
    async def work(event: Ordered) -> Reminded:
        for _ in range(60):
            await asyncio.sleep(60)
        return Reminded(order=event.order, round=1)

    async def drive(world: World) -> None:
        await world.publish(Ordered(order="A"))
        await world.sleep(hours=2)

    def took_an_hour(world: World) -> None:
        ordered = next(record.recorded_us for record in world.records if record.type == "orders.Ordered")
        assert [round((at - ordered) / HOUR_US, 1) for at in recorded(world)] == [1.0]

    simulate(service, drive=drive, invariants=[took_an_hour], histories=1, seed=1, faults=Faults.none())


def test_what_has_no_end_says_what_to_do() -> None:
    async def for_ever(world: World) -> None:
        while True:
            await world.sleep(seconds=1)

    with pytest.raises(SimulationFailed, match=r"there is no end of it\. .* publish less in drive"):
        simulate(reminding(1, timedelta(hours=1)), drive=for_ever, histories=1, seed=1)
