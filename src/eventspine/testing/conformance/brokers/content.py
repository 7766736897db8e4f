"""What travels: large, empty, binary and odd content, and CloudEvents attributes there and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from ....brokers.embedded import Features
from ....delivery import Delivery
from ....envelope import Envelope
from ....errors import EventTooLarge
from ....events.codec import DATA_BYTES_MAX
from ....observe.correlation import correlate
from ....service import Middleware, Service
from .material import Heard, Said, fetched, listening, record, speaking, until
from .site import BrokerSite

ODD = {
    "empty": "",
    "newlines and tabs": "a\r\n\tb\0c",
    "emoji beyond the basic plane": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "right to left and combining": "\u05e9\u05dc\u05d5\u05dd e\u0301 \u0130\u0131",
    "what looks like SQL": "'; drop table spine_events; --",
    "what looks like JSON": '{"a": [1, null]}',
    "a path": "../../etc/passwd",
    "quotes": "\"'`\\",
}


def keeping(seen: list[tuple[Said, Envelope]]) -> Service[None]:
    service: Service[None] = Service("listener", publishes="hearing")

    @service.on(Said)
    async def hear(event: Said, delivery: Delivery) -> Heard:
        seen.append((event, delivery.envelope))
        return Heard(who=event.who, number=event.number)

    return service


class Stamp(Middleware):
    def publish(self, event: Any, attributes: dict[str, str], proceed: Callable[[], Any]) -> Any:
        attributes["tenant"] = "Zoë & Søn \u4f8b"
        return proceed()


class Content:
    @pytest.mark.parametrize("text", ODD.values(), ids=ODD)
    async def test_any_text_and_any_key_come_as_they_were_sent(self, site: BrokerSite, text: str) -> None:
        seen: list[tuple[Said, Envelope]] = []
        sent = [Said(who=text or "none", number=1, text=text), Said(who="ann", number=2, text=text * 100)]
        async with speaking(site) as spine, listening(site, keeping(seen)):
            await spine.publish(sent[0], sent[1])
            await until(lambda: len(seen) == 2)
        assert sorted(sent, key=str) == sorted((event for event, _ in seen), key=str)

    async def test_binary_data_comes_as_it_was_sent(self, site: BrokerSite) -> None:
        seen: list[tuple[Said, Envelope]] = []
        sent = Said(who="ann", number=1, data=bytes(range(256)) * 40)
        async with speaking(site) as spine, listening(site, keeping(seen)):
            await spine.publish(sent)
            await until(lambda: seen)
        assert sent == seen[0][0]

    async def test_the_largest_event_comes_through_and_a_larger_one_is_refused(
        self, site: BrokerSite, features: Features
    ) -> None:
        seen: list[tuple[Said, Envelope]] = []
        bytes_max = min(features.event_bytes_max, DATA_BYTES_MAX)
        largest = Said(who="ann", number=1, text="x" * (bytes_max - 1000))
        async with speaking(site) as spine, listening(site, keeping(seen)):
            await spine.publish(largest)
            with pytest.raises(EventTooLarge):
                await spine.publish(Said(who="ann", number=2, text="x" * bytes_max))
            await until(lambda: seen)
        assert [largest] == [event for event, _ in seen]

    async def test_many_large_ones_at_once(self, site: BrokerSite, features: Features) -> None:
        seen: list[tuple[Said, Envelope]] = []
        size = min(features.event_bytes_max - 1000, 400_000)
        async with speaking(site) as spine, listening(site, keeping(seen)):
            for number in range(30):
                await spine.publish(Said(who=f"key {number}", number=number, text="x" * size))
            await until(lambda: len(seen) == 30)
        assert {size} == {len(event.text) for event, _ in seen}


class Attributes:
    async def test_cloudevents_attributes_are_the_same_on_both_sides(self, site: BrokerSite) -> None:
        seen: list[tuple[Said, Envelope]] = []
        happened = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
        async with speaking(site) as spine, listening(site, keeping(seen)):
            receipt = await spine.publish(Said(who="Zoë:1", number=1), time=happened)
            await until(lambda: seen)
        [(_, got)] = seen
        attributes = got.attributes()
        assert receipt.id == got.id == attributes["id"]
        assert ("1.0", "speaker", "talk.Said") == tuple(attributes[name] for name in ("specversion", "source", "type"))
        assert happened == got.time
        assert "Zoë" in str(attributes["partitionkey"])
        structured = json.loads(got.to_json())
        assert {"who": "Zoë:1", "number": 1} == {name: structured["data"][name] for name in ("who", "number")}

    async def test_who_caused_what_is_known_and_the_trace_goes_on(self, site: BrokerSite) -> None:
        seen: list[Envelope] = []
        heard: list[Envelope] = []
        listener, last = Service("listener", publishes="hearing"), Service("last")
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

        @listener.on(Said)
        async def hear(event: Said, delivery: Delivery) -> Heard:
            seen.append(delivery.envelope)
            return Heard(who=event.who, number=event.number)

        @last.on(Heard)
        async def end(event: Heard, delivery: Delivery) -> None:
            heard.append(delivery.envelope)

        async with speaking(site) as spine, listening(site, listener, last):
            with correlate("web request 7", traceparent=trace):
                await spine.publish(Said(who="ann", number=1))
            await until(lambda: heard)
        assert "web request 7" == seen[0].correlationid == heard[0].correlationid
        assert seen[0].id == heard[0].causationid
        assert seen[0].hops + 1 == heard[0].hops
        assert {trace.split("-")[1]} == {one.traceparent.split("-")[1] for one in (seen[0], heard[0])}

    async def test_attributes_of_ones_own_travel_whatever_is_in_them(self, site: BrokerSite) -> None:
        seen: list[tuple[Said, Envelope]] = []
        speaker: Service[None] = Service("speaker", publishes="talk", middleware=[Stamp()])
        async with site.spine(speaker) as spine, listening(site, keeping(seen)):
            await spine.publish(Said(who="ann", number=1))
            await until(lambda: seen)
        assert "Zoë & Søn \u4f8b" == seen[0][1].extensions["tenant"]

    async def test_an_envelope_without_key_data_or_extras_travels_too(self, site: BrokerSite) -> None:
        bare = record(1, key=None, data=b"", meta=None, correlation=None, causation=None)
        await site.publish(bare)
        intake = site.broker().intake("email", ["talk"], [], after=0)
        [got] = await fetched(intake, 1)
        await intake.close()
        assert bare == got._replace(position=0, recorded_us=0)
