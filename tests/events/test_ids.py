"""Ids: UUIDv7, ascending, never twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import uuid
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from eventspine.clock import SystemClock
from eventspine.errors import EventRefused
from eventspine.ids import IdSource, derived_id, id_bytes, id_text, id_time_us


class SetClock:
    """A clock whose time and entropy are set by the test."""

    def __init__(self, now_us: int, entropy: bytes | None = None) -> None:
        self.us = now_us
        self.random = random.Random(1)
        self._entropy = entropy

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6

    def entropy(self, size: int) -> bytes:
        return self._entropy[:size] if self._entropy is not None else os.urandom(size)


def test_ids_are_uuid_version_7_with_the_time_in_front() -> None:
    source = IdSource(SetClock(1_700_000_000_123_456))
    for made in [source.one(), *source.new(5)]:
        as_uuid = uuid.UUID(bytes=made)
        assert (as_uuid.version, as_uuid.variant) == (7, uuid.RFC_4122)
        assert id_time_us(made) == 1_700_000_000_123_000


def test_ids_ascend_strictly_whatever_the_clock_does() -> None:
    clock = SetClock(1_700_000_000_000_000)
    source, made = IdSource(clock), []
    for step in (0, 0, 1_000, -5_000_000, 0, 700, 6_000_000, -1, 0):
        clock.us += step
        made += source.new(3)
        made.append(source.one())
    assert all(left < right for left, right in pairwise(made))


def test_a_block_that_does_not_fit_begins_the_next_millisecond() -> None:
    """All random bits set is the least room that there can be."""
    clock = SetClock(1_700_000_000_000_000, entropy=b"\xff" * 10)
    source = IdSource(clock)
    first = source.one()
    source._low = 0xC000_0000_0000_0000 - 2  # as after 2**61 ids
    block = source.new(10)
    assert first < block[0]
    assert id_time_us(block[0]) == id_time_us(first) + 1000
    assert {uuid.UUID(bytes=made).variant for made in block} == {uuid.RFC_4122}


def test_threads_never_share_an_id() -> None:
    source = IdSource(SetClock(1_700_000_000_000_000))
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.extend([*source.new(7), source.one()])) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 40 * 8


def test_two_sources_in_one_millisecond_differ() -> None:
    clock = SetClock(1_700_000_000_000_000)
    made = [IdSource(clock).one() for _ in range(500)]
    assert len(set(made)) == 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_never_repeats_its_parents_ids() -> None:
    """Also when a thread of the parent held the lock at that moment."""
    source = IdSource(SetClock(1_700_000_000_000_000))
    source.one()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with source._lock:
        children = [context.Process(target=lambda: answers.put(source.new(50))) for _ in range(2)]
        for child in children:
            child.start()
    made = [one for _ in children for one in answers.get(timeout=30)] + source.new(50)
    for child in children:
        child.join()
    assert len(set(made)) == 150


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_without_forgetting_a_forked_child_would_repeat_them(monkeypatch: pytest.MonkeyPatch) -> None:
    source = IdSource(SetClock(1_700_000_000_000_000))
    source.one()
    monkeypatch.setattr("eventspine.ids._sources", ())
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(source.one()))
    child.start()
    assert answers.get(timeout=30) == source.one()
    child.join()


CAUSE = IdSource(SetClock(1_700_000_000_123_456)).one()


def test_a_derived_id_is_the_same_in_every_attempt() -> None:
    made = derived_id(b"u" * 16, "", "storefront", CAUSE, 0)
    assert made == derived_id(b"u" * 16, "", "storefront", CAUSE, 0)
    assert (uuid.UUID(bytes=made).version, uuid.UUID(bytes=made).variant) == (7, uuid.RFC_4122)
    assert id_time_us(made) == id_time_us(CAUSE)


def test_a_derived_id_never_changes_between_releases() -> None:
    cause = id_bytes("0190163d-8694-739b-aea5-966c26f8ad91")
    assert id_text(derived_id(bytes(range(16)), "", "storefront", cause, 1)) == "0190163d-8694-7aa9-9fb5-dc52c9945521"


identity = st.tuples(
    st.binary(max_size=20), st.text(max_size=5), st.text(max_size=5), st.binary(max_size=20), st.integers(0, 3)
)


@given(identity, identity)
def test_another_identity_gives_another_id(
    left: tuple[bytes, str, str, bytes, int], right: tuple[bytes, str, str, bytes, int]
) -> None:
    assert (derived_id(*left) == derived_id(*right)) == (left == right)


def test_parts_of_an_identity_can_not_be_shifted() -> None:
    assert derived_id(b"u", "ab", "c", CAUSE, 0) != derived_id(b"u", "a", "bc", CAUSE, 0)
    assert derived_id(b"u", "", "s", b"id1", 1) != derived_id(b"u", "", "s", b"id", 11)


@given(st.binary(min_size=16, max_size=16))
def test_text_and_bytes_are_two_forms_of_one_id(made: bytes) -> None:
    assert id_text(made) == str(uuid.UUID(bytes=made))
    assert id_bytes(id_text(made)) == id_bytes(made.hex()) == id_bytes(id_text(made).upper()) == made


def test_a_foreign_id_is_shown_as_it_came() -> None:
    assert id_text(b"order-1") == "order-1"
    assert id_text(b"\xff") == "\ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order-1",
        "0190163d8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad9",
        "{0190163d-8694-739b-aea5-966c26f8ad91}",
        " 190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad91\n",
        "\u0660190163d-8694-739b-aea5-966c26f8ad91",
    ],
)
def test_what_is_no_uuid_is_no_id(text: str) -> None:
    with pytest.raises(EventRefused, match="not an event id"):
        id_bytes(text)


def test_the_systems_clock_serves() -> None:
    clock = SystemClock()
    assert abs(id_time_us(IdSource(clock).one()) - clock.now_us()) < 60_000_000
