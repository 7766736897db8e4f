"""Topics: what services need, what is there, and what a look at the live cluster says of it.

Topics are made, never changed: other numbers of partitions would send a key's next event another way than its last (R12),
and the rest is for whoever looks after the cluster to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Literal, cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AclOperation, NewTopic, TopicDescription

from ..durations import in_words
from ..errors import BrokerError
from ..wording import plural
from ._kafka_claims import asked_as
from ._kafka_client import Cluster, Config, code_of
from ._kafka_url import Settings
from .port import Difference, Finding, Needs

REPLICATION = 3  # where there are as many brokers
LOOPBACK = ("localhost", "127.", "[::1]")


async def differences(cluster: Cluster, needs: Needs) -> list[Difference]:
    owned = set(needs.publishes)
    topics = await cluster.described(sorted(needs.channels))
    new = await _new_topic_settings(cluster)
    found: list[Difference] = []
    for channel, topic in topics.items():
        if topic is None:
            found.append(_missing(cluster.settings, channel, new))
        elif channel in owned:  # of others' topics the publisher decides
            found += await _differing(cluster, channel, topic)
    return found


async def apply(cluster: Cluster, needs: Needs) -> list[Difference]:
    wanted = {f"topic {cluster.settings.topic(channel)}": channel for channel in needs.channels}
    missing = [one for one in await differences(cluster, needs) if one.safe]
    new = await _new_topic_settings(cluster)
    made = [one for one in missing if await _make(cluster, wanted[one.what], new)]
    if missing:
        await _until_led(cluster, [wanted[one.what] for one in missing])
    return made


async def _new_topic_settings(cluster: Cluster) -> tuple[int, dict[str, str]]:
    """Replicas, and the settings of a topic that is made here."""
    settings = cluster.settings
    replicas = settings.replication or min(REPLICATION, len((await cluster.describe()).nodes))
    config = {"min.insync.replicas": str(settings.min_insync or max(1, replicas - 1))}
    if settings.retention_ms is not None:
        config["retention.ms"] = str(settings.retention_ms)
    return replicas, config


def _missing(settings: Settings, channel: str, new: tuple[int, Config]) -> Difference:
    replicas, config = new
    wanted = f"{plural(settings.partitions_of(channel), 'partition')}, {plural(replicas, 'replica')}"
    return Difference(
        f"topic {settings.topic(channel)}",
        ", ".join([wanted, *(f"{name}={value}" for name, value in config.items())]),
        "",
        safe=True,
    )


async def _differing(cluster: Cluster, channel: str, topic: TopicDescription) -> list[Difference]:
    settings, what = cluster.settings, f"topic {topic.name}"
    found = []
    partitions, wanted = len(topic.partitions), settings.partitions_of(channel)
    if partitions != wanted:
        found.append(Difference(what, plural(wanted, "partition"), plural(partitions, "partition"), safe=False))
    replicas = _replicas(topic)
    if settings.replication is not None and replicas != settings.replication:
        found.append(Difference(what, plural(settings.replication, "replica"), plural(replicas, "replica"), safe=False))
    if settings.min_insync is not None or settings.retention_ms is not None:
        config = await cluster.config(topic.name)
        asked = {"min.insync.replicas": settings.min_insync, "retention.ms": settings.retention_ms}
        found += [
            Difference(what, f"{name}={value}", f"{name}={config[name]}", safe=False)
            for name, value in asked.items()
            if value is not None and name in config and config[name] != str(value)
        ]
    return found


async def _make(cluster: Cluster, channel: str, new: tuple[int, dict[str, str]]) -> bool:
    settings, (replicas, config) = cluster.settings, new
    topic = NewTopic(settings.topic(channel), settings.partitions_of(channel), replicas, config=config)
    try:
        await cluster.result(cluster.admin.create_topics([topic], **cluster.limit)[topic.topic])
    except KafkaException as error:
        if code_of(error) == KafkaError.TOPIC_ALREADY_EXISTS:
            return False  # somebody else was quicker
        raise cluster.error(f"the topic {topic.topic!r} can't be made", error.args[0]) from None
    return True


async def _until_led(cluster: Cluster, channels: Sequence[str]) -> None:
    """Whoever was told that a topic is there, may use it."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + cluster.settings.timeout_s
    while not all(map(_is_led, (await cluster.described(channels)).values())):
        if loop.time() > give_up:
            raise BrokerError(f"{cluster.settings.shown}: what was made of {', '.join(channels)} has no leader yet.")
        await asyncio.sleep(0.05)


def _is_led(topic: TopicDescription | None) -> bool:
    return topic is not None and all(one.leader is not None for one in topic.partitions)


def _replicas(topic: TopicDescription) -> int:
    return min((len(one.replicas) for one in topic.partitions), default=0)


# --- findings -------------------------------------------------------------------------------------------------------


async def findings(cluster: Cluster, needs: Needs) -> list[Finding]:
    publishes = set(needs.publishes)
    consumers = dict(needs.consumes)
    topics = await cluster.described(sorted(needs.channels))
    found = list(_of_connection(cluster.settings))
    for channel, topic in topics.items():
        what = f"topic {cluster.settings.topic(channel)}"
        if topic is None:
            found.append(Finding("danger", what, "It is not there; `spine topology apply` makes it."))
            continue
        config = await cluster.config(topic.name)
        told = [
            *_of_replicas(topic, config),
            *_of_config(cluster.settings, config),
            *_of_permissions(topic, publishes=channel in publishes, consumes=channel in consumers),
            *_of_partitions(cluster.settings, channel, topic, owned=channel in publishes),
        ]
        found += [Finding(level, what, says) for level, says in told] or [Finding("ok", what, _all_well(topic, config))]
    found += [finding for place in consumers.items() for finding in await _of_group(cluster, *place)]
    return found


