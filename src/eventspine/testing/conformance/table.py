"""The capability table: what each suite's subject declares, and what came of the tests; as text and as a page of docs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- capabilities: made by --eventspine-conformance -->", "<!-- end -->"
NOT_DECLARED = "not declared"
_BETWEEN = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


@dataclass
class Column:
    """One subject: what it declares, and how many tests of each group and capability ended how."""

    name: str
    title: str
    declared: Mapping[str, bool]
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)

    def count(self, row: str, outcome: str) -> None:
        counts = self.outcomes.setdefault(row, {})
        counts[outcome] = counts.get(outcome, 0) + 1

    def of_capability(self, name: str) -> str:
        """Declared, with what its own tests came to, if it has any and they have run."""
        if not self.declared.get(name, False):
            return NOT_DECLARED
        return self._cell(f"needs {name}") or "declared"

    def of_group(self, name: str) -> str:
        return self._cell(name)

    def _cell(self, row: str) -> str:
        """Other skips (no server here, say) are told apart from what nobody declared."""
        counts = self.outcomes.get(row, {})
        failed, passed = counts.get("failed", 0), counts.get("passed", 0)
        ran = f"✗ {failed} of {failed + passed} failed" if failed else f"✓ {passed}" if passed else ""
        others = [f"{counts[one]} {one}" for one in (NOT_DECLARED, "skipped") if one in counts]
        return ", ".join(part for part in (ran, *others) if part)


class Table:
    """Filled test by test; a column per suite class, a table per kind of suite."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}
        self._groups: dict[str, dict[str, None]] = {}

    def add(self, noted: Mapping[str, Any], outcome: str) -> None:
        name, declared = noted["suite"], noted["declared"]
        column = self._columns.setdefault(f"{noted['module']}:{name}", Column(name, noted["title"], dict(declared)))
        if not all(declared.get(one, False) for one in noted["needs"]):
            outcome = NOT_DECLARED
        self._groups.setdefault(noted["title"], {})[noted["group"]] = None
        column.count(noted["group"], outcome)
        for name in noted["needs"]:
            if column.declared.get(name, False):
                column.count(f"needs {name}", outcome)

    def text(self) -> str:
        return "\n\n".join(_aligned(rows) for _, rows in self._tables())

    def markdown(self) -> str:
        return "\n\n".join(_piped(rows) for _, rows in self._tables())

    def write(self, page: Path) -> None:
        """Between the marks of a page, or as the whole of a new one."""
        between = f"{BEGIN}\n\n{self.markdown()}\n\n{END}"
        page.write_text(_BETWEEN.sub(lambda _: between, text_of(page)), encoding="utf-8")

    def _tables(self) -> Iterable[tuple[str, list[list[str]]]]:
        for title, groups in self._groups.items():
            columns = [column for column in self._columns.values() if column.title == title]
            capabilities = dict.fromkeys(name for column in columns for name in column.declared)
            rows = [[title, *(in_words(column.name) for column in columns)]]
            rows += [[name, *(column.of_capability(name) for column in columns)] for name in capabilities]
            rows += [[in_words(name), *(column.of_group(name) for column in columns)] for name in groups]
            yield title, rows


def text_of(page: Path) -> str:
    """Of the page that the table goes into; refused, if there is no place for it."""
    if not page.exists():
        return f"{BEGIN}\n{END}\n"
    text = page.read_text(encoding="utf-8")
    if not _BETWEEN.search(text):
        raise ValueError(f"{page} has no lines {BEGIN} and {END}; the table goes between them.")
    return text


def in_words(name: str) -> str:
    """Of a class: `TestMemoryJournal` is the memory journal."""
    first, *rest = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removeprefix("Test")).split()
    return " ".join([first, *map(str.lower, rest)])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _piped(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)
