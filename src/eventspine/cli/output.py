"""How answers are printed: JSON that is always one document (or one line an event), and tables.

Nothing printed can act on the terminal. In a pipe tables are aligned plain text, so that `awk` and eyes both find the
columns. On a terminal a column is there only where it fits in one line: what is too wide stands below its row, by name, so
that no name, key or id is broken. Rows are taken in blocks: a listing of any length needs little memory.
"""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import click
import msgspec

from ..observe.printable import printable, printable_json
from .exits import Misused

BLOCK = 500
GAP = 2  # between two columns
LABEL = len("retention held by")  # the longest name of a fact that stands before it, one a line
INDENT = 4  # of what stands below its row
GLUE = "\0"  # keeps a name and the beginning of what it names together; nothing printable has it
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


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, headed: bool = True) -> None:
    """One block. The columns are headed again only where a listing starts."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if on_terminal():
        _say_rich(columns, cells, headed)
    else:
        _say_plain([[column.upper() for column in columns], *cells] if headed else cells)


def _say_plain(table: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _say_rich(columns: Sequence[str], cells: list[list[str]], headed: bool) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    beside = _beside(widths, console.width)

    def line(row: Sequence[str], style: str = "") -> Text:
        told = "".join(row[index] + " " * (widths[index] + GAP - cell_len(row[index])) for index in beside)
        return Text(told.rstrip(), style)

    show = partial(console.print, soft_wrap=True)  # what is longer than a line the terminal folds, and copies whole
    if headed:
        show(line(columns, "bold"))
    for row in cells:
        show(line(row))
        left = [(columns[index], cell) for index, cell in enumerate(row) if index not in beside and cell]
        for told in _below(left, console.width - INDENT):
            show(Text(textwrap.indent(told, " " * INDENT)))


def _beside(widths: Sequence[int], room: int) -> list[int]:
    """The columns that stand beside one another: from the left, each that still fits."""
    found: list[int] = []
    for index, width in enumerate(widths):
        if not found or width <= room:
            found.append(index)
            room -= width + GAP
    return found


def _below(cells: Sequence[tuple[str, str]], room: int) -> Iterator[str]:
    """What did not fit, named, as many to a line as fit. Only a word that is longer than a line goes over its end."""
    line = ""
    for name, cell in cells:
        told = f"{name}:{GLUE}{cell}" if name else cell
        if line and len(line) + GAP + len(told) > room:
            yield _folded(line, room)
            line = ""
        line = f"{line}{' ' * GAP}{told}" if line else told
    if line:
        yield _folded(line, room)


def _folded(line: str, room: int) -> str:
    lines = textwrap.wrap(line, max(1, room), break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(GLUE, " ")


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
    first = True
    async for item in items:
        block.append(row(item))
        if len(block) == BLOCK:
            say_table(columns, block, headed=first)
            block, first = [], False
    if block:
        say_table(columns, block, headed=first)
    elif first:
        note(none)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `--yes` was said. Where nobody can answer, refuse: a pipe must say it beforehand."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Misused(f"{question} Nobody is here to ask: add --yes.")
    with _interruptible():
        click.confirm(question, abort=True, err=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Whoever asks holds up the loop, and asyncio's own handler has Ctrl-C only cancel what waits for the loop to go on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
