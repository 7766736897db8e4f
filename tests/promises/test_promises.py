"""The page and the doctor's table say what the tests say, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.promises.faults import FAULTS, SETUPS
from tests.promises.marks import ROOT, Shown, UnknownName, gathered
from tests.promises.table import DATA, NOT_SURVIVED, SURVIVED, Contradiction, data, made, stale

STORED = json.loads(DATA.read_text(encoding="utf-8"))
KILLED = Shown("process killed", "sqlite processes", "tests/faults/test_killed.py::test_it")


def as_stored() -> list[Shown]:
    return [
        Shown(fault["name"], setup, test, cell["why"] if cell["verdict"] == NOT_SURVIVED else "")
        for fault in STORED["faults"]
        for setup, cell in fault["setups"].items()
        for test in cell["tests"]
    ]


def test_the_page_and_the_table_are_what_the_tests_say() -> None:
    """All tests are asked for their marks, as `make promises` does."""
    command = [sys.executable, "-m", "tests.promises", "--check"]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stdout[-2000:] + asked.stderr[-2000:]


def test_a_test_that_is_gone_or_new_makes_both_files_stale() -> None:
    shown = as_stored()
    assert stale(made(shown)) == []
    assert len(stale(made(shown[1:]))) == 2
    assert len(stale(made([*shown, KILLED]))) == 2


def test_what_is_lost_is_said_by_its_test_and_tests_do_not_contradict_one_another() -> None:
    lost = KILLED._replace(lost="a finger")
    (cell,) = [fault["setups"][KILLED.setup] for fault in data([lost])["faults"] if fault["name"] == KILLED.fault]
    assert cell == {"verdict": NOT_SURVIVED, "why": "a finger", "tests": [KILLED.test]}
    with pytest.raises(Contradiction, match="say different things"):
        data([lost, KILLED])
    with pytest.raises(Contradiction, match="where there is one process"):
        data([KILLED._replace(fault="all killed", setup="sqlite")])


def test_each_test_named_on_the_page_exists() -> None:
    for shown in as_stored():
        file, name = shown.test.split("::")[0], shown.test.rpartition("::")[2]
        places = [ROOT / file, *(ROOT / "src/eventspine/testing/conformance").rglob("*.py")]  # of suites, the latter
        assert any(f"def {name}(" in place.read_text(encoding="utf-8") for place in places), shown.test


def test_most_cells_are_shown_and_those_that_are_not_are_known() -> None:
    cells = {(fault["name"], setup): cell for fault in STORED["faults"] for setup, cell in fault["setups"].items()}
    open_ones = [
        (fault.name, setup.name) for fault in FAULTS for setup in SETUPS if (fault.name, setup.name) not in cells
    ]
    assert open_ones == NOT_TESTED
    assert {cell["verdict"] for cell in cells.values() if cell["tests"]} == {SURVIVED, NOT_SURVIVED}


NOT_TESTED = [  # the page says so
    ("power fails", "postgres"),  # what PostgreSQL has on its disk then is PostgreSQL's own promise
    ("power fails", "postgres processes"),
    ("server killed", "eventbridge"),  # an emulator keeps nothing, and AWS's can't be killed
]


@pytest.mark.parametrize(("fault", "known"), [("handler fails", True), ("the moon falls", False)])
def test_a_mark_is_gathered_and_a_misspelled_one_refused(
    request: pytest.FixtureRequest, fault: str, known: bool
) -> None:
    item = request.node
    item.add_marker(pytest.mark.setup("memory"))
    item.add_marker(pytest.mark.promise(fault))
    if known:
        assert gathered([item]) == [
            Shown(fault, "memory", f"tests/promises/test_promises.py::{item.originalname}"),
        ]
    else:
        with pytest.raises(UnknownName, match="the moon falls"):
            gathered([item])
