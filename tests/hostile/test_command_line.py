"""The command line, given what nobody types: an exit code and a sentence, nothing that acts on the terminal, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eventspine import Spine
from eventspine.ids import id_text
from eventspine.journal.port import Append, Unit
from eventspine.journal.sqlite import SQLiteJournal

from .corpus import UNREADABLE, promptly
from .test_foreign import ODD, Plain, teller

SHOP = """
from decimal import Decimal
from typing import Any
from eventspine import Event, Service
class Placed(Event, context="shop", key="key"):
    key: str
    number: int = 0
    money: Decimal = Decimal(0)
    value: Any = None
shop = Service("shop")
"""
ACTS = "\x1b\x07\x00\x9b\u202e\u2066\r"
EVIL = ["\x1b[2J", "\u202eb", "'; drop table spine_events; --", "../x", "x" * 10_000, "\udcff", "\r\nX: y", "-1", "*"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def spine(folder: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPINE_")}
    line = [sys.executable, "-m", "eventspine.cli", *words]
    done = subprocess.run(line, cwd=folder, env=environment, input=stdin, capture_output=True, timeout=60)
    told = (done.stdout + done.stderr).decode()
    assert "Traceback" not in told
    assert "unexpected" not in told, told
    assert not set(ACTS) & set(told), ascii(told)
    assert done.returncode in (0, 1, 2, 3, 4), told
    return done


def read_back(folder: Path) -> dict[str, Any]:
    (line,) = spine(folder, "tail", "--no-follow", "--json").stdout.splitlines()
    data: dict[str, Any] = json.loads(line)["data"]
    return data


def test_every_digit_of_a_decimal_arrives(folder: Path) -> None:
    given = '{"key":"a","money":12345678901234567890.123456789012345678}'
    assert spine(folder, "publish", "-m", "shop", "Placed", given).returncode == 0
    assert read_back(folder)["money"] == "12345678901234567890.123456789012345678"


def test_a_key_from_the_command_line_joins_the_data_as_text(folder: Path) -> None:
    evil = 'a","number":7,"x":"\x1b[2J'
    assert spine(folder, "publish", "-m", "shop", "--key", evil, "Placed", '{"money":1}').returncode == 0
    assert read_back(folder) == {"key": evil, "number": 0, "money": "1", "value": None}


@pytest.mark.parametrize("name", [name for name, data in UNREADABLE.items() if b"\n" not in data])
def test_lines_that_are_no_event_are_refused(folder: Path, name: str) -> None:
    done = spine(folder, "publish", "-m", "shop", "Placed", "-", stdin=UNREADABLE[name] + b"\n")
    assert done.returncode in ((0, 1) if name in ("nothing", "a mark in front") else (1,))
    assert len(done.stderr) < 2_000


@pytest.mark.parametrize("text", EVIL, ids=lambda text: ascii(text)[:20])
def test_names_that_are_not_names_find_nothing_and_do_nothing(folder: Path, text: str) -> None:
    """In one journal, with one event that is there afterwards as before."""
    assert spine(folder, "publish", "-m", "shop", "Placed", '{"key":"a"}').returncode == 0
    for words in (
        ["publish", "-m", "shop", "--correlation", text, text, "{}"],
        ["publish", "-m", "shop", "--service", text, "Placed", text],
        ["tail", "--no-follow", f"--type={text}", f"--key={text}", f"--channel={text}", f"--correlation={text}"],
        ["trace", "--", text],
        ["dead", "list", f"--service={text}"],
        ["subscriptions", "list", f"--service={text}"],
    ):
        spine(folder, *words)
    assert read_back(folder)["key"] == "a"


async def test_whatever_is_in_the_feed_is_shown_and_acts_on_nobodys_terminal(folder: Path) -> None:
    url, ids = f"sqlite:///{folder}/spine.db", []
    async with Spine(url, service=teller) as publishing:
        for changes in (*ODD.values(), *({"data": data} for data in UNREADABLE.values())):
            (record,) = publishing.records([Plain()], cause=None, time=None, id=None)
            changed = record._replace(**changes)
            await publishing.journal.commit([Unit(appends=[Append([changed])])])
            ids.append(changed.id)
    with promptly():
        lines = spine(folder, "tail", "--no-follow").stdout.decode().splitlines()
        assert len(lines) == len(ids)
    for line in spine(folder, "tail", "--no-follow", "--json").stdout.splitlines():
        json.loads(line)
    for id in ids[:8]:
        spine(folder, "trace", id_text(id))
    spine(folder, "doctor", "--deep", "--json")


async def test_the_deep_look_finds_nothing_wrong_with_what_was_only_odd(folder: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{folder}/spine.db")
    async with Spine(journal, service=teller) as publishing:
        await publishing.publish(Plain(key="\x1b[2J\0"))
        assert not await journal.check()
