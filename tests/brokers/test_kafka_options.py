"""What a kafka:// URL says reaches librdkafka's configuration, and nothing takes back a promise. Without a server."""

from __future__ import annotations

from typing import Any

import pytest

from eventspine.brokers import open_broker
from eventspine.brokers._kafka_client import Complaints
from eventspine.brokers._kafka_reader import consumer_config
from eventspine.brokers._kafka_sender import producer_config
from eventspine.brokers._kafka_url import Settings, settings_of
from eventspine.brokers.kafka import KafkaBroker
from eventspine.errors import SettingsError


def configured(url: str) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    settings = settings_of(url)
    complaints = Complaints(settings)
    return settings, producer_config(settings, complaints), consumer_config(settings, "group", complaints)


def test_the_promise_stands_in_the_configuration():
    _, producer, consumer = configured("kafka://a:1")
    assert (producer["acks"], producer["enable.idempotence"]) == ("all", True)
    assert (consumer["enable.auto.commit"], consumer["enable.auto.offset.store"]) == (False, False)
    assert (consumer["auto.offset.reset"], consumer["isolation.level"]) == ("error", "read_committed")
    assert consumer["partition.assignment.strategy"] == "cooperative-sticky"
    assert consumer["fetch.queue.backoff.ms"] <= 10, "1 s by default: a fast reader stood still for that long"


@pytest.mark.parametrize(
    ("options", "producer", "consumer"),
    [
        ("", {"bootstrap.servers": "a:1,b:9092", "security.protocol": "plaintext"}, {"group.id": "group"}),
        ("compression=zstd", {"compression.codec": "zstd"}, {}),
        ("message_bytes_max=5000000", {"message.max.bytes": 5_065_536}, {}),
        ("timeout_s=3", {"message.timeout.ms": 3000, "socket.timeout.ms": 3000}, {"socket.timeout.ms": 3000}),
        ("session_s=20", {}, {"session.timeout.ms": 20_000, "heartbeat.interval.ms": 5000}),
        ("librdkafka.client.rack=x", {"client.rack": "x"}, {"client.rack": "x"}),
        ("tls=yes", {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "https"}, {}),
        (
            "tls_ca=/a&tls_cert=/b&tls_key=/c&tls_key_password=d",
            {"security.protocol": "ssl", "ssl.ca.location": "/a", "ssl.certificate.location": "/b"},
            {"ssl.key.location": "/c", "ssl.key.password": "d"},
        ),
    ],
)  # fmt: skip
def test_an_option_reaches_the_clients(options: str, producer: dict[str, Any], consumer: dict[str, Any]):
    _, producing, consuming = configured(f"kafka://a:1,b/?{options}")
    assert producer.items() <= producing.items()
    assert consumer.items() <= consuming.items()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_reaches_the_clients(mechanism: str):
    for tls, protocol in [("no", "sasl_plaintext"), ("yes", "sasl_ssl")]:
        _, producing, consuming = configured(f"kafka://ann:p%40ss@a:1/?sasl={mechanism}&tls={tls}")
        expected = {"sasl.mechanism": mechanism, "sasl.username": "ann", "sasl.password": "p@ss"}
        assert (expected | {"security.protocol": protocol}).items() <= producing.items()
        assert expected.items() <= consuming.items()


def test_tokens_are_asked_for_where_the_url_says():
    _, producing, _ = configured("kafka://app:key@a:1/?sasl=OAUTHBEARER&oidc=https://login/token&scope=k&tls=yes")
    assert {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": "https://login/token",
        "sasl.oauthbearer.client.id": "app",
        "sasl.oauthbearer.client.secret": "key",
        "sasl.oauthbearer.scope": "k",
    }.items() <= producing.items()


