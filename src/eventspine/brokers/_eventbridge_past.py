"""A new consumer's past, from the archive, before anything that is sent now.

    queue is made ── archive has caught up with the bus ── replay into a queue of its own ── all of it read ── the live queue
    tag: wanted.1                                                                                            tag: done

EventBridge replays in no certain order and while new events come. If both came through one queue, a new event could be
taken for the beginning of its slot, and the past of that slot for something known. So a replay has a rule and a queue of
its own, and the live queue, which is filled meanwhile, is read after it. How far it has come is a tag of the live queue,
so that another process goes on where one has died."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import BrokerError
from ._eventbridge_aws import EXISTS, FAILURES, NOT_FOUND, Aws, code_of, log
from ._eventbridge_topology import CATCH_UP
from .port import Start

DONE = "done"
WANTED = "wanted."  # then which try it is: a replay that failed has its name for good
QUIET_OF_DELAY = 10  # SQS's own counts lag too, by a tenth of what archives do


class Past:
    def __init__(self, aws: Aws, channel: str, consumer: str, partition: int, live_url: str) -> None:
        self._aws = aws
        self._channel = channel
        self._rule = aws.rule(consumer, f"r{partition}")
        self._queue = aws.queue(consumer, f"r{partition}")
        self._name = f"{aws.replay(consumer)}.p{partition}"
        self._live_url = live_url
        self._tried = 0
        self._quiet_since: float | None = None
        self.url = ""

    async def is_wanted(self) -> bool:
        asked = self._aws.sqs.list_queue_tags(QueueUrl=self._live_url)
        answer = await self._aws.asked("could not be asked for a queue's tags", asked)
        tag = str((answer.get("Tags") or {}).get(CATCH_UP, DONE))
        if not tag.startswith(WANTED):
            return False
        self._tried = int(tag.removeprefix(WANTED))
        url = await self._aws.queue_url(self._queue)
        if url is None:
            raise BrokerError(
                f"{self._aws.settings.url.shown} has no queue {self._queue!r} for the past. Make it: spine topology apply."
            )
        self.url = url
        return True

    async def due_in_s(self) -> float:
        """Until the archive has what was sent before the live queue was there."""
        attributes = await self._attributes(self._live_url, "CreatedTimestamp")
        return float(attributes["CreatedTimestamp"]) + self._aws.settings.archive_delay_s - time.time()

    async def begin(self, start: Start) -> None:
        """Twice is once: a replay's name is taken for good."""
        archive = self._aws.archive(self._channel)
        try:
            found = await self._aws.events.describe_archive(ArchiveName=archive)
            await self._aws.events.start_replay(
                ReplayName=self._replay,
                EventSourceArn=found["ArchiveArn"],
                EventStartTime=_first(start, found["CreationTime"]),
                EventEndTime=datetime.now(UTC) + timedelta(seconds=1),
                Destination={"Arn": self._aws.bus_arn, "FilterArns": [self._aws.rule_arn(self._rule)]},
            )
        except FAILURES as error:
            if code_of(error) != EXISTS:
                raise self._aws.error(f"could not replay the archive {archive}", error) from error
        else:
            log.info("%s: the past of %s comes from the archive %s", self._aws.settings.url.shown, self._rule, archive)

    @property
    def _replay(self) -> str:
        return f"{self._name}.{self._tried}"

    async def is_over(self) -> bool:
        """All was replayed, read and settled, and for a while nothing more has come."""
        asked = self._aws.events.describe_replay(ReplayName=self._replay)
        replay = await self._aws.asked("could not be asked for a replay", asked)
        if replay["State"] in ("FAILED", "CANCELLED"):
            await self._tag(f"{WANTED}{self._tried + 1}")
            why = replay.get("StateReason") or "no reason is given"
            raise BrokerError(f"The replay {self._replay} has {replay['State']} ({why}); it is begun anew.")
        counts = await self._attributes(
            self.url, "ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"
        )
        if replay["State"] != "COMPLETED" or any(int(count) for count in counts.values()):
            self._quiet_since = None
            return False
        if self._quiet_since is None:
            self._quiet_since = time.monotonic()
        return time.monotonic() - self._quiet_since >= self._aws.settings.archive_delay_s / QUIET_OF_DELAY

    async def done(self) -> None:
        await self._tag(DONE)

    async def _tag(self, value: str) -> None:
        call = self._aws.sqs.tag_queue(QueueUrl=self._live_url, Tags={CATCH_UP: value})
        await self._aws.asked("could not store how far the past has come", call)

    async def _attributes(self, url: str, *names: str) -> dict[str, Any]:
        asked = self._aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))
        answer = await self._aws.asked("could not be asked about a queue", asked)
        return {name: answer["Attributes"][name] for name in names}


def _first(start: Start, created: datetime) -> datetime:
    """An archive has nothing of before it was made."""
    first = created - timedelta(minutes=1)
    return max(first, start.astimezone(UTC)) if isinstance(start, datetime) else first


async def replay(aws: Aws, channel: str, rules: list[str], since: datetime, until: datetime) -> str:
    """What the archive has of this time, once more to these rules; the name of the replay."""
    name = f"{aws.replay(channel)}.{time.time_ns():x}"
    archive = aws.archive(channel)
    try:
        found = await aws.events.describe_archive(ArchiveName=archive)
        await aws.events.start_replay(
            ReplayName=name,
            EventSourceArn=found["ArchiveArn"],
            EventStartTime=since,
            EventEndTime=until,
            Destination={"Arn": aws.bus_arn, "FilterArns": [aws.rule_arn(rule) for rule in rules]},
        )
    except FAILURES as error:
        if code_of(error) == NOT_FOUND:
            raise BrokerError(f"{aws.settings.url.shown} has no archive of {channel!r}; see archive=yes.") from error
        raise aws.error(f"could not replay the archive {archive}", error) from error
    return name
