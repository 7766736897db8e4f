"""Reading from Pulsar: positions, what is kept until it is settled, replay by time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from eventspine import Event
from eventspine.brokers import _pulsar_intake
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers._pulsar_intake import (
    ENTRY_MAX,
    INDEX_MAX,
    LEDGER_BITS,
    entry_of,
    position,
)
from eventspine.brokers.binding import NotAnEvent
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.clock import SystemClock
from eventspine.engine.reading import Reading
from eventspine.errors import BrokerError
from eventspine.foreign import Decoder
from eventspine.ids import IdSource
from eventspine.testing.servers import Server

from .material import (
    CHANNEL,
    CONSUMER,
    NEEDS,
    anchored_at,
    batches_of,
    client_of,
    message,
    numbers,
    opened,
    reading,
    sent,
    sent_somehow,
    stats,
    take,
    until,
    url_of,
)

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


async def test_it_reads_on_in_the_middle_of_a_batch(pulsar_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    batches_of(100, monkeypatch)
    async with opened(url_of(pulsar_server)) as broker:
        await sent(broker, *(message(n) for n in range(100)))
        async with reading(broker) as intake:
            some = await take(intake, 37)
        assert some[0].position >> 11 == some[36].position >> 11, "they came as one batch"
        async with reading(broker, after={0: some[-1].position}) as intake:
            rest = await take(intake, 63)
            assert [] == list(await intake.fetch(10, 0.2))
    assert list(range(100)) == numbers(some + rest)


class Placed(Event, context=CHANNEL, key="n"):
    n: str


async def test_messages_of_one_batch_that_its_positions_can_t_tell_apart_are_kept_and_decoded_each(
    pulsar_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pulsar_intake, "INDEX_MAX", 9)

    def publish(topic: str) -> None:
        client = client_of(pulsar_server)
        producer = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=60_000)
        for n in range(20):
            producer.send_async(b"%d" % n, None)
        producer.flush()
        client.close()

    clock = SystemClock()
    async with opened(url_of(pulsar_server, partitions="1")) as broker, reading(broker) as intake:
        await asyncio.to_thread(publish, broker.settings.topic(CHANNEL))
        got = await take(intake, 20)
        feed, read = intake.feed, Reading(CHANNEL, broker.features, clock, IdSource(clock))
    assert 10 == len({one.position for one in got})
    assert 20 == len({read.dead(1, one, NotAnEvent("no"), feed).record.position for one in got})
    read.decoder = Decoder(CHANNEL, lambda message: Placed(n=message.data.decode()))
    decoded = [read.read(one, feed, 1) for one in got]
    assert 20 == len({one.record.id for one in decoded if one is not None})
    assert decoded == [read.read(one, feed, 1) for one in got], "the same when they come again"


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
    url = url_of(pulsar_server)
    async with opened(url) as broker:
        async with reading(broker) as intake:
            await sent(broker, *(message(n) for n in range(10)))
            got, feed = await take(intake, 10), intake.feed
        topic = broker.settings.topic(CHANNEL)
    await Admin(broker.settings).make("DELETE", f"{topic_path(topic)}/partitions?force=true")  # while nobody publishes
    async with opened(url) as broker:
        await sent_somehow(broker, message(99))
        async with reading(broker, after={0: got[-1].position}) as intake:
            assert [99] == numbers(await take(intake, 1))
            assert feed == intake.feed


async def test_partitions_that_are_left_of_a_deleted_topic_are_named(pulsar_server: Server) -> None:
    """Whose topic is deleted while it publishes asks for the partitions again, and gets some: then Pulsar neither has the
    topic nor makes it. That is a race, lost at about every other try."""
    for _ in range(20):
        url = url_of(pulsar_server)
        async with opened(url) as broker:
            await sent(broker, *(message(n) for n in range(10)))
            topic, admin = broker.settings.topic(CHANNEL), Admin(broker.settings)
            sending = asyncio.create_task(broker.send([message(n) for n in range(10, 20)]))
            await admin.make("DELETE", f"{topic_path(topic)}/partitions?force=true")
            await asyncio.wait([sending])
        if said := await refusal(url):
            break
    else:
        pytest.fail("nothing was ever left")
    assert f"topics delete -f {topic}-partition-1" in said
    for number in range(2):
        with suppress(BrokerError):  # 404: not this one
            await admin.make("DELETE", f"{topic_path(f'{topic}-partition-{number}')}?force=true")
    assert not await refusal(url), "what it says to do was done"


async def refusal(url: str) -> str:
    try:
        async with opened(url):
            return ""
    except BrokerError as error:
        return str(error)


async def test_replay_by_time_in_the_middle_of_what_is_there(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, partitions="1")) as broker:
        for n in range(10):
            await sent(broker, message(n))
        async with reading(broker) as intake:
            moment = datetime.fromtimestamp((await take(intake, 10))[6].time_us / 1e6, UTC)
        async with reading(broker, start=moment) as intake:
            found = await take(intake, 4)
            assert [6, 7, 8, 9] == numbers(found)[-4:]
        async with reading(broker, start=datetime.now(UTC) + timedelta(hours=1)) as intake:
            assert [] == list(await intake.fetch(10, 0.5))
            assert 0 == await intake.lag()
