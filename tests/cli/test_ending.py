"""How the command ends: exit codes, and one clear message, as other programs see them."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from eventspine.cli import exits
from eventspine.cli.app import COMMANDS, spine as root

READING = [
    ["tail", "--no-follow"],
    ["trace", "x"],
    ["dead", "list"],
    ["dead", "replay", "--all"],
    ["parked", "list"],
    ["subscriptions"],
    ["subscriptions", "pause", "x"],
    ["schedule", "list"],
    ["streams", "show", "a", "b"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_never_makes_a_journal(say, tmp_path, arguments):
    ended = say(*arguments)

    assert (4, "") == (ended.exit_code, ended.stdout)
    assert f"There is no journal at {tmp_path}/spine.db" in ended.stderr
    assert "spine run MODULE" in ended.stderr
    assert [] == list(tmp_path.iterdir())


def test_another_programs_database_is_left_alone(say, tmp_path):
    import sqlite3

    connection = sqlite3.connect(tmp_path / "spine.db")
    connection.execute("create table theirs (x)")
    connection.close()

    assert 4 == say("doctor").exit_code
    connection = sqlite3.connect(tmp_path / "spine.db")
    assert [("theirs",)] == connection.execute("select name from sqlite_master").fetchall()
    connection.close()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["nope"], "No such command 'nope'."),
        (["tial"], "No such command 'tial'. Did you mean tail?"),
        (["dead", "shwo"], "No such command 'shwo'. Did you mean show?"),
        (["dead", "show", "abc"], "'abc' can't be used; it is to be a whole number from 1 up, as `spine dead list`"),
        (["parked", "retry", "0"], "'0' can't be used; it is to be a whole number from 1 up, as `spine dead list`"),
        (["tail", "--last", "abc"], "'abc' can't be used; it is to be a whole number from 1 to 100,000."),
        (["top", "--every", "soon"], "'soon' can't be used; it is to be a number from 0.1 to 3,600."),
        (["run", "--lock-limit-s", "0"], "'0' can't be used; it is to be a number above 0."),
        (["tail", "--from", "someday"], "how long ago"),
        (["tail", "--from", "1", "--last", "2"], "Give one of them"),
        (["doctor", "--journal", "memory://"], "nothing to read"),
        (["doctor", "--journal", "redis://x"], "names no journal"),
        (["publish", "X", "{}"], "--module"),
    ],
)
def test_a_wrong_command_line_ends_with_2(say, arguments, word):
    ended = say(*arguments)

    assert 2 == ended.exit_code
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_journal_may_be_named_before_and_after_the_command_and_in_the_environment(
    say, story, tmp_path, monkeypatch
):
    monkeypatch.chdir("/")
    assert 4 == say("schedule", "list").exit_code
    assert 0 == say("schedule", "list", "--journal", story.url).exit_code
    assert 0 == say("--journal", story.url, "schedule", "list").exit_code
    monkeypatch.setenv("SPINE_JOURNAL", story.url)
    assert 0 == say("schedule", "list").exit_code


def test_a_journal_of_a_newer_release_refuses_with_3(say, story, tmp_path):
    import sqlite3

    connection = sqlite3.connect(tmp_path / "spine.db")
    with connection:
        connection.execute("update spine_meta set value = '99' where name in ('writer_min', 'schema_version')")
    connection.close()

    assert 3 == say("doctor").exit_code


def test_a_traceback_is_shown_with_debug_only(say, tmp_path):
    assert "Traceback" not in say("doctor").stderr
    assert "Traceback" in say("doctor", "--debug").stderr
    assert "Traceback" in say("--debug", "doctor").stderr


def test_an_error_of_ours_is_one_message(say, story, monkeypatch):
    async def broken(_: object) -> None:
        raise KeyError("x\x1b[2J")

    monkeypatch.setattr("eventspine.cli.doctor.examine", broken)
    ended = say("doctor")

    assert 1 == ended.exit_code
    assert "unexpected KeyError: 'x\\x1b[2J'" in ended.stderr
    assert "--debug" in ended.stderr


def test_help_is_quick_and_loads_no_command(spine):
    began = time.perf_counter()
    shown = spine("--help")
    took = time.perf_counter() - began

    print(f"spine --help took {took * 1000:.0f} ms")
    assert 0 == shown.returncode
    assert all(name in shown.stdout for name in COMMANDS)
    assert took < 5


def test_the_table_of_commands_says_what_the_commands_say():
    import click

    context = click.Context(root)
    for name, told in COMMANDS.items():
        command = root.get_command(context, name)
        assert command is not None
        assert told.rstrip(".") == command.get_short_help_str(300).rstrip("."), name


def test_whoever_leaves_a_pipe_ends_it_quietly(spine, story):
    line = " ".join(spine.line(("tail", "--no-follow", "--json")))
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} | true"], cwd=spine.folder, capture_output=True, text=True, timeout=60
    )

    assert (141, "") == (ended.returncode, ended.stderr)


def test_a_closed_pipe_is_141(say, story, monkeypatch):
    def closed(_: str) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("eventspine.cli.tail.line", closed)
    ended = say("tail", "--no-follow")

    assert (141, "", "") == (ended.exit_code, ended.stdout, ended.stderr)


def test_closed_standard_streams_do_no_harm(spine, story):
    line = " ".join(spine.line(("dead", "replay", "--all")))
    ended = subprocess.run(["bash", "-c", f"{line} <&- >&- 2>&-"], cwd=spine.folder, timeout=60, check=False)

    assert 0 == ended.returncode
    assert [] == json.loads(spine("dead", "list", "--json").stdout)


def test_ctrl_c_ends_a_tail_quietly(spine, story):
    tail = spine.start("tail", "--from", "earliest")
    assert tail.stdout is not None
    tail.stdout.readline()

    tail.send_signal(signal.SIGINT)
    _, told = tail.communicate(timeout=30)

    assert (130, "") == (tail.returncode, told.strip())


def test_output_in_an_encoding_that_can_not_show_it_is_escaped(spine, story):
    spine.environment["PYTHONIOENCODING"] = "ascii"
    shown = spine("trace", story.order)

    assert 0 == shown.returncode
    assert "`- stock.Reserved" in shown.stdout


def test_every_exit_code_is_documented():
    page = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

    for code in (
        0,
        exits.FAILED,
        exits.USAGE,
        exits.REFUSED,
        exits.NOTHING_FOUND,
        exits.INTERRUPTED,
        exits.PIPE_CLOSED,
    ):
        assert f"\n| {code} |" in page.read_text()
