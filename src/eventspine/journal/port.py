"""The journal port: what the engine needs from a store, and nothing more.

A journal remembers for services: their events (one feed, some of them in streams), how far each subscription has
come, deliveries that wait or have died, timers, leases. What it promises, whatever is behind it:

* Everything that changes is a `Unit`: plain data, committed as one or not at all. Many units share one commit
  (one fsync) and each gets a verdict of its own; one unit's failure never harms another's (R5).
* The feed has no gaps to a reader: once position n is visible, nothing below n will ever appear, and no position is
  used twice.
* A unit never says where a cursor goes. It says what it finished; the journal folds that into the cursor, in the same
  commit, after it knows which units were accepted (R3). Marks, the cursors of other origins' numbers, are the same.
* A unit that was already committed is not committed again: events are known by id, finished deliveries by range.
  `commit` may therefore be asked again after `unknown`.
* A fence that no longer holds (lease epoch, cursor generation) fails the unit with `fenced`, and nothing else.

Times are microseconds since 1970 UTC (`_us`). A position is an integer > 0; 0 stands before the first event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

from .cursors import Range

if TYPE_CHECKING:
    from pathlib import Path  # as many others here, left out of what `import eventspine` loads

SLOTS = 960  # a constant of the format on disk and on the wire (R22); never change it
PARTITIONS = 16  # of our own feed: partition = slot % 16
WHOLE_FEED = -1  # the only partition of a subscription with order="feed"
OWN_FEED = ""  # the feed identity of this journal's own feed, as stored in cursors and deliveries


class Record(NamedTuple):
    """One event as the feed stores it. On our own feed `id` is 16 bytes of UUIDv7."""

    position: int
    id: bytes
    channel: str | None  # None: private to the service that appended it
    slot: int
    key: str | None
    type: str
    version: int
    time_us: int  # when it happened
    recorded_us: int  # when it was appended
    source: str  # the service that published it
    correlation: str | None  # None: it began its correlation, whose id is its own
    causation: str | None  # the id of the event whose handling published it
    hops: int  # how many events caused one another up to this one
    meta: bytes | None  # a JSON object of strings: further CloudEvents attributes (traceparent, tenant, ...)
    data: bytes


# --- what a unit is made of -------------------------------------------------------------------------------------


class Append(NamedTuple):
    """Records to append, in order; `position` and `recorded_us` of each are set by the journal.

    With `stream`, they become versions of that stream of `service`; `expected` is the version the stream must be at
    (0: it must not exist yet; None: any). The check happens inside the transaction. A record whose id is already in
    the feed is not appended again: the verdict gives the position that it has.
    """

    records: Sequence[Record]
    service: str = ""
    stream: str | None = None
    expected: int | None = None


class Fence(NamedTuple):
    """The unit counts only while this lease has this epoch."""

    lease: str
    epoch: int


class Done(NamedTuple):
    """Ranges finished for one subscription in one partition, while its cursor has this generation.

    A range ends with an event; what lies before it in the range was passed. If a unit carries statements, appends,
    timers, notes or delivery changes, or shares its transaction with a caller's, and the events at the ends of all its ranges,
    those of its marks included, are finished already, the unit is a repetition: nothing of it is applied but what it has
    passed and start marks that it clears, and its verdict is `repeated`. If some are, and others not, it is `fenced`: its
    owner knows less than the cursor says. Fences are asked first: who lost the lease meanwhile is `fenced`. A unit
    without done, marks, fences or changes is known by its events instead: a repetition when all that it appends (one at
    least) are in the feed.
    """

    subscription: int
    partition: int
    ranges: Sequence[Range]
    generation: int
    feed: str = OWN_FEED


class Seen(NamedTuple):
    """Numbers of another origin's events that the unit finishes for one subscription: handled, parked, dead or passed.

    An origin numbers what it publishes from 1, without holes, per (channel, slot); a broker in between may repeat or
    reorder it. So a mark has the shape of a cursor, all up to a number and ranges beyond, and is folded like one:
    after the verdicts, in the same commit, in whatever order the numbers come. Reordering is not duplication (R1): of
    3, 1, 2 each is new, and the three fold to 3. Ranges `(after, upto)` are exclusive of `after`, so number n alone is
    `(n - 1, n)`; whoever begins in mid-course finishes all below the lowest it has seen: `(0, lowest - 1)`.

    A mark has no generation of its own. The unit's Done names the one it counts on, without ranges if need be.
    """

    subscription: int
    origin: str  # of the other journal: its identity and incarnation
    channel: str
    slot: int
    ranges: Sequence[Range]


State = Literal["parked", "dead", "held", "settled"]
BEHIND = "behind"  # the reason of a delivery that has not failed, and waits for one before it in its key


class Put(NamedTuple):
    """Store a delivery that left the lanes: parked, dead or held. One row per (subscription, feed, partition,
    position): a second Put for the same one updates the first.

    Of the whole feed, in a unit that finishes nothing: the feed stands at it. If the cursor has it finished by then, since somebody
    dropped it, the unit is a repetition, and the row stays as it is."""

    subscription: int
    partition: int
    record: Record
    state: State
    attempts: int
    due_us: int | None  # of a parked delivery; None: when the one before it in its key is finished
    reason: str  # one word or class name: BEHIND, "undecodable", "rejected", "SmtpDown"
    error: str = ""
    traceback: str = ""
    late: bool = False
    feed: str = OWN_FEED
    deaths: int = 0  # of processes, while it ran alone (R16); a row keeps the most that was said


class Change(NamedTuple):
    """Change a stored delivery by number; a field left None stays. The row of the first attempt that failed has `first_us` from
    then: `attempts` of one that had none. The state must be one of `while_state`, else the
    unit is fenced (somebody replayed, dropped or settled it meanwhile)."""

    number: int
    state: State | Literal["gone"] | None = None  # "gone": the row is removed
    attempts: int | None = None
    deaths: int | None = None
    due_us: int | None = None
    reason: str | None = None
    error: str | None = None
    traceback: str | None = None
    late: bool | None = None
    while_state: Sequence[State] = ("parked",)


class StartMark(NamedTuple):
    """Careful mode (R16): this delivery is about to run in a process that took over from one that died.

    `times`: how often it has been started without an end, this start included; none: it has ended, and has no mark. `alone`: how
    often of these with nothing beside it, so that a death is its own doing. Both say what is, and not what is added, so that a
    unit whose outcome is unknown can be asked again; who writes them is the only one, by its lease."""

    subscription: int
    partition: int
    position: int
    times: int = 1
    alone: int = 0
    feed: str = OWN_FEED


class Timer(NamedTuple):
    """A record to append to the feed when it is due, once, under the id that it has already (R11)."""

    due_us: int
    record: Record


class Statement(NamedTuple):
    """SQL of the handler, to run inside the unit. Parameters are by name and already plain values."""

    sql: str
    parameters: Mapping[str, Any]
    expect_rows: int | None = None  # another count fails the unit with RowsUnexpected


class Note(NamedTuple):
    """A small named value that a service keeps beside its events: written, replaced or (value None) removed.

    Each write raises the note's version by one, beginning at 1; a note that was removed is forgotten, and begins anew.
    `expected` is the version that it must be at (0: there must be none; None: any). That is judged in the transaction,
    on top of what the unit's notes before this one did; a miss fails the whole unit with `conflict`. `until_us` None
    keeps it until it is removed; otherwise the journal may remove it at any time from then on, and does so by and by,
    when others that end are written. Not for what is large: see notes.py for the bounds.
    """

    service: str
    kind: str  # what the value is, such as "snapshot"; notes of two kinds never meet
    key: str
    value: bytes | None
    expected: int | None = None
    until_us: int | None = None


class Unit(msgspec.Struct):
    """Everything that changes together."""

    appends: list[Append] = msgspec.field(default_factory=list)
    fences: list[Fence] = msgspec.field(default_factory=list)
    done: list[Done] = msgspec.field(default_factory=list)
    puts: list[Put] = msgspec.field(default_factory=list)
    changes: list[Change] = msgspec.field(default_factory=list)
    starts: list[StartMark] = msgspec.field(default_factory=list)
    timers: list[Timer] = msgspec.field(default_factory=list)
    cancels: list[bytes] = msgspec.field(
        default_factory=list
    )  # ids of timers; `Verdict.cancelled` says how many there were
    statements: list[Statement] = msgspec.field(default_factory=list)
    marks: list[Seen] = msgspec.field(default_factory=list)
    notes: list[Note] = msgspec.field(default_factory=list)


def standing(unit: Unit) -> list[Put]:
    """What its feed stands at."""
    if not unit.puts or unit.done or not unit.fences:
        return []
    return [put for put in unit.puts if (put.feed, put.partition) == (OWN_FEED, WHOLE_FEED)]


class Verdict(msgspec.Struct):
    """What became of a unit. `done` and `repeated` are success: the unit's effects are durable, exactly once."""

    kind: Literal["done", "repeated", "conflict", "fenced", "failed", "unknown"]
    positions: list[int] = msgspec.field(
        default_factory=list
    )  # of all appended records, in order of the unit's appends
    versions: list[int] = msgspec.field(default_factory=list)  # per append with a stream: its version after the append
    numbers: list[int] = msgspec.field(
        default_factory=list
    )  # of the delivery rows that the unit's puts wrote, in order
    cancelled: int = 0
    error: Exception | None = None  # Conflict, Fenced, UnitFailed (with __cause__), OutcomeUnknown, JournalError

    @property
    def ok(self) -> bool:
        return self.kind in ("done", "repeated")


