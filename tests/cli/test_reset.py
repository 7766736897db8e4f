"""Starting over, and what keeps it from happening by mistake."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from eventspine.journal import _sqlite_aside as aside

from .test_terminal import read, terminal


def sold(path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("select * from shop_sold").fetchall()
    finally:
        connection.close()


@pytest.fixture
def file(story, tmp_path) -> Path:
    """The story's journal, with a table of a service in it."""
    connection = sqlite3.connect(tmp_path / "spine.db")
    connection.executescript("create table shop_sold (title text); insert into shop_sold values ('Emma')")
    connection.close()
    return tmp_path / "spine.db"


def test_it_says_what_goes_and_moves_the_file_aside_whole(say, file):
    done = say("reset", "--yes")

    assert done.exit_code == 0, done.stderr
    assert f"{file}: 6 events, 3 subscriptions, 3 parked or dead deliveries, 1 scheduled event" in done.stderr
    assert "and the tables shop_sold" in done.stderr
    assert f"{file} is now {file}.bak." in done.stdout
    assert not file.exists()
    assert sold(Path(f"{file}.bak")) == [("Emma",)]
    assert say("tail", "--no-follow", "--journal", f"sqlite:///{file}.bak").stdout.count("\n") == 5
    left = {path.name for path in file.parent.iterdir() if path.name.startswith("spine.db")}
    assert left <= {"spine.db.bak", "spine.db-lock", "spine.db.bak-lock", "spine.db.bak-wal", "spine.db.bak-shm"}


def test_an_earlier_backup_is_never_written_over(say, file, story):
    Path(f"{file}.bak").write_text("of yesterday")

    assert f"{file}.bak2" in say("reset", "--yes").stdout
    assert Path(f"{file}.bak").read_text() == "of yesterday"


def test_without_a_backup_it_is_gone(say, file):
    done = say("reset", "--yes", "--no-backup")

    assert f"{file} is gone." in done.stdout
    assert not list(file.parent.glob("spine.db*bak*"))
    assert not file.exists()


def test_where_nobody_can_answer_it_needs_a_yes(say, file):
    refused = say("reset")

    assert refused.exit_code == 2
    assert "add --yes" in refused.stderr
    assert file.exists()


@pytest.mark.parametrize(("answer", "left"), [("y\n", False), ("n\n", True)])
def test_it_asks_somebody_who_is_there(spine, file, answer, left):
    with terminal(spine, "reset") as ours:
        read(ours, f"Move all this aside, to {file}.bak?")
        os.write(ours, answer.encode())
        read(ours)

    assert file.exists() is left


def test_it_refuses_beside_a_process_at_work(spine):
    process = spine.run_shop()

    refused = spine("reset", "--yes")

    assert refused.returncode == 3
    assert f"(pid {process.pid})" in refused.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert spine("reset", "--yes").returncode == 0


def test_a_killed_process_does_not_keep_it_from_happening(spine):
    process = spine.run_shop()
    process.kill()
    process.wait()

    assert spine("reset", "--yes").returncode == 0


def test_it_refuses_a_file_that_a_program_without_services_has_open(say, file, monkeypatch):
    """A web application that only publishes is registered nowhere."""
    monkeypatch.setattr(aside, "WAIT_S", 0.05)
    other = sqlite3.connect(file)
    other.execute("select count(*) from spine_events").fetchone()

    refused = say("reset", "--yes")
    other.close()

    assert refused.exit_code == 3
    assert "Another program has" in refused.stderr
    assert file.exists()
    assert say("reset", "--yes").exit_code == 0


def test_without_that_look_the_other_program_would_lose_its_file(say, file, monkeypatch):
    monkeypatch.setattr(aside, "_leave_wal", lambda path: None)
    other = sqlite3.connect(file)
    other.execute("select count(*) from spine_events").fetchone()

    say("reset", "--yes")
    other.close()

    assert not file.exists()


def test_there_is_nothing_to_reset(say):
    assert say("reset", "--yes").exit_code == 4


def test_work_goes_on_after_it(spine):
    first = spine.run_shop()
    spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "c", "title": "Emma"}')
    first.send_signal(signal.SIGTERM)
    first.wait(30)
    spine("reset", "--yes")

    spine.run_shop()
    published = spine("publish", "-m", "bookshop", "BookOrdered", '{"customer": "c", "title": "Emma"}')

    assert " #1 " in published.stdout
