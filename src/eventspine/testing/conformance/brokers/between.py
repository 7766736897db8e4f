"""Between journals: each has its place at the broker and no other takes it, and the relay sends all, once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ....brokers.port import Broker, Message, Sent
from ....engine import claims
from ....errors import BrokerTaken, MessageRefused, OutboxFull
from ....journal.port import Replay
from ....service import Service
from ....spine import Spine
from ..running import needs
from .carried import CarriedSite
from .material import (
    WAIT_S,
    Log,
    Said,
    listener,
    listening,
    rows,
    say,
    speaker,
    speaking,
    until,
    until_heard,
    until_rows,
)
from .site import LEASE_S

SLOW_BYTES_S = 50_000


class Refusing:
    """This broker, with a server behind it that does not like some messages."""

    def __init__(self, broker: Broker, dislikes: Callable[[Message], bool]) -> None:
        self._broker = broker
        self.dislikes = dislikes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        refused = {n for n, message in enumerate(messages) if self.dislikes(message)}
        answers = iter(await self._broker.send([one for n, one in enumerate(messages) if n not in refused]))
        return [MessageRefused("not this one") if n in refused else next(answers) for n in range(len(messages))]


def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose a place is: every 0.6 s instead of every six, so that no test waits long for somebody to find out."""
    monkeypatch.setattr(claims, "LEASES", 0.2)


