"""Where a broker of EventBridge is: what its URL says, and the names that things have at AWS."""

from __future__ import annotations

from typing import Any

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._eventbridge_aws import Aws, fitting
from eventspine.brokers._eventbridge_topology import COUNTS, pattern
from eventspine.brokers.eventbridge import EventBridgeBroker, from_url
from eventspine.errors import BrokerError, SettingsError
from eventspine.testing.servers import Server

from .faults import FaultyWay
from .material import begun, broker_at, fetch, message, number_of


def test_an_address_has_a_region_a_bus_and_options():
    broker = open_broker(
        "eventbridge://eu-central-1/shop?partitions=5&archive=yes&archive_days=30&visibility_s=9&poll_s=3"
        "&timeout_s=4&entry_bytes_max=500000&profile=ops&prefix=t.&archive_delay_s=5"
    )
    assert isinstance(broker, EventBridgeBroker)
    found = broker.settings
    assert ("eu-central-1", "shop", "ops", "t.") == (found.region, found.bus, found.profile, found.prefix)
    assert (5, True, 30, 5.0) == (found.partitions, found.archive, found.archive_days, found.archive_delay_s)
    assert (9, 3, 4.0, 500_000) == (found.visibility_s, found.poll_s, found.timeout_s, found.entry_bytes_max)
    assert 370_000 < broker.features.message_bytes_max < 375_000


def test_without_a_bus_it_is_the_default_one_and_without_an_archive_all_begin_with_now():
    broker = from_url("eventbridge://eu-central-1")
    assert "default" == broker.settings.bus
    assert {"now"} == broker.features.starts
    assert {"now", "earliest", "time"} == from_url("eventbridge://eu-central-1/a?archive=yes").features.starts


def test_keys_of_an_address_are_never_shown():
    broker = from_url("eventbridge://AKIDEXAMPLE:s3cr3t%2Fkey@eu-central-1/shop?session_token=t0ken")
    login = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "s3cr3t/key", "aws_session_token": "t0ken"}
    assert login == broker.settings.login
    shown = (
        broker.url + repr(broker.settings) + str(Aws(broker.settings).error("failed", ValueError("s3cr3t/key t0ken")))
    )
    assert "s3cr3t" not in shown
    assert "t0ken" not in shown


@pytest.mark.parametrize(
    "url",
    [
        "eventbridge://",
        "eventbridge://nowhere",
        "eventbridge://eu-central-1,eu-west-1/shop",
        "eventbridge://eu-central-1/shop?partitions=3",
        "eventbridge://eu-central-1/shop?visibility_s=300",
        "eventbridge://eu-central-1/shop?poll_s=21",
        "eventbridge://eu-central-1/shop?entry_bytes_max=2000000",
        "eventbridge://eu-central-1/shop?endpoint=http://user:pw@host",
        "eventbridge://eu-central-1/shop?prefix=a%2Fb",
        "eventbridge://eu-central-1/shop?partitoins=5",
        "eventbridge://eu-central-1/a%20bus",
    ],
)
def test_an_address_that_can_not_be_meant_is_refused(url: str):
    with pytest.raises(SettingsError):
        from_url(url)


async def test_credentials_of_a_profile_are_used(
    server: Server, way: FaultyWay, bus: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    """The session's own ways, which the address only names."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[ops]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    heard: list[str] = []
    handle = way.handle
    monkeypatch.setattr(
        way, "handle", lambda path, headers, body: heard.append(str(headers)) or handle(path, headers, body)
    )
    broker = from_url(f"eventbridge://us-east-1/{bus}?endpoint={way.url}&profile=ops")
    await broker.open()
    await broker.close()
    assert any("Credential=FROMPROFILE/" in one for one in heard)


async def test_a_profile_that_is_not_there_is_told(bus: str):
    with pytest.raises(BrokerError, match="nobody"):
        await from_url(f"eventbridge://us-east-1/{bus}?profile=nobody").open()


async def test_a_server_that_is_not_there_is_told(bus: str):
    broker = from_url(f"eventbridge://k:s@us-east-1/{bus}?endpoint=http://127.0.0.1:9&timeout_s=1")
    with pytest.raises(BrokerError, match="can't be reached"):
        await broker.open()
    with pytest.raises(BrokerError, match="not connected"):
        await broker.claim("publisher", "orders", "me", force=False)


# --- names and patterns -------------------------------------------------------------------------------------------


def test_names_are_different_for_different_things_and_fit():
    texts = ["a/b.c", "a/b_c", "a-b/c", "a/b-c", "a.b/c", "a/" + "b" * 90, "a/" + "b" * 91, "a/ü", "a/u"]
    names = [fitting(text, 60) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(len(name) <= 60 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for name in names)


@pytest.mark.parametrize("count", COUNTS)
def test_every_slot_is_in_the_pattern_of_its_partition_and_in_no_other(count: int):
    digits = [pattern("orders", partition, count).get("detail", {}).get("spineslot") for partition in range(count)]
    for slot in range(960):
        fitting_ones = [
            partition
            for partition, wanted in enumerate(digits)
            if wanted is None or any(str(slot).endswith(one["suffix"]) for one in wanted if "suffix" in one)
        ]
        assert [slot % count] == fitting_ones
    without_slot = [p for p, wanted in enumerate(digits) if wanted is None or {"exists": False} in wanted]
    assert [0] == without_slot


async def test_a_consumer_has_as_many_partitions_as_its_address_says(server: Server, bus: str):
    async with broker_at(server.url, bus, partitions=5) as broker:
        intake = await begun(broker)
        assert [None] * 20 == list(await broker.send([message(slot + 1, slot) for slot in range(20)]))
        found = await fetch(intake, 20)
        assert {slot + 1: slot % 5 for slot in range(20)} == {number_of(one): one.partition for one in found}
        await intake.settle(found)
        await intake.close()
