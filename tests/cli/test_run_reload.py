"""`spine run --reload`: a change starts another process; a mistake is shown, and the next change tries again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eventspine.cli import reload

ORDER = '{"customer": "%s", "title": "Emma"}'


class Log:
    """All that a process says, as it says it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.text += line

    def until(self, word: str, times: int = 1) -> str:
        give_up = time.monotonic() + 60
        while self.text.count(word) < times:
            assert time.monotonic() < give_up, f"{word!r} {times} times in vain:\n{self.text}"
            time.sleep(0.01)  # between two looks
        return self.text


def start(spine, *words: str) -> Log:
    log = Log(spine.start("run", "bookshop", "--reload", *words))
    log.until("running shopfront")
    log.until("watching ")
    return log


def change(spine, name: str, old: str, new: str) -> None:
    path = spine.folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def publish(spine, customer: str) -> None:
    assert 0 == spine("publish", "BookOrdered", ORDER % customer, "-m", "bookshop").returncode


def sent(spine, count: int) -> list[str]:
    path = spine.folder / "sent"
    give_up = time.monotonic() + 60
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert time.monotonic() < give_up
        time.sleep(0.01)  # between two looks
    return path.read_text().splitlines()


def test_a_change_starts_another_process_with_the_new_code(spine):
    log = start(spine)
    assert f"watching {spine.folder} (*.py, *.sql, *.toml)" in log.text
    publish(spine, "ann")
    first = sent(spine, 1)[0].split()
    change(spine, "bookshop.py", "{event.customer} {os", "NEW {event.customer} {os")
    log.until("bookshop.py changed: starting again")
    log.until("running shopfront", 2)
    publish(spine, "bob")
    second = sent(spine, 2)[1].split()

    assert (["ann"], ["NEW", "bob"]) == (first[:1], second[:2])
    assert first[-1] != second[-1], "another process"
    log.process.send_signal(signal.SIGTERM)
    log.until("SIGTERM: one process drains")
    assert 0 == log.process.wait(60)
    assert 1 == log.text.count("watching ")


def test_a_mistake_is_shown_and_the_next_change_tries_again(spine):
    log = start(spine)
    change(spine, "bookshop.py", "async def reserve", "async def reserve(")
    told = log.until("waiting for the next change")
    assert "spine: bookshop can't be imported: SyntaxError" in told
    assert "Traceback" not in told
    assert "watchfiles.main" not in told, "what changed is said once"
    change(spine, "bookshop.py", "async def reserve(", "async def reserve")
    log.until("running shopfront", 2)
    assert log.process.poll() is None


def test_a_mistake_at_the_first_start_waits_for_a_change_too(spine):
    module = spine.folder / "bookshop.py"
    good = module.read_text()
    module.write_text(good + "\n1 / 0\n")
    log = Log(spine.start("run", "bookshop", "--reload"))
    assert "ZeroDivisionError" in log.until("waiting for the next change")
    module.write_text(good)
    log.until("running shopfront")


def test_code_that_hangs_while_it_is_imported_is_ended_by_the_next_change(spine):
    log = start(spine)
    hangs = "\nopen('hangs', 'w').close()\n__import__('time').sleep(3600)\n"
    change(spine, "bookshop.py", "import os\n", f"import os\n{hangs}")
    give_up = time.monotonic() + 60
    while not (spine.folder / "hangs").exists():
        assert time.monotonic() < give_up, log.text
        time.sleep(0.01)  # between two looks
    change(spine, "bookshop.py", hangs, "")
    log.until("running shopfront", 2)


def test_an_edit_that_is_undone_leads_at_once(spine):
    log = start(spine)
    change(spine, "bookshop.py", "@stock.on(BookOrdered)", "@stock.on(BookOrdered, concurrency=2, on_dead='waits')")
    log.until("running shopfront", 2)
    change(spine, "bookshop.py", "@stock.on(BookOrdered, concurrency=2, on_dead='waits')", "@stock.on(BookOrdered)")
    log.until("running shopfront", 3)
    publish(spine, "ann")
    began = time.monotonic()
    sent(spine, 1)
    assert time.monotonic() - began < 15, "two leases would be twenty seconds"


