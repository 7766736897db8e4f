"""AWS: EventBridge carries, and an SQS queue of its own keeps for each consumer.

    eventbridge://eu-central-1/shop?partitions=5&archive=yes
    eventbridge://us-east-1/shop?endpoint=http://127.0.0.1:4566     an emulator

The region, the event bus, and options. Who we are is found as every AWS client finds it: environment, profile, or the
role of the machine; key and secret in place of user and password are taken too, and never shown.

Nothing here keeps order. EventBridge promises none, so SQS FIFO queues behind it would keep whatever order came out, and
hand out nothing of a group while one of it waits for one that is behind it there. So the queues are standard ones, and
the intake puts a slot in order again by its numbers.

A rule brings a channel's events to the queue of a partition. Who reads a partition is said by a lease in the journal;
one that dies leaves its messages to be seen again after `visibility_s`, and what is seen twice is known by its number.
How often a message was received says nothing: deaths are the journal's, and a queue has no redrive policy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from ..errors import BrokerError, SettingsError
from . import urls
from ._eventbridge_aws import FAILURES, QUEUE_IS_THERE, Aws, Settings, code_of, log
from ._eventbridge_intake import EventBridgeIntake
from ._eventbridge_past import replay
from ._eventbridge_sender import Sender
from ._eventbridge_topology import COUNTS, LOOKS, Topology
from .port import Difference, Features, Finding, Message, Needs, Sent

EXAMPLE = "eventbridge://eu-central-1/shop"
ENTRY_BYTES = 262_144  # what every region and every queue takes; where AWS takes more, entry_bytes_max says so
ENTRY_BYTES_MOST = 1_000_000  # since 2026
HEADROOM = 1024  # of an entry: what its JSON adds to what is counted above the port; base64 adds a third to it
VISIBILITY_S = 20
OWNER = "eventspine-owner"
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")
_BUS = re.compile(r"[A-Za-z0-9._\-/]{1,256}")


def from_url(url: str) -> EventBridgeBroker:
    read = urls.parse(url, port=443, example=EXAMPLE)
    region = read.hosts[0].rpartition(":")[0]
    bus = read.path or "default"
    if len(read.hosts) > 1 or not _REGION.fullmatch(region) or not _BUS.fullmatch(bus):
        raise SettingsError(
            f"{read.shown!r} names no region and event bus. Write {EXAMPLE}, or {EXAMPLE.rpartition('/')[0]} for the "
            "default bus.",
            url=read.shown,
        )
    settings = Settings(
        read,
        region,
        bus,
        prefix=_prefix(read),
        endpoint=_endpoint(read),
        profile=read.text("profile"),
        partitions=int(read.one_of("partitions", [str(count) for count in COUNTS], "1")),
        entry_bytes_max=read.number("entry_bytes_max", ENTRY_BYTES, least=16_384, most=ENTRY_BYTES_MOST),
        archive=read.yes("archive", default=False),
        archive_days=read.number("archive_days", 0, least=0, most=36_500),
        archive_delay_s=float(read.number("archive_delay_s", 600, least=0, most=3600)),
        visibility_s=read.number("visibility_s", VISIBILITY_S, least=3, most=25),
        poll_s=read.number("poll_s", 20, most=20),
        timeout_s=read.seconds("timeout_s", 10.0, most=60.0),
        login=_login(read),
    )
    read.refuse_the_rest()
    return EventBridgeBroker(settings)


def _prefix(read: urls.BrokerUrl) -> str:
    given = read.text("prefix")
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,40}", given):
        read.refuse("prefix", given, "of letters, digits, . - and _, 40 at most")
    return given


def _endpoint(read: urls.BrokerUrl) -> str:
    given = read.text("endpoint")
    if given and not re.fullmatch(r"https?://[^@/]+/?", given):
        read.refuse("endpoint", given, "an address such as http://127.0.0.1:4566")
    return given


def _login(read: urls.BrokerUrl) -> dict[str, str]:
    given = {
        "aws_access_key_id": read.user,
        "aws_secret_access_key": read.password,
        "aws_session_token": read.text("session_token"),
    }
    return {name: value for name, value in given.items() if value}


class EventBridgeBroker:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = settings.url.shown
        self.features = Features(
            name="EventBridge",
            prefix="ce-",
            positions=False,
            ordered=False,
            assigns="journal",
            starts=frozenset({"earliest", "now", "time"}) if settings.archive else frozenset({"now"}),
            message_bytes_max=(settings.entry_bytes_max - HEADROOM) * 3 // 4,
            persistent=True,
            bounds="bytes",
        )
        self._aws = Aws(settings)
        self._sender = Sender(self._aws, self.features.prefix)
        self._topology = Topology(self._aws)
        self._polls: set[asyncio.Task[None]] = set()  # of partitions that were given up, until they end by themselves

    async def open(self) -> None:
        await self._aws.open()

    async def close(self) -> None:
        for task in list(self._polls):
            task.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)
        await self._aws.close()

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        return await self._sender.send(messages)

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> EventBridgeIntake:
        count = await self._topology.partitions(channel, consumer)
        return EventBridgeIntake(self._aws, channel, consumer, count, self.features.prefix, self._polls)

    async def replay(self, channel: str, consumer: str, since: datetime, until: datetime) -> str:
        """Let the archive send a consumer, once more, what it has of this time; the name of the replay. What the
        consumer's journal has is known there, and dropped: this is for what was lost on the way."""
        rules = await self._topology.rules(consumer)
        return await replay(self._aws, channel, [str(rule["Name"]) for rule in rules.values()], since, until)

    # --- topology ---------------------------------------------------------------------------------------------------

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        return [step.difference for step in await self._topology.steps(needs)]

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        made = [step for step in await self._topology.steps(needs) if step.difference.safe]
        await self._topology.make(made)
        return [step.difference for step in made]

    async def findings(self, needs: Needs) -> Sequence[Finding]:
        return await self._topology.findings(needs)

    # --- claims -----------------------------------------------------------------------------------------------------

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        """An empty queue stands for a claim, and its tag says whose. SQS makes a queue of a name once: who asks for it
        with other attributes is told that it exists, so attributes follow from the identity, and of two who claim at
        the same moment one is first. Taking over by force has no such referee: of two, the last to write has it."""
        queue = self._aws.queue(f"{role}.{name}", "owner")
        attributes = _marks_of(identity)
        url = await self._claim_queue(queue, attributes, identity)
        owner = await self._owner(url)
        if owner == identity or (owner and not force):
            return owner
        log.info("%s: %s was %s's and is %s's now", self.url, queue, owner or "nobody", identity)
        await self._take(url, attributes, identity)
        return await self._owner(url)

    async def _claim_queue(self, queue: str, attributes: dict[str, str], identity: str) -> str:
        try:
            made = await self._aws.sqs.create_queue(QueueName=queue, Attributes=attributes, tags={OWNER: identity})
            return str(made["QueueUrl"])
        except FAILURES as error:
            if code_of(error) not in QUEUE_IS_THERE:
                raise self._aws.error("could not be asked whose this is", error) from error
        url = await self._aws.queue_url(queue, tries=LOOKS)
        if url is None:
            raise BrokerError(f"{self.url} made the queue {queue}, and does not know it yet.")
        return url

    async def _owner(self, url: str) -> str:
        answer = await self._aws.asked("could not be asked whose this is", self._aws.sqs.list_queue_tags(QueueUrl=url))
        return str((answer.get("Tags") or {}).get(OWNER, ""))

    async def _take(self, url: str, attributes: dict[str, str], identity: str) -> None:
        sqs = self._aws.sqs
        await self._aws.asked("could not be taken over", sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes))
        await self._aws.asked("could not be taken over", sqs.tag_queue(QueueUrl=url, Tags={OWNER: identity}))


def _marks_of(identity: str) -> dict[str, str]:
    """Attributes that mean nothing to a queue that is always empty; of two identities they are not the same."""
    number = int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big")
    number, delay_s = divmod(number, 901)
    number, visibility_s = divmod(number, 43_201)
    return {
        "DelaySeconds": str(delay_s),
        "VisibilityTimeout": str(visibility_s),
        "MessageRetentionPeriod": str(60 + number % 1_209_541),
    }
