"""The broker port: carry messages between journals, at least once.

On one journal nothing needs to be carried: its feed is read by every service on it. A broker comes in where services
have journals of their own. The *relay* reads the feed of the journal that publishes, and sends; an *intake* fetches what
comes, appends it to the feed of the journal that subscribes, and only then settles it. From there on everything is as on
one journal: cursors, retries, parked and dead deliveries, rewinds. So an adapter knows nothing of handlers. It has to

* say of each message that was sent whether the broker has it, will never take it, or may have it;
* hand over what it fetched in the order in which it came, and lose nothing before `settle`;
* notice a dead connection within its time-outs, and raise `BrokerError` rather than be silent.

Whoever is above the port numbers messages per channel and slot, finds repetitions and holes by that, puts in order what
was reordered, and fences who lost a partition.

Two kinds of broker read differently. A *log* has positions: an intake begins after the one that the journal has, and
what it settles is told to the broker for its own displays only. A *queue* has none: what was not settled comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, runtime_checkable

Start = Literal["earliest", "now"] | datetime
FETCH_BYTES = 8_000_000  # of data and headers, after which a fetch gives no further message
KEPT_BYTES_MAX = (
    100_000_000  # of a message's data in the journal, where a log has it too: a broker's client may unpack more
)
AHEAD_BYTES_MAX = 32_000_000  # that an intake takes from the server before it is fetched, where its bounds are bytes


@dataclass(frozen=True, slots=True)
class Features:
    """What a broker can do; declared, and never silently less."""

    name: str  # "Kafka"
    prefix: str  # of CloudEvents attributes in its headers: "ce_", "ce-", "cloudEvents:"
    positions: bool  # a log: `begin(after=)` reads on from there; else a queue
    ordered: bool  # messages of one slot arrive in the order in which they were sent
    assigns: Literal["journal", "broker"]  # who says which process should ask for a partition's lease
    starts: frozenset[Literal["earliest", "now", "time"]]  # where an intake can begin that has no position yet
    message_bytes_max: int  # data and headers, as the broker counts them; larger is refused at publish
    persistent: bool  # what it acknowledged survives its restart
    bounds: Literal["bytes", "messages"]  # what an intake takes from the server before it is fetched is bounded by


class Message(NamedTuple):
    """To be sent. Names of headers have the broker's prefix already; the content type is given apart, since brokers
    differ in where it goes."""

    channel: str
    slot: int  # 0 to 959: messages of one slot take one way, so that they stay in order
    key: str | None
    id: str  # unique; sent again under the same one
    headers: Mapping[str, str]
    content_type: str
    data: bytes


class Fetched(NamedTuple):
    """What came, as it came."""

    partition: int
    position: int  # of a log; 0 of a queue
    key: bytes | None
    headers: Mapping[str, str]  # as on the wire, with prefix
    content_type: str
    data: bytes
    time_us: int  # when the broker had it, or 0
    token: object = None  # what the adapter settles it by
    left_out: int = 0  # bytes of data, since they are more than KEPT_BYTES_MAX
    beyond: int = 0  # of a log: which of several it is that its positions can't tell apart, or 0


def weight_of(fetched: Fetched) -> int:
    """What it takes of our memory, about: a message of others may be nothing but headers."""
    headers = fetched.headers
    return len(fetched.data) + len("".join([*headers, *headers.values()]))


# A BrokerError whose details say sent=False is of a message that has certainly not left.
Sent = Exception | None  # None: the broker has it. MessageRefused: it never will. NotWanted: not yet. Else: it may


class Difference(NamedTuple):
    """Between what services need on the broker and what is there."""

    what: str  # "topic orders"
    wanted: str  # "12 partitions"
    found: str  # "" where there is nothing
    safe: bool  # applying it takes nothing from anybody; else it is only reported


class Finding(NamedTuple):
    """Of `spine doctor`, read from the live broker."""

    level: Literal["ok", "warning", "danger"]
    what: str
    says: str


class Needs(NamedTuple):
    """What services of this journal need on the broker."""

    publishes: Sequence[str] = ()  # channels
    consumes: Sequence[tuple[str, str]] = ()  # (channel, consumer)

    @property
    def channels(self) -> Sequence[str]:
        """Each once."""
        return list(dict.fromkeys([*self.publishes, *(channel for channel, _ in self.consumes)]))


class BrokerIntake(Protocol):
    """What one journal reads of one channel, in one process. All its calls come from one event loop."""

    feed: str  # identity of what is read: cluster, topic and its id, so that a topic made anew is another feed

    def assigned(self) -> frozenset[int]:
        """The partitions that this process may begin: of a broker that assigns, those it gave us; else all there are."""
        ...

    async def begin(self, partition: int, *, after: int | None, start: Start, epoch: int) -> int | None:
        """Fetch this partition from now on: of a log after that position, if there is one, else from `start`. `epoch`
        grows with every owner. Of a log, the position after which it reads: stored, it keeps "now" where it was although
        nothing has come yet."""
        ...

    async def end(self, partition: int) -> None:
        """Fetch no more of it; what was fetched and not settled is given back."""
        ...

    async def fetch(self, most: int, wait_s: float) -> Sequence[Fetched]:
        """What there is of the partitions begun, `most` at most, and no further message after FETCH_BYTES; waits
        that long for the first. Safe to cancel: what was not returned is returned by the next. Raises BrokerError when nothing can come any more; the intake is then
        closed and made anew."""
        ...

    async def settle(self, fetched: Sequence[Fetched]) -> None:
        """The journal has these. Of a queue: they need not come again."""
        ...

    def pause(self) -> None:
        """Take no more from the broker, and stay a member; `fetch` returns nothing."""
        ...

    def resume(self) -> None: ...

    async def lag(self) -> int | None:
        """How many messages the broker has that were not fetched, in the partitions begun; None: it can't say."""
        ...

    async def close(self) -> None: ...


class Broker(Protocol):
    """Made from a URL, without a connection. Errors: BrokerError, whose message never shows a secret."""

    url: str  # without its password
    features: Features

    async def open(self) -> None:
        """Connect; raises BrokerError when the broker can't be reached or lets us not in."""
        ...

    async def close(self) -> None: ...

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        """One answer each, in order, once it is known; bounded in time by the adapter's time-outs."""
        ...

    async def intake(self, channel: str, consumer: str, changed: Callable[[], None]) -> BrokerIntake:
        """`consumer` names the reading journal at the broker, such as `inventory.orders`: its group, queue or durable. It
        ends with a dot and the channel.
        `changed` is called on this event loop when `assigned()` has changed."""
        ...

    async def differences(self, needs: Needs) -> Sequence[Difference]:
        """In order in which they are to be applied; empty when all is there."""
        ...

    async def apply(self, needs: Needs) -> Sequence[Difference]:
        """Make what is missing, as far as that is safe; what was made. Applied twice it changes nothing."""
        ...

    async def claim(self, role: Literal["publisher", "consumer"], name: str, identity: str, *, force: bool) -> str:
        """Leave this journal's identity at the broker as the publisher of a channel, or as that consumer, unless there is
        one (`force`: replace it); whose it is afterwards. "" when the broker has no place for it."""
        ...

    async def findings(self, needs: Needs) -> Sequence[Finding]: ...


@runtime_checkable
class Replaying(Protocol):
    """A broker that also keeps what was sent, apart from its queues, and can send it to one consumer again."""

    async def replay(self, channel: str, consumer: str, since: datetime, until: datetime) -> str:
        """Begin to; how the broker names it. Raises BrokerError when nothing of the channel is kept."""
        ...
