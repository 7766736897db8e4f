"""Processes that are killed while they do a command, and processes that race for one: it is done once, or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eventspine import Spine

from .shop import Customer, PlaceOrder, Shop

ROOT = Path(__file__).parents[2]


@contextmanager
def child(path: Path, point: str = "") -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "tests.commands.child", f"sqlite:///{path}", point]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], *ids: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{id}\n" for id in ids))
    process.stdin.flush()


def stored(path: Path) -> tuple[int, int, int]:
    """(rows, events, notes)"""
    with closing(sqlite3.connect(path)) as own:
        rows = own.execute("select count(*) from orders_rows").fetchone()[0]
        events = own.execute("select count(*) from spine_events").fetchone()[0]
        notes = own.execute("select count(*) from spine_notes where kind = 'answer'").fetchone()[0]
    return rows, events, notes


@pytest.mark.parametrize("point", ["in the handler", "before COMMIT", "after COMMIT"])
@pytest.mark.promise("process killed", "sqlite")
async def test_a_killed_command_is_whole_or_not_there_and_is_done_once_when_it_is_sent_again(
    point: str, tmp_path: Path
) -> None:
    path, shop = tmp_path / "spine.db", Shop()
    with child(path, point) as process:
        ask(process, "k")
        assert process.wait(60) == -signal.SIGKILL
    assert stored(path) == ((1, 2, 1) if point == "after COMMIT" else (0, 0, 0))
    async with Spine(f"sqlite:///{path}", service=shop.service) as spine:
        first = await spine.send(PlaceOrder(), command_id="k")
        assert first == await spine.send(PlaceOrder(), command_id="k")
        assert 1 == (await spine.load(Customer, "ann")).units
    assert stored(path) == (1, 2, 1)
    assert len(shop.called) == (0 if point == "after COMMIT" else 1)


@pytest.mark.promise("process killed", "sqlite")
def test_two_processes_that_race_for_each_id_do_each_command_once(tmp_path: Path) -> None:
    path, ids = tmp_path / "spine.db", [f"k{n}" for n in range(60)]
    with child(path) as one, child(path) as other:
        ask(one, *ids)
        ask(other, *ids)
        assert one.stdout is not None
        assert other.stdout is not None
        results = [(one.stdout.readline(), other.stdout.readline()) for _ in ids]
    assert [(first, first) for first, _ in results] == results
    assert len(ids) == len({first for first, _ in results})
    assert stored(path) == (60, 120, 60)
