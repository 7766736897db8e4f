"""What others send: events of producers that know nothing of us, repetitions, holes, and what is no event at all."""

from __future__ import annotations

import json

from ....brokers.binding import STRUCTURED
from ....brokers.port import Message
from ....delivery import Delivery
from ....envelope import Envelope
from ....service import Service
from .carried import CarriedSite
from .material import Log, Said, listener, listening, until, until_rows
from .reading import CHANNEL, message, opened, sent

BODY = b'{"who":"ann","number":%d}'


def event(prefix: str, number: int, **headers: str) -> Message:
    return message(prefix, number, data=BODY % number, more={"subject": "ann", **headers})


class Foreign:
    async def test_a_foreign_event_is_handled_once_however_often_it_comes(self, site: CarriedSite) -> None:
        log = Log()
        async with opened(site) as broker, listening(site, listener(log)):
            one = event(broker.features.prefix, 1, id="order-1")
            await sent(broker, one, one)
            await sent(broker, one._replace(id="another id of the broker's"), event(broker.features.prefix, 2))
            await until(lambda: 2 in log.of("ann"))
        assert [1, 2] == sorted(log.of("ann"))

    async def test_its_attributes_arrive_and_its_id_is_kept(self, site: CarriedSite) -> None:
        seen: list[Envelope] = []
        service: Service[None] = Service("listener")

        @service.on(Said)
        async def hear(event: Said, delivery: Delivery) -> None:
            seen.append(delivery.envelope)

        async with opened(site) as broker, listening(site, service):
            await sent(
                broker, event(broker.features.prefix, 1, id="order-1", source="urn:shop:7", tenant="Zoë", sequence="x")
            )
            await until(lambda: seen)
        assert ("urn:shop:7", "talk.Said", "ann") == (seen[0].source, seen[0].type, seen[0].key)
        assert ("Zoë", "order-1") == (seen[0].extensions["tenant"], seen[0].extensions["foreignid"])

    async def test_a_structured_cloudevent_is_one_too(self, site: CarriedSite) -> None:
        log = Log()
        body = {"specversion": "1.0", "id": "order-1", "source": "urn:shop", "type": "talk.Said", "subject": "ann"}
        structured = json.dumps({**body, "data": {"who": "ann", "number": 5}}).encode()
        async with opened(site) as broker, listening(site, listener(log)):
            await sent(broker, Message(CHANNEL, 3, "ann", "order-1", {}, STRUCTURED, structured))
            await until(lambda: log.of("ann") == [5])

    async def test_what_is_no_event_is_a_dead_delivery_with_all_its_bytes(self, site: CarriedSite) -> None:
        log = Log()
        async with opened(site) as broker, listening(site, listener(log)) as there:
            plain = Message(CHANNEL, 3, "ann", "x-1", {}, "text/plain", b"\xff\x00 hello")
            await sent(broker, plain, event(broker.features.prefix, 2))
            [dead] = await until_rows(there, "dead", 1)
            await until(lambda: log.of("ann") == [2])
        assert "not-an-event" == dead.reason
        assert dead.record is not None
        assert plain.data == dead.record.data

    async def test_a_hole_in_the_numbers_holds_up_its_slot_is_reported_and_then_given_up(
        self, site: CarriedSite
    ) -> None:
        log = Log()
        async with opened(site) as broker, listening(site, listener(log)) as there:
            prefix = broker.features.prefix

            def numbered(number: int) -> Message:
                attributes = {"spineorigin": "another.1", "spineslot": "7", "sequence": f"{number:020d}"}
                return event(prefix, number, **attributes)

            await sent(broker, *(numbered(n) for n in (1, 2, 4, 5)))
            intake = there._carrying.intakes[CHANNEL]  # type: ignore[union-attr]
            await until(lambda: intake.held == 2, "what follows the hole to be held")
            await until(lambda: log.of("ann") == [1, 2])
            intake._patience_s = 0.0
            await until(lambda: log.of("ann") == [1, 2, 4, 5])
            assert "1 numbers never came" in " ".join(there.health()["problems"])
            await sent(broker, numbered(3))
            await until(lambda: 3 in log.of("ann"))
            assert (1, 1) == (intake.gaps, intake.late)
