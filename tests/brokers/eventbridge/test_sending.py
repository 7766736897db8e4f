"""Sending when some of it fails: an answer for each entry, and a slot in order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventspine.errors import BrokerError, MessageRefused
from eventspine.testing.servers import Server

from .faults import FaultyWay, failing_entries, losing_answers, refusing_calls
from .material import begun, broker_at, fetch, message, number_of


async def test_entries_that_fail_are_sent_again_and_nothing_of_their_slot_before_them(
    server: Server, way: FaultyWay, bus: str
):
    """25 of one slot in three calls: the third of the first call is throttled twice."""
    left = [2]

    def throttled(entry: dict[str, Any]) -> str:
        if '"sequence":"00000000000000000003"' in entry["Detail"] and left[0]:
            left[0] -= 1
            return "ThrottlingException"
        return ""

    way.faults = [failing_entries(throttled)]
    async with broker_at(way.url, bus) as broker:
        assert [None] * 25 == list(await broker.send([message(n) for n in range(1, 26)]))
        calls = [
            [int(json.loads(one["Detail"])["sequence"]) for one in body["Entries"]] for body in way.of("PutEvents")
        ]
        assert [list(range(1, 11)), [3, *range(11, 20)], [3, *range(20, 26)]] == calls
        intake = await begun(broker)
        assert list(range(1, 26)) == sorted([number_of(one) for one in await fetch(intake, 25)])
        await intake.close()


async def test_what_fails_until_time_is_over_has_no_answer_and_lets_nothing_of_its_slot_pass(
    server: Server, way: FaultyWay, bus: str
):
    way.faults = [failing_entries(lambda entry: "InternalFailure" if '"number":1}' in entry["Detail"] else "")]
    async with broker_at(way.url, bus, timeout_s=3) as broker:  # a busy machine answers the others in that time
        messages = [message(n, slot=n % 2) for n in range(200)]  # 1 is in slot 1; two lanes at least
        answers = dict(zip(range(200), await broker.send(messages), strict=True))
    assert all(answers[n] is None for n in range(0, 200, 2))
    unanswered = [n for n in answers if isinstance(answers[n], BrokerError)]
    assert 1 == unanswered[0]
    tried = {json.loads(one["Detail"])["data"]["number"] for body in way.of("PutEvents") for one in body["Entries"]}
    never = [n for n in range(200) if n not in tried]
    assert never, "some were not even sent"
    assert all(n % 2 == 1 and n in unanswered for n in never)
    assert not any(isinstance(answer, MessageRefused) for answer in answers.values())


@pytest.mark.parametrize("code", ["MalformedDetail", "NotAuthorizedForDetailTypeException", "InvalidArgument"])
async def test_an_entry_that_will_never_be_taken_is_refused_and_the_others_are_sent(
    server: Server, way: FaultyWay, bus: str, code: str
):
    way.faults = [failing_entries(lambda entry: code if '"number":2}' in entry["Detail"] else "")]
    async with broker_at(way.url, bus) as broker:
        answers = await broker.send([message(n) for n in range(1, 4)])
    assert [None, None] == [answers[0], answers[2]]
    assert isinstance(answers[1], MessageRefused)
    assert code in str(answers[1])


@pytest.mark.parametrize("code", ["AccessDeniedException", "ThrottlingException", "InvalidAccountIdException"])
async def test_what_may_be_mended_is_not_the_fault_of_an_event(server: Server, way: FaultyWay, bus: str, code: str):
    way.faults = [failing_entries(lambda _: code)]
    async with broker_at(way.url, bus, timeout_s=0.3) as broker:
        [answer] = await broker.send([message(1)])
    assert isinstance(answer, BrokerError)
    assert not isinstance(answer, MessageRefused)


async def test_a_call_that_is_refused_for_one_entry_costs_the_others_nothing(server: Server, way: FaultyWay, bus: str):
    refused = refusing_calls(
        "PutEvents", "ValidationException", lambda all: any('"number":3}' in e["Detail"] for e in all)
    )
    way.faults = [refused]
    async with broker_at(way.url, bus) as broker:
        answers = await broker.send([message(n) for n in range(1, 13)])
        assert [3] == [n for n, answer in enumerate(answers, 1) if isinstance(answer, MessageRefused)]
        assert 11 == answers.count(None)
        intake = await begun(broker)
        assert [n for n in range(1, 13) if n != 3] == sorted(number_of(one) for one in await fetch(intake, 11))
        await intake.close()


async def test_an_answer_that_is_lost_is_no_refusal(server: Server, way: FaultyWay, bus: str):
    """It has them; the relay, which can't know, sends them again under the same numbers."""
    async with broker_at(way.url, bus, timeout_s=1) as broker:
        way.faults = [losing_answers("PutEvents")]
        [answer] = await broker.send([message(1)])
        way.faults = []
        assert isinstance(answer, BrokerError)
        assert not isinstance(answer, MessageRefused)
        assert [None] == list(await broker.send([message(1)]))
        intake = await begun(broker)
        assert {1} == {number_of(one) for one in await fetch(intake, 2)}
        await intake.close()
