"""The Pulsar adapter on a real Pulsar: what the port's suite does not ask, since it is Pulsar's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers._pulsar_intake import (
    ENTRY_MAX,
    INDEX_MAX,
    LEDGER_BITS,
    PulsarIntake,
    entry_of,
    position,
)
from eventspine.brokers.port import Fetched, Message, Needs, Start
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.errors import BrokerError, MessageRefused
from eventspine.testing.servers import Proxy, Server

WAIT_S = 60.0
CHANNEL = "orders"
CONSUMER = f"stock.{CHANNEL}"
NEEDS = Needs([CHANNEL], [(CHANNEL, CONSUMER)])


def url_of(server: Any, address: str = "", **options: str) -> str:
    """Names that nobody else uses."""
    said = {"admin": server.admin_url, "partitions": "2", "prefix": f"t{uuid4().hex[:10]}.", **options}
    return f"{address or server.url}/public/default?{'&'.join(f'{name}={value}' for name, value in said.items())}"


@asynccontextmanager
async def opened(url: str, needs: Needs = NEEDS) -> AsyncIterator[PulsarBroker]:
    broker = open_broker(url)
    assert isinstance(broker, PulsarBroker)
    await broker.open()
    try:
        await broker.apply(needs)
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def reading(
    broker: PulsarBroker, *, after: dict[int, int] | None = None, start: Start = "earliest"
) -> AsyncIterator[PulsarIntake]:
    intake = await broker.intake(CHANNEL, CONSUMER, lambda: None)
    try:
        for partition in sorted(intake.assigned()):
            await intake.begin(partition, after=(after or {}).get(partition), start=start, epoch=1)
        yield intake
    finally:
        await intake.close()


def message(number: int, *, slot: int = 0, data: bytes = b"{}", more: dict[str, str] | None = None) -> Message:
    headers = {"ce_id": str(number), "ce_type": "orders.Placed", **(more or {})}
    return Message(CHANNEL, slot, f"key {slot}", str(number), headers, "application/json", data)


async def sent(broker: PulsarBroker, *messages: Message) -> None:
    assert [None] * len(messages) == list(await broker.send(messages))


async def take(intake: PulsarIntake, count: int, most: int = 1000) -> list[Fetched]:
    found: list[Fetched] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await intake.fetch(min(most, count - len(found)), 0.5)
    return found


def numbers(fetched: list[Fetched]) -> list[int]:
    return [int(one.headers["ce_id"]) for one in fetched]


async def until(true: Callable[[], Any], what: str) -> None:
    """An answer of the server that takes its time."""
    give_up = monotonic() + WAIT_S
    while not await true():
        assert monotonic() < give_up, what
        await asyncio.sleep(0.1)


async def stats(broker: PulsarBroker, partition: int = 0) -> Any:
    topic = f"{broker.settings.topic(CHANNEL)}-partition-{partition}"
    return await Admin(broker.settings).get(f"{topic_path(topic)}/internalStats")


async def anchored_at(broker: PulsarBroker, partition: int = 0) -> tuple[int, ...]:
    """Ledger and entry up to which data may go."""
    cursor = (await stats(broker, partition))["cursors"][CONSUMER]
    return tuple(int(part) for part in cursor["markDeletePosition"].split(":"))


# --- positions --------------------------------------------------------------------------------------------------------


def test_a_position_is_a_message_id_in_63_bits_that_grows() -> None:
    ids = [(0, -1, -1), (0, 0, -1), (0, 0, 1), (0, 1, 0), (0, 1, 999), (7, -1, -1), (7, 0, 0), (8, 50_000, 3)]
    last = (2**LEDGER_BITS - 1, ENTRY_MAX, INDEX_MAX)
    found = [position(*id) for id in [*ids, last]]
    assert sorted(set(found)) == found
    assert 0 == found[0]
    assert found[-1] < 2**63
    assert [(ledger, entry) for ledger, entry, _ in [*ids, last]] == [entry_of(one) for one in found]
    assert 0 == position(-1, -1, -1), "of an empty topic"


def test_beyond_its_limits_a_position_stays_behind_or_is_refused() -> None:
    assert position(3, 4, INDEX_MAX) == position(3, 4, 50_000) < position(3, 5, 0)
    assert position(3, ENTRY_MAX, INDEX_MAX) == position(3, 2**30, 0) < position(4, -1, -1)
    with pytest.raises(BrokerError, match="beyond 2,147,483,648"):
        position(2**LEDGER_BITS, 0, 0)


async def test_it_reads_on_in_the_middle_of_a_batch(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        await sent(broker, *(message(n) for n in range(100)))
        async with reading(broker) as intake:
            some = await take(intake, 37)
        assert some[0].position >> 11 == some[36].position >> 11, "they came as one batch"
        async with reading(broker, after={0: some[-1].position}) as intake:
            rest = await take(intake, 63)
            assert [] == list(await intake.fetch(10, 0.2))
    assert list(range(100)) == numbers(some + rest)


# --- what is kept until it is settled ---------------------------------------------------------------------------------


async def test_nothing_may_be_deleted_before_it_is_settled_and_everything_after(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, keep_days="0")) as broker, reading(broker) as intake:
        for n in range(5):
            await sent(broker, message(n))  # each an entry
        got = await take(intake, 5)
        begun = await anchored_at(broker)
        await intake.settle([got[1], got[2]])  # the first is held
        await intake.settle([got[4]])
        assert begun == await anchored_at(broker)
        await intake.settle([got[0]])
        third = entry_of(got[2].position)
        await until(lambda: at(broker, third), "the first three to be acknowledged, and no more")
        await intake.settle([got[3]])
        await until(lambda: at(broker, entry_of(got[4].position)), "all to be acknowledged")


async def at(broker: PulsarBroker, place: tuple[int, ...]) -> bool:
    return await anchored_at(broker) == place


async def test_what_is_not_settled_outlives_its_ledger_without_any_retention(pulsar_server: Server) -> None:
    """The topic is rolled and trimmed, as Pulsar does by itself; what was settled is gone, and what was not is there."""
    async with opened(url_of(pulsar_server, keep_days="0", partitions="1")) as broker:
        admin, path = Admin(broker.settings), topic_path(f"{broker.settings.topic(CHANNEL)}-partition-0")
        # Its snapshots, taken every two minutes, hold back deletion too.
        await admin.make("POST", f"{topic_path(broker.settings.topic(CHANNEL))}/deduplicationEnabled", body=False)
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(10)))
            await intake.settle(first := await take(intake, 10))
            ledger = entry_of(first[-1].position)[0]
            await until(lambda: at(broker, entry_of(first[-1].position)), "all to be acknowledged")
        await admin.make("PUT", f"{path}/unload")  # begins another ledger
        await sent_somehow(broker, *(message(n) for n in range(10, 20)))
        await admin.make("PUT", f"{path}/unload")
        await sent_somehow(broker, *(message(n) for n in range(20, 30)))

        async def trimmed() -> bool:
            await admin.make("POST", f"{path}/trim")
            return ledger not in [one["ledgerId"] for one in (await stats(broker))["ledgers"]]

        await until(trimmed, "what was settled to be deleted")
        async with reading(broker, after={0: first[-1].position}) as intake:
            assert list(range(10, 30)) == numbers(await take(intake, 20))
        async with reading(broker) as intake:
            assert list(range(10, 30)) == numbers(await take(intake, 20)), "the earliest that there is"


async def sent_somehow(broker: PulsarBroker, *messages: Message) -> None:
    async def done() -> bool:
        return all(answer is None for answer in await broker.send(messages))

    await until(done, "it to be taken")


async def test_an_owner_that_hangs_keeps_nobody_out_and_its_late_settling_takes_nothing(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker, reading(broker) as hangs:
        for n in range(4):
            await sent(broker, message(n))
        got = await take(hangs, 4)
        async with opened(url_of(pulsar_server, prefix=broker.settings.prefix)) as other:
            async with reading(other, after={0: got[1].position}) as intake:
                again = await take(intake, 2)
                assert [2, 3] == numbers(again)
                await intake.settle(again)
                await until(lambda: at(broker, entry_of(got[3].position)), "all to be acknowledged")
                await hangs.settle(got[:2])  # as it had them stored
                await sent(broker, message(4))
                assert [4] == numbers(await take(intake, 1))
                assert await at(broker, entry_of(got[3].position))


async def test_a_subscription_that_somebody_deleted_is_made_anew_and_reading_goes_on(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server)) as broker:
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(3)))
            got = await take(intake, 3)
        path = topic_path(broker.settings.topic(CHANNEL))
        await Admin(broker.settings).make("DELETE", f"{path}/subscription/{CONSUMER}")
        assert [f"subscription {CONSUMER}"] == [one.what for one in await broker.differences(NEEDS)]
        await sent(broker, message(3))
        async with reading(broker, after={0: got[-1].position}) as intake:
            assert [3] == numbers(await take(intake, 1))
        assert [] == list(await broker.differences(NEEDS))


async def test_a_topic_that_was_made_anew_is_read_on_without_a_loss(pulsar_server: Server) -> None:
    """Ledgers are numbered across the cluster, so that its positions go on growing."""
    async with opened(url_of(pulsar_server)) as broker:
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(10)))
            got, feed = await take(intake, 10), intake.feed
        path = topic_path(broker.settings.topic(CHANNEL))
        await Admin(broker.settings).make("DELETE", f"{path}/partitions?force=true")
        await broker.apply(NEEDS)
        await sent_somehow(broker, message(99))
        async with reading(broker, after={0: got[-1].position}) as intake:
            assert [99] == numbers(await take(intake, 1))
            assert feed == intake.feed


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.fixture
def network(pulsar_server: Server) -> Iterator[Proxy]:
    with pulsar_server.proxy() as between:
        yield between


async def test_a_connection_that_went_silent_ends_the_intake_in_time(pulsar_server: Server, network: Proxy) -> None:
    async with opened(url_of(pulsar_server, network.url)) as broker, reading(broker) as intake:
        await asyncio.to_thread(network.lose)
        began = monotonic()
        with pytest.raises(BrokerError, match="does not answer"):
            while True:
                await intake.fetch(10, 1.0)
                assert monotonic() - began < 20
        await sent_somehow(broker, message(1))  # over a new one
        async with reading(broker) as anew:
            assert [1] == numbers(await take(anew, 1))


async def test_what_was_sent_over_a_connection_that_broke_is_there_once(pulsar_server: Server, network: Proxy) -> None:
    """The server has it, the answer is lost, and the client sends it again by itself: deduplication drops that."""
    async with (
        opened(url_of(pulsar_server, network.url)) as broker,
        opened(url_of(pulsar_server, prefix=broker.settings.prefix)) as direct,
    ):
        await sent(broker, message(0))
        async with reading(direct) as intake:
            assert [0] == numbers(await take(intake, 1))
            await asyncio.to_thread(network.cut, "client")
            sending = asyncio.create_task(broker.send([message(n) for n in range(1, 50)]))
            assert list(range(1, 50)) == numbers(await take(intake, 49)), "they arrived"
            await asyncio.to_thread(network.reset)
            await asyncio.to_thread(network.mend)
            assert [None] * 49 == list(await sending)
            assert [] == list(await intake.fetch(100, 1.0)), "and did so once"


async def test_without_a_server_opening_says_so_in_time() -> None:
    began = monotonic()
    with pytest.raises(BrokerError, match=r"pulsar://127\.0\.0\.1:1"):
        async with opened("pulsar://127.0.0.1:1?timeout_s=1"):
            pytest.fail("there is none")
    assert monotonic() - began < 10


async def test_no_answer_to_a_message_is_no_refusal(pulsar_server: Server, network: Proxy) -> None:
    async with opened(url_of(pulsar_server, network.url, timeout_s="1")) as broker:
        await sent(broker, message(0))
        await asyncio.to_thread(network.cut)
        [answer] = await broker.send([message(1)])
        assert isinstance(answer, BrokerError)
        assert not isinstance(answer, MessageRefused)
        await asyncio.to_thread(network.mend)
        await sent_somehow(broker, message(2))
