"""What several services, releases and processes say of one channel, and what it comes to."""

from __future__ import annotations

from hypothesis import example, given, strategies as st

from eventspine.journal.port import Keep
from eventspine.journal.retention import SAY_AGAIN_US, SIDE_BY_SIDE_US, duration, kept, said

HOUR = 3_600_000_000
DAY = 24 * HOUR
MONDAY = 1_700_000_000_000_000


def saying(*words: tuple[str, int | None, int]) -> list[Keep]:
    """(service, keep, when) of one channel, in order of time."""
    stored: list[Keep] = []
    for service, keep_us, when in words:
        told = said(stored, service, {"orders": keep_us}, when)
        stored = stored if told is None else list(told)
    return stored


def test_nobody_said_anything_so_everything_is_kept():
    assert {} == kept([], MONDAY)
    assert None is said([], "shop", {"orders": None}, MONDAY)


def test_what_is_said_counts_at_once():
    assert {"orders": DAY} == kept(saying(("shop", DAY, MONDAY)), MONDAY)


def test_it_counts_for_as_long_as_nobody_says_otherwise():
    assert {"orders": DAY} == kept(saying(("shop", DAY, MONDAY)), MONDAY + 1000 * DAY)


def test_a_longer_time_counts_at_once_and_a_shorter_one_a_day_later():
    longer = saying(("shop", DAY, MONDAY), ("shop", 9 * DAY, MONDAY + 1))
    assert {"orders": 9 * DAY} == kept(longer, MONDAY + 2)
    shorter = saying(("shop", 9 * DAY, MONDAY), ("shop", DAY, MONDAY + 1))
    assert {"orders": 9 * DAY} == kept(shorter, MONDAY + 2)
    later = said(shorter, "shop", {"orders": DAY}, MONDAY + DAY + 2)
    assert later is not None
    assert {"orders": DAY} == kept(later, MONDAY + DAY + 2)


def test_while_two_releases_run_the_longer_one_wins():
    """Each says its own now and then, in whatever order."""
    stored: list[Keep] = []
    for hour in range(72):
        for keep_us in (9 * DAY, DAY):
            stored = list(said(stored, "shop", {"orders": keep_us}, MONDAY + hour * HOUR) or stored)
        assert {"orders": 9 * DAY} == kept(stored, MONDAY + hour * HOUR)


def test_a_release_that_keeps_for_ever_is_as_good_as_one_that_says_a_long_time():
    stored = saying(("shop", DAY, MONDAY), ("shop", None, MONDAY + 1))
    assert {} == kept(stored, MONDAY + 2)
    stored = list(said(stored, "shop", {"orders": DAY}, MONDAY + 2 * HOUR) or ())
    assert {} == kept(stored, MONDAY + 2 * HOUR)


def test_who_no_longer_says_anything_has_no_opinion_after_a_day():
    stored = saying(("old", DAY, MONDAY), ("old", None, MONDAY + 1), ("new", 2 * DAY, MONDAY + 2))
    assert {} == kept(stored, MONDAY + 3)
    assert {"orders": 2 * DAY} == kept(stored, MONDAY + SIDE_BY_SIDE_US + 1)


def test_a_channel_that_a_service_no_longer_publishes_is_no_longer_its_own():
    stored = said(saying(("old", DAY, MONDAY)), "old", {"other": None}, MONDAY + 1)
    assert stored is not None
    assert {} == kept(stored, MONDAY + 2)


def test_of_two_services_the_longer_one_counts():
    assert {"orders": 2 * DAY} == kept(saying(("a", 2 * DAY, MONDAY), ("b", DAY, MONDAY)), MONDAY + 1000 * DAY)


def test_who_runs_says_it_again_now_and_then():
    stored = saying(("shop", DAY, MONDAY))
    assert None is said(stored, "shop", {"orders": DAY}, MONDAY + SAY_AGAIN_US - 1)
    assert None is not said(stored, "shop", {"orders": DAY}, MONDAY + SAY_AGAIN_US)


words = st.tuples(st.sampled_from("ab"), st.sampled_from([None, HOUR, DAY, 9 * DAY]), st.integers(0, 5 * DAY))


@given(st.lists(words, max_size=12), st.integers(0, 6 * DAY))
@example([("a", DAY, 0), ("a", None, 0), ("a", DAY, 1), ("b", HOUR, DAY)], 0)  # it is its last word again
@example([("a", HOUR, 0), ("a", None, 1)], DAY + 1)  # the last word has lapsed, and what it revoked is not heard again
def test_never_shorter_than_what_anybody_said_last(heard: list[tuple[str, int | None, int]], after: int):
    heard.sort(key=lambda word: word[2])
    stored = saying(*heard)
    now = max([after, *(when for _, _, when in heard)])
    latest = {service: keep_us for service, keep_us, _ in heard}
    least = max((keep_us for keep_us in latest.values() if keep_us is not None), default=None)
    found = kept(stored, now).get("orders")
    assert found is None or (least is not None and found >= least)
    assert len(stored) <= 2 * 4


def test_durations_in_words():
    assert ["90d", "36h", "5m", "1.5s"] == [duration(us) for us in (90 * DAY, 36 * HOUR, HOUR // 12, 1_500_000)]
