"""What is in hand stays in hand while something else is loaded again, and what a newer release has announced is left alone:
no handler runs twice for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from eventspine import Event, Retry, Service, Spine
from eventspine.engine import host as hosts, reloading, subscription as subscriptions
from eventspine.engine.registering import register
from eventspine.errors import JournalBusy
from eventspine.journal import registry
from eventspine.journal.port import Drop, Rename, Replay, Retry as RetryNow, Rewind, SetState
from tests.engine.material import Cancelled, Placed, Store, dead, host, parked, subscription, turns, until

KEYS = 20


class Desk:
    """A handler with an event of every key in hand, and another one, beside it."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.began: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.service: Service[Any] = Service("desk")
        self.service.on(Placed, name="slow", retry=Retry(attempts=9, immediate=0, first_s=0.01, most_s=0.01))(self.slow)
        self.service.on(Placed, name="other", retry=Retry(attempts=1))(self.other)

    async def slow(self, event: Placed) -> None:
        self.began[event.customer] += 1
        if event.note == "fails at first" and self.began[event.customer] == 1:
            raise ValueError("at first")
        await self.go.wait()
        self.finished[event.customer] += 1

    async def other(self, event: Placed) -> None:
        if event.number == 0:
            raise ValueError("this one dies")

    async def has_all_in_hand(self, spine: Spine, **of_first: Any) -> None:
        some = [Placed(customer=f"c{number}", number=number) for number in range(KEYS)]
        some[0] = Placed(customer="c0", number=0, **of_first)
        await spine.publish(*some)
        await until(lambda: len(self.began) == KEYS)

    async def let_go(self) -> None:
        self.go.set()
        await until(lambda: len(self.finished) == KEYS)


async def number_of(spine: Spine, name: str) -> int:
    return next(row.number for row in await spine.journal.subscriptions() if row.name == f"desk.{name}")


async def look_again(spine: Spine) -> None:
    """Until the host has seen what was changed."""
    version = await spine.journal.control_version()
    await until(lambda: host(spine).control == version)
    await until(lambda: not host(spine).reloads.asked)


async def test_what_operators_do_to_one_handler_makes_no_other_run_again(store: Store) -> None:
    desk = Desk()
    async with store.spine() as spine, spine.running(desk.service):
        await desk.has_all_in_hand(spine)
        (row,) = await dead(spine)
        other = await number_of(spine, "other")
        for operation in (
            SetState(other, "paused"), SetState(other, "active"), Replay([row.number]), RetryNow([row.number]),
            Drop([row.number]), Rename(other, "desk.renamed"), Rewind(other, 0),
        ):  # fmt: skip
            await spine.journal.control([operation])
            await look_again(spine)
        await desk.let_go()
        await until(lambda: subscription(spine, "slow").at_work == 0)
        assert desk.began == desk.finished == Counter({f"c{number}": 1 for number in range(KEYS)})


async def dropped_while_it_is_handled(store: Store) -> Counter[str]:
    """An operator drops a delivery that is just being tried again, beside others of its partition. How often each ran."""
    desk = Desk()
    async with store.spine() as spine, spine.running(desk.service):
        await desk.has_all_in_hand(spine, note="fails at first")
        await until(lambda: desk.began["c0"] == 2)
        slow = await number_of(spine, "slow")
        (row,) = [row for row in await parked(spine) if row.subscription == slow]
        await spine.journal.control([Drop([row.number])])
        await look_again(spine)
        await desk.let_go()
        await until(lambda: subscription(spine, "slow").at_work == 0)
        await spine.publish(Placed(customer="c0", number=100), Placed(customer="late", number=101))
        await until(lambda: desk.finished["c0"] == 2 and desk.finished["late"])
        assert host(spine).fenced == 1
        return desk.began


async def test_dropping_a_delivery_that_is_handled_drops_nothing_beside_it(store: Store) -> None:
    began = await dropped_while_it_is_handled(store)
    assert {1} == {count for key, count in began.items() if key != "c0"}


async def loses_its_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The journal can't be read just when a second process has left, and its partitions are to be taken up."""
    desk, other = Desk(), Desk()
    async with store.spine(lease_s=1.0) as one, store.spine(lease_s=1.0) as two:
        async with one.running(desk.service):
            async with two.running(other.service):
                await until(lambda: len(host(one).held) == len(host(two).held) == 8)
                await one.publish(*[Placed(customer=f"c{number}", number=number + 1) for number in range(KEYS)])
                await until(lambda: len(desk.began) + len(other.began) == KEYS)
                other.go.set()
                await until(lambda: len(desk.began) + len(other.finished) == KEYS)
                held, failed = set(desk.began), asyncio.Event()
                adopt = hosts.adopt

                async def once(*given: Any) -> None:
                    if not failed.is_set():
                        failed.set()
                        raise JournalBusy("for once")
                    await adopt(*given)

                monkeypatch.setattr(hosts, "adopt", once)
            await until(failed.is_set)
            await until(lambda: all(len(each.parts) == 16 for each in host(one).subscriptions))
            await turns(200)
            desk.go.set()
            await until(lambda: held <= set(desk.finished))
            await until(lambda: subscription(one, "slow").at_work == 0)
    return desk