class Journals:
    @needs("claims")
    async def test_r14_a_second_journal_that_publishes_a_channel_is_refused_at_its_start(
        self, site: CarriedSite
    ) -> None:
        async with speaking(site) as spine:
            await say(spine, [1])
            with pytest.raises(BrokerTaken, match="publishes the channel"):
                await Spine("memory://", service=speaker(), broker=site.broker(), lease_s=LEASE_S).open()
            other = Spine("memory://", service=speaker(), broker=site.broker(), lease_s=LEASE_S, take_over=True)
            async with other:
                """Told to, it is let in."""

    @needs("claims")
    async def test_r14_a_second_journal_that_consumes_as_a_service_is_refused_at_its_start(
        self, site: CarriedSite
    ) -> None:
        async with listening(site, _silent(Log())):
            other = Spine("memory://", broker=site.broker(), lease_s=LEASE_S)
            with pytest.raises(BrokerTaken, match="consumes as"):
                async with other, other.running(_silent(Log())):
                    pytest.fail("it was let in")

    @needs("claims")
    async def test_r14_who_lost_its_place_is_refused_when_its_turn_comes(self, site: CarriedSite) -> None:
        """A process that stood by takes up the relay, and finds that another journal publishes by now."""
        log = Log()
        async with listening(site, listener(log)), speaking(site) as leads:
            await say(leads, [1])
            await until(lambda: log.of("ann") == [1])
            async with speaking(site) as stands_by:
                await leads.broker.claim("publisher", "talk", "another.1", force=True)  # type: ignore[union-attr]
                await leads.close()
                await say(stands_by, [2])
                await until(lambda: "Another journal" in _problems(stands_by))
                assert [1] == log.of("ann")
                stands_by.drain_s = 0.0  # it will not be let in

    @needs("claims")
    async def test_r14_who_loses_its_place_while_it_publishes_finds_out(
        self, site: CarriedSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask_often(monkeypatch)
        log = Log()
        async with listening(site, listener(log)), speaking(site) as before:
            await say(before, [1])
            await until(lambda: log.of("ann") == [1])
            other = Spine("memory://", service=speaker(), broker=site.broker(), lease_s=LEASE_S, take_over=True)
            async with other:
                await until(lambda: "publishes the channel" in _problems(before))
                await say(other, [2])
                await until(lambda: log.of("ann") == [1, 2])
                assert not _problems(other)  # told to take over, it is not thrown out in turn

    @needs("claims")
    async def test_r14_who_loses_its_place_while_it_consumes_finds_out(
        self, site: CarriedSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask_often(monkeypatch)
        async with listening(site, _silent(Log())) as before:
            other = Spine("memory://", broker=site.broker(), lease_s=LEASE_S, take_over=True)
            async with other, other.running(_silent(Log())):
                await until(lambda: "consumes as" in _problems(before))
                assert not _problems(other)

    @needs("processes", "claims")
    async def test_r14_the_restored_copy_of_a_journal_does_not_consume_beside_it(
        self, site: CarriedSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has its identity; each would get a part of the events, or all of them twice."""
        ask_often(monkeypatch)
        log, later, copy = Log(), Log(), tmp_path / "copy.db"
        async with listening(site, listener(log)) as original, speaking(site) as spine:
            await say(spine, [1])
            await until(lambda: log.of("ann") == [1])
            await original.journal.backup(copy)
            other = Spine(f"sqlite:///{copy}", broker=site.broker(), lease_s=LEASE_S)
            with pytest.raises(BrokerTaken, match="restored copy"):
                async with other, other.running(listener(later)):
                    pytest.fail("it was let in")
            assert not _problems(original)

            told = Spine(f"sqlite:///{copy}", broker=site.broker(), lease_s=LEASE_S, take_over=True)
            async with told, told.running(listener(later)):
                await until(lambda: "consumes as" in _problems(original))
                await say(spine, [2])
                await until(lambda: 2 in later.of("ann"))
            original.drain_s = 0.0  # what it has published is sent by nobody else, and it will not be let in
        assert [1] == log.of("ann")

    @needs("claims")
    async def test_r14_a_claim_without_an_incarnation_is_its_journals_and_gets_one(
        self, site: CarriedSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As earlier releases have left it: nobody is locked out of their own place by a new release."""
        ask_often(monkeypatch)
        async with listening(site, _silent(Log())) as spine:
            broker, id, consumer = spine.broker, spine.journal.id, "listener.talk"
            assert broker is not None
            await broker.claim("consumer", consumer, id, force=True)
            owner = id
            async with asyncio.timeout(WAIT_S):
                while owner in (id, "another.1"):  # which may have it for a moment, while it changes hands
                    await asyncio.sleep(0.05)
                    owner = await broker.claim("consumer", consumer, "another.1", force=False)
            assert f"{id}.{spine.journal.incarnation}" == owner
            assert not _problems(spine)

    @needs("processes", "claims")
    async def test_r15_a_journal_that_was_restored_from_a_copy_issues_no_number_twice(
        self, site: CarriedSite, tmp_path: Path
    ) -> None:
        """Else what it publishes next would be taken for what the original has sent after the copy was made."""
        log, copy = Log(), tmp_path / "copy.db"
        async with listening(site, listener(log)):
            async with speaking(site) as spine:
                await say(spine, range(3))
                await until(lambda: log.of("ann") == [0, 1, 2])
                await spine.journal.backup(copy)
                await say(spine, range(3, 6))
                await until(lambda: log.of("ann") == [*range(6)])
            given: dict[str, Any] = {"service": speaker(), "lease_s": LEASE_S}
            with pytest.raises(BrokerTaken, match="restored copy"):
                await Spine(f"sqlite:///{copy}", broker=site.broker(), **given).open()
            async with Spine(f"sqlite:///{copy}", broker=site.broker(), take_over=True, **given) as restored:
                await say(restored, range(10, 16))
                await until(lambda: log.of("ann")[6:] == [*range(10, 16)])
        assert log.once_in_order()

    async def test_what_was_published_is_sent_before_a_process_has_closed(self, site: CarriedSite) -> None:
        log = Log()
        async with listening(site, listener(log)):
            async with speaking(site) as spine:
                await asyncio.gather(*(say(spine, range(20), f"key {n}") for n in range(10)))
            await until(lambda: len(log.handled) == 200)
        assert log.once_in_order()


class Relaying:
    async def test_an_event_that_the_broker_will_never_take_holds_up_its_key_and_no_other(
        self, site: CarriedSite
    ) -> None:
        log = Log()
        broker = Refusing(site.broker(), lambda message: b'"poison"' in message.data)
        async with site.spine(speaker(), broker=broker) as spine, listening(site, listener(log)):
            await spine.publish(Said(who="ann", number=0, text="poison"), Said(who="bob", number=0))
            [dead] = await until_rows(spine, "dead", 1)
            await until(lambda: log.of("bob") == [0])
            assert ("Refused", "not this one") == (dead.reason, dead.error)
            await say(spine, [1, 2])
            await say(spine, [1], "bob")
            await until(lambda: log.of("bob") == [0, 1])
            assert [] == log.of("ann")

            broker.dislikes = lambda _: False
            await spine.journal.control([Replay([dead.number])])
            await until(lambda: len(log.of("ann")) == 3)
        assert [0, 1, 2] == log.of("ann")

    async def test_what_was_sent_again_after_a_lost_answer_is_handled_once(self, site: CarriedSite) -> None:
        log = Log()
        broker = Forgetful(site.broker(), times=3)
        async with site.spine(speaker(), broker=broker) as spine, listening(site, listener(log)) as there:
            for number in range(5):
                await say(spine, range(number * 10, number * 10 + 10), f"key {number % 2}")
            found = await until_heard(there, 50)
            await until(lambda: broker.left == 0)
            intake = there._carrying.intakes["talk"]  # type: ignore[union-attr]
            await until(lambda: intake.gaps == 0 and intake.received == 50)
        assert {1} == set(found.values())
        assert log.once_in_order()

    @needs("server")
    async def test_the_outbox_is_bounded_while_the_server_is_away_and_all_of_it_arrives(
        self, site: CarriedSite
    ) -> None:
        log, published = Log(), 0
        async with site.spine(speaker(), outbox_max=20) as spine, listening(site, listener(log)) as there:
            await say(spine, [published])
            await until_heard(there, 1)
            await site.kill_server()
            with pytest.raises(OutboxFull):
                async with asyncio.timeout(WAIT_S):
                    while True:
                        published += 1
                        await say(spine, [published])
                        await asyncio.sleep(0.02)  # it looks once a second how full it is
            await until(lambda: spine.health()["status"] == "degraded", "health to say so")
            await site.start_server()
            found = await until_heard(there, published)
        assert {1} == set(found.values())
        assert list(range(published)) == log.of("ann")

    @needs("full")
    async def test_while_the_server_is_full_publishing_goes_on_up_to_a_bound_and_then_all_arrives(
        self, site: CarriedSite
    ) -> None:
        log = Log()
        async with site.spine(speaker(), outbox_max=20) as spine, listening(site, listener(log)) as there:
            await say(spine, [0])
            await until_heard(there, 1)
            await site.fill()
            try:
                published = await _until_refused(spine)
                await until(lambda: "the relay of talk" in _problems(spine), "health to say why")
                assert spine.health()["status"] == "degraded"
                assert published > 20
            finally:
                await site.empty()
            found = await until_heard(there, published)
            await until(lambda: not _problems(spine), "health to be well again")
            await _until_taken(spine, published)
            await until_heard(there, published + 1)
            assert [] == await rows(spine, "dead")
        assert {1} == set(found.values())
        assert list(range(published + 1)) == log.of("ann")

    @needs("cuts")
    async def test_over_a_slow_network_publishing_goes_on_up_to_a_bound_and_all_arrives(
        self, site: CarriedSite
    ) -> None:
        log, text = Log(), "x" * 2000
        async with site.spine(speaker(), outbox_max=50) as spine, listening(site, listener(log)) as there:
            await say(spine, [0])
            await until_heard(there, 1)
            await site.slow(SLOW_BYTES_S)
            published = await _until_refused(spine, text)
            await until(lambda: "wait in the journal" in _problems(spine), "health to say that it is behind")
            await _until_taken(spine, published)  # it is slow, and goes on
            await site.mend()
            found = await until_heard(there, published + 1)
            await until(lambda: not _problems(spine), "health to be well again")
        assert {1} == set(found.values())
        assert list(range(published + 1)) == log.of("ann")


async def _until_refused(spine: Spine, text: str = "") -> int:
    """Publishes until too much waits for the broker; how many there are by then, the first of which was there before."""
    published, give_up = 1, asyncio.get_running_loop().time() + WAIT_S
    while True:
        assert asyncio.get_running_loop().time() < give_up, f"{published} were published, and none was refused"
        try:
            async with asyncio.timeout(5):  # it goes into the journal
                await spine.publish(Said(who="ann", number=published, text=text))
        except OutboxFull:
            return published
        published += 1
        await asyncio.sleep(0.005)  # how much waits is looked at once a second


async def _until_taken(spine: Spine, number: int) -> None:
    """By itself, once there is room."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await say(spine, [number])
            except OutboxFull:
                await asyncio.sleep(0.05)
            else:
                return


def _silent(log: Log) -> Service[None]:
    """One that publishes nothing."""
    service: Service[None] = Service("listener", publishes=[])

    @service.on(Said)
    async def hear(event: Said) -> None:
        log.note(event)

    return service


class Forgetful(Refusing):
    """So many times, nobody hears that the messages were taken."""

    def __init__(self, broker: Broker, times: int) -> None:
        super().__init__(broker, lambda _: False)
        self.left = times

    async def send(self, messages: Sequence[Message]) -> Sequence[Sent]:
        answers = await super().send(messages)
        if self.left:
            self.left -= 1
            return [OSError("the answer was lost") for _ in messages]
        return answers


def _problems(spine: Spine) -> str:
    return " ".join(spine.health()["problems"])
