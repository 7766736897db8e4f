"""The garbage collector does not know items, and lanes refer to their items as these do to their lanes: whoever ends opens
the circles, however he ends."""

from __future__ import annotations

import gc
from uuid import uuid4

import pytest

from eventspine.engine.lanes import Item, Lane, Lanes, Part
from eventspine.journal.port import Record


def record(position: int) -> Record:
    return Record(
        position, uuid4().bytes, "orders", 0, "ann", "orders.Placed", 1, 0, 0, "shop", None, None, 0, None, b"{}"
    )


def lanes_that_remain(made: str) -> int:
    """Of some with items in every place that a lane has, which are then forgotten as a killed process's are."""
    part, lanes = Part(0, made, 1, 0, [], 1, 0), Lanes()
    for number in range(3):
        for key in ("queued", "again"):
            lanes.add(Item(record(number), part, 0), (made, key))
    taken = [lanes.take(), lanes.take()]
    assert taken[1] is not None
    lanes.again(taken[1])
    del taken, lanes
    gc.collect()
    return sum(one.key in ((made, "queued"), (made, "again")) for one in gc.get_objects() if type(one) is Lane)


def test_nothing_of_what_was_queued_stays_in_memory() -> None:
    assert lanes_that_remain("opened") == 0


def test_without_opening_the_circles_all_of_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Lanes, "__del__")
    assert lanes_that_remain("left") > 0
