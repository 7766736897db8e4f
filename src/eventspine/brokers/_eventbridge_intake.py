"""Reading a consumer's queues: a long poll for each partition, more of them while there is much to fetch.

A message that was handed to us is invisible to others for `visibility_s`. While it is in our hands, because the journal
has not stored it yet or it waits for one before it, that time is extended. When this process dies, its messages are seen
again by whoever has the partition then, which is why the time is shorter than an intake waits for a missing number.

A poll that is under way can't be taken back: SQS may just be answering it. So a partition that is given up lets its poll
end, and gives back at once what still comes with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..errors import BrokerError
from ..wording import plural
from ._eventbridge_aws import FAILURES, Aws, in_tens, log
from ._eventbridge_past import Past
from ._eventbridge_sender import BYTES, LONG_NUMBER
from .binding import JSON
from .port import Fetched, Start
from .shelf import Shelf

BUFFER = 500
BUFFER_BYTES = 8_000_000
LOOK_S = 0.5
POLLS = 4  # at once for a partition, while there is much
AT_ONCE = 8  # calls that settle
TRIES = 5
LOST = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"})


class Token(NamedTuple):
    queue_url: str
    handle: str


class Hand:
    """A message that we have and nobody else sees, until then."""

    __slots__ = ("partition", "token", "until")

    def __init__(self, partition: int, token: Token, until: float) -> None:
        self.partition, self.token, self.until = partition, token, until


class _Body(msgspec.Struct):
    """What EventBridge makes of an entry."""

    detail: msgspec.Raw
    detail_type: str = msgspec.field(name="detail-type", default="")
    source: str = ""
    id: str = ""
    time: str = ""
    account: str = ""
    region: str = ""
    resources: list[str] = []
    replay_name: str = msgspec.field(name="replay-name", default="")


class _Partition:
    def __init__(self, number: int, queue_url: str) -> None:
        self.number = number
        self.queue_url = queue_url  # the live one, or that of its past
        self.polls = 0
        self._over = asyncio.Event()

    def is_live(self) -> bool:
        return not self._over.is_set()

    def give_up(self) -> None:
        self._over.set()

    async def rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass


class EventBridgeIntake:
    def __init__(
        self,
        aws: Aws,
        channel: str,
        consumer: str,
        count: int,
        prefix: str,
        leftovers: set[asyncio.Task[None]],
    ) -> None:
        self.feed = f"eventbridge:{aws.account}:{aws.settings.region}:{aws.settings.bus}:{aws.source(channel)}"
        self._aws = aws
        self._channel = channel
        self._consumer = consumer
        self._count = count
        self._prefix = prefix
        self._leftovers = leftovers  # polls that end by themselves
        self._partitions: dict[int, _Partition] = {}
        self._hands: dict[str, Hand] = {}  # by receipt handle
        self._shelf = Shelf(self._look_at_room)
        self._room = asyncio.Event()
        self._room.set()
        self._keeping = asyncio.create_task(self._keep(), name=f"eventbridge-keeps-{consumer}")

    def assigned(self) -> frozenset[int]:
        return frozenset(range(self._count))

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> None:
        name = self._aws.queue(self._consumer, f"p{partition}")
        url = await self._aws.queue_url(name)
        if url is None:
            raise BrokerError(f"{self._aws.settings.url.shown} has no queue {name!r}. Make it: spine topology apply.")
        past = Past(self._aws, self._channel, self._consumer, partition, url)
        if self._aws.settings.archive and start != "now" and await past.is_wanted():
            one = self._partitions[partition] = _Partition(partition, past.url)
            self._run(self._catch_up(one, past, start, url), "catches-up")
        else:
            one = self._partitions[partition] = _Partition(partition, url)
            self._poll(one, self._aws.settings.poll_s)

    async def end(self, partition: int) -> None:
        one = self._partitions.pop(partition, None)
        if one is None:
            return
        one.give_up()
        self._shelf.keep(lambda fetched: fetched.partition != partition)
        await self._give_back([hand for hand in self._hands.values() if hand.partition == partition])

    # --- polling ----------------------------------------------------------------------------------------------------

    def _poll(self, one: _Partition, wait_s: int) -> None:
        one.polls += 1
        self._run(self._polling(one, wait_s), "polls")

    def _run(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=f"eventbridge-{what}-{self._consumer}")
        self._leftovers.add(task)
        task.add_done_callback(self._leftovers.discard)

    async def _polling(self, one: _Partition, wait_s: int) -> None:
        """The first poll of a queue goes on; those beside it end when there is nothing more."""
        url = one.queue_url
        try:
            while one.is_live() and url == one.queue_url:
                await self._room.wait()
                messages = await self._receive(url, wait_s) if one.is_live() else []
                if not one.is_live():
                    await self._release([Token(url, message["ReceiptHandle"]) for message in messages])
                    return
                self._came(one.number, url, messages)
                if len(messages) == 10 and one.polls < POLLS:
                    self._poll(one, 0)
                if not messages and not wait_s:
                    return
        except FAILURES as error:
            if one.is_live():
                self.fail(self._aws.error(f"could not read a queue of {self._consumer}", error))
        except BrokerError as error:
            if one.is_live():
                self.fail(error)
        finally:
            one.polls -= 1

    async def _receive(self, url: str, wait_s: int) -> Sequence[Mapping[str, Any]]:
        answer = await self._aws.client("polls").receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=self._aws.settings.visibility_s,
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        return answer.get("Messages", [])  # type: ignore[no-any-return]

    def _came(self, partition: int, url: str, messages: Sequence[Mapping[str, Any]]) -> None:
        until, fetched = time.monotonic() + self._aws.settings.visibility_s, []
        for message in messages:
            token = Token(url, message["ReceiptHandle"])
            self._hands[token.handle] = Hand(partition, token, until)
            fetched.append(fetched_of(partition, message, token, self._prefix))
        self._shelf.put(fetched)

    def _look_at_room(self) -> None:
        if self._shelf.paused or len(self._shelf) >= BUFFER or self._shelf.bytes >= BUFFER_BYTES:
            self._room.clear()
        else:
            self._room.set()

    def fail(self, error: BrokerError) -> None:
        self._shelf.fail(error)

    async def _catch_up(self, one: _Partition, past: Past, start: Start, live_url: str) -> None:
        """Its past first; then the same polls go on with the live queue."""
        try:
            while one.is_live() and (wait_s := await past.due_in_s()) > 0:
                await one.rest(wait_s)
            if one.is_live():
                await past.begin(start)
                self._poll(one, 1)
            while one.is_live() and not await past.is_over():
                await one.rest(LOOK_S)
            if one.is_live():
                await past.done()
                one.queue_url = live_url
                self._poll(one, self._aws.settings.poll_s)
        except BrokerError as error:
            if one.is_live():
                self.fail(error)

    # --- the engine's side ------------------------------------------------------------------------------------------

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        return await self._shelf.fetch(most, wait_s)

    def pause(self) -> None:
        self._shelf.pause()

    def resume(self) -> None:
        self._shelf.resume()

    async def lag(self) -> int | None:
        """As far as SQS knows: its own count is approximate."""
        found = len(self._shelf)
        for one in list(self._partitions.values()):
            asked = self._aws.sqs.get_queue_attributes(
                QueueUrl=one.queue_url, AttributeNames=["ApproximateNumberOfMessages"]
            )
            answer = await self._aws.asked("could not be asked for a queue's length", asked)
            found += int(answer["Attributes"]["ApproximateNumberOfMessages"])
        return found

    async def close(self) -> None:
        self._keeping.cancel()
        for partition in list(self._partitions):
            await self.end(partition)
        self._room.set()  # polls that wait for room see that they are over
        await asyncio.gather(self._keeping, return_exceptions=True)

    # --- settling ---------------------------------------------------------------------------------------------------

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        tokens = [one.token for one in fetched if isinstance(one.token, Token)]
        batches = [
            tens
            for url in dict.fromkeys(token.queue_url for token in tokens)
            for tens in in_tens([token for token in tokens if token.queue_url == url])
        ]
        limit = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(self._delete(batch, limit) for batch in batches))

    async def _delete(self, tokens: Sequence[Token], limit: asyncio.Semaphore) -> None:
        """Those that can't be deleted come again, and are known then."""
        rest, pause_s = list(tokens), 0.05
        for left in range(TRIES - 1, -1, -1):
            async with limit:
                failed = await self._delete_once(rest)
            for token in set(rest) - set(failed):
                self._hands.pop(token.handle, None)
            if not failed:
                return
            rest = list(failed)
            if left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        raise BrokerError(
            f"{self._aws.settings.url.shown} did not delete {plural(len(rest), 'message')}, which will come again."
        )

    async def _delete_once(self, tokens: Sequence[Token]) -> list[Token]:
        """What is to be tried again."""
        entries = [{"Id": str(place), "ReceiptHandle": token.handle} for place, token in enumerate(tokens)]
        call = self._aws.sqs.delete_message_batch(QueueUrl=tokens[0].queue_url, Entries=entries)
        answer = await self._aws.asked("could not delete what was stored", call)
        return [tokens[int(one["Id"])] for one in answer.get("Failed", []) if one.get("Code") not in LOST]

    # --- keeping invisible ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        visibility_s = self._aws.settings.visibility_s
        while True:
            await asyncio.sleep(visibility_s / 6)
            now = time.monotonic()
            due = [hand for hand in self._hands.values() if hand.until - now < visibility_s * 2 / 3]
            try:
                lost = await self._set_visibility([hand.token for hand in due], visibility_s)
            except FAILURES as error:
                self.fail(self._aws.error("could not keep what is in our hands", error))
                return
            for hand in due:
                hand.until = now + visibility_s
            self._forget(lost)

    def _forget(self, lost: Sequence[Token]) -> None:
        """They are, or will be, handed out again."""
        if not lost:
            return
        gone = {token.handle for token in lost}
        for handle in gone:
            self._hands.pop(handle, None)
        self._shelf.keep(lambda one: not (isinstance(one.token, Token) and one.token.handle in gone))

    async def _set_visibility(self, tokens: Sequence[Token], seconds: int) -> list[Token]:
        """Those that are not ours any more."""
        lost: list[Token] = []
        for url in dict.fromkeys(token.queue_url for token in tokens):
            for tens in in_tens([token for token in tokens if token.queue_url == url]):
                entries = [
                    {"Id": str(place), "ReceiptHandle": token.handle, "VisibilityTimeout": seconds}
                    for place, token in enumerate(tens)
                ]
                answer = await self._aws.sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
                lost += [tens[int(one["Id"])] for one in answer.get("Failed", []) if one.get("Code") in LOST]
        return lost

    async def _give_back(self, hands: Sequence[Hand]) -> None:
        for hand in hands:
            self._hands.pop(hand.token.handle, None)
        await self._release([hand.token for hand in hands])

    async def _release(self, tokens: Sequence[Token]) -> None:
        """Visible to others at once; where that fails, when their time is over."""
        try:
            async with asyncio.timeout(self._aws.settings.timeout_s):
                await self._set_visibility(tokens, 0)
        except (*FAILURES, BrokerError) as error:
            given = plural(len(tokens), "message is", "messages are")
            log.info("%s: %s given back when the time is over: %s", self._consumer, given, error)


