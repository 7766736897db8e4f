"""How far long work is: a bar on a terminal, on stderr; nothing in a pipe, where only answers belong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONG = 1000  # less is done before a bar can be read


@contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how much is done by now."""
    if total < LONG or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.update(task, completed=min(done, total))
