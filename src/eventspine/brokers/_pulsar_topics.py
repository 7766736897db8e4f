"""Topics: needed, there, and what a look at the live broker says of them.

A topic is made by Pulsar's administration, and with it what keeps a publisher's events for a consumer that is still to come:
Pulsar deletes what no subscription is waiting for, at once, unless told for how long to keep it. Nothing that is there is
changed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import BrokerError
from ..wording import plural
from ._pulsar_admin import Admin, Away, topic_path
from ._pulsar_client import MESSAGE_BYTES_MAX, Link, Settings, is_missing, quietly
from ._pulsar_intake import anchored
from .port import Difference, Finding, Needs

log = logging.getLogger("eventspine.broker")
PARTITIONED = "application/vnd.partitioned-topic-metadata+json"
EVICTION = "consumer_backlog_eviction"
NOTHING: Mapping[str, Any] = {}


class Topics:
    def __init__(self, settings: Settings, link: Link) -> None:
        self._settings = settings
        self._link = link
        self._admin = Admin(settings)

    async def partitions(self, channel: str) -> Sequence[str]:
        """Names of all, in order. A key's way follows from how many there are: nobody goes on while that is not the
        number that was agreed on (R12)."""
        await self._be_there(channel)
        found = await self._link.partitions(self._settings.topic(channel))
        if len(found) != self._settings.partitions:
            raise BrokerError(
                f"{self._settings.topic(channel)} has {plural(len(found), 'partition')}, and {self._settings.url.shown} means "
                f"{self._settings.partitions}. {self._how_to_make(channel)}, or say partitions={len(found)}: see "
                "Changing the number of partitions in docs/how-to/brokers.md first.",
                channel=channel,
                partitions=len(found),
            )
        return found

    async def _be_there(self, channel: str) -> None:
        """A client that asks for a topic makes it where Pulsar makes topics by itself, with a number of partitions that is
        not ours. So its administration is asked first, as far as there is one."""
        topic = self._settings.topic(channel)
        try:
            metadata = await self._metadata(topic)
        except Away:
            return
        if metadata is None:
            raise BrokerError(f"{topic} is not there. Make it: spine topology apply.", channel=channel)

    async def _metadata(self, topic: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await self._admin.get(
            f"{topic_path(topic)}/partitions?checkAllowAutoCreation=false"
        )
        return found

    def _how_to_make(self, channel: str) -> str:
        topic = self._settings.topic(channel)
        return (
            "If nothing is in it yet, delete it and make it anew: "
            f"pulsar-admin topics create-partitioned-topic {topic} -p {self._settings.partitions}"
        )

    # --- needed and there -------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        try:
            return await self._by_admin(needs)
        except Away as away:
            if self._settings.admin:
                raise self._unguessed(away) from None
            return await self._by_client(needs, away)

    async def _by_admin(self, needs: Needs) -> Sequence[Difference]:
        settings, found = self._settings, []
        tenant = settings.namespace.partition("/")[0]
        namespaces = await self._admin.get(f"namespaces/{tenant}")
        if namespaces is None or settings.namespace not in namespaces:
            found.append(Difference(f"namespace {settings.namespace}", "there", "", safe=namespaces is not None))
        if settings.claims and await self._admin.get(f"{topic_path(settings.claims_topic)}/partitions") is None:
            found.append(Difference(f"topic {settings.claims_topic}", "who publishes and consumes", "", safe=True))
        for channel in needs.channels:
            found += await self._of_channel(channel)
        for channel, consumer in needs.consumes:
            subscriptions = await self._admin.get(f"{topic_path(settings.topic(channel))}/subscriptions")
            if consumer not in (subscriptions or ()):
                found.append(Difference(f"subscription {consumer}", f"on {settings.topic(channel)}", "", safe=True))
        return found

    async def _of_channel(self, channel: str) -> Iterable[Difference]:
        topic = self._settings.topic(channel)
        metadata = await self._metadata(topic)
        wanted = plural(self._settings.partitions, "partition")
        if metadata is None:
            keep = f", kept for {plural(self._settings.keep_days, 'day')}" if self._settings.keep_days else ""
            return [Difference(f"topic {topic}", wanted + keep, "", safe=True)]
        count = max(1, metadata["partitions"])
        return [] if count == self._settings.partitions else [_other_count(topic, wanted, count)]

    def _unguessed(self, away: Away) -> BrokerError:
        """Asking by the client instead would make topics, where Pulsar makes them by itself."""
        if self._settings.admin_is_said:
            return away
        return BrokerError(
            f"{away} That address is only supposed: give its own (admin=http://host:8080), or say admin=no, where every "
            "topic is made by hand before it is used."
        )

    async def _by_client(self, needs: Needs, away: Away) -> Sequence[Difference]:
        """Without administration: what is there. Where Pulsar makes topics by itself, asking for one makes it."""
        found = []
        for channel in needs.channels:
            topic, wanted = self._settings.topic(channel), plural(self._settings.partitions, "partition")
            try:
                count = len(await self._link.partitions(topic))
            except BrokerError as error:
                if not is_missing(error):
                    raise
                how = f"pulsar-admin topics create-partitioned-topic {topic} -p {self._settings.partitions}"
                raise BrokerError(
                    f"The topic {topic} is not there, or its namespace isn't, and making it needs Pulsar's administration. "
                    f"{away} Give its address (admin=http://host:8080), or make it: {how}"
                ) from None
            if count != self._settings.partitions:
                found.append(_other_count(topic, wanted, count))
        return found

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        safe = [one for one in await self.differences(needs) if one.safe]
        return [one for one in safe if await self._make(one, needs)]

    async def _make(self, one: Difference, needs: Needs) -> bool:
        kind, _, name = one.what.partition(" ")
        if kind == "namespace":
            return await self._admin.make("PUT", f"namespaces/{name}")
        if kind == "subscription":
            channel = next(channel for channel, consumer in needs.consumes if consumer == name)
            return await self._subscribe(channel, name)
        if name == self._settings.claims_topic:
            return await self._admin.make("PUT", topic_path(name))
        if await self._admin.make("PUT", f"{topic_path(name)}/partitions", self._settings.partitions):
            await self._keep(topic_path(name))
            return True
        if await self._metadata(name) is None:
            raise BrokerError(_left_over(name, self._settings.partitions))
        return False

    async def _subscribe(self, channel: str, consumer: str) -> bool:
        """From now on nothing is deleted before it has it."""
        for topic in await self.partitions(channel):
            subscribed = await self._link.consumer(topic, consumer, anchored())
            await quietly(self._link.ask(subscribed.close_async, what="closing"))
        return True

    async def _keep(self, path: str) -> None:
        wanted: list[tuple[str, Any]] = [("deduplicationEnabled", True)]
        if self._settings.keep_days:
            minutes = self._settings.keep_days * 1440
            wanted.append(("retention", {"retentionTimeInMinutes": minutes, "retentionSizeInMB": -1}))
        for policy, value in wanted:
            try:
                await self._admin.make("POST", f"{path}/{policy}", value)
            except BrokerError as error:
                log.warning("the %s of %s could not be set, and is that of its namespace: %s", policy, path, error)

    # --- looked at --------------------------------------------------------------------------------------------------

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        try:
            found = [*await self._of_server(), *await self._of_namespace()]
            for channel in needs.channels:
                consumers = [consumer for of, consumer in needs.consumes if of == channel]
                found += await self._of_topic(self._settings.topic(channel), consumers)
        except BrokerError as error:
            says = f"{error} What the broker keeps, and for how long, was not looked at."
            return [Finding("warning", "administration", says)]
        return found

    async def _of_server(self) -> Iterable[Finding]:
        try:
            configured = await self._admin.get("brokers/configuration/runtime") or NOTHING
        except BrokerError:
            return []  # that is for administrators of the whole
        limit = int(configured.get("maxMessageSize", MESSAGE_BYTES_MAX))
        ours = self._settings.message_bytes_max
        if ours <= limit:
            return []
        says = f"{limit:,} bytes, and we send up to {ours:,}: say message_bytes_max={limit} in the URL."
        return [Finding("danger", "maxMessageSize", says)]

    async def _of_namespace(self) -> Iterable[Finding]:
        path, found = f"namespaces/{self._settings.namespace}", []
        if minutes := await self._admin.get(f"{path}/subscriptionExpirationTime"):
            away = plural(minutes, "minute")
            says = f"a consumer that is away for {away} loses its subscription, and what was kept for it."
            found.append(Finding("danger", "subscriptionExpirationTime", says))
        clusters = await self._admin.get(f"{path}/replication") or []
        if len(clusters) > 1:
            says = (
                f"replicated among {', '.join(sorted(clusters))}. Positions are those of one cluster: after a fail-over "
                "intakes begin anew in the other one, and what they know already is passed over by its number or id."
            )
            found.append(Finding("warning", f"namespace {self._settings.namespace}", says))
        return found

    async def _of_topic(self, topic: str, consumers: Sequence[str]) -> Iterable[Finding]:
        path, what = topic_path(topic), f"topic {topic}"
        if await self._admin.get(f"{path}/partitions") is None:
            return [Finding("danger", what, "is not there: spine topology apply.")]
        subscriptions = await self._admin.get(f"{path}/subscriptions") or []
        stats = await self._admin.get(f"{path}/partitioned-stats") or NOTHING
        found = [
            *_kept(what, subscriptions, await self._policy(path, "retention")),
            *_dropped(what, await self._policy(path, "messageTTL"), await self._policy(path, "backlogQuotaMap")),
            *_copies(what, await self._policy(path, "persistence")),
            *_repeated(what, await self._policy(path, "deduplicationEnabled")),
            *_behind(what, stats.get("subscriptions", NOTHING)),
            *(_unheld(what, consumer) for consumer in consumers if consumer not in subscriptions),
        ]
        return found or [Finding("ok", what, "kept until it is read, in several copies, without limits.")]

    async def _policy(self, path: str, name: str) -> Any:
        return await self._admin.get(f"{path}/{name}?applied=true")


def _left_over(topic: str, partitions: int) -> str:
    """A publisher that was at work while its topic was deleted asks for its partitions again, and Pulsar makes them."""
    deletions = " ; ".join(f"pulsar-admin topics delete -f {topic}-partition-{number}" for number in range(partitions))
    return (
        f"{topic} was deleted, and partitions of it are left: Pulsar neither knows it nor makes it anew. Stop its publishers, "
        f"delete what is left ({deletions}), then: spine topology apply."
    )


def _other_count(topic: str, wanted: str, count: int) -> Difference:
    return Difference(f"topic {topic}", wanted, plural(count, "partition"), safe=False)


def _kept(what: str, subscriptions: Sequence[str], retention: Mapping[str, int] | None) -> Iterator[Finding]:
    minutes = (retention or NOTHING).get("retentionTimeInMinutes", 0)
    size_mb = (retention or NOTHING).get("retentionSizeInMB", 0)
    if not subscriptions and (minutes == 0 or size_mb == 0):
        says = "has no subscription and no retention: what is published now is gone for whoever subscribes later."
        yield Finding("danger", what, says)
    elif size_mb > 0:
        yield Finding("warning", what, f"keeps at most {size_mb} MB of what was read: less can be read again.")


def _dropped(what: str, ttl_s: int | None, quotas: Mapping[str, Any] | None) -> Iterator[Finding]:
    if ttl_s:
        yield Finding(
            "danger", what, f"drops what is older than {ttl_s} s (messageTTL), read or not; a gap is reported."
        )
    for kind, quota in (quotas or NOTHING).items():
        if quota.get("policy") == EVICTION:
            yield Finding("danger", what, f"drops its oldest when its backlog quota ({kind}) is full, read or not.")
        elif max(quota.get("limitSize", -1), quota.get("limitTime", -1)) > 0:
            says = f"takes no more when its backlog quota ({kind}) is full; publishing then waits in the journal."
            yield Finding("warning", what, says)


def _copies(what: str, persistence: Mapping[str, int] | None) -> Iterator[Finding]:
    acks = (persistence or NOTHING).get("bookkeeperAckQuorum", 0)
    copies = (persistence or NOTHING).get("bookkeeperWriteQuorum", 0)
    if acks < 2:
        says = (
            f"acknowledged with {acks} of {copies} copies on disk: the loss of one disk can lose what was acknowledged."
        )
        yield Finding("warning", what, says)


def _repeated(what: str, deduplicates: object) -> Iterator[Finding]:
    if not deduplicates:
        says = "without deduplication: what the client sends again after a broken connection comes twice, and is dropped by its number."
        yield Finding("warning", what, says)


def _behind(what: str, subscriptions: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    for name, stats in sorted(subscriptions.items()):
        if stats.get("durable", True) and stats.get("msgBacklog") and not stats.get("consumers"):
            behind = plural(stats["msgBacklog"], "batch", "batches")
            says = f"{name} is {behind} behind and nobody reads for it: it holds what is behind, for good."
            yield Finding("warning", what, says)


def _unheld(what: str, consumer: str) -> Finding:
    return Finding(
        "danger", what, f"has no subscription {consumer}, which holds what it has not read: spine topology apply."
    )