def test_the_new_protocol_of_groups_leaves_the_brokers_settings_alone():
    _, _, consuming = configured("kafka://a:1/?group_protocol=consumer&session_s=20")
    assert consuming["group.protocol"] == "consumer"
    assert not {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"} & consuming.keys()


def test_names_and_topics_are_as_the_url_says():
    settings, _, _ = configured(
        "kafka://a/?prefix=shop.&partitions=8&partitions.orders=24&replication=3&min_insync=2&retention=7d&claims=no"
    )
    assert (settings.topic("orders"), settings.group("stock.orders")) == ("shop.orders", "shop.stock.orders")
    assert (settings.partitions_of("orders"), settings.partitions_of("other")) == (24, 8)
    assert (settings.replication, settings.min_insync, settings.retention_ms) == (3, 2, 7 * 86_400_000)
    assert not settings.claims
    assert settings_of("kafka://a/?retention=keep").retention_ms == -1
    assert open_broker("kafka://a/?message_bytes_max=777").features.message_bytes_max == 777


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://a/?partition=3", "Did you mean partitions?"),
        ("kafka://a/?partitions=0", "a whole number from 1"),
        ("kafka://a/?partitions.orders=x", "a whole number from 1"),
        ("kafka://a/path", "names a path"),
        ("kafka://a:99999", "no host and port"),
        ("kafka://a/?retention=soon", '"keep" or a duration'),
        ("kafka://a/?compression=zip", "one of none, gzip"),
        ("kafka://a/?group_protocol=share", "one of classic, consumer"),
        ("kafka://a/?session_s=x", "a number of seconds"),
        ("kafka://a/?claims=maybe", "one of yes, no"),
        ("kafka://ann:pw@a", "names a user and no way to log in"),
        ("kafka://a/?sasl=PLAIN", "has sasl=PLAIN and no user"),
        ("kafka://a/?scope=x", "belong to sasl=OAUTHBEARER"),
        ("kafka://app:key@a/?sasl=OAUTHBEARER", "needs oidc=https"),
        ("kafka://a/?tls=no&tls_ca=/a", "says tls=no and names its files"),
        ("kafka://a/?prefix=a b", "prefix='a b' in kafka://a?prefix=a b is not of letters"),
        ("kafka://a/?librdkafka.acks=1", "can't be set: what eventspine promises rests on it"),
        ("kafka://a/?librdkafka.enable.auto.commit=true", "can't be set"),
    ],
)
def test_what_can_not_be_meant_is_refused(url: str, said: str):
    with pytest.raises(SettingsError) as refused:
        open_broker(url)
    assert said in str(refused.value)


async def test_what_librdkafka_refuses_of_what_is_passed_on_is_told():
    broker = open_broker("kafka://a/?librdkafka.no.such=1")
    with pytest.raises(SettingsError, match='librdkafka refuses: No such configuration property: "no.such"'):
        await broker.open()


async def test_a_file_that_is_not_there_is_named():
    broker = open_broker("kafka://a/?tls_ca=/not/there.pem")
    with pytest.raises(SettingsError, match="^tls_ca='/not/there.pem' in .* is not a readable file"):
        await broker.open()


@pytest.mark.parametrize(
    "url",
    [
        "kafka://ann:hushhush@a/?sasl=PLAIN",
        "kafka://ann:hush%68ush@a/?sasl=PLAIN",
        "kafka://app:hushhush@a/?sasl=OAUTHBEARER&oidc=https://login",
        "kafka://a/?tls_key=/k&tls_key_password=hushhush",
        "kafka://a/?librdkafka.ssl.key.pem=hushhush",
        "kafka://a/?librdkafka.ssl.keystore.password=hushhush",
    ],
)
def test_a_secret_is_shown_nowhere(url: str):
    broker = open_broker(url)
    assert isinstance(broker, KafkaBroker)
    for shown in (broker.url, repr(broker.settings), str(broker.settings), broker.settings.masked("it said hushhush")):
        assert "hushhush" not in shown
        assert "hush%68ush" not in shown
    with pytest.raises(SettingsError) as refused:
        open_broker(url + ("&" if "?" in url else "/?") + "typo=1")
    assert "hush" not in str(refused.value)
