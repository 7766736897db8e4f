"""`spine restore`: a backup is looked at from end to end before it takes anybody's place."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Delivery, Event, Service, Spine
from eventspine.errors import JournalBusy, SettingsError
from eventspine.journal._sqlite_aside import free_name
from eventspine.journal._sqlite_restore import put_in_place


class Noted(Event, context="notes", key="topic"):
    topic: str
    text: str = ""


NOTES: Service[Any] = Service("notes")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/spine.db"


def publish(url: str, *texts: str) -> None:
    async def all_of_them() -> None:
        async with Spine(url, service=NOTES) as spine:
            for text in texts:
                await spine.publish(Noted(topic="tea", text=text))

    asyncio.run(all_of_them())


def ask(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute(query).fetchall()


def texts(path: Path) -> list[str]:
    return [json.loads(data)["text"] for (data,) in ask(path, "select data from spine_events order by position")]


@pytest.fixture
def copy(url: str, say: Any, tmp_path: Path) -> Path:
    publish(url, "one", "two")
    assert say("backup", "copy.db").exit_code == 0
    return tmp_path / "copy.db"


def looked_at(say: Any, path: Path) -> Any:
    return json.loads(say("restore", str(path), "--verify", "--json").stdout)


def test_verify_counts_what_a_whole_backup_holds_and_leaves_nothing_behind(
    say: Any, copy: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    result = say("restore", "copy.db", "--verify")
    assert result.exit_code == 0, result.output
    assert "2 events up to position 2" in result.stdout
    assert "its events are those that were sealed" in result.stdout
    assert "has nothing that the backup lacks" in result.stdout
    assert sorted(tmp_path.iterdir()) == before
    assert looked_at(say, copy)["seal"] == "holds"


def test_a_letter_that_became_another_in_an_event_is_found(say: Any, copy: Path, tmp_path: Path) -> None:
    """SQLite's own check finds nothing: the page is in order, and what stands there is a text."""
    content = copy.read_bytes()
    assert content.count(b'"two"') == 1
    copy.write_bytes(content.replace(b'"two"', b'"tvo"'))
    assert ask(copy, "pragma integrity_check") == [("ok",)]
    result = say("restore", "copy.db", "--yes")
    assert result.exit_code == 1
    assert "its events are not those that were sealed" in result.output
    assert texts(tmp_path / "spine.db") == ["one", "two"]
    assert not list(tmp_path.glob("*.bak"))
    assert looked_at(say, copy)["ok"] is False


@pytest.mark.parametrize("keep", [0, 100, 5_000])
def test_a_file_that_was_cut_short_is_no_backup(say: Any, copy: Path, tmp_path: Path, keep: int) -> None:
    copy.write_bytes(copy.read_bytes()[:keep])
    assert say("restore", "copy.db", "--yes").exit_code in (1, 2)
    assert texts(tmp_path / "spine.db") == ["one", "two"]


@pytest.mark.parametrize("command", [["restore"], ["restore", "--verify"], ["doctor", "--against"]], ids=" ".join)
def test_a_backup_that_is_not_there_is_not_found(say: Any, copy: Path, command: list[str]) -> None:
    result = say(*command, "nix.db")
    assert (result.exit_code, result.stderr) == (4, "spine: There is no file nix.db.\n")


def test_another_programs_database_is_no_backup(say: Any, copy: Path, tmp_path: Path) -> None:
    ask(tmp_path / "other.db", "create table t (a)")
    result = say("restore", "other.db", "--yes")
    assert result.exit_code == 2
    assert "no journal" in result.output


def test_a_copy_that_was_written_to_says_so_instead_of_holding(say: Any, copy: Path, tmp_path: Path) -> None:
    publish(f"sqlite:///{copy}", "three")
    assert looked_at(say, copy)["seal"] == "written since"


def test_a_copy_without_a_seal_says_so_and_can_be_restored(say: Any, copy: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(copy)) as file:
        file.execute("delete from spine_meta where name = 'seal'")
        file.commit()
    assert looked_at(say, copy)["seal"] == "none"
    assert say("restore", "copy.db", "--yes").exit_code == 0


def test_it_says_what_is_newer_in_the_journal_in_place(say: Any, copy: Path, url: str) -> None:
    publish(url, "three", "four")
    found = looked_at(say, copy)["newer"]
    assert (found["events"], found["differs_at"], found["same"]) == (2, None, True)
    assert found["first"] < found["last"]
    told = say("restore", "copy.db", "--verify").stdout
    assert "has 2 events that the backup lacks" in told
    assert "They would be lost here" in told


