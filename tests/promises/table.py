"""The promise table: made from what the tests say of themselves, for the page and for `spine doctor`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.promises.faults import FAULTS, NEEDED, SETUPS, Fault, Setup
from tests.promises.marks import ROOT, Shown

PAGE = ROOT / "docs" / "why" / "promises.md"
DATA = ROOT / "src" / "eventspine" / "cli" / "promises.json"
PARTS = ("promised", "shown", "tests")  # of the page, each between two comments
SURVIVED, NOT_SURVIVED, DOES_NOT_ARISE = "survived", "not survived", "does not arise"
AS_JOURNALS = "as its journals"  # a broker changes nothing about it, or nobody has tried


class Contradiction(Exception):
    pass


# --- data -----------------------------------------------------------------------------------------------------------


def data(shown: Iterable[Shown]) -> dict[str, Any]:
    """What `spine doctor` reads."""
    every = list(shown)
    return {
        "setups": [
            {
                "name": setup.name,
                "title": setup.title,
                "journal": setup.journal,
                "broker": setup.broker,
                "processes": setup.processes,
            }
            for setup in SETUPS
        ],
        "faults": [
            {
                "name": fault.name,
                "title": plain(fault.title),
                "setups": {
                    setup.name: cell
                    for setup in SETUPS
                    if (cell := _cell(fault, setup, [s for s in every if s[:2] == (fault.name, setup.name)]))
                },
            }
            for fault in FAULTS
        ],
    }


def _cell(fault: Fault, setup: Setup, shown: Sequence[Shown]) -> dict[str, Any] | None:
    lost = {one.lost for one in shown}
    tests = [one.test for one in shown]
    if fault.needs and fault.needs not in setup.has:
        if shown:
            raise Contradiction(f"{tests[0]} shows {fault.name!r} in {setup.name!r}, where {NEEDED[fault.needs]}.")
        return {"verdict": DOES_NOT_ARISE, "why": NEEDED[fault.needs], "tests": []}
    if not shown:
        as_journals = setup.broker and fault.needs not in ("server", "broker")  # what befalls a broker is its own
        return {"verdict": DOES_NOT_ARISE, "why": AS_JOURNALS, "tests": []} if as_journals else None
    if len(lost) > 1:
        raise Contradiction(f"Of {fault.name!r} in {setup.name!r} its tests say different things: {tests}, {lost}.")
    (why,) = lost
    return {"verdict": NOT_SURVIVED if why else SURVIVED, "why": why, "tests": tests}


def as_text(stored: Mapping[str, Any]) -> str:
    return json.dumps(stored, indent=1, ensure_ascii=False) + "\n"


def plain(words: str) -> str:
    """Without Markdown's links and stars."""
    return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", words).replace("**", "").replace("`", "")


# --- page -----------------------------------------------------------------------------------------------------------


def page(text: str, stored: Mapping[str, Any]) -> str:
    """With its tables made anew."""
    made = {"promised": _promised(), "shown": _shown(stored), "tests": _tests(stored)}
    for part in PARTS:
        begins, ends = f"<!-- {part}: made by `make promises` -->", f"<!-- /{part} -->"
        before, rest = text.split(begins)
        _, after = rest.split(ends)
        text = f"{before}{begins}\n\n{made[part]}\n\n{ends}{after}"
    return text


def _promised() -> str:
    heads = ["fault", "accepted events", "effects through the delivery", "effects outside"]
    return _piped([heads, *([fault.title, fault.accepted, fault.effects, fault.outside] for fault in FAULTS)])


def _shown(stored: Mapping[str, Any]) -> str:
    rows = [["fault", *(setup.title for setup in SETUPS)]]
    for fault in stored["faults"]:
        rows.append([fault["title"], *(_in_words(fault["setups"].get(setup.name)) for setup in SETUPS)])
    return _piped(rows)


def _in_words(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "not tested"
    if cell["verdict"] == DOES_NOT_ARISE:
        return f"– ({cell['why']})"
    first, *more = cell["tests"]
    others = f" *(and {len(more)} more)*" if more else ""
    sign = f"✗ {cell['why']}:" if cell["verdict"] == NOT_SURVIVED else "✓"
    return f"{sign} {sentence(first)}{others}"


def sentence(test: str) -> str:
    """Tests are sentences."""
    name = test.rpartition("::")[2].removeprefix("test_")
    return re.sub(r"^r\d+_", "", name).replace("_", " ")


def _tests(stored: Mapping[str, Any]) -> str:
    titles = {setup.name: setup.title for setup in SETUPS}
    lines = []
    for fault in stored["faults"]:
        by_test: dict[str, list[str]] = {}
        for setup, cell in fault["setups"].items():
            for test in cell["tests"]:
                by_test.setdefault(test, []).append(titles[setup])
        if by_test:
            lines += ["", f"**{fault['title'][0].upper()}{fault['title'][1:]}**", ""]
            lines += [f"* `{test}` ({'; '.join(setups)})" for test, setups in by_test.items()]
    return "\n".join(lines).strip()


def _piped(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def made(shown: Iterable[Shown]) -> dict[Path, str]:
    """The page and the package's file, as they should be."""
    stored = data(shown)
    return {DATA: as_text(stored), PAGE: page(PAGE.read_text(encoding="utf-8"), stored)}


def stale(files: Mapping[Path, str]) -> list[Path]:
    return [place for place, text in files.items() if not place.exists() or place.read_text(encoding="utf-8") != text]
