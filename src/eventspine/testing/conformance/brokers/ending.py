"""Pausing, draining, leaving in the middle, and processes that are killed or stand still."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ....delivery import Delivery
from ....journal.port import SetState
from ....service import Service
from ....spine import Spine
from ..running import needs
from .material import (
    WAIT_S,
    Heard,
    Log,
    Said,
    effect,
    heard,
    listener,
    listening,
    say,
    speaking,
    subscription,
    until,
    until_heard,
)
from .site import BrokerSite


class Pausing:
    async def test_a_paused_subscription_has_nothing_and_the_others_go_on(self, site: BrokerSite) -> None:
        paused, live = Log(), Log()
        async with speaking(site) as spine, listening(site, listener(paused), listener(live, "live")) as there:
            await say(spine, range(5))
            await until(lambda: len(paused.handled) == len(live.handled) == 5)
            # What has no verdict yet is fenced by a pause, and handled again.
            await until(lambda: _of(there.health(), "listener.hear", "at_work") == {0})
            mine = await subscription(there, "listener.hear")
            await there.journal.control([SetState(mine.number, "paused")])
            await until(lambda: _of(there.health(), "listener.hear", "state") == {"paused"})
            await say(spine, range(5, 10))
            await until(lambda: len(live.handled) == 10)
            assert list(range(5)) == paused.of("ann")
            await there.journal.control([SetState(mine.number, "active")])
            await until(lambda: len(paused.handled) == 10)
        assert list(range(10)) == paused.of("ann")

    async def test_it_stays_paused_across_a_restart(self, site: BrokerSite) -> None:
        paused, live = Log(), Log()
        async with speaking(site) as spine:
            async with listening(site, listener(paused), listener(live, "live")) as there:
                mine = await subscription(there, "listener.hear")
                await there.journal.control([SetState(mine.number, "paused")])
            await say(spine, range(3))
            async with listening(site, listener(paused), listener(live, "live")):
                await until(lambda: len(live.handled) == 3)
                assert [] == paused.handled


class Draining:
    async def test_what_is_at_work_finishes_and_nothing_new_begins(self, site: BrokerSite) -> None:
        log, begun, let_go = Log(), asyncio.Event(), asyncio.Event()
        service: Service[None] = Service("listener", publishes="hearing")

        @service.on(Said, concurrency=2)
        async def hear(event: Said, delivery: Delivery) -> None:
            log.note(event)
            begun.set()
            await let_go.wait()
            effect(delivery, event)

        async with speaking(site) as spine, site.spine(service) as there:
            for number in range(20):
                await say(spine, [number], f"key {number}")
            async with there.running(service) as running:
                await begun.wait()
                asyncio.get_running_loop().call_later(0.1, let_go.set)  # while it drains
            assert running.drained
            at_end = len(log.handled)
            assert sum((await heard(there)).values()) == at_end <= 4
            async with listening(site, listener(log)):
                found = await until_heard(there, 20)
        assert {1} == set(found.values())
        assert 20 == len(log.handled), "nothing was handed out twice"

    async def test_it_ends_in_time_though_a_handler_does_not(self, site: BrokerSite) -> None:
        begun = asyncio.Event()
        service: Service[None] = Service("listener")

        @service.on(Said)
        async def hear(event: Said) -> None:
            begun.set()
            await asyncio.Event().wait()

        async with speaking(site) as spine, site.spine(service) as there:
            await say(spine, [10])
            async with there.running(service, drain_s=0.1) as running:
                await begun.wait()
                leaving = time.monotonic()
            assert time.monotonic() - leaving < WAIT_S / 2
            assert running.drained is False

    async def test_what_was_cancelled_in_the_middle_is_handled_again_with_the_same_key(self, site: BrokerSite) -> None:
        log, begun = Log(), asyncio.Event()
        keys: list[str] = []
        service: Service[None] = Service("listener", publishes="hearing")

        @service.on(Said)
        async def hear(event: Said, delivery: Delivery) -> Heard:
            keys.append(delivery.idempotency_key)
            delivery.publish(Heard(who=event.who, number=1000))
            begun.set()
            await asyncio.Event().wait()
            return Heard(who=event.who, number=event.number)

        async with speaking(site) as spine:
            await say(spine, [1, 2])
            async with listening(site, service, drain_s=0):
                await begun.wait()
            async with listening(site, listener(log)) as there:
                await until(lambda: log.of("ann") == [1, 2])
                found = await until_heard(there, 2)
        assert {("ann", 1): 1, ("ann", 2): 1} == found, "nothing of what was cancelled was committed"
        assert keys == log.keys[:1]


class Killed:
    @needs("processes")
    async def test_a_crash_between_the_handler_and_its_commit_repeats_the_handler_and_no_effect(
        self, site: BrokerSite, tmp_path: Path
    ) -> None:
        file = tmp_path / "handled"
        async with speaking(site) as spine, watching(site) as there:
            for number in range(1, 11):
                await say(spine, [number], f"key {number % 3}")
            async with child(site, file, at=5, sends=signal.SIGKILL) as dying:
                assert -signal.SIGKILL == await asyncio.wait_for(dying.wait(), WAIT_S)
            async with child(site, file):
                found = await until_heard(there, 20)
        assert {1} == set(found.values())
        runs, keys = _runs(file)
        assert 2 == runs[5]
        assert set(range(1, 11)) == set(runs)
        assert {1} == {len(used) for used in keys.values()}, "one idempotency key per event"

    @needs("processes")
    async def test_killed_again_and_again_it_still_does_everything_once(self, site: BrokerSite, tmp_path: Path) -> None:
        file = tmp_path / "handled"
        async with speaking(site) as spine, watching(site) as there:
            for start in (0, 100, 200):
                async with child(site, file) as dying:
                    before = sum((await heard(there)).values())
                    await asyncio.gather(*(say(spine, range(start, start + 20), f"key {n}") for n in range(5)))
                    await until_heard(there, before + 1)
                    dying.kill()
                    await dying.wait()
            async with child(site, file):
                published = 3 * 100
                found = await until_heard(there, 2 * published)
        assert {1} == set(found.values())

    @needs("processes")
    async def test_one_that_stands_still_past_its_lease_is_taken_over_and_commits_nothing_late(
        self, site: BrokerSite, tmp_path: Path
    ) -> None:
        """In the middle of a handler. Nobody tells the others: its connections stay open, and it answers nothing."""
        file = tmp_path / "handled"
        async with speaking(site) as spine, watching(site) as there:
            async with child(site, file, at=5, sends=signal.SIGSTOP) as silent:
                await say(spine, range(1, 11))
                await until(lambda: _runs(file)[0][5] == 1, "the handler in which it stops")
                async with child(site, file):
                    await until_heard(there, 20)
                    silent.send_signal(signal.SIGCONT)
                    before, number = _lines_of(file, silent.pid), 10
                    while _lines_of(file, silent.pid) == before:  # until it has found its way back, and a share
                        number += 1
                        await say(spine, [number], f"key {number}")
                        await asyncio.sleep(0.01)  # not to publish thousands meanwhile
                    found = await until_heard(there, 2 * number)
        assert {1} == set(found.values())
        assert 2 == _runs(file)[0][5]

    @needs("persistent", "processes")
    async def test_what_publish_has_answered_for_outlives_its_process(self, site: BrokerSite) -> None:
        log, told = Log(), 0
        async with process(site, "speak") as talking:
            assert talking.stdout
            while told < 50:
                line = await asyncio.wait_for(talking.stdout.readline(), WAIT_S)
                assert line, "it has ended; what it said stands above, on stderr"
                told = int(line)
            talking.kill()  # while it goes on publishing
            told = max([told, *map(int, (await talking.stdout.read()).split())])
        async with speaking(site), listening(site, listener(log)):
            await until(lambda: {*range(1, told + 1)} <= {number for _, number in log.handled})
        assert log.in_order()
        assert len(log.handled) <= told + 1, "beyond those only the one that it was at"


@asynccontextmanager
async def watching(site: BrokerSite) -> AsyncIterator[Spine]:
    """Where the children handle; nothing runs in this one."""
    async with site.spine(Service("listener", publishes="hearing")) as spine:
        yield spine


@asynccontextmanager
async def child(
    site: BrokerSite, file: Path, at: int = 0, sends: signal.Signals = signal.SIGKILL
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One that listens, once it does; at that number it sends itself a signal, in the middle of the handler."""
    async with process(site, "listen", str(file), str(at), sends.name) as spawned:
        assert spawned.stdout
        line = await asyncio.wait_for(spawned.stdout.readline(), WAIT_S)
        assert line == b"ready\n" or at, "it has ended; what it said stands above, on stderr"
        yield spawned


@asynccontextmanager
async def process(site: BrokerSite, *role: str) -> AsyncIterator[asyncio.subprocess.Process]:
    spawned = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "eventspine.testing.conformance.brokers.child",
        site.opened_by,
        site.address,
        *role,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        yield spawned
    finally:
        if spawned.returncode is None:
            spawned.kill()
            await spawned.wait()


def _of(health: dict[str, Any], name: str, what: str) -> set[Any]:
    return {one[what] for service in health["services"] for one in service["subscriptions"] if one["name"] == name}


def _runs(file: Path) -> tuple[Counter[int], dict[int, set[str]]]:
    """How often each number was begun, and with which idempotency keys."""
    lines = [line.rsplit(" ", 3) for line in file.read_text().splitlines()] if file.exists() else []
    keys: dict[int, set[str]] = {}
    for _, number, _, key in lines:
        keys.setdefault(int(number), set()).add(key)
    return Counter(int(number) for _, number, _, _ in lines), keys


def _lines_of(file: Path, pid: int) -> int:
    return sum(line.startswith(f"{pid} ") for line in file.read_text().splitlines())