def test_it_says_where_two_histories_part(say: Any, copy: Path, url: str) -> None:
    publish(url, "three")
    publish(f"sqlite:///{copy}", "another three")
    found = looked_at(say, copy)["newer"]
    assert (found["events"], found["differs_at"]) == (1, 3)
    told = say("restore", "copy.db", "--verify").stdout
    assert "From position 3 on the two hold different events" in told
    assert "has 1 event that the backup lacks" in told
    assert "would be lost here" in told


def test_a_backup_of_another_journal_is_refused_until_that_is_said(say: Any, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    publish(f"sqlite:///{other}", "x")
    for option in ("--verify", "--yes"):
        result = say("restore", "copy.db", option, "--journal", f"sqlite:///{other}")
        assert result.exit_code == 3, result.output
        assert "this is no backup of it" in result.output
        assert "has 1 event that the backup lacks" in result.stdout, "by position alone it would be none"
    assert texts(other) == ["x"]
    assert say("restore", "copy.db", "--stranger", "--yes", "--journal", f"sqlite:///{other}").exit_code == 0
    assert texts(other) == ["one", "two"]


@pytest.mark.parametrize("place", ["spine.db", "new.db"])
def test_chosen_history_is_no_backup(say: Any, copy: Path, tmp_path: Path, place: str) -> None:
    assert say("replay", "--into", "scratch.db").exit_code == 0
    result = say("restore", "scratch.db", "--yes", "--journal", f"sqlite:///{tmp_path}/{place}")
    assert result.exit_code == 3, result.output
    assert "a scratch journal" in result.output
    assert not list(tmp_path.glob("*.bak"))


def test_the_backup_takes_its_place_and_the_old_file_is_moved_aside(
    say: Any, copy: Path, url: str, tmp_path: Path
) -> None:
    publish(url, "three")
    result = say("restore", "copy.db", "--yes")
    assert result.exit_code == 0, result.output
    assert texts(tmp_path / "spine.db") == ["one", "two"] == texts(copy)
    assert texts(tmp_path / "spine.db.bak") == ["one", "two", "three"]
    assert "--take-over" in result.output
    assert not list(tmp_path.glob("*.restoring"))


def test_r15_a_backup_that_is_restored_twice_is_another_incarnation_each_time(
    say: Any, copy: Path, tmp_path: Path
) -> None:
    query = "select value from spine_meta where name = 'incarnation'"
    seen = [ask(tmp_path / "spine.db", query), ask(copy, query)]
    for _ in range(2):
        assert say("restore", "copy.db", "--yes").exit_code == 0
        seen.append(ask(tmp_path / "spine.db", query))
    assert len({value for ((value,),) in seen}) == 4


def test_a_service_goes_on_after_it_and_handles_nothing_twice(say: Any, url: str, tmp_path: Path) -> None:
    handled: list[str] = []
    reader: Service[Any] = Service("reader")

    @reader.on(Noted)
    async def read(event: Noted, delivery: Delivery) -> None:
        handled.append(event.text)

    async def run(count: int) -> None:
        async with Spine(url, service=NOTES) as spine, spine.running(reader), asyncio.timeout(30):
            while len(handled) < count:
                await asyncio.sleep(0.01)

    publish(url, "one", "two")
    asyncio.run(run(2))
    assert say("backup", "copy.db").exit_code == 0
    publish(url, "lost")
    assert say("restore", "copy.db", "--yes").exit_code == 0
    publish(url, "three")
    asyncio.run(run(3))
    assert handled == ["one", "two", "three"]


def test_nothing_is_restored_beside_a_process_at_work(spine: Any) -> None:
    spine.run_shop()
    assert spine("backup", "copy.db").returncode == 0
    result = spine("restore", "copy.db", "--yes")
    assert result.returncode == 3
    assert "At work on this journal" in result.stderr
    assert not list(spine.folder.glob("*.bak"))


def test_who_has_the_file_open_without_a_word_is_noticed_and_the_old_file_stays(
    say: Any, copy: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "spine.db")) as other:
        other.execute("begin").close()
        other.execute("select * from spine_meta").fetchall()
        result = say("restore", "copy.db", "--yes")
    assert result.exit_code == 3
    assert texts(tmp_path / "spine.db") == ["one", "two"]
    assert not list(tmp_path.glob("*.bak")) + list(tmp_path.glob("*.restoring*"))