# --- declarations, processes, leases ----------------------------------------------------------------------------


class SubscriptionDeclaration(NamedTuple):
    name: str  # "service.function" unless declared otherwise
    channels: tuple[str, ...]  # sorted
    types: tuple[tuple[str, int | None], ...]  # sorted (type, newest version known or None for any)
    order: Literal["key", "none", "feed"]
    on_dead: Literal["goes_on", "waits"]
    start: Literal["earliest", "now"] | int | None  # int: a position; None: by the rule of R8
    renamed_from: str | None = None
    extra: str = ""  # whatever else makes this declaration differ from another generation's


class Registration(NamedTuple):
    """What a process says when it starts. See `Journal.register`."""

    service: str
    publishes: tuple[str, ...]
    subscriptions: tuple[SubscriptionDeclaration, ...]
    roll_back: bool = False
    retire: tuple[str, ...] = ()  # names of stored subscriptions that this start gives up


class Passed(NamedTuple):
    """A type that a newer release subscribed to and this one, which takes its place, doesn't know (R8)."""

    subscription: str
    type: str
    events: int  # of this type, that are not finished


class Registered(NamedTuple):
    generation: int  # of the service's declarations; the newest live one leads (R8)
    subscriptions: tuple[Subscription, ...]  # in the order of the registration
    newest: int = 0  # the newest generation ever seen of this service; above `generation`: this code is older (R8)
    passes: tuple[Passed, ...] = ()  # what code older than the last that led will pass


