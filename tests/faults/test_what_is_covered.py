"""Which fault is tried where. A test that is renamed or deleted is missed here; what is not covered says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

COVERED = {
    "simulated histories": ["simulate/test_simulate.py"],
    "safeguards turned off": ["simulate/test_simulate.py", "faults/test_stopped.py::test_it_is_the_fence_that_keeps"],
    "kill -9 in a loop": ["faults/test_killed.py::test_consumers_killed_at_random"],
    "the power is cut": ["faults/test_power_cuts.py::test_without_a_sync_per_commit"],
    "the disk is full": ["faults/test_full_disk.py", "faults/test_disk.py::test_a_full_disk_refuses"],
    "bits turn in the file": ["faults/test_damage.py::test_bits_that_turn_anywhere", "faults/test_turned_bits.py"],
    "partitions move between processes": ["faults/test_deploys.py", "faults/test_killed.py"],
    "a zombie wakes up late": ["faults/test_stopped.py::test_r13_a_process_that_was_stopped_past_its_lease"],
    "a crash at every point of a commit": ["faults/test_killed.py::test_a_consumer_killed_at_every_point"],
    "poison": ["faults/test_poison.py", "hostile/test_foreign.py::test_the_whole_corpus_in_one_feed_stops_nobody"],
    "a storm of retries": ["engine/test_retries.py"],
    "a batch that fails in part": ["engine/test_batches.py"],
    "idempotency under races": ["faults/test_kinds.py::test_every_kind_of_handler_does_everything_once"],
    "clocks": ["hostile/test_publishing.py::test_a_clock_that_goes_back", "events/test_ids.py::test_ids_ascend"],
    "more work than fits into memory": ["engine/test_many_waiting.py", "hostile/test_publishing.py::test_a_hundred"],
    "sizes at their limits": ["hostile/test_publishing.py::test_each_limit_lets_through_what_is_at_it"],
    "parsers": ["hostile/test_foreign.py::test_any_bytes_are", "hostile/test_publishing.py::test_anything_is_refused"],
    "bytes that name a type": ["hostile/test_publishing.py::test_what_is_carried_comes_out_the_same"],
    "injection": ["hostile/test_publishing.py::test_an_attribute_that_could_act", "hostile/test_command_line.py"],
    "brokers under chaos": [
        "simulate/test_simulate.py::test_they_hold_between_journals_too",
        "brokers/test_carrying.py",
    ],
    "headers of others": ["hostile/test_headers.py"],
    "compression bombs": [
        "brokers/test_kafka.py::test_a_batch_that_unpacks_to_too_much",
        "brokers/pulsar/test_others.py::test_what_unpacks_to_too_much_is_dead",
    ],
    "code in data": ["hostile/test_no_code.py"],
    "turns of writers": ["faults/test_turns.py"],
    "secrets": ["hostile/test_settings.py::test_secrets_are_left_out_of_what_is_shown"],
}
ELSEWHERE = {
    "sagas half done": "there are none yet; an outbox is not needed where feed and effects share a commit",
    "tenants": "a tenant is the first part of a key (events/test_keys.py) and no boundary of access: one file, one owner",
    "the console": "there is none; the health endpoint answers GET alone (observe/test_health_http.py)",
    "webhooks": "none are sent",
}


@pytest.mark.parametrize("fault", COVERED)
def test_the_tests_that_cover_it_are_there(fault: str) -> None:
    for place in COVERED[fault]:
        file, _, test = place.partition("::")
        assert re.search(rf"def {test or 'test_'}", (TESTS / file).read_text()), place


def test_nothing_is_both_covered_and_excused() -> None:
    assert not set(COVERED) & set(ELSEWHERE)