def test_a_log_that_was_left_of_a_journal_that_is_gone_is_not_taken_for_a_part_of_it(
    say: Any, copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "spine.db").unlink()
    (tmp_path / "spine.db-wal").write_bytes(b"old")
    result = say("restore", "copy.db", "--yes")
    assert result.exit_code == 2
    assert "spine.db-wal" in result.output
    assert not (tmp_path / "spine.db").exists()


KILLED_BEFORE_IT_IS_NAMED = """
import os, pathlib, runpy, signal, sys
rename = pathlib.Path.rename
def killed(self, target):
    if str(self).endswith(".restoring"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
pathlib.Path.rename = killed
sys.argv = ["spine", "restore", "copy.db", "--yes"]
runpy.run_module("eventspine.cli", run_name="__main__")
"""


def test_after_a_restore_that_was_killed_half_way_nobody_begins_an_empty_journal(
    say: Any, copy: Path, url: str, tmp_path: Path
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BEFORE_IT_IS_NAMED],
        cwd=tmp_path,
        env=os.environ | {"SPINE_JOURNAL": url},
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "spine.db").exists()
    with pytest.raises(SettingsError, match="was interrupted"):
        publish(url, "three")
    told = say("tail", "--no-follow")
    assert told.exit_code == 2
    assert "Say `spine restore` with the backup again" in told.output
    assert not (tmp_path / "spine.db").exists()
    assert say("restore", "copy.db", "--yes").exit_code == 0
    assert texts(tmp_path / "spine.db") == ["one", "two"]
    assert not list(tmp_path.glob("*.restoring"))
    publish(url, "three")


def test_two_restores_at_once_are_one_and_the_other_is_refused(say: Any, copy: Path, url: str, tmp_path: Path) -> None:
    stops = KILLED_BEFORE_IT_IS_NAMED.replace("SIGKILL", "SIGSTOP")
    env = os.environ | {"SPINE_JOURNAL": url}
    with subprocess.Popen([sys.executable, "-c", stops], cwd=tmp_path, env=env) as first:
        try:
            _, status = os.waitpid(first.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            result = say("restore", "copy.db", "--yes")
            assert result.exit_code == 3
            assert "Another restore of" in result.output
            assert (tmp_path / "spine.db.restoring").exists()
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == 0
        finally:
            first.kill()
    assert texts(tmp_path / "spine.db") == texts(tmp_path / "spine.db.bak") == ["one", "two"]
    assert not list(tmp_path.glob("*.restoring*"))


def test_a_file_that_was_moved_aside_meanwhile_is_not_written_over(copy: Path, tmp_path: Path) -> None:
    place, aside = tmp_path / "spine.db", tmp_path / "spine.db.bak"
    put_in_place(copy, place, aside)
    before = aside.read_bytes()
    with pytest.raises(JournalBusy, match="has come to be meanwhile"):
        put_in_place(copy, place, aside)  # who has chosen its name before the first was done
    assert aside.read_bytes() == before
    assert place.exists()
    put_in_place(copy, place, free_name(place))


def test_nor_after_one_whose_last_step_failed(
    say: Any, copy: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as failing:
        failing.setattr(Path, "rename", refused)
        assert say("restore", "copy.db", "--yes").exit_code != 0
    with pytest.raises(SettingsError, match="was interrupted"):
        publish(url, "three")
    assert say("restore", "copy.db", "--yes").exit_code == 0
    assert texts(tmp_path / "spine.db") == ["one", "two"] == texts(tmp_path / "spine.db.bak")


def test_where_no_journal_is_the_backup_becomes_it(say: Any, copy: Path, tmp_path: Path) -> None:
    say("reset", "--yes", "--no-backup")
    assert say("restore", "copy.db", "--yes").exit_code == 0
    assert texts(tmp_path / "spine.db") == ["one", "two"]


def test_it_asks_before_it_does_and_never_restores_a_file_onto_itself(say: Any, copy: Path, tmp_path: Path) -> None:
    assert say("restore", "copy.db").exit_code == 2
    assert say("restore", "spine.db", "--yes").exit_code == 2
    assert not free_name(tmp_path / "spine.db").with_suffix(".bak2").exists()
