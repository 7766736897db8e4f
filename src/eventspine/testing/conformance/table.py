"""The capability table: what each suite's subject declares, and what came of the tests; as text and as a page of docs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- capabilities: made by --eventspine-conformance -->", "<!-- end -->"
FAILED, PASSED, SKIPPED = "failed", "passed", "skipped"
SHOWN = {True: "✓", False: "not declared"}
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
        if not self.declared.get(name, False):
            return SHOWN[False]
        return self._cell(f"needs {name}", SHOWN[True])

    def of_group(self, name: str) -> str:
        return self._cell(name, "")

    def _cell(self, row: str, otherwise: str) -> str:
        counts = self.outcomes.get(row, {})
        failed, passed, skipped = (counts.get(outcome, 0) for outcome in (FAILED, PASSED, SKIPPED))
        if failed:
            return f"✗ {failed} of {failed + passed} failed"
        if passed:
            return f"✓ {passed}" + (f", {skipped} not declared" if skipped else "")
        return SHOWN[False] if skipped else otherwise


class Table:
    """Filled test by test; a column per suite class, a table per kind of suite."""

    def __init__(self) -> None:
        self._columns: dict[str, Column] = {}
        self._groups: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._columns)

    def add(self, noted: Mapping[str, Any], outcome: str) -> None:
        column = self._columns.setdefault(
            noted["suite"], Column(noted["suite"], noted["title"], dict(noted["declared"]))
        )
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
        text = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
        if BEGIN not in text:
            raise ValueError(f"{page} has no lines {BEGIN} and {END}; the table goes between them.")
        between = f"{BEGIN}\n\n{self.markdown()}\n\n{END}"
        page.write_text(_BETWEEN.sub(lambda _: between, text), encoding="utf-8")

    def _tables(self) -> Iterable[tuple[str, list[list[str]]]]:
        for title, groups in self._groups.items():
            columns = [column for column in self._columns.values() if column.title == title]
            capabilities = dict.fromkeys(name for column in columns for name in column.declared)
            rows = [[title, *(column.name for column in columns)]]
            rows += [[name, *(column.of_capability(name) for column in columns)] for name in capabilities]
            rows += [[in_words(name), *(column.of_group(name) for column in columns)] for name in groups]
            yield title, rows


def in_words(group: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", group).capitalize()


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _piped(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)