def test_what_is_in_hand_does_not_hold_up_a_change(spine):
    change(
        spine,
        "bookshop.py",
        "async def reserve(event: BookOrdered) -> BookReserved:\n",
        "async def reserve(event: BookOrdered) -> BookReserved:\n"
        "    if not mended.exists():\n"
        "        import asyncio, logging; logging.warning('hanging'); await asyncio.sleep(3600)\n",
    )
    log = start(spine)
    publish(spine, "ann")
    log.until("hanging")
    (spine.folder / "mended").touch()
    began = time.monotonic()
    (spine.folder / "other.py").write_text("")
    log.until("running shopfront", 2)
    assert time.monotonic() - began < 20, "the drain of a deployment is thirty seconds"
    assert ["ann"] == [line.split()[0] for line in sent(spine, 1)]


def test_each_handled_event_is_a_line_in_development(spine):
    log = start(spine, "--log-format", "json")
    publish(spine, "ann")
    log.until('"handled"', 2)
    lines = [json.loads(line) for line in log.text.splitlines() if '"handled":' in line]
    assert [("stock.reserve", "orders.BookOrdered"), ("email.confirm", "stock.BookReserved")] == [
        (line["handler"], line["handled"]) for line in lines
    ]
    assert {"ann"} == {line["key"] for line in lines}
    assert all(line["took_ms"] >= 0 for line in lines)


def test_it_can_be_told_not_to(spine):
    log = start(spine, "--no-log-handled")
    publish(spine, "ann")
    sent(spine, 1)
    log.process.send_signal(signal.SIGTERM)
    assert 0 == log.process.wait(60)
    assert "handled in" not in log.text


def test_a_folder_of_ones_own_is_watched_when_told(spine):
    elsewhere = spine.folder.parent / "elsewhere"
    elsewhere.mkdir()
    log = start(spine, "--watch", str(elsewhere))
    assert f"watching {elsewhere} (" in log.text
    (elsewhere / "tables.sql").write_text("select 1")
    log.until(f"{elsewhere / 'tables.sql'} changed")


def test_a_child_that_is_killed_comes_back(spine):
    log = start(spine)
    publish(spine, "ann")
    pid = int(sent(spine, 1)[0].split()[-1])
    os.kill(pid, signal.SIGKILL)
    log.until("running shopfront", 2)


def test_a_missing_extra_is_named(spine):
    line = "import sys; sys.modules['watchfiles'] = None; from eventspine.cli.app import spine; spine(sys.argv[1:])"
    refused = subprocess.run(
        [sys.executable, "-c", line, "run", "bookshop", "--reload"],
        cwd=spine.folder, env=spine.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert 2 == refused.returncode
    assert 'spine: --reload needs watchfiles: pip install "eventspine[reload]".\n' == refused.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--reload", "--processes", "2"), "leave --processes out"),
        (("--watch", "."), "add --reload"),
        (("--processes", "2", "--journal", "memory://"), "Use a file"),
        (("--processes", "0"), "a whole number from 1"),
        (("--health", "http://x"), "a port such as"),
    ],
)
def test_what_does_not_go_together_is_refused(spine, words, told):
    refused = spine("run", "bookshop", *words)
    assert 2 == refused.returncode
    assert told in refused.stderr
    assert not (spine.folder / "spine.db").exists()


def test_sources_and_settings_are_watched_and_not_what_tools_keep():
    folders = [Path("/srv/.work/shop")]
    watched = ["app.py", "shop/tables.sql", "spine.toml"]
    others = [
        "spine.db-wal",
        "shop/__pycache__/a.py",
        ".venv/lib/a.py",
        "venv/x.py",
        ".git/x.py",
        "a.pyc",
        "a/build/b.py",
    ]
    assert [True] * 3 == [reload.is_watched(f"/srv/.work/shop/{name}", folders) for name in watched]
    assert [False] * 7 == [reload.is_watched(f"/srv/.work/shop/{name}", folders) for name in others]
