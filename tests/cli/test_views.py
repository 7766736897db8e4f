"""`spine views`: which versions there are, which is read, and how far each has come."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"
MODULE = """
from eventspine import Event, Service, View

class Placed(Event, context="shop", key="who"):
    who: str

class Counted(View, key="who"):
    who: str
    n: int = 0

shop = Service("shop")

@shop.projection(Counted, Placed)
def count(view: View[Counted], event: Placed) -> None:
    view.row(event.who).n += 1
"""
SECOND = """
class Counted2(View, key="who", name="counted", version=2):
    who: str
    n: int = 0
    twice: int = 0

@shop.projection(Counted2, Placed, name="count")
def count_2(view: View[Counted2], event: Placed) -> None:
    row = view.row(event.who)
    row.n += 1
    row.twice += 2
"""


def states(spine) -> dict[int, str]:
    return {row["version"]: row["state"] for row in json.loads(spine.asked_here("views", "list", "--json").stdout)}


def until(spine, wanted: dict[int, str]) -> None:
    give_up = time.monotonic() + 60
    while states(spine) != wanted:
        assert time.monotonic() < give_up, states(spine)
        time.sleep(0.02)  # between two looks


@pytest.fixture
def two(spine):
    """Version 1 has been read, and version 2 has been switched to by a release that keeps both."""
    for source, wanted in ((MODULE, {1: "read"}), (MODULE + SECOND, {1: "kept", 2: "read"})):
        (spine.folder / "counting.py").write_text(source)
        process = spine.start("run", "counting")
        spine.until(process, "running shop")
        assert 0 == spine("publish", "shop.Placed", '{"who": "ann"}', "--module", "counting").returncode
        until(spine, wanted)
        process.terminate()
        process.wait(60)
    return spine


def test_they_are_listed_switched_rolled_back_and_dropped(two):
    listed = two("views", "list").stdout.splitlines()
    assert ["VIEW", "VERSION", "STATE", "POSITION", "BEHIND", "KEPT", "BY", "HELD", "UP", "BY"] == listed[0].split()
    assert ["counted", "2", "read", "2", "0", "shop.count@2"] == listed[2].split()
    (first, _) = json.loads(two("views", "list", "--json").stdout)
    assert {"who": "text", "n": "integer"} == first["columns"]
    (shown,) = re.findall(r"`views list`:\n\n```json\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert first.keys() == json.loads(shown)[0].keys()

    assert "counted is read as version 1 again." in two("views", "roll-back", "counted").stdout
    assert {1: "read", 2: "kept"} == states(two)
    assert 2 == two("views", "roll-back", "counted").returncode  # there is nothing before it
    assert "is read as version 2." in two("views", "switch", "counted", "2").stdout
    assert "as before" in two("views", "switch", "counted", "2").stdout

    read = two("views", "drop", "counted", "2", "--yes")
    assert (2, True) == (read.returncode, "Switch to another one first" in read.stderr)
    assert "add --yes" in two("views", "drop", "counted", "1").stderr
    assert {1, 2} == states(two).keys()
    assert 0 == two("views", "drop", "counted", "1", "--yes").returncode
    assert {2: "read"} == states(two)
    assert 0 == two("views", "drop", "counted", "1", "--yes").returncode  # also where it had been broken off


def test_what_a_release_at_work_keeps_is_not_dropped_under_it(two):
    process = two.start("run", "counting")
    two.until(process, "running shop")
    refused = two("views", "drop", "counted", "1", "--yes")
    assert (3, True) == (refused.returncode, "without that version's class and projection" in refused.stderr)
    assert {1: "kept", 2: "read"} == states(two)
    process.terminate()
    process.wait(60)

    (two.folder / "counting.py").write_text(f"{MODULE.partition('class Counted(')[0]}shop = Service('shop')\n{SECOND}")
    process = two.start("run", "counting")
    two.until(process, "running shop")
    until(two, {1: "not kept", 2: "read"})
    assert 0 == two("views", "drop", "counted", "1", "--yes").returncode
    process.terminate()
    process.wait(60)

    (two.folder / "counting.py").write_text(MODULE + SECOND)
    back = two("run", "counting")
    assert (3, True) == (back.returncode, "Take its class and projection out of the code" in back.stderr)
    assert "View, version=3, ..." in back.stderr


def test_a_view_or_version_that_is_not_there_is_said_not_to_be_there(two):
    for words in (("switch", "orders", "1"), ("roll-back", "orders"), ("drop", "orders", "1", "--yes")):
        wrong = two("views", *words)
        assert (4, True) == (wrong.returncode, "There is no view 'orders'." in wrong.stderr)
    for words in (("switch", "counted", "3"), ("drop", "counted", "3", "--yes")):
        wrong = two("views", *words)
        assert (4, True) == (wrong.returncode, "There is no version 3 of counted; there are 1, 2." in wrong.stderr)
    assert 2 == two("views", "switch", "counted", "0").returncode

    assert 0 == two("views", "drop", "counted", "1", "--yes").returncode
    gone = two("views", "switch", "counted", "1")
    assert (4, True) == (gone.returncode, "There is no version 1 of counted; there is 2." in gone.stderr)


def test_rows_are_not_counted_twice_by_whoever_moves_or_retires_what_keeps_them(two):
    rewound = two("subscriptions", "rewind", "shop.count", "--to", "earliest", "--repeat-effects")
    assert (2, True) == (rewound.returncode, "keeps version 1 of the view counted" in rewound.stderr)
    given_up = two("subscriptions", "retire", "shop.count", "--yes")
    assert (2, True) == (given_up.returncode, "Deploy shop without its class and projection first" in given_up.stderr)

    (two.folder / "counting.py").write_text(f"{MODULE.partition('class Counted(')[0]}shop = Service('shop')\n{SECOND}")
    process = two.start("run", "counting")
    two.until(process, "running shop")
    until(two, {1: "not kept", 2: "read"})
    process.terminate()
    process.wait(60)
    assert 0 == two("subscriptions", "retire", "shop.count", "--yes").returncode  # nobody declares it any more

    (two.folder / "counting.py").write_text(MODULE + SECOND)
    back = two("run", "counting")
    assert (3, True) == (back.returncode, "the rows are as it left them" in back.stderr)
