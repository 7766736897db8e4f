"""Folding, against a model that remembers every finished position by itself."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from eventspine.journal.cursors import Range, decode, encode, fold, is_finished

END = 60


@st.composite
def partitions_of_a_run(draw: st.DrawFn) -> list[Range]:
    """Positions 1 to END, cut into ranges as a reader makes them: each begins where the one before it ended."""
    edges = sorted(draw(st.sets(st.integers(1, END - 1), max_size=30)) | {0, END})
    return list(pairwise(edges))


def any_ranges() -> st.SearchStrategy[list[Range]]:
    span = st.tuples(st.integers(0, END), st.integers(1, 9)).map(lambda given: (given[0], given[0] + given[1]))
    return st.lists(span, max_size=12)


def positions(ranges: list[Range]) -> set[int]:
    return {at for after, upto in ranges for at in range(after + 1, upto + 1)}


@given(partitions_of_a_run(), st.data())
def test_any_order_and_any_grouping_end_at_the_same_cursor(ranges: list[Range], data: st.DataObject):
    finished = data.draw(st.lists(st.sampled_from(ranges), unique=True))
    position, beyond = 0, list[Range]()
    rest = list(finished)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        position, beyond = fold(position, beyond, rest[:size])
        rest = rest[size:]
    assert (position, beyond) == fold(0, [], finished)
    if len(finished) == len(ranges):
        assert (END, []) == (position, beyond)


@given(st.integers(0, END), any_ranges(), any_ranges())
def test_a_cursor_says_finished_of_exactly_what_was(start: int, first: list[Range], second: list[Range]):
    position, beyond = fold(*fold(start, [], first), second)
    finished = positions([(0, start), *first, *second])
    assert finished == {at for at in range(1, 2 * END) if is_finished(position, beyond, at)}


@given(st.integers(0, END), any_ranges())
def test_it_never_passes_an_unfinished_position(start: int, ranges: list[Range]):
    position, _ = fold(start, [], ranges)
    finished = positions([(0, start), *ranges])
    assert set(range(1, position + 1)) <= finished
    assert position + 1 not in finished, "and stands nowhere before the first"


@given(st.integers(0, END), any_ranges())
def test_what_lies_beyond_is_disjoint_ascending_and_past_the_cursor(start: int, ranges: list[Range]):
    position, beyond = fold(start, [], ranges)
    edges = [position, *(edge for span in beyond for edge in span)]
    assert edges == sorted(set(edges))


@given(st.integers(0, END), any_ranges(), any_ranges())
def test_folding_again_changes_nothing(start: int, first: list[Range], second: list[Range]):
    once = fold(*fold(start, [], first), second)
    assert once == fold(*once, first) == fold(*once, second) == fold(*once, [])


@given(st.integers(0, END), any_ranges())
def test_what_lies_beyond_is_stored_and_read_back(start: int, ranges: list[Range]):
    _, beyond = fold(start, [], ranges)
    assert beyond == decode(encode(beyond))


def test_nothing_beyond_is_stored_as_nothing():
    assert encode([]) is None
    assert [] == decode(None)


def test_the_stored_form_is_fixed():
    """It is on disk: a msgpack array of pairs."""
    assert bytes([0x92, 0x92, 7, 9, 0x92, 12, 13]) == encode([(7, 9), (12, 13)])