Told = Iterator[tuple[Literal["ok", "warning", "danger"], str]]


def _of_connection(settings: Settings) -> Iterator[Finding]:
    hosts = str(settings.client["bootstrap.servers"]).split(",")
    if all(host.startswith(LOOPBACK) for host in hosts):
        return
    protocol = settings.client["security.protocol"]
    if "ssl" not in protocol:
        secret = " The password can be read on the way." if settings.client.get("sasl.mechanism") == "PLAIN" else ""
        yield Finding(
            "danger", "connection", f"Nothing is encrypted between here and {settings.shown}: add tls=yes.{secret}"
        )
    elif protocol == "ssl" and "ssl.certificate.location" not in settings.client:
        yield Finding(
            "warning", "connection", "Encrypted, but nobody logs in: whoever reaches the brokers may read and write."
        )
    if len(hosts) == 1:
        yield Finding(
            "warning", "connection", "The URL names one broker: while it is away no process can start. Name several."
        )


def _of_replicas(topic: TopicDescription, config: Config) -> Told:
    replicas, insync = _replicas(topic), min((len(one.isr) for one in topic.partitions), default=0)
    if replicas == 1:
        yield (
            "danger",
            (
                "Its messages are on one broker each: while that is away nothing gets through, and its disk takes with it what no "
                "journal has yet. Three replicas survive the loss of a broker."
            ),
        )
        return
    least = int(config.get("min.insync.replicas", "0"))
    if least == 1:
        yield (
            "danger",
            (
                "min.insync.replicas=1: an acknowledged message may be on a single broker, and is lost with it. Set it to 2."
            ),
        )
    if least >= replicas:
        yield (
            "warning",
            f"min.insync.replicas={least} of {replicas} replicas: publishing stops while any broker is away.",
        )
    if insync < replicas:
        yield "warning", f"Just now a partition has {insync} of its {replicas} replicas in sync."


def _of_config(settings: Settings, config: Config) -> Told:
    if not config:
        yield "warning", "Its settings can't be read: grant DESCRIBE_CONFIGS on it, or look yourself."
        return
    if config.get("unclean.leader.election.enable") == "true":
        yield (
            "danger",
            "unclean.leader.election.enable=true: a broker that is behind may take over, and what it lacks is lost.",
        )
    if "compact" in config.get("cleanup.policy", "delete"):
        yield "danger", "cleanup.policy=compact: of the events of a key only the last is kept. Set it to delete."
    if (kept_ms := int(config.get("retention.ms", "-1"))) >= 0:
        kept = in_words(timedelta(milliseconds=kept_ms))
        yield (
            "warning",
            f"Events are deleted after {kept}, also where a service has not read them because it was away for longer.",
        )
    if (kept_bytes := int(config.get("retention.bytes", "-1"))) >= 0:
        yield (
            "warning",
            f"Events are deleted beyond {kept_bytes:,} bytes a partition, also where a service has not read them.",
        )
    if (most := int(config.get("max.message.bytes", "0"))) and most < settings.message_bytes_max:
        yield (
            "danger",
            (
                f"It takes messages of {most:,} bytes at most, and here {settings.message_bytes_max:,} count as publishable: what "
                "lies between is refused by the broker. Raise max.message.bytes there, or set message_bytes_max in the URL."
            ),
        )


def _of_permissions(topic: TopicDescription, *, publishes: bool, consumes: bool) -> Told:
    may = cast("list[AclOperation] | None", topic.authorized_operations)
    if may is None:
        return
    needed = {AclOperation.WRITE: publishes, AclOperation.READ: consumes or publishes, AclOperation.DESCRIBE: True}
    for operation, is_needed in needed.items():
        if is_needed and operation not in may:
            yield "danger", f"This user may not {operation.name} it: grant that."


def _of_partitions(settings: Settings, channel: str, topic: TopicDescription, *, owned: bool) -> Told:
    partitions, wanted = len(topic.partitions), settings.partitions_of(channel)
    if owned and partitions != wanted:
        yield "danger", _other_partitions(channel, partitions, wanted)


def _other_partitions(channel: str, partitions: int, wanted: int) -> str:
    return (
        f"It has {plural(partitions, 'partition')}, and the URL says {wanted}. If it always had {partitions}, say "
        f'partitions.{channel}={partitions} there. If somebody added some, keys have moved: see "Changing '
        'the number of partitions" in the how-to for brokers.'
    )


def check_partitions(settings: Settings, channel: str, partitions: int) -> None:
    """A key's way follows from the number of partitions: nobody sends while it is not the one that was agreed on."""
    wanted = settings.partitions_of(channel)
    if partitions != wanted:
        raise BrokerError(
            f"The topic {settings.topic(channel)!r}: {_other_partitions(channel, partitions, wanted)}",
            channel=channel,
            partitions=partitions,
        )


async def _of_group(cluster: Cluster, channel: str, consumer: str) -> Iterable[Finding]:
    group, topic = cluster.settings.group(consumer), cluster.settings.topic(channel)
    try:
        await asked_as(cluster, group, lambda member: member.read(topic))
    except BrokerError as error:
        return [Finding("danger", f"group {group}", f"{error}: grant READ on this group.")]
    return []


def _all_well(topic: TopicDescription, config: Config) -> str:
    return (
        f"{plural(len(topic.partitions), 'partition')}, {plural(_replicas(topic), 'replica')}, min.insync.replicas="
        f"{config.get('min.insync.replicas')}: what is acknowledged survives the loss of a broker."
    )
