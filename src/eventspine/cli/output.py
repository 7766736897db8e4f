"""How answers are printed: JSON that is always one document (or one line an event), and tables.

Nothing printed can act on the terminal. On a terminal tables are rich's; in a pipe they are aligned plain text, so that
`awk` and eyes both find the columns. Rows are taken in blocks: a listing of any length needs little memory.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

import click
import msgspec

from ..observe.printable import printable, printable_json
from .exits import Misused

BLOCK = 500
Item = TypeVar("Item")


def say(text: str = "") -> None:
    """A line of the answer. Line breaks in `text` are ours; whatever came from outside has been made printable."""
    click.echo(text)


def note(text: str) -> None:
    """A remark beside the answer: on stderr, so that a pipe gets the answer alone."""
    click.echo(text, err=True)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def json_line(value: Any) -> str:
    return printable_json(msgspec.json.encode(value).decode())


def json_document(value: Any) -> str:
    return printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


async def say_json_array(items: AsyncIterator[Any]) -> None:
    """One JSON array, written as its items come, one on each line."""
    opening = "["
    async for item in items:
        click.echo(f"{opening}\n  {json_line(item)}", nl=False)
        opening = ","
    say("[]" if opening == "[" else "\n]")


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """One block. The columns are headed again only where a listing starts: pass () for the blocks after it."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if on_terminal():
        _say_rich(columns, cells)
    else:
        _say_plain(columns, cells)


def _say_plain(columns: Sequence[str], cells: list[list[str]]) -> None:
    table = [[column.upper() for column in columns], *cells] if columns else cells
    if not table:
        return
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    for row in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say_rich(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(columns), header_style="bold")
    console = Console(highlight=False)
    whole = _whole(columns, cells, console.width * 6 // 10)
    for index, column in enumerate(columns or [""] * len(cells[0] if cells else ())):
        table.add_column(column, overflow="fold", no_wrap=index < whole)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _whole(columns: Sequence[str], cells: list[list[str]], room: int) -> int:
    """How many columns, from the left, are kept in one line: numbers, times and names. What is left folds beside them."""
    for index, column in enumerate(zip(*([columns] if columns else []), *cells, strict=True)):
        room -= max(map(len, column)) + 2
        if room < 0:
            return index
    return len(columns)


async def say_listing(
    items: AsyncIterator[Item],
    *,
    as_json: bool,
    view: Callable[[Item], Any],
    columns: Sequence[str],
    row: Callable[[Item], Sequence[object]],
    none: str,
) -> None:
    """What every `list` prints: an array, or a table, or a word on stderr that there is none."""
    if as_json:
        await say_json_array(view(item) async for item in items)
        return
    block: list[Sequence[object]] = []
    heads: Sequence[str] = columns
    async for item in items:
        block.append(row(item))
        if len(block) == BLOCK:
            say_table(heads, block)
            block, heads = [], ()
    if block:
        say_table(heads, block)
    elif heads:
        note(none)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `--yes` was said. Where nobody can answer, refuse: a pipe must say it beforehand."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Misused(f"{question} Nobody is here to ask: add --yes.")
    click.confirm(question, abort=True, err=True)


def size(count: int) -> str:
    """Bytes, to a tenth of the unit that suits them."""
    amount: float = count
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"


def shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
