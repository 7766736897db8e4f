"""What the reader sees: bars that move on a terminal, plain lines in a pipe, and tables at the end."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bars, TaskID, TextColumn
from rich.table import Table

from .places import SERVICES
from .progress import Progress
from .reconcile import Reconciliation

LINE_EVERY_S = 2.0
WIDTH_IN_A_PIPE = 120
FIGURES = ("orders", "customers", "units", "cents", "refused", "lost", "twice", "out_of_order")


class Screen:
    def __init__(self, orders: int, console: Console | None = None) -> None:
        self.console = console or Console(
            highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_IN_A_PIPE
        )
        self.started = time.monotonic()
        self._orders = orders
        self._line_at = LINE_EVERY_S
        self._bars = Bars(
            TextColumn("         {task.description:<10}"), BarColumn(), MofNCompleteColumn(), console=self.console
        )
        self._tasks: dict[str, TaskID] = {name: self._bars.add_task(name, total=orders) for name in SERVICES}

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def begin(self) -> None:
        """Seconds are counted from here."""
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        self.console.print(f"{self.seconds:6.1f} s {text}", markup=False)

    def show(self, progress: Progress) -> None:
        for service, task in self._tasks.items():
            self._bars.update(task, completed=progress.of(service))
        if not self.console.is_terminal and self.seconds >= self._line_at:
            self._line_at = self.seconds + LINE_EVERY_S
            self.say("  ".join(f"{service} {progress.of(service) / self._orders:.0%}" for service in SERVICES))

    def show_text(self, text: str) -> None:
        self.console.print(text.rstrip(), markup=False)

    def show_books(self, result: Reconciliation) -> None:
        table = Table(title="The file of orders, and what each service has kept", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        for name in result.books:
            table.add_column(name, justify="right", no_wrap=True)
        for figure in FIGURES:
            cells = [_cell(figure, getattr(book, figure)) for book in result.books.values()]
            table.add_row("revenue" if figure == "cents" else figure.replace("_", " "), *cells)
        self.console.print()
        self.console.print(table)
        for difference in result.differences:
            self.console.print(f"DIFFERS  {difference}", markup=False)
        self.console.print("All books agree." if result.ok else "The books do NOT agree.")


def _cell(figure: str, value: int | None) -> str:
    if value is None:
        return "·"
    return f"{value // 100:,}.{value % 100:02}" if figure == "cents" else f"{value:,}"