def fetched_of(partition: int, message: Mapping[str, Any], token: Token, prefix: str) -> Fetched:
    """A CloudEvent as it was before it became JSON; another event with its fields as headers; what is neither, as it came."""
    text = str(message["Body"]).encode("utf-8", "surrogatepass")
    time_us = int(message.get("Attributes", {}).get("SentTimestamp", 0)) * 1000
    try:
        body = msgspec.json.decode(text, type=_Body)
        members = msgspec.json.decode(body.detail, type=dict[str, msgspec.Raw])
        if "specversion" in members or BYTES in members:
            return Fetched(partition, 0, None, *_unpacked(members, prefix), time_us, token)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, ValueError):
        return Fetched(partition, 0, None, {}, "", text, time_us, token)
    fields = {
        "id": body.id,
        "detail-type": body.detail_type,
        "source": body.source,
        "time": body.time,
        "account": body.account,
        "region": body.region,
        "resources": ",".join(body.resources),
        "replay-name": body.replay_name,
    }
    headers = {name: value for name, value in fields.items() if value}
    return Fetched(partition, 0, None, headers, JSON, bytes(body.detail), time_us, token)


def _unpacked(members: dict[str, msgspec.Raw], prefix: str) -> tuple[dict[str, str], str, bytes]:
    """Its attributes, content type and data."""
    members.pop(BYTES, None)
    data, encoded = bytes(members.pop("data", b"")), members.pop("data_base64", None)
    if encoded is not None:
        data = msgspec.json.decode(encoded, type=bytes)
    elif not LONG_NUMBER.search(data):  # written by others on the way; this is how it was written first
        data = msgspec.json.encode(msgspec.json.decode(data)) if data else data
    attributes = {name: _plain(msgspec.json.decode(value)) for name, value in members.items() if value != b"null"}
    content_type = attributes.pop("datacontenttype", JSON)
    return {f"{prefix}{name.lower()}": value for name, value in attributes.items()}, content_type, data


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise ValueError("an attribute of a CloudEvent is text, a whole number or a truth value")  # noqa: TRY004
    return str(value)
