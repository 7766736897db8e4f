"""What stands between a broker that pushes and the intake that fetches."""

from __future__ import annotations

import asyncio

import pytest

from eventspine.brokers._kafka_shelf import Shelf as KafkaShelf
from eventspine.brokers.port import FETCH_BYTES, Fetched, weight_of
from eventspine.brokers.shelf import Shelf
from eventspine.errors import BrokerError


def fetched(number: int, partition: int = 0, size: int = 10) -> Fetched:
    return Fetched(partition, 0, None, {}, "", b"x" * size, 0, number)


def of_headers(number: int, size: int) -> Fetched:
    return Fetched(0, number, None, {"x" * (size // 2): "y" * (size // 2)}, "", b"", 0, number)


def numbers(found: list[Fetched]) -> list[object]:
    return [one.token for one in found]


async def test_what_came_is_fetched_once_in_order_and_counted():
    shelf = Shelf()
    shelf.put(fetched(number) for number in range(5))
    assert (5, 50) == (len(shelf), shelf.bytes)
    assert [0, 1, 2] == numbers([*await shelf.fetch(3, 60)])
    assert [3, 4] == numbers([*await shelf.fetch(3, 60)])
    assert (0, 0) == (len(shelf), shelf.bytes)
    assert [] == [*await shelf.fetch(3, 0.01)]


async def test_who_waits_is_woken_by_the_first_and_by_a_failure():
    shelf = Shelf()
    waiting = asyncio.create_task(shelf.fetch(10, 60))
    await asyncio.sleep(0)
    shelf.put([fetched(1)])
    assert [1] == numbers([*await waiting])
    waiting = asyncio.create_task(shelf.fetch(10, 60))
    await asyncio.sleep(0)
    shelf.fail(BrokerError("the first"))
    shelf.fail(BrokerError("what follows from it"))
    with pytest.raises(BrokerError, match="the first"):
        await waiting


async def test_a_fetch_that_is_cancelled_takes_nothing():
    shelf = Shelf()
    waiting = asyncio.create_task(shelf.fetch(10, 60))
    await asyncio.sleep(0)
    shelf.put([fetched(1)])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert [1] == numbers([*await shelf.fetch(10, 0)])


async def test_paused_it_gives_out_nothing_and_then_all_that_came():
    shelf = Shelf()
    shelf.pause()
    shelf.put([fetched(1)])
    assert [] == [*await shelf.fetch(10, 0.01)]
    waiting = asyncio.create_task(shelf.fetch(10, 60))
    await asyncio.sleep(0)
    shelf.resume()
    assert [1] == numbers([*await waiting])


async def test_what_is_given_back_is_taken_off_and_whoever_fills_it_is_told_of_room():
    seen: list[tuple[int, int, bool]] = []
    shelf = Shelf(lambda: seen.append((len(shelf), shelf.bytes, shelf.paused)))
    shelf.put([fetched(1, partition=0), fetched(2, partition=1, size=5)])
    shelf.keep(lambda one: one.partition == 1)
    shelf.pause()
    shelf.resume()
    assert [2] == numbers([*await shelf.fetch(10, 0)])
    assert [(2, 15, False), (1, 5, False), (1, 5, True), (1, 5, False), (0, 0, False)] == seen


async def test_who_waits_can_be_woken_though_nothing_came():
    shelf = Shelf()
    waiting = asyncio.create_task(shelf.fetch(10, 60))
    await asyncio.sleep(0)
    shelf.wake()
    assert [] == [*await waiting]


async def test_what_is_nothing_but_headers_is_fetched_a_few_at_a_time() -> None:
    """A thousand messages with a megabyte of them would else be in memory, and be stored as one."""
    given = [of_headers(number, FETCH_BYTES // 4) for number in range(1, 21)]
    pushed, kafka = Shelf(), KafkaShelf()
    kafka.begin(0, 0)
    pushed.put(given)
    kafka.put(given)
    assert sum(map(weight_of, given)) == pushed.bytes == 5 * FETCH_BYTES
    assert kafka.full
    for _ in range(5):
        assert 4 == len(await pushed.fetch(1000, 0)) == len(kafka.take(1000))
    assert 0 == pushed.bytes
    assert not kafka.full
