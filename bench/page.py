"""The results as a table on a terminal, as JSON, and as a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .figures import Figure
from .places import machine

PAGE = """\
# Benchmarks

Every figure stands beside a raw twin or a peer that ran in turns with it, on the same machine, in the same minutes. A
ratio is the median over rounds, with the least and the greatest in brackets. The machine was shared with other work
({sharing}), so rates by themselves say little, ratios more. Nothing here passes or fails: *to reach* is what
we want.

    make bench{arguments}

| | |
|---|---|
| when | {date} |
{machine}

Durability of both sides: WAL, `synchronous=FULL`, so that what was acknowledged survives the loss of power. Files in a
temporary folder on {file_system}, removed afterwards. FastStream's broker and the `memory://` journal keep nothing.

{tables}
"""


@dataclass
class Section:
    """What one measurement gave."""

    name: str
    seconds: float
    load: tuple[str, str]  # of the machine, before and after
    figures: list[Figure]

    @property
    def command(self) -> str:
        return f"python -m bench {self.name}"


def text(section: Section) -> str:
    lines = [f"{section.command}  ({section.seconds:.0f} s, load {section.load[0]} → {section.load[1]})"]
    for figure in section.figures:
        lines += ["", f"  {figure.work}", f"    {_measured(figure)}"]
        if figure.to_reach:
            lines.append(f"    to reach: {figure.to_reach}")
        lines += [f"    beside: {line}" for line in figure.beside]
    return "\n".join(lines)


def write_json(path: Path, sections: Sequence[Section], run: Mapping[str, str]) -> None:
    found = {
        "run": dict(run),
        "machine": machine(),
        "sections": [
            {
                "name": section.name,
                "seconds": section.seconds,
                "load": section.load,
                "figures": [figure.as_dict() for figure in section.figures],
            }
            for section in sections
        ],
    }
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def write_page(path: Path, sections: Sequence[Section], run: Mapping[str, str]) -> None:
    about = machine()
    loads = [load for section in sections for load in section.load]
    path.write_text(
        PAGE.format(
            sharing=f"load {min(loads, key=float)} to {max(loads, key=float)}",
            arguments=run["arguments"],
            date=run["date"],
            machine="\n".join(f"| {name} | {value} |" for name, value in about.items()),
            file_system=about["file system"],
            tables="\n".join(_table(section) for section in sections).rstrip(),
        )
    )


def _table(section: Section) -> str:
    rows = [
        f"| {figure.work} | {_measured(figure)} | {figure.to_reach} | {'<br>'.join(figure.beside)} |"
        for figure in section.figures
    ]
    return "\n".join(
        [
            f"## `{section.command}`",
            "",
            f"Load {section.load[0]} before, {section.load[1]} after.",
            "",
            "| work | measured | to reach | beside |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _measured(figure: Figure) -> str:
    return f"{figure.measured} = {figure.ratio}" if figure.ratio else figure.measured
