"""At a broker: a raw twin, eventspine with all that it promises, and FastStream, in turns against one real server.

`python -m bench --broker nats` installs and starts the server on loopback; each measurement has a server of its own."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from eventspine import Service, Spine
from eventspine.testing import servers
from eventspine.unrecorded import WithoutJournal

from .figures import Figure, Leg, Rounds, in_turns, milliseconds, per_second, quantile
from .material import portions
from .million import MB, _flatness
from .parcels import CHANNEL, KEYS, ByHand, Parcel, Plain, parcel, parcels, sender
from .places import folder
from .processes import children
from .sizes import Sizes
from .twins import Peer, Twin, twin_of

WINDOW = 1_000
KEPT = 4
PARTITIONS = 8
SEVERAL = {"eventbridge": 10}  # by broker, where 8 can't be
POLL_S = 1  # of SQS; what it gives to a poll whose reader has gone is nobody's for 20 s, so such polls have to be over
LATENCY_PER_S = 200
PEER = "FastStream"
SERVERS = {"eventbridge": "ministack"}  # by broker, where they have another name


class There(NamedTuple):
    """One real server, with the channel made."""

    broker: str
    url: str
    twin: Twin
    hand: ByHand
    peer: Peer | None
    where: Path  # for journals


Measure = Callable[[str, Sizes], Awaitable[list[Figure]]]


@asynccontextmanager
async def there(broker: str, partitions: int = 0) -> AsyncIterator[There]:
    partitions = partitions or SEVERAL.get(broker, PARTITIONS)
    kind = servers.named(SERVERS.get(broker, broker))
    kind.install()
    with folder() as where, tempfile.TemporaryDirectory(dir=where) as data, ExitStack() as stack:
        # NATS as it comes: syncing each message, as the tests' server does, would measure the disk and nothing else.
        as_it_comes = {"jetstream": f'{{store_dir: "{data}/data", max_file: 8GB}}'} if broker == "nats" else {}
        server = stack.enter_context(kind(data, settings=as_it_comes))
        url = f"{_url(server)}partitions={partitions}"
        async with WithoutJournal(url, service=sender):
            pass  # makes the channel
        twin = twin_of(broker, url, partitions)
        await twin.open()
        at = There(broker, url, twin, ByHand(twin.prefix), twin.peer(), where)
        if not twin.keeps:
            await _made_known(at, "reader")
        try:
            yield at
        finally:
            await twin.close()


def _url(server: servers.Server) -> str:
    url: str = getattr(server, "broker_url", server.url)  # with where its administration is, if that is another place
    if url.startswith("eventbridge:"):  # an emulator lets in whom it does not know
        url = f"{url.replace('://', '://any:any@', 1)}&poll_s={POLL_S}"
    return f"{url}&" if "?" in url else f"{url.rstrip('/')}/?"


async def _fill(at: There, count: int, keys: int = KEYS) -> None:
    if at.broker == "eventbridge":
        await asyncio.sleep(2 * POLL_S)
    for start in range(0, count, WINDOW):
        await at.twin.send(at.hand.messages(parcels(min(WINDOW, count - start), start, keys)))


async def _stock(at: There, count: int) -> None:
    by_hand = ByHand(at.twin.prefix)
    for start in range(0, count, WINDOW):
        await at.twin.stock(by_hand.messages(parcels(min(WINDOW, count - start), start)))


async def _made_known(at: There, name: str) -> None:
    """What is sent from now on is kept for a service of this name."""
    spine = Spine(f"sqlite:///{at.where}/{name}.db", broker=at.url)
    async with spine, spine.running(Counted(name, 0).service):
        pass


# --- publishing -------------------------------------------------------------------------------------------------------


async def sending(broker: str, sizes: Sizes) -> list[Figure]:
    count = sizes.sent
    async with there(broker) as at, WithoutJournal(at.url, service=sender) as straight:
        numbers = iter(range(0, 10**9, count))

        async def spine() -> float:
            events = parcels(count, next(numbers))
            began = time.perf_counter()
            for some in portions(events, WINDOW):
                await straight.send(*some)
            return count / (time.perf_counter() - began)

        async def twin() -> float:
            events = parcels(count, next(numbers))
            began = time.perf_counter()
            for some in portions(events, WINDOW):
                await at.twin.send(at.hand.messages(some))
            return count / (time.perf_counter() - began)

        legs: dict[str, Leg] = {"spine": spine, "twin": twin}
        if (peer := at.peer) is not None:

            async def faststream() -> float:
                events = parcels(count // 4, next(numbers))
                began = time.perf_counter()
                await peer.send(events)
                return len(events) / (time.perf_counter() - began)

            legs["peer"] = faststream
        rounds = await in_turns(legs, sizes.rounds)
        alone = await _awaiting_each(at, straight, sizes)
    work = f"publish straight to {broker}, {WINDOW:,} at a time, all acknowledged"
    return [
        Figure(work, per_second(rounds.rate("spine")), "≥ 0.5× twin", rounds.spread("spine", "twin"), _beside(rounds)),
        alone,
    ]


async def _awaiting_each(at: There, straight: WithoutJournal, sizes: Sizes) -> Figure:
    took: dict[str, list[float]] = {"spine": [], "twin": []}
    for n in range(sizes.awaited):
        event = parcel(n)
        began = time.perf_counter()
        await straight.send(event)
        between = time.perf_counter()
        await at.twin.send([at.hand.message(event)])
        took["spine"].append(between - began)
        took["twin"].append(time.perf_counter() - between)
    spine, twin = median(took["spine"]), median(took["twin"])
    return Figure(
        f"publish straight to {at.broker}, awaiting each, p50",
        f"{milliseconds(spine)}, {(spine - twin) * 1000:+.2f} ms to the twin",
        "≤ twin + 0.3 ms",
        "",
        [f"twin: {milliseconds(twin)}", f"p99: {milliseconds(quantile(took['spine'], 0.99))}, twin {milliseconds(quantile(took['twin'], 0.99))}"],
    )  # fmt: skip


async def outbox(broker: str, sizes: Sizes) -> list[Figure]:
    """Into a journal on SQLite in batches of 100, and from there to the broker, until it has acknowledged all."""
    count = sizes.sent
    async with there(broker) as at:
        numbers = iter(range(1_000_000))

        async def publish(spine: Spine) -> None:
            for some in portions(parcels(count), 100):
                await spine.publish(*some)

        async with Spine(f"sqlite:///{at.where}/outbox.db", service=sender, broker=at.url) as spine:

            async def through() -> float:
                assert spine._carrying is not None
                relay = spine._carrying.relays[CHANNEL]
                wanted = relay.sent + count
                began = time.perf_counter()
                await publish(spine)
                while relay.sent < wanted:
                    await asyncio.sleep(0.002)
                return count / (time.perf_counter() - began)

            async def journal() -> float:
                async with Spine(f"sqlite:///{at.where}/{next(numbers)}.db", service=sender) as alone:
                    began = time.perf_counter()
                    await publish(alone)
                    return count / (time.perf_counter() - began)

            async def twin() -> float:
                events = parcels(count)
                began = time.perf_counter()
                for some in portions(events, WINDOW):
                    await at.twin.send(at.hand.messages(some))
                return count / (time.perf_counter() - began)

            rounds = await in_turns({"through": through, "journal": journal, "twin": twin}, sizes.rounds)
    return [
        Figure(
            f"publish through the outbox on SQLite, until {broker} has acknowledged all",
            per_second(rounds.rate("through")),
            "≥ 0.5× the journal alone; no slower than the broker",
            rounds.spread("through", "journal"),
            [
                f"the journal alone: {per_second(rounds.rate('journal'))}",
                f"twin, without a journal: {per_second(rounds.rate('twin'))} ({rounds.spread('through', 'twin')} of it)",
            ],
        )
    ]


# --- handling ---------------------------------------------------------------------------------------------------------


class Counted:
    """A service that counts, under a name of its own."""

    def __init__(self, name: str, count: int, wait_s: float = 0.0) -> None:
        self.service: Service[None] = Service(name)
        self.finished = asyncio.Event()
        self.waits: list[float] = []
        self._left, self._wait_s = count, wait_s
        self.service.on(Parcel, start="earliest", name="handle")(self._handle)

    def begin(self, count: int) -> None:
        """Count anew."""
        self.finished.clear()
        self.waits.clear()
        self._left = count

    async def _handle(self, event: Parcel) -> None:
        if self._wait_s:
            await asyncio.sleep(self._wait_s)
        self.waits.append((time.time_ns() - event.sent_ns) / 1e9)
        self._left -= 1
        if not self._left:
            self.finished.set()


async def receiving(broker: str, sizes: Sizes) -> list[Figure]:
    """Counted from the start, with what a reader has to do before its first message. Where the broker keeps what it was given
    that is read several times over, so there is more of it, and the start is less of the whole; but one by one takes long."""
    one_by_one = sizes.received
    async with there(broker) as at:
        count = one_by_one * (KEPT if at.twin.keeps else 1)
        names = await _readers(at, count)

        async def spine() -> float:
            return count / await _run(at, Counted(await anext(names), count))

        async def twin() -> float:
            async def handle(_: Plain) -> None:
                pass

            await _stock(at, count)
            began = time.perf_counter()
            await at.twin.receive(count, handle)
            return count / (time.perf_counter() - began)

        legs: dict[str, Leg] = {"spine": spine, "twin": twin}
        if (peer := at.peer) is not None:

            async def faststream(*, batch: bool) -> float:
                mine = count if batch else one_by_one
                await _stock(at, mine)
                began = time.perf_counter()
                await peer.receive(mine, batch=batch)
                return mine / (time.perf_counter() - began)

            legs["peer"] = partial(faststream, batch=False)
            if peer.batches:
                legs["batch"] = partial(faststream, batch=True)
        rounds = await in_turns(legs, sizes.rounds)
    return [
        Figure(
            f"consume {count:,} from {broker}, handle and settle, {KEYS:,} keys, exactly once in effect on SQLite",
            per_second(rounds.rate("spine")),
            f"≥ 0.4× twin; ≥ 5× {PEER}'s one-message handlers, ≥ its batch=True",
            rounds.spread("spine", "twin"),
            _beside(rounds),
        )
    ]


async def _readers(at: There, count: int, keys: int = KEYS) -> AsyncIterator[str]:
    """Names of services for which so many events are there: new ones, or always the same where it has to be known before."""
    if at.twin.keeps:
        await _fill(at, count, keys)

    async def names() -> AsyncIterator[str]:
        for number in itertools.count():
            if not at.twin.keeps:
                await _fill(at, count, keys)
            yield f"reader{number}" if at.twin.keeps else "reader"

    return names()


async def _run(at: There, counted: Counted) -> float:
    """Seconds until all is handled."""
    async with Spine(f"sqlite:///{at.where}/{counted.service.name}.db", broker=at.url) as spine:
        began = time.perf_counter()
        async with spine.running(counted.service):
            await counted.finished.wait()
            return time.perf_counter() - began


async def latency(broker: str, sizes: Sizes) -> list[Figure]:
    """From before publish to the handler: through two journals and the broker, and by hand through the broker; both sides
    are reading when it begins."""
    count = int(sizes.latency_s * LATENCY_PER_S)
    async with there(broker) as at:
        counted = Counted("listener", PARTITIONS)
        receiving = Spine(f"sqlite:///{at.where}/listener.db", broker=at.url)
        async with (
            Spine(f"sqlite:///{at.where}/sender.db", service=sender, broker=at.url) as publishing,
            receiving,
            receiving.running(counted.service),
        ):
            await publishing.publish(*parcels(PARTITIONS))
            await _all_handled(counted)
            counted.begin(count)
            await _paced(count, publishing.publish)
            await _all_handled(counted)
        by_hand: list[float] = []

        async def handle(event: Plain) -> None:
            by_hand.append((time.time_ns() - event.sent_ns) / 1e9)

        async with at.twin.listening(handle):
            await _paced(count, lambda event: at.twin.send([at.hand.message(event)]))
            async with asyncio.timeout(120):
                while len(by_hand) < count:
                    await asyncio.sleep(0.01)
    spine, twin = median(counted.waits), median(by_hand)
    return [
        Figure(
            f"from publish to the handler through {broker}, {LATENCY_PER_S} events/s, p50",
            f"{milliseconds(spine)}, {(spine - twin) * 1000:+.1f} ms to the twin",
            "≤ twin + 1 ms",
            "",
            [
                f"twin, without journals: {milliseconds(twin)}",
                f"p99: {milliseconds(quantile(counted.waits, 0.99))}, twin {milliseconds(quantile(by_hand, 0.99))}",
                "eventspine's way has two commits on SQLite, synced, that the twin's does not",
            ],
        )
    ]


async def _all_handled(counted: Counted) -> None:
    async with asyncio.timeout(120):
        await counted.finished.wait()


async def _paced(count: int, send: Callable[[Parcel], Awaitable[object]]) -> None:
    began = time.monotonic()
    for n in range(count):
        await asyncio.sleep(max(0.0, began + n / LATENCY_PER_S - time.monotonic()))
        await send(parcel(n))


async def one_partition(broker: str, sizes: Sizes) -> list[Figure]:
    keys, wait_s = 100, 0.005
    async with there(broker, partitions=1) as at:
        names = await _readers(at, sizes.lanes, keys)

        async def lanes() -> float:
            return sizes.lanes / await _run(at, Counted(await anext(names), sizes.lanes, wait_s))

        async def one() -> float:
            async def handle(_: Plain) -> None:
                await asyncio.sleep(wait_s)

            await _stock(at, sizes.one_at_a_time)
            began = time.perf_counter()
            await at.twin.receive(sizes.one_at_a_time, handle)
            return sizes.one_at_a_time / (time.perf_counter() - began)

        rounds = await in_turns({"lanes": lanes, "one": one}, sizes.rounds)
    return [
        Figure(
            f"{keys} keys on one partition of {broker}, a handler that waits {wait_s * 1000:.0f} ms",
            per_second(rounds.rate("lanes")),
            "≥ 20× one at a time",
            rounds.spread("lanes", "one"),
            [f"twin, one at a time: {per_second(rounds.rate('one'))}"],
        )
    ]


async def long(broker: str, sizes: Sizes) -> list[Figure]:
    count = sizes.million
    async with there(broker) as at:
        await _fill(at, count)
        async with children("carried_reader", [(at.where / "reader.db", at.url, count)]) as (reader,):
            await reader.tell()
            result = await reader.result()
    times, memory = result["times"], result["memory"]
    return [
        Figure(
            f"a backlog of {count:,} at {broker}, drained by one process",
            f"last tenth {_flatness(times):.2f}× the first; memory {memory / MB:.0f} MB",
            "flat, under 250 MB",
            "",
            [
                f"on the whole: {per_second(count / (times[-1] - result['began']))}",
                f"by processor time instead of the clock: {_flatness(result['work']):.2f}×",
            ],
        )
    ]


def _beside(rounds: Rounds) -> list[str]:
    named = {"twin": "twin", "peer": PEER, "batch": f"{PEER}, batch=True"}
    return [
        f"{named[leg]}: {per_second(rounds.rate(leg))}" + (f" ({rounds.spread('spine', leg)})" if leg != "twin" else "")
        for leg in rounds.rates
        if leg in named
    ]


MEASUREMENTS: dict[str, Measure] = {
    "sending": sending,
    "outbox": outbox,
    "receiving": receiving,
    "through": latency,
    "one-partition": one_partition,
    "long": long,
}
