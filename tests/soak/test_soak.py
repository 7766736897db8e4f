"""A short soak, so that the long one works when somebody wants it; and a reckoning that sees what it is there to see."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.harness import Place
from tests.soak.reckoning import Books
from tests.soak.soak import Outcome, soak

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such signals")


class Soaked:
    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.outcome: Outcome = soak(self.place, seed=17, seconds=20)


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> Soaked:
    return Soaked(tmp_path_factory.mktemp("soak"))


@pytest.mark.promise("process killed", "sqlite processes")
@pytest.mark.promise("process stopped", "sqlite processes")
@pytest.mark.promise("handler fails", "sqlite processes")
def test_after_a_soak_nothing_is_lost_or_twice_or_left_behind(soaked: Soaked) -> None:
    assert [] == soaked.outcome.wrong
    assert "make soak MINUTES=0.333333 SEED=17" in soaked.outcome.report()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("delete from spine_events where type = 'till.Counted' and key = 'p-0'", "acknowledged and not stored"),
        ("delete from spine_events where key = 'q-1' and json_extract(data, '$.number') = 7", "of q-1 not each number"),
        ("delete from spine_events where type = 'ledger.Due' and key = 'p-1'", "ledger.Due missing"),
        ("delete from soak_effects where handler = 'parcels.pack' and number = 9", "parcels.pack: not handled"),
        ("delete from soak_effects where handler = 'ledger.book' and number = 60", "ledger.book: not handled"),
        (
            ("insert into soak_effects select (select max(id) + 1 from soak_effects), handler, key, number, idem, attempt,"
            " late from soak_effects where handler = 'ledger.weigh' limit 1"),
            "ledger.weigh: handled twice",
        ),
        (
            ("update soak_effects set id = (select max(id) + 1 from soak_effects)"
            " where handler = 'parcels.send' and key = 'p-2' and number = 4"),
            "parcels.send: out of order",
        ),
        ("update soak_effects set idem = 'the same' where handler = 'ledger.remind'", "ledger.remind:"),
        (("delete from soak_effects where handler = 'views.project' and (key, number) = (select key, number"
         " from soak_effects where handler = 'views.project' order by id desc limit 1)"), "views.project: not handled"),
        ("delete from soak_effects where id = (select id from soak_effects where handler = 'clock.strike' limit 1 offset 3)", "the clock struck"),
        ("update spine_leases set owner = 'somebody'", "leases that somebody holds left"),
        ("insert into spine_starts values (1, '', 0, 1, 1, 0)", "1 start marks left"),
        ("update spine_deliveries set state = 'parked' where number = (select max(number) from spine_deliveries)",
         "parked, dead or held deliveries left"),
    ],
)  # fmt: skip
def test_the_reckoning_sees(soaked: Soaked, tmp_path: Path, change: str, told: str) -> None:
    place = Place(tmp_path)
    place.path.write_bytes(soaked.place.path.read_bytes())
    (tmp_path / "acknowledged").write_bytes((soaked.place.folder / "acknowledged").read_bytes())
    with closing(sqlite3.connect(place.path)) as connection, connection:
        assert connection.execute(change).rowcount
    assert [one for one in Books(place, soaked.outcome.rewinds).wrong() if told in one]


@pytest.mark.parametrize(("later_us", "seen"), [(1, True), (-1, False)])
def test_it_sees_who_left_and_is_listed_and_takes_nobody_else_of_that_pid_for_it(
    soaked: Soaked, tmp_path: Path, later_us: int, seen: bool
) -> None:
    """Somebody who was killed before it began may have had its pid, and is listed for an hour."""
    place = Place(tmp_path)
    place.path.write_bytes(soaked.place.path.read_bytes())
    (tmp_path / "acknowledged").write_bytes((soaked.place.folder / "acknowledged").read_bytes())
    left = next(child for child in soaked.place.children if child.process.poll() == 0)
    place.children = [left]
    row = ("x", "ledger", 1, left.pid, "here", left.began_us + later_us, 1, "1", 1, "")
    with closing(sqlite3.connect(place.path)) as connection, connection:
        connection.execute(f"insert into spine_processes values ({', '.join('?' * len(row))})", row)
    found = [one for one in Books(place, soaked.outcome.rewinds).wrong() if "still listed" in one]
    assert bool(found) == seen


def test_without_a_safeguard_it_ends_in_words_about_what_was_lost(tmp_path: Path) -> None:
    """Cursors that are folded before the verdicts pass what failed once."""
    outcome = soak(Place(tmp_path), seed=17, seconds=3, without=("folding",))
    assert [one for one in outcome.wrong if one.startswith("ledger.weigh: not handled")]
    assert "WRONG:" in outcome.report()