class Subscription(NamedTuple):
    number: int  # short name inside this journal; never re-used
    uid: bytes  # 16 bytes; from the first registration on, through renames; ids derive from it
    service: str
    name: str
    state: Literal["active", "paused", "suspended", "retired"]
    generation: int  # the cursor's, raised by rewind, pause, rename, retire, and when the filter is widened
    channels: tuple[str, ...]
    types: tuple[tuple[str, int | None], ...]
    order: Literal["key", "none", "feed"]
    on_dead: Literal["goes_on", "waits"]
    republish: str = ""  # set by a rewind with publish_again: part of derived ids from then on (R19)
    created_us: int = 0  # when it was first registered

    def partition_of(self, record: Record) -> int:
        """Of this journal's own feed: the partition whose cursor passes this event."""
        return WHOLE_FEED if self.order == "feed" else record.slot % PARTITIONS


class Process(NamedTuple):
    id: str  # unique for ever
    service: str
    generation: int  # 0: it is leaving, and wants no more partitions
    pid: int
    host: str  # identity of the machine, boot and pid namespace: pids compare only where it is equal
    started_us: int
    window: int  # how many deliveries it may have handed out per subscription and partition (R16)
    release: str  # of eventspine
    until_us: int = 0  # alive until then, as far as it has said
    pid_started: str = ""  # start time of the pid as the system tells it; a pid may be re-used


class Lease(NamedTuple):
    name: str
    epoch: int  # raised whenever the lease changes hands
    owner: str  # process id; "" when free
    until_us: int
    unclean: bool  # the owner before did not release it


class LeaseView(NamedTuple):
    held: Mapping[str, Lease]  # those that the asking process holds now
    processes: Sequence[Process]  # the live ones of its service, itself included
    control: int  # raised by every control operation: reload what you keep in memory when it differs


class Cursor(NamedTuple):
    subscription: int
    partition: int
    position: int
    beyond: Sequence[Range]
    feed: str = OWN_FEED


class Delivery(NamedTuple):
    """A stored delivery: parked, dead, held or settled (settled after a failure; kept for `trace`)."""

    number: int
    subscription: int
    partition: int
    position: int
    slot: int
    key: str | None
    state: State
    attempts: int
    deaths: int
    due_us: int | None
    reason: str
    error: str
    traceback: str
    late: bool
    first_us: int
    last_us: int
    record: Record | None  # None when asked for without records
    feed: str = OWN_FEED


