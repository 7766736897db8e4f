"""A journal that is gone under a running service: health says so, readiness ends, and the log is not flooded."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from eventspine import Service, Spine
from eventspine.engine.health import is_ready

from .material import Placed, until


async def test_a_deleted_journal_is_a_problem_then_not_ready(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stock = Service("stock")

    @stock.on(Placed)
    async def note(event: Placed) -> None: ...

    async with Spine(f"sqlite:///{tmp_path}/spine.db", lease_s=0.6) as spine, spine.running(stock):
        await until(lambda: is_ready(spine.health()))
        os.unlink(tmp_path / "spine.db")
        await until(lambda: any("can't be renewed" in problem for problem in spine.health()["problems"]))
        assert spine.health()["status"] == "degraded"
        await until(lambda: not is_ready(spine.health()))
        assert spine.health()["services"][0]["state"] == "cut off"
        warned = [
            one for one in caplog.records if "could not be renewed" in one.message and one.levelno == logging.WARNING
        ]
        assert len(warned) == 1
