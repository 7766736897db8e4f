"""What the tests say of themselves: gathered from those that pytest has collected."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.promises.faults import FAULTS, SETUPS
from tests.promises.suites import OF_SUITES

ROOT = Path(__file__).parents[2]
KNOWN_FAULTS = {fault.name for fault in FAULTS}
KNOWN_SETUPS = {setup.name for setup in SETUPS}


class Shown(NamedTuple):
    fault: str
    setup: str
    test: str  # as pytest names it, without parameters
    lost: str = ""  # what is lost; nothing where the fault does no harm


class UnknownName(Exception):
    pass


def gathered(items: Iterable[pytest.Item]) -> list[Shown]:
    """In the order of the tests; those of the suites, which are many, after those that were written for the fault."""
    own, of_suites = dict[Shown, None](), dict[Shown, None]()
    for item in items:
        own |= dict.fromkeys(_own(item))
        of_suites |= dict.fromkeys(_of_suite(item))
    return [*own, *(shown for shown in of_suites if shown not in own)]


def whole_files(items: Sequence[pytest.Item], arguments: Sequence[str]) -> set[str]:
    """Files of which all tests have been collected."""
    parts = {argument.partition("::")[0] for argument in arguments if "::" in argument}
    files = {_place(item).partition("::")[0] for item in items}
    return {file for file in files if not any(file.endswith(Path(part).name) for part in parts)}


def _own(item: pytest.Item) -> Iterator[Shown]:
    for mark in item.iter_markers("promise"):
        fault, *setups = mark.args
        for setup in setups or [name for each in item.iter_markers("setup") for name in each.args]:
            yield _checked(Shown(fault, setup, _place(item), mark.kwargs.get("lost", "")))


def _of_suite(item: pytest.Item) -> Iterator[Shown]:
    suites = [one.obj for one in item.listchain() if isinstance(one, pytest.Class) and hasattr(one.obj, "groups")]
    marks = list(item.iter_markers("setup"))
    if not suites or not marks:
        return
    suite, function = suites[0], getattr(item, "function", None)
    group = getattr(item, "cls", suite).__name__.removeprefix("Test")
    fault = OF_SUITES[suite.title].get(f"{group}::{function.__name__}")
    needs, declared = getattr(function, "needs", ()), suite().declared()
    if fault is None or not all(declared[name] for name in needs):
        return
    for mark in marks:
        chosen = [mark.kwargs["processes"]] if "processes" in needs and "processes" in mark.kwargs else mark.args
        for setup in chosen:
            yield _checked(Shown(fault, setup, _place(item)))


def _checked(shown: Shown) -> Shown:
    for name, known in ((shown.fault, KNOWN_FAULTS), (shown.setup, KNOWN_SETUPS)):
        if name not in known:
            raise UnknownName(f"{shown.test} is marked with {name!r}; tests/promises/faults.py knows {sorted(known)}.")
    return shown


def _place(item: pytest.Item) -> str:
    file = item.path.relative_to(ROOT).as_posix()
    inside = re.sub(r"\[.*\]$", "", item.nodeid, flags=re.DOTALL).partition("::")[2]
    return f"{file}::{inside}"
