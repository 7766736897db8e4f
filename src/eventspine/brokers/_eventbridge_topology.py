"""What has to be there: a bus, an archive for a channel if that is wanted, and for each channel that a consumer reads one
rule and one queue for each partition.

A channel is a source of events: `{"source": ["orders"]}`. A slot's partition is its last digit, modulo their number, so
that the consumer alone says how many there are, and no event needs to be sent differently; whatever has no slot, as
events of other systems, is in the first. There may be 300 rules on a bus.

Made in this order: the bus, archives, and queues before the rules that fill them. Nothing is deleted, and what is there
and different is only told, except a queue's policy, which gains the right of our rules to send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from ..durations import in_words
from ..errors import BrokerError
from ..wording import plural
from ._eventbridge_aws import EXISTS, FAILURES, NOT_FOUND, QUEUE_IS_THERE, Aws, code_of
from .port import Difference, Finding, Needs

COUNTS = (1, 2, 5, 10)  # of partitions: what divides ten
KEEP_S = 14 * 86_400  # the longest that SQS keeps a message
LOOKS = 10  # for a queue that was just made
AT_ONCE = 8
STAGES = ("bus", "archive", "queue", "policy", "rules", "rule", "target")
T = TypeVar("T")
TARGET = "eventspine"
CATCH_UP = "eventspine-catch-up"  # a tag of a queue: "wanted.1" while its past comes from the archive, then "done"
ENVELOPE_BYTES = 2048  # what EventBridge puts around an entry, at most about


class Step(NamedTuple):
    difference: Difference
    make: Callable[[], Awaitable[object]] | None = None


def _stage(step: Step) -> str:
    return step.difference.what.partition(" ")[0]


async def _a_few_at_once(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(call: Coroutine[Any, Any, T]) -> T:
        async with limit:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def pattern(source: str, partition: int, count: int, *, replayed: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"source": [source]}
    if replayed:
        found["replay-name"] = [{"exists": True}]
    if count > 1:
        digits: list[dict[str, Any]] = [{"suffix": str(digit)} for digit in range(partition, 10, count)]
        found["detail"] = {"spineslot": digits + ([{"exists": False}] if partition == 0 else [])}
    return found


class Topology:
    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._settings = aws.settings

    # --- what is there ----------------------------------------------------------------------------------------------

    async def rules(self, consumer: str, letter: str = "p") -> dict[int, Mapping[str, Any]]:
        """By partition: those that bring a consumer's events (`p`), or its past from the archive (`r`)."""
        prefix = self._aws.rule(consumer, letter)
        found: dict[int, Mapping[str, Any]] = {}
        asked: dict[str, Any] = {"EventBusName": self._settings.bus, "NamePrefix": prefix}
        while True:
            try:
                answer = await self._aws.events.list_rules(**asked)
            except FAILURES as error:
                if code_of(error) == NOT_FOUND:  # the bus
                    return {}
                raise self._aws.error("could not be asked for its rules", error) from error
            for rule in answer["Rules"]:
                number = str(rule["Name"]).removeprefix(prefix)
                if number.isdigit():
                    found[int(number)] = rule
            if not answer.get("NextToken"):
                return found
            asked["NextToken"] = answer["NextToken"]

    async def partitions(self, channel: str, consumer: str) -> int:
        """As they were made: another number moves keys away from where their past is (R12)."""
        rules = await self.rules(consumer)
        for count in COUNTS:
            if sorted(rules) == list(range(count)) and _made_for(rules, self._aws.source(channel), count):
                return count
        raise BrokerError(
            f"{self._settings.url.shown} has no rules, or not all of them, that bring {channel} to {consumer}. "
            "Make them: spine topology apply."
        )

    # --- what is missing --------------------------------------------------------------------------------------------

    async def steps(self, needs: Needs) -> list[Step]:
        """In the order in which they are to be made."""
        asked = [self._bus()]
        if self._settings.archive:
            asked += [self._archive(channel) for channel in needs.channels]
        asked += [self._consumer(channel, consumer) for channel, consumer in needs.consumes]
        found = [step for steps in await _a_few_at_once(asked) for step in steps]
        return sorted(found, key=lambda step: STAGES.index(_stage(step)))

    async def _bus(self) -> list[Step]:
        bus = self._settings.bus
        if await self._is_there(self._aws.events.describe_event_bus(Name=bus)):
            return []
        make = self._aws.events.create_event_bus
        return [Step(Difference(f"bus {bus}", "a bus", "", safe=True), lambda: make(Name=bus))]

    async def _archive(self, channel: str) -> list[Step]:
        name, days = self._aws.archive(channel), self._settings.archive_days
        what, wanted = f"archive {name}", f"of {channel}, {_kept(days)}"
        found = await self._described(self._aws.events.describe_archive(ArchiveName=name))
        if found is None:
            make = self._aws.events.create_archive
            arguments = {
                "ArchiveName": name,
                "EventSourceArn": self._aws.bus_arn,
                "EventPattern": json.dumps(pattern(self._aws.source(channel), 0, 1)),
                "RetentionDays": days,
            }
            return [Step(Difference(what, wanted, "", safe=True), lambda: make(**arguments))]
        kept = int(found.get("RetentionDays") or 0)
        if kept == days:
            return []
        return [Step(Difference(what, wanted, _kept(kept), safe=False))]

    async def _consumer(self, channel: str, consumer: str) -> list[Step]:
        count = self._settings.partitions
        rules = await self.rules(consumer)
        if rules and not _made_for(rules, self._aws.source(channel), count):
            found = f"{plural(len(rules), 'rule')} with other patterns"
            return [Step(Difference(f"rules of {consumer}", plural(count, "partition"), found, safe=False))]
        past = await self.rules(consumer, "r") if self._settings.archive else {}
        asked = [self._way(channel, consumer, partition, rules.get(partition), "p") for partition in range(count)]
        if self._settings.archive:
            asked += [self._way(channel, consumer, partition, past.get(partition), "r") for partition in range(count)]
        return [step for steps in await asyncio.gather(*asked) for step in steps]

    async def _way(
        self, channel: str, consumer: str, partition: int, rule: Mapping[str, Any] | None, letter: str
    ) -> list[Step]:
        """One queue, with its policy, rule and target."""
        queue, name = (
            self._aws.queue(consumer, f"{letter}{partition}"),
            self._aws.rule(consumer, f"{letter}{partition}"),
        )
        steps = await self._queue(queue, wants_past=self._settings.archive and letter == "p")
        wanted = pattern(self._aws.source(channel), partition, self._settings.partitions, replayed=letter == "r")
        if rule is None:
            made = Difference(f"rule {name}", json.dumps(wanted), "", safe=True)
            steps.append(Step(made, lambda: self._put_rule(name, wanted, queue)))
        elif rule.get("State", "ENABLED") == "DISABLED":
            steps.append(Step(Difference(f"rule {name}", "enabled", "disabled", safe=False)))
        elif not await self._has_target(name, queue):
            made = Difference(f"target of rule {name}", queue, "", safe=True)
            steps.append(Step(made, lambda: self._put_target(name, queue)))
        return steps

    async def _queue(self, queue: str, *, wants_past: bool) -> list[Step]:
        url = await self._aws.queue_url(queue)
        if url is None:
            made = Difference(f"queue {queue}", "messages kept 14 days", "", safe=True)
            return [Step(made, lambda: self._make_queue(queue, wants_past=wants_past))]
        attributes = await self.attributes(url)
        if may_send(attributes.get("Policy", "")):
            return []
        made = Difference(f"policy of queue {queue}", "EventBridge may send", "", safe=True)
        return [Step(made, lambda: self._allow(url, queue, attributes.get("Policy", "")))]

    async def attributes(self, url: str) -> Mapping[str, str]:
        call = self._aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        answer = await self._aws.asked("could not be asked about a queue", call)
        return answer["Attributes"]  # type: ignore[no-any-return]

    async def target(self, rule: str, queue: str) -> Mapping[str, Any] | None:
        call = self._aws.events.list_targets_by_rule(Rule=rule, EventBusName=self._settings.bus)
        found = await self._described(call)
        arn = self._aws.arn("sqs", queue)
        return next((one for one in (found or {}).get("Targets", []) if one["Arn"] == arn), None)

    async def _has_target(self, rule: str, queue: str) -> bool:
        return await self.target(rule, queue) is not None

    async def _is_there(self, call: Awaitable[Any]) -> bool:
        return await self._described(call) is not None

    async def _described(self, call: Awaitable[Any]) -> Mapping[str, Any] | None:
        try:
            return await call  # type: ignore[no-any-return]
        except FAILURES as error:
            if code_of(error) == NOT_FOUND:
                return None
            raise self._aws.error("could not be asked what is there", error) from error

    # --- making -----------------------------------------------------------------------------------------------------

    async def make(self, steps: Sequence[Step]) -> None:
        """Queues before the rules that fill them."""
        for _, stage in groupby(steps, _stage):
            await _a_few_at_once([self._make(step) for step in stage])

    async def _make(self, step: Step) -> None:
        assert step.make is not None
        try:
            await step.make()
        except FAILURES as error:
            if code_of(error) not in (EXISTS, *QUEUE_IS_THERE):  # by somebody else, just now
                raise self._aws.error(f"could not make the {step.difference.what}", error) from error

    async def _make_queue(self, queue: str, *, wants_past: bool) -> None:
        attributes = {
            "MessageRetentionPeriod": str(KEEP_S),
            "VisibilityTimeout": str(self._settings.visibility_s),
            "ReceiveMessageWaitTimeSeconds": str(self._settings.poll_s),
            "Policy": self._policy(queue, ""),
        }
        tags = {CATCH_UP: "wanted.1"} if wants_past else {}
        await self._aws.sqs.create_queue(QueueName=queue, Attributes=attributes, tags=tags)

    async def _allow(self, url: str, queue: str, policy: str) -> None:
        await self._aws.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": self._policy(queue, policy)})

    def _policy(self, queue: str, now: str) -> str:
        ours = {
            "Sid": "eventspine",
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": self._aws.arn("sqs", queue),
            "Condition": {"ArnLike": {"aws:SourceArn": self._aws.arn("events", "rule/*")}},
        }
        document = json.loads(now) if now else {"Version": "2012-10-17", "Statement": []}
        return json.dumps(document | {"Statement": [*_statements(document), ours]})

    async def _put_rule(self, name: str, wanted: Mapping[str, Any], queue: str) -> None:
        await self._aws.events.put_rule(
            Name=name, EventBusName=self._settings.bus, EventPattern=json.dumps(wanted), State="ENABLED"
        )
        await self._put_target(name, queue)

    async def _put_target(self, name: str, queue: str) -> None:
        target = {"Id": TARGET, "Arn": self._aws.arn("sqs", queue)}
        answer = await self._aws.events.put_targets(Rule=name, EventBusName=self._settings.bus, Targets=[target])
        for failed in answer.get("FailedEntries", []):
            said = f"{failed.get('ErrorCode')}: {failed.get('ErrorMessage')}"
            raise BrokerError(f"{self._settings.url.shown} did not take {queue} as the target of {name}: {said}")

    # --- for spine doctor -------------------------------------------------------------------------------------------

    async def findings(self, needs: Needs) -> list[Finding]:
        found = [_DURABILITY]
        for channel in needs.channels:
            found += await self._archive_findings(channel)
        for _, consumer in needs.consumes:
            for partition, rule in sorted((await self.rules(consumer)).items()):
                found += await self._way_findings(consumer, partition, rule)
        return found

    async def _archive_findings(self, channel: str) -> list[Finding]:
        name = self._aws.archive(channel)
        archive = await self._described(self._aws.events.describe_archive(ArchiveName=name))
        what = f"archive of {channel}"
        if archive is None:
            return [Finding("ok", what, "none: a new consumer begins with what is sent from then on (archive=yes).")]
        found = []
        if archive.get("State") not in ("ENABLED", "CREATING", "UPDATING"):
            found.append(Finding("danger", what, f"is {archive.get('State')}: it keeps nothing."))
        if days := archive.get("RetentionDays"):
            found.append(Finding("warning", what, f"keeps {plural(days, 'day')}: a new consumer begins there."))
        return found or [Finding("ok", what, "keeps everything.")]

    async def _way_findings(self, consumer: str, partition: int, rule: Mapping[str, Any]) -> list[Finding]:
        queue = self._aws.queue(consumer, f"p{partition}")
        found, name = [], str(rule["Name"])
        if rule.get("State", "ENABLED") == "DISABLED":
            found.append(
                Finding("danger", f"rule {name}", "is disabled: nothing comes, and what is sent is lost to it.")
            )
        target = await self.target(name, queue)
        if target is None:
            found.append(Finding("danger", f"rule {name}", f"does not send to {queue}: nothing comes."))
        elif "DeadLetterConfig" not in target:
            found.append(Finding("warning", f"rule {name}", _UNDELIVERED))
        url = await self._aws.queue_url(queue)
        if url is None:
            return [*found, Finding("danger", f"queue {queue}", "is not there: nothing comes.")]
        return found + _queue_findings(queue, await self.attributes(url), self._settings.entry_bytes_max)


