"""A bit that turns in the file: who finds it, and where nobody does but a backup. docs/how-to/recovery.md has the table."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventspine import Event, Service, Spine
from tests.faults.test_damage import _check, doctor

AT = 7  # the event that is hit


class Told(Event, context="tales", key="who"):
    who: str
    text: str


teller = Service("teller", publishes="tales")
hearer = Service("hearer")


@hearer.on(Told)
async def hear(event: Told) -> None: ...


def text_of(position: int) -> bytes:
    return b"the tale of position %04d" % position


async def tell(path: Path, first: int, upto: int) -> None:
    async with Spine(f"sqlite:///{path}", service=teller) as spine:
        for position in range(first, upto):
            await spine.publish(Told(who=f"k{position}", text=text_of(position).decode()))


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "spine.db"
    await tell(path, 1, 40)
    return path


@pytest.fixture
async def kept(path: Path) -> Path:
    kept = path.with_name("kept.db")
    async with Spine(f"sqlite:///{path}", service=teller) as spine:
        await spine.journal.backup(kept)
    return kept


def turn(path: Path, found: bytes) -> None:
    """The lowest bit of the first letter of what is found in the file, once."""
    whole = bytearray(path.read_bytes())
    at = whole.index(found)
    whole[at] ^= 1
    path.write_bytes(whole)


def against(path: Path, backup: Path) -> tuple[int, list[str] | str]:
    code, answer = doctor(path, "--against", str(backup))
    return code, [one for one in answer["findings"] if "Damaged" in one] if isinstance(answer, dict) else answer


@pytest.mark.promise("file damaged", "sqlite", "sqlite processes", lost="what is damaged, which is told")
async def test_a_letter_that_became_another_is_found_by_a_backup_alone(path: Path, kept: Path) -> None:
    assert against(path, kept) == (0, [])
    turn(path, text_of(AT))
    assert await _check(path) == []
    code, (said,) = against(path, kept)
    assert code == 1
    assert f"1 event is not what {kept} has, at position {AT}" in said
    assert "recovery.md" in said


@pytest.mark.parametrize("field", [b"tales.Told", b"teller"], ids=["type", "source"])
async def test_so_is_one_in_its_type_or_its_source(path: Path, kept: Path, field: bytes) -> None:
    whole = path.read_bytes()
    turn(path, whole[whole.rindex(field, 0, whole.index(text_of(AT))) :][:60])  # the event's own, just before its data
    assert await _check(path) == []
    assert against(path, kept)[0] == 1


async def test_one_in_an_id_is_found_by_the_index(path: Path) -> None:
    async with Spine(f"sqlite:///{path}") as spine:
        (record,) = (await spine.journal.feed(AT - 1, limit=1)).records
    turn(path, record.id)
    assert any("index" in one for one in await _check(path))


async def test_what_can_not_be_decoded_any_more_is_a_dead_delivery(path: Path) -> None:
    turn(path, b'{"who":"k%d"' % AT)
    assert await _check(path) == []
    async with Spine(f"sqlite:///{path}") as spine, spine.running(hearer):
        async with asyncio.timeout(40):
            while not (dead := await spine.journal.deliveries(states=["dead"])):
                await asyncio.sleep(0.01)  # between two looks
    assert [(row.position, row.reason) for row in dead] == [(AT, "undecodable")]


async def test_what_is_newer_than_the_backup_or_restored_from_it_is_no_difference(path: Path, kept: Path) -> None:
    await tell(path, 40, 60)
    assert against(path, kept) == (0, [])
    shutil.copy(path, newer := path.with_name("newer.db"))
    code, answer = restore(path, kept)
    assert code == 0, answer
    await tell(path, 100, 110)  # at positions at which the newer one has others
    assert against(path, newer) == (0, [])


def restore(path: Path, kept: Path) -> tuple[int, Any]:
    line = [
        sys.executable,
        "-m",
        "eventspine.cli",
        "restore",
        "--json",
        "--yes",
        "--journal",
        f"sqlite:///{path}",
        str(kept),
    ]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


async def _damage_it(path: Path) -> None:
    turn(path, text_of(AT))


async def _anothers(path: Path) -> None:
    path.unlink()
    await tell(path, 1, 3)


@pytest.mark.parametrize(("change", "said"), [(_damage_it, "damaged itself"), (_anothers, "another journal's")])
async def test_a_backup_that_can_not_tell_says_so(
    path: Path, kept: Path, change: Callable[[Path], Any], said: str
) -> None:
    await change(kept)
    code, answer = against(path, kept)
    assert code == 2
    assert said in answer