class Noted(NamedTuple):
    """A note as it is stored."""

    key: str
    version: int
    value: bytes


class Page(NamedTuple):
    records: Sequence[Record]
    scanned: int  # every wanted record up to and including here is in `records` or was returned before
    more: bool = True  # False: this is the end of the feed as it was; wait for a change before asking again
    told: bool = False  # whoever watched before asking is told of what comes after, and need not ask for more


# --- growth: what is deleted, and copies -----------------------------------------------------------------------------


class Keep(NamedTuple):
    """What a service has said of a channel that it publishes; see retention.py for what several of them mean."""

    service: str
    channel: str
    keep_us: int | None  # for how long its events are kept; None: for ever
    said_us: int


class Deleted(NamedTuple):
    """What retention has deleted of a channel so far."""

    channel: str
    position: int  # the last of them; before it, only what something still needs is left
    recorded_us: int  # when that one was appended
    events: int  # how many


class Sweep(NamedTuple):
    """One step of deleting: everything of the channel up to `scanned` is deleted, or needed now."""

    deleted: int
    scanned: int
    more: bool  # False: that is as far as it goes for now


class StreamHead(NamedTuple):
    service: str
    stream: str
    version: int
    last_type: str  # that of its last event, by which one that is over is known


class StreamCut(NamedTuple):
    """What was taken from the beginning of a stream."""

    events: int  # deleted just now
    first: int  # the version that it begins with


class ChannelSize(NamedTuple):
    channel: str | None  # None: private events
    events: int
    exact: bool  # False: estimated from a sample


class Backup(NamedTuple):
    """A copy that was verified."""

    path: str
    bytes: int
    position: int  # where its feed ends
    recorded_us: int | None  # when the last event in it was appended; None: there is none
    events: int


# --- control: what operators do -----------------------------------------------------------------------------------


class Rewind(NamedTuple):
    """Set cursors of every partition to `position` (exclusive), discard what is parked, dead and beyond from there on.

    That is a position of our own feed, and says nothing of the numbers of other origins: their marks stay, unless the
    origin is named. Then this subscription's marks of it are forgotten, on every channel, and all its numbers are new."""

    subscription: int
    position: int
    republish: str = ""  # a fresh token when events published by handlers are to be published again
    origins: Sequence[str] = ()  # whose events are to come again too


class SetState(NamedTuple):
    subscription: int
    state: Literal["active", "paused", "suspended", "retired"]


class Rename(NamedTuple):
    subscription: int
    name: str


class Replay(NamedTuple):
    """Dead deliveries become parked, due now, late. Numbers that are not dead are left alone."""

    numbers: Sequence[int]


class Drop(NamedTuple):
    """Dead or parked deliveries are given up for good; what waits behind them goes on.

    Of order="feed" the cursor may stand before one. Then its event is finished in the same commit, as the range
    `(position - 1, position)`, so that nobody handles it any more, whoever runs or begins to. What lies before it is not: the
    subscription has passed it, and may want it by now. A rewind makes both new again."""

    numbers: Sequence[int]


class Retry(NamedTuple):
    """Parked deliveries are due now."""

    numbers: Sequence[int]


Control = Rewind | SetState | Rename | Replay | Drop | Retry


# --- the port -----------------------------------------------------------------------------------------------------


class Transaction(Protocol):
    """The journal's write lock, held for one handler that reads its own writes (R4). Limited in time: past `limit_s`
    the journal rolls back, and everything after, commit included, fails with UnitFailed."""

    async def execute(self, sql: str, parameters: Mapping[str, Any], expect_rows: int | None = None) -> int: ...
    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]: ...
    async def commit(self, unit: Unit) -> Verdict: ...
    async def rollback(self) -> None: ...