def _made_for(rules: Mapping[int, Mapping[str, Any]], source: str, count: int) -> bool:
    """Whether these are of that many partitions, though some may be missing."""
    return all(
        partition < count and json.loads(rule.get("EventPattern") or "{}") == pattern(source, partition, count)
        for partition, rule in rules.items()
    )


def _statements(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = document.get("Statement", [])
    return [found] if isinstance(found, dict) else list(found)


def may_send(policy: str) -> bool:
    """Whether some statement of it lets EventBridge send; its conditions are not looked at."""
    document = json.loads(policy) if policy else {}
    return any(
        statement.get("Effect") == "Allow"
        and "events.amazonaws.com" in json.dumps(statement.get("Principal", ""))
        and "sendmessage" in json.dumps(statement.get("Action", "")).lower()
        for statement in _statements(document)
    )


def _kept(days: int) -> str:
    return f"kept {plural(days, 'day') if days else 'for ever'}"


def _queue_findings(queue: str, attributes: Mapping[str, str], entry_bytes_max: int) -> list[Finding]:
    what, found = f"queue {queue}", []
    kept_s = int(attributes.get("MessageRetentionPeriod", KEEP_S))
    if kept_s < KEEP_S:
        level: Any = "danger" if kept_s < 86_400 else "warning"
        says = f"drops what nobody fetched for {in_words(timedelta(seconds=kept_s))}; 14d are possible."
        found.append(Finding(level, what, says))
    if attributes.get("RedrivePolicy"):
        found.append(
            Finding(
                "danger",
                what,
                "has a redrive policy: SQS moves away what it handed out that often, as any process may that dies or "
                "waits. The journal counts attempts and keeps dead deliveries itself; remove it.",
            )
        )
    if attributes.get("SqsManagedSseEnabled") == "false" and not attributes.get("KmsMasterKeyId"):
        found.append(Finding("warning", what, "is not encrypted at rest."))
    largest = int(attributes.get("MaximumMessageSize", 1_048_576))
    if largest < entry_bytes_max + ENVELOPE_BYTES:
        found.append(
            Finding(
                "danger",
                what,
                f"takes messages of {largest:,} bytes, and events of {entry_bytes_max:,} are sent: EventBridge could not "
                "deliver them. Raise MaximumMessageSize, or lower entry_bytes_max.",
            )
        )
    if not may_send(attributes.get("Policy", "")):
        found.append(Finding("danger", what, "does not let EventBridge send to it: nothing comes."))
    return found or [Finding("ok", what, "14 days, encrypted, without a limit of attempts.")]


_DURABILITY = Finding(
    "ok", "durability", "What EventBridge and SQS acknowledged is stored in several availability zones of the region."
)
_UNDELIVERED = (
    "has no dead-letter queue: what EventBridge can't deliver for a day is dropped there, and shows here as a gap in the "
    "numbers."
)