async def test_trouble_while_partitions_are_taken_up_costs_no_second_run_of_what_is_in_hand(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await loses_its_place(store, monkeypatch)
    assert {1} == set(desk.began.values())


async def test_were_everything_loaded_again_it_would_run_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def everything(one: reloading.Reloads, missing: Any) -> None:
        for number in list(missing.parts):
            missing.drop(number)
        await reloading.adopt([missing], list(one.host.held.values()))

    monkeypatch.setattr(reloading.Reloads, "load_missing", everything)
    desk = await loses_its_place(store, monkeypatch)
    assert 2 in desk.began.values()


# --- announced by a newer release --------------------------------------------------------------------------------------


class Release:
    def __init__(self, *types: type[Event]) -> None:
        self.handled: list[tuple[str, int]] = []
        self.service: Service[Any] = Service("mail")
        self.service.on(*types, name="note")(self.note)

    async def note(self, event: Any) -> None:
        self.handled.append((type(event).__name__, event.number))


async def announced_unnoticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> tuple[Release, Release]:
    """A newer release registers, and the process of the older one goes on with its lease, as it has noticed nothing yet."""

    async def blind(_: hosts.Host) -> None:
        return None

    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine(lease_s=4.0) as one, store.spine(lease_s=4.0) as other:
        async with one.running(v1.service):
            await until(lambda: len(host(one).held) == 16)
            monkeypatch.setattr(hosts.Host, "follow", blind)
            started = hosts.Host.beat
            monkeypatch.setattr(hosts.Host, "beat", blind)
            async with other.running(v2.service):  # registered, and does nothing yet
                monkeypatch.setattr(hosts.Host, "beat", started)
                await one.publish(Cancelled(number=1), Placed(number=2))
                await until(lambda: v1.handled or v2.handled)
                host(one)._nudge.set()
                host(other)._nudge.set()
                await until(lambda: len(host(other).held) == 16)
                await one.publish(Placed(number=3))
                await until(lambda: ("Placed", 3) in v2.handled)
    return v1, v2


async def test_r8_what_a_registration_wants_is_safe_from_who_has_not_noticed_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, v2 = await announced_unnoticed(store, monkeypatch)
    assert v2.handled == [("Cancelled", 1), ("Placed", 2), ("Placed", 3)]


async def test_r8_without_the_fence_it_would_be_passed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_widened", lambda *_: False)
    _, v2 = await announced_unnoticed(store, monkeypatch)
    assert v2.handled == [("Placed", 3)]


async def announced_and_not_yet_live(store: Store) -> list[tuple[str, int]]:
    """A newer release has registered, the process of the older one has noticed it, and only then the newer one goes live.
    What that one handles."""
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine(lease_s=4.0) as one, store.spine(lease_s=4.0) as other:
        async with one.running(v1.service):
            await until(lambda: len(host(one).held) == 16)
            await register(hosts.Host(v2.service, one._runtimes[0], roll_back=False, retire=()))
            await until(lambda: subscription(one).generation == 2)
            await other.publish(Cancelled(number=1), Placed(number=2))
            await until(lambda: v1.handled or not host(one).held)
            async with other.running(v2.service):
                await until(lambda: len(host(other).held) == 16)
                await other.publish(Placed(number=3))
                await until(lambda: ("Placed", 3) in v2.handled)
    return v2.handled


async def test_r8_older_code_does_not_run_what_a_newer_release_has_widened(store: Store) -> None:
    assert [("Cancelled", 1), ("Placed", 2), ("Placed", 3)] == await announced_and_not_yet_live(store)


async def test_r8_did_it_run_that_it_would_pass_what_it_does_not_know(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "unknown", lambda *_: [])
    assert [("Placed", 3)] == await announced_and_not_yet_live(store)


async def test_r8_if_what_was_announced_is_never_live_the_older_leads_again_after_two_leases(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    loop = asyncio.get_running_loop()
    async with store.spine(lease_s=0.5) as spine, spine.running(v1.service):
        await until(lambda: host(spine).held)
        registered = loop.time()
        await register(hosts.Host(v2.service, spine._runtimes[0], roll_back=False, retire=()))
        await until(lambda: not host(spine).held)
        await spine.publish(Placed(number=1))
        await until(lambda: v1.handled == [("Placed", 1)])
        assert loop.time() - registered >= 0.9
        (row,) = await spine.journal.subscriptions()
        assert ["orders.Placed"] == [name for name, _ in row.types]


async def test_a_service_is_announced_when_its_lifespan_has_been_entered(store: Store) -> None:
    entering, loaded = asyncio.Event(), asyncio.Event()

    class Loading:
        async def __aenter__(self) -> None:
            entering.set()
            await loaded.wait()

        async def __aexit__(self, *_: object) -> None:
            return None

    service: Service[Any] = Service("mail", lifespan=Loading)
    service.on(Placed, name="note")(Release(Placed).note)
    async with store.spine() as spine:

        async def run() -> None:
            async with spine.running(service):
                pass

        task = asyncio.create_task(run())
        await entering.wait()
        assert [] == await spine.journal.declarations("mail")
        loaded.set()
        await task
        assert 1 == len(await spine.journal.declarations("mail"))