class Journal(Protocol):
    """See the module's docstring for the promises. All methods may raise JournalError."""

    id: str  # identity, made with the journal; with the incarnation it is the origin of what leaves it
    incarnation: str  # another in every backup: put in place, it numbers anew (R15)
    url: str
    sql: bool  # whether handlers may use SQL on it
    dialect: str  # of that SQL: "sqlite" or "postgresql"; "" where there is none
    backups: bool  # whether `backup` can copy it; where not, it raises SettingsError

    def exists(self) -> bool:
        """Whether there is a journal to open; if not, `open` makes one. Changes nothing."""
        ...

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    # writing
    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        """One verdict per unit, in order. Never raises for a unit; raises JournalError only when closed.

        While somebody else holds the write lock, units wait, up to a limit that ends in `failed` with JournalBusy. That
        comes at once where the journal can tell that this process itself holds it: a caller with a transaction of its
        own would wait for itself (R21). The message names `within=`; nobody's unit is to blame, and it may be asked
        again."""
        ...

    async def begin(self, limit_s: float) -> Transaction: ...

    def write_within(self, connection: Any, unit: Unit) -> Verdict:
        """Write the unit on a connection that the caller owns; begin and commit nothing (R21). Its first statement is a
        write. Raises SettingsError when the connection is not on this journal. Never `unknown`; a conflict or a lost
        fence is raised (Conflict, Fenced) so that the caller's transaction can't go on by mistake."""
        ...

    async def fire(self, now_us: int, limit: int) -> int:
        """Append the records of due timers, in order of (due, id); the number fired."""
        ...

    async def control(self, operations: Sequence[Control]) -> int:
        """Carry them out as one; how many rows they changed. Raises `control` and the generation of the subscriptions
        concerned where a cursor is rewound or a subscription changes state, so that running owners are fenced (R13)."""
        ...

    # who does the work
    async def register(self, registration: Registration, now_us: int) -> Registered:
        """Store what a service declares (R8; decided by registry.plan); raises RegistrationRefused, naming the ways on.

        An older generation beside a live newer one changes nothing here. It is to register again before it leads, when no
        newer one has been live for two leases: what is stored then becomes its own again."""
        ...

    async def lease(
        self, process: Process, take: Sequence[str], release: Sequence[str], now_us: int, until_us: int
    ) -> LeaseView:
        """Say that `process` lives until `until_us`, renew what it holds, give back `release`, and take those of `take`
        that are free or whose owner is no longer alive. Taking raises the epoch; so does nothing else."""
        ...

    async def leave(self, process: Process) -> None:
        """The process ends cleanly: its leases are free, and it is forgotten."""
        ...

    # reading
    async def head(self) -> int: ...
    async def feed(
        self,
        after: int,
        *,
        limit: int,
        upto: int | None = None,
        channels: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
        types: Sequence[str] | None = None,
        private: bool = False,
    ) -> Page:
        """Public records after `after` in order of position; at most `limit`, and at most some megabytes of data.
        `scanned` also passes what the filters left out. A page may be empty while `scanned` has moved on."""
        ...

    async def position_at(self, time_us: int) -> int:
        """The last position recorded before this time."""
        ...

    async def stream(
        self, service: str, stream: str, *, after: int = 0, limit: int = 1000, folded: bool = False
    ) -> list[Record]:
        """Those with the versions after `after`, without holes. Raises VersionsDeleted, which says the `first` that there
        is, where the next one was cut off: what is read is never taken for the beginning, nor numbered wrongly. As all that
        asks for streams it raises StreamRefused for a name or a number that none can have (asking.py).

        `folded`: they are read to make a state of them. Position, id, type, version, time_us, meta and data are as they
        were appended; whatever else a record has may be left empty, which takes half the time."""
        ...

    async def stream_version(self, service: str, stream: str) -> int: ...
    async def streams(self, service: str | None, after: tuple[str, str], limit: int) -> list[StreamHead]:
        """In order of service and name, those after these; of one service, or of all."""
        ...

    async def event(self, id: bytes) -> Record | None: ...
    async def correlated(self, correlation: str, limit: int = 10_000) -> list[Record]:
        """The event whose id it is, if any, and all whose correlation it is, in order of position."""
        ...

    async def subscriptions(self, service: str | None = None) -> list[Subscription]: ...
    async def cursors(self, subscriptions: Sequence[int]) -> list[Cursor]: ...
    async def deliveries(
        self,
        *,
        subscriptions: Sequence[int] | None = None,
        states: Sequence[State] | None = None,
        partitions: Sequence[int] | None = None,
        numbers: Sequence[int] | None = None,
        events: Sequence[bytes] | None = None,
        after: int = 0,
        limit: int = 1000,
        records: bool = True,
    ) -> list[Delivery]:
        """In order of number."""
        ...

    async def starts(self, subscription: int) -> dict[tuple[int, int], tuple[int, int]]:
        """Start marks by partition and position: (times started, times started alone) without a finish."""
        ...

    async def marks(self, subscription: int, origin: str, channel: str) -> dict[int, tuple[int, Sequence[Range]]]:
        """By slot: all numbers up to the first are finished, and these ranges beyond it. A slot without any is left out."""
        ...

    async def notes(
        self, service: str, kind: str, keys: Sequence[str] | None = None, *, after: str = "", limit: int = 1000
    ) -> list[Noted]:
        """The service's notes of this kind, in order of key (by code point): those of `keys` that there are, or else of
        all keys after `after`; at most `limit` of them."""
        ...

    async def control_version(self) -> int:
        """What LeaseView.control would say: differs once a control operation has been carried out."""
        ...

    async def next_due(self) -> int | None:
        """When the next timer is due."""
        ...

    async def timers(self, limit: int = 1000) -> list[Timer]: ...
    async def processes(self) -> list[Process]: ...
    async def leases(self) -> list[Lease]: ...
    async def declarations(self, service: str) -> list[tuple[int, str]]:
        """All that a service has ever declared, as (generation, canonical JSON), oldest first; see `registry.canonical`."""
        ...

    # growth
    async def keep(self, service: str, channels: Mapping[str, int | None], now_us: int) -> None:
        """A service that starts, or has run for a while, says for how long (microseconds) the events of each channel
        that it publishes are kept; None: for ever. Writes only what is new."""
        ...

    async def keeps(self) -> list[Keep]:
        """What services have said, in order of service and channel."""
        ...

    async def sweep(self, channel: str, *, after: int, upto: int, limit: int, fence: Fence | None = None) -> Sweep:
        """Delete events of the channel after `after` up to `upto`, with their settled deliveries: at most `limit` in one
        commit, and looking at a bounded part of the feed.

        Left are those beyond a cursor of a subscription that reads the channel and is not retired, those of a stream,
        those with a delivery that is not settled, and the last of the feed, so that its end and its clock never go back.
        Raises Fenced when the lease is no longer held."""
        ...

    async def deleted(self) -> list[Deleted]:
        """In order of channel."""
        ...

    async def cut(self, service: str, stream: str, *, before: int, expected: int | None = None) -> StreamCut:
        """Delete the stream's versions below `before`, with their deliveries, in one commit. Its versions go on as they
        would have; none is given out again.

        Raises Conflict when it is not at version `expected` (None: any); TruncationRefused for a `before` beyond that, since the
        last event always stays; StreamNeeded, and nothing is deleted, while a subscription that is not retired has not come
        past one of them, or has a delivery of one that is not settled."""
        ...

    async def cut_off(self) -> list[Deleted]:
        """What `cut` has deleted so far, in order of channel ("" for private events); between them other streams' are left."""
        ...

    async def channel_sizes(self) -> list[ChannelSize]:
        """How many events there are of each channel, from a sample where counting would take long."""
        ...

    async def backup(
        self, target: Path, *, force: bool = False, progress: Callable[[str, float], None] | None = None
    ) -> Backup:
        """Copy a live journal, as of one moment, into a file that has its name only once it is whole and verified.

        Nobody waits for it. `force` replaces a file that is there. `progress` is told a stage and how far it is (0 to 1),
        in another thread. Raises SettingsError for a target that can't be one, JournalFull when it has no room."""
        ...

    async def describe(self) -> dict[str, str | int | None]:
        """What there is to know about the store itself, for operators; `spine doctor` shows it. At least `kind`, `id` and
        `durability` (what an acknowledged commit survives); and of growth `oldest_position` and `oldest_us`, `retention`,
        `retention_deleted` (events) and `retention_held_by` (who has not read what is old enough). Waits for no lock."""
        ...

    async def query(self, sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Read committed business tables, without the write lock. Refuses anything that writes."""
        ...

    async def run_tables(self, service: str, version: str, script: str | Callable[[Any], None]) -> bool:
        """Run a service's schema once per version, as one transaction; whether it ran now."""
        ...

    # who holds the file
    def lock_holder(self) -> tuple[int, int] | None:
        """The process that holds the write lock now and since when (pid, microseconds), where that can be known; of a
        connection that is not the journal's: since when it was seen to hold it."""
        ...

    def waiting_since(self) -> float | None:
        """Since when (monotonic seconds) this process has waited for the write lock; None: it does not."""
        ...

    # waking up
    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have `changed` called on this event loop when there may be more to read: after commits here that appended,
        set timers or changed control, and soon after such commits by other processes. Returns the way to stop."""
        ...
