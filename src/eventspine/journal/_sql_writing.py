"""The part of a journal in SQL that commits units: handed to the writer in portions, answered on a loop or to a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._groups import Figures, portions
from ._sql_jobs import LoopAnswer, ThreadAnswer, Units
from .port import Unit, Verdict


class Writing:
    if TYPE_CHECKING:

        def _here(self) -> Any: ...  # what is running in this process; its `writer` takes jobs

    async def commit(self, units: Sequence[Unit]) -> list[Verdict]:
        loop, writer, answers = asyncio.get_running_loop(), self._here().writer, []
        for some, weight in portions(units):
            answers.append(LoopAnswer(loop))
            writer.submit(Units(some, answers[-1], weight))
        return [verdict for answer in answers for verdict in await answer.future]

    def commit_blocking(self, units: Sequence[Unit]) -> list[Verdict]:
        """For callers in threads, who wait."""
        writer, answers = self._here().writer, []
        for some, weight in portions(units):
            answers.append(ThreadAnswer())
            writer.submit(Units(some, answers[-1], weight))
        return [verdict for answer in answers for verdict in answer.future.result()]

    @property
    def figures(self) -> Figures:
        figures: Figures = self._here().writer.figures
        return figures
