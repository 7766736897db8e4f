"""Connections to Pulsar: those that break, how much goes over one, and what the options of a URL make of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._pulsar_admin import Admin, topic_path
from eventspine.brokers._pulsar_intake import entry_of
from eventspine.brokers.pulsar import PulsarBroker
from eventspine.errors import BrokerError, MessageRefused, SettingsError
from eventspine.testing.servers import Proxy, Server

from .material import (
    CHANNEL,
    CONSUMER,
    batches_of,
    message,
    numbers,
    opened,
    reading,
    sent,
    sent_somehow,
    stats,
    take,
    url_of,
)

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


# --- sizes and refusals -----------------------------------------------------------------------------------------------


async def test_a_message_as_large_as_allowed_arrives_and_a_larger_one_is_refused_for_good(
    pulsar_server: Server,
) -> None:
    async with opened(url_of(pulsar_server)) as broker, reading(broker) as intake:
        large = message(1, data=b"x" * (broker.features.message_bytes_max - 40_000), more={"ce_note": "y" * 30_000})
        too_large = message(2, data=b"x" * 5_242_881)
        answers = await broker.send([large, too_large, message(3)])
        assert [None, None] == [answers[0], answers[2]]
        assert isinstance(answers[1], MessageRefused)
        got = await take(intake, 2)
    assert [1, 3] == numbers(got)
    assert large.data == got[0].data


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("pulsar://localhost/tenant", "a tenant and a namespace"),
        ("pulsar://localhost/a/b/c", "a tenant and a namespace"),
        ("pulsar://localhost?partition=3", "partitions"),
        ("pulsar://localhost?partitions=0", "1 to 960"),
        ("pulsar://localhost?batches=key", "partition, slot"),
        ("pulsar://localhost?compression=gzip", "lz4"),
        ("pulsar://localhost?admin=localhost:8080", "http://"),
        ("pulsar://localhost?token_file=/nowhere", "can be read"),
        ("pulsar+ssl://localhost?tls_ca=/nowhere", "can be read"),
        ("pulsar+ssl://localhost?tls_cert=/dev/null", "tls_key"),
    ],
)
def test_an_option_that_can_not_be_is_refused(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        open_broker(url)


@pytest.mark.parametrize("secret", ["pulsar://ann:s3cret@localhost", "pulsar://localhost?token=s3cret"])
def test_a_secret_is_shown_nowhere(secret: str) -> None:
    broker = open_broker(secret)
    assert isinstance(broker, PulsarBroker)
    assert "s3cret" not in f"{broker.url} {broker.settings!r}"
    assert "s3cret" in str([broker.settings.login.token, broker.settings.login.password])


def test_administration_is_where_it_usually_is() -> None:
    found = [open_broker(url) for url in ("pulsar://one:7000,two:7000", "pulsar+ssl://one/tenant/space")]
    assert ["http://one:8080", "https://one:8443"] == [one.settings.admin for one in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("batches", "entries"), [("partition", 1), ("slot", 3)])
async def test_batches_hold_a_partition_or_a_slot(
    pulsar_server: Server, batches: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One slot each is what consumers need that share a partition by key."""
    batches_of(30, monkeypatch)
    async with opened(url_of(pulsar_server, batches=batches)) as broker, reading(broker) as intake:
        await sent(broker, *(message(n, slot=n % 3 * 2) for n in range(30)))
        got = await take(intake, 30)
    places = {entry_of(one.position) for one in got}
    assert entries == len(places)
    for slot in range(3):
        assert [n for n in range(30) if n % 3 == slot] == [n for n in numbers(got) if n % 3 == slot]
    if batches == "slot":
        assert 3 == len({(entry_of(one.position), one.key) for one in got})


async def test_compression_reaches_the_client(pulsar_server: Server) -> None:
    sizes = {}
    for compression in ("none", "lz4", "zlib", "zstd", "snappy"):
        async with opened(url_of(pulsar_server, compression=compression)) as broker, reading(broker) as intake:
            await sent(broker, message(1, data=b"x" * 100_000))
            assert b"x" * 100_000 == (await take(intake, 1))[0].data
            sizes[compression] = (await stats(broker))["currentLedgerSize"]
    assert sizes.pop("none") > 100_000
    assert max(sizes.values()) < 20_000


async def test_prefetch_reaches_the_broker_as_permits(pulsar_server: Server) -> None:
    async with opened(url_of(pulsar_server, prefetch="77")) as broker, reading(broker):
        path = topic_path(f"{broker.settings.topic(CHANNEL)}-partition-0")
        found = (await Admin(broker.settings).get(f"{path}/stats"))["subscriptions"]
        permits = {name: one["consumers"][0]["availablePermits"] for name, one in found.items() if one["consumers"]}
    assert [0, 77] == [permits.pop(CONSUMER), *permits.values()]


async def test_the_client_says_in_its_log_by_which_listener_it_was_sent_where(
    pulsar_server: Server, tmp_path: Path
) -> None:
    """In a process of its own: the first client of a process decides where the log goes."""
    url = url_of(pulsar_server, listener="proxied", client_log=str(tmp_path / "log"))
    code = (
        "import asyncio, sys; from eventspine.brokers import open_broker; from eventspine.brokers.port import Needs\n"
        "async def main():\n"
        "    broker = open_broker(sys.argv[1]); await broker.open()\n"
        "    await broker.apply(Needs([], [('orders', 'stock.orders')])); await broker.close()\n"
        "asyncio.run(main())"
    )
    with pulsar_server.proxy():
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, url)
        assert 0 == await child.wait()
    said = (tmp_path / "log").read_text(encoding="utf-8")
    assert f"lookup-broker-url pulsar://127.0.0.1:{pulsar_server.port + 3}" in said
