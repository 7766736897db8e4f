"""Sending with PutEvents: ten entries and so many bytes in one call, and an answer for each entry.

EventBridge promises no order to those who read. All the same a later event of a slot is not sent while an earlier one has
no answer, so that readers, who put a slot in order again by its numbers, need not wait: slots are spread over a few lanes,
a lane makes one call at a time, and what a call did not take is first in its next. (Within one call EventBridge decides.)

An entry that fails is tried again until time is over; what is then left, and all that comes after it in its lane, may be
taken or not. A call that is refused as a whole is taken apart, so that one bad entry costs nothing but itself.

An entry's own time is left to EventBridge: archives are replayed by it, and an event that is imported years after it
happened would lie outside of every archive. When it happened stands in the CloudEvent."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..errors import BrokerError, MessageRefused
from ._eventbridge_aws import FAILURES, Aws, code_of
from .binding import STRUCTURED
from .port import Message, Sent

ENTRIES = 10
LANES = 8
TYPE_CHARS = 128
SOURCE_CHARS = 256
PAUSE_MOST_S = 1.0
REFUSED = frozenset(  # of an entry: it will never be taken
    {
        "InvalidArgument",
        "MalformedDetail",
        "NotAuthorizedForDetailTypeException",
        "NotAuthorizedForSourceException",
        "RedactionFailure",
        "ValidationException",
    }
)
WHOLE = frozenset({"ValidationException", "SerializationException", "RequestEntityTooLargeException", "413"})
BYTES = "eventspinebytes"  # in a detail that is no CloudEvent, and only carries bytes
LONG_NUMBER = re.compile(rb"[0-9]{19}")  # EventBridge reads whole numbers of 64 bits
_NEVER = re.compile("[\ufffe\uffff]")  # characters that no SQS message can hold
_UNREADABLE = (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError)
_NEVER_BYTES = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")


class Entry(NamedTuple):
    place: int  # in what send() was given
    size: int  # as EventBridge counts it
    fields: Mapping[str, Any]


class Sender:
    def __init__(self, aws: Aws, prefix: str) -> None:
        self._aws = aws
        self._prefix = prefix
        self._bytes_max = aws.settings.entry_bytes_max

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        answers: dict[int, Sent] = {}
        count = max(1, min(LANES, len(messages) // ENTRIES))
        lanes: list[deque[Entry]] = [deque() for _ in range(count)]
        for index, message in enumerate(messages):
            try:
                lanes[message.slot % count].append(self._entry(index, message))
            except MessageRefused as error:
                answers[index] = error
        deadline = time.monotonic() + self._aws.settings.timeout_s
        await asyncio.gather(*(self._lane(lane, answers, deadline) for lane in lanes if lane))
        return [answers[index] for index in range(len(messages))]

    # --- entries ----------------------------------------------------------------------------------------------------

    def _entry(self, index: int, message: Message) -> Entry:
        source = self._aws.source(message.channel)
        if source.startswith("aws.") or len(source) > SOURCE_CHARS:
            raise MessageRefused(f"EventBridge takes no events of the source {source!r}: it is AWS's own, or too long")
        attributes = {name.removeprefix(self._prefix): value for name, value in message.headers.items()}
        if bad := next((name for name, value in attributes.items() if _NEVER.search(value)), None):
            raise MessageRefused(f"its {bad} has a character (U+FFFE or U+FFFF) that SQS can't carry")
        detail = detail_of(attributes, message.content_type, message.data)
        fields = {
            "EventBusName": self._aws.settings.bus,
            "Source": source,
            "DetailType": attributes.get("type", "")[:TYPE_CHARS] or "?",
            "Detail": detail.decode(),
        }
        size = len(source.encode()) + len(fields["DetailType"].encode()) + len(detail)
        if size > self._bytes_max:
            raise MessageRefused(
                f"as an entry it has {size:,} bytes, and {self._bytes_max:,} are taken at most (entry_bytes_max)"
            )
        return Entry(index, size, fields)

    # --- lanes ------------------------------------------------------------------------------------------------------

    async def _lane(self, lane: deque[Entry], answers: dict[int, Sent], deadline: float) -> None:
        apart, pause_s = 0, 0.05  # entries that go alone: a call with them in it was refused
        while lane:
            chunk = self._next(lane, 1 if apart else ENTRIES)
            apart = max(0, apart - 1)
            try:
                results = await self._put(chunk)
            except MessageRefused as error:
                if len(chunk) == 1:
                    answers[chunk[0].place] = error
                else:
                    lane.extendleft(reversed(chunk))
                    apart = len(chunk)
                continue
            except BrokerError as error:
                answers.update((entry.place, error) for entry in [*chunk, *lane])
                return
            again, trouble = _sorted(chunk, results, answers)
            lane.extendleft(reversed(again))
            if again and time.monotonic() + pause_s > deadline:
                why = self._aws.error("did not take a message", trouble)
                answers.update((entry.place, why) for entry in lane)
                return
            if again:
                await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_MOST_S) if again else 0.05

    async def _put(self, chunk: Sequence[Entry]) -> Sequence[Mapping[str, str]]:
        """Raises MessageRefused when the call as a whole will never be taken."""
        try:
            answer = await self._aws.events.put_events(Entries=[entry.fields for entry in chunk])
        except FAILURES as error:
            if code_of(error) in WHOLE:
                raise MessageRefused(str(error)) from error
            raise self._aws.error("did not take a message", error) from error
        return answer["Entries"]  # type: ignore[no-any-return]

    def _next(self, lane: deque[Entry], most: int) -> list[Entry]:
        chunk = [lane.popleft()]
        size = chunk[0].size
        while lane and len(chunk) < most and size + lane[0].size <= self._bytes_max:
            size += lane[0].size
            chunk.append(lane.popleft())
        return chunk


def _sorted(
    chunk: Sequence[Entry], results: Sequence[Mapping[str, str]], answers: dict[int, Sent]
) -> tuple[list[Entry], BrokerError]:
    """What is to be tried again, and why."""
    again, trouble = [], BrokerError(f"{len(results)} answers for {len(chunk)} entries")
    for number, entry in enumerate(chunk):
        result = results[number] if number < len(results) else {"ErrorCode": "no answer"}
        code, said = result.get("ErrorCode"), str(result.get("ErrorMessage", ""))
        if not code:
            answers[entry.place] = None
        elif code in REFUSED and "EventBusName" not in said:  # that one is ours to mend, not the event's
            answers[entry.place] = MessageRefused(f"{code}: {said}")
        else:
            again.append(entry)
            trouble = BrokerError(f"{code}: {said}")
    return again, trouble


# --- content --------------------------------------------------------------------------------------------------------


def detail_of(attributes: Mapping[str, str], content_type: str, data: bytes) -> bytes:
    """The event as structured CloudEvents JSON; what is none is marked, so that its bytes are found in it."""
    if content_type.startswith(STRUCTURED) and _is_object(data):
        return data
    members: dict[str, Any] = {**attributes, "datacontenttype": content_type}
    if "specversion" not in members:
        members[BYTES] = "yes"
    if data:
        if BYTES not in members and _is_json(content_type) and travels(data):
            members["data"] = msgspec.Raw(data)
        else:
            members["data_base64"] = data
    return msgspec.json.encode(members)


def _is_object(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=dict[str, Any])
    except _UNREADABLE:
        return False
    return not LONG_NUMBER.search(data) and not any(never in data for never in _NEVER_BYTES)


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def travels(data: bytes) -> bool:
    """Whether it is the same after EventBridge has read it as JSON and written it again. What isn't goes as bytes."""
    if LONG_NUMBER.search(data) or any(never in data for never in _NEVER_BYTES):
        return False
    try:
        return msgspec.json.encode(msgspec.json.decode(data)) == data
    except _UNREADABLE:
        return False
