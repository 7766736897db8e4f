"""`spine streams`: which there are, and one that is named by its entity alone is found out."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine import Aggregate, Event, Service, Spine, applies
from eventspine.journal._sqlite_restore import ENDED as IN_A_FILE
from eventspine.state.ended import ENDED


class Filled(Event, context="town", key="garage"):
    garage: str


class Garage(Aggregate):
    cars: int = 0

    def fill(self) -> None:
        self.record(Filled(garage=self.id))

    @applies(Filled)
    def _filled(self, event: Filled) -> None:
        self.cars += 1


class Counted(Event, context="town", key="garage"):
    garage: str
    cars: int


class Restated(Garage, name="garage"):
    def count(self) -> None:
        self.record(Counted(garage=self.id, cars=self.cars))

    @applies(Counted)
    def _counted(self, event: Counted) -> None:
        self.cars = event.cars


@pytest.fixture
def town(tmp_path: Path, say: Any) -> Any:
    async def fill() -> None:
        async with Spine(f"sqlite:///{tmp_path}/spine.db", service=Service("town")) as spine:
            for id in ("g1", "g2", "g1"):
                garage = await spine.load_or_new(Garage, id)
                garage.fill()
                await spine.save(garage)

    asyncio.run(fill())
    return lambda *arguments: say("streams", *arguments)


def test_they_are_listed_with_their_versions(town: Any) -> None:
    listed = json.loads(town("list", "--json").stdout)
    assert listed == [
        {"service": "town", "stream": "garage-g1", "version": 2, "last_type": "town.Filled", "deleted": False},
        {"service": "town", "stream": "garage-g2", "version": 1, "last_type": "town.Filled", "deleted": False},
    ]
    assert [row["stream"] for row in json.loads(town("list", "--prefix", "garage-g2", "--json").stdout)] == [
        "garage-g2"
    ]
    assert [row["service"] for row in json.loads(town("list", "--service", "town", "--json").stdout)] == ["town"] * 2
    refused = town("list", "--service", "nobody", "--json")
    assert (refused.exit_code, refused.stdout) == (4, "")
    assert "garage-g1" in town("list").stdout


@pytest.mark.parametrize(
    ("service", "stream", "told"),
    [
        ("town", "g1", "Did you mean garage-g1?"),
        ("town", "garage-g", "Did you mean garage-g"),
        ("town", "house-7", "`spine streams list --service town` shows them"),
        ("garage", "g1", "garage has no streams. There are some of town."),
    ],
)
def test_a_name_that_is_none_is_answered_with_what_may_be_meant(
    town: Any, service: str, stream: str, told: str
) -> None:
    result = town("show", service, stream)
    assert result.exit_code == 4
    assert told in result.output


def test_a_version_beyond_all_numbers_is_told_as_such(town: Any) -> None:
    ended = town("show", "town", "garage-g1", "--after", str(2**63))
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "is no number of versions" in ended.stderr


def test_where_there_are_none_it_says_so(say: Any, story: Any) -> None:
    assert say("streams", "list", "--json").stdout.strip() == "[]"
    assert "Nobody has any" in say("streams", "show", "garage", "g1").output


# --- when it is over --------------------------------------------------------------------------------------------------


def test_one_is_deleted_once_it_is_confirmed(town: Any, say: Any) -> None:
    asked = town("delete", "town", "garage-g1")
    assert (2, True) == (asked.exit_code, "Delete the 2 events of garage-g1 for good?" in asked.output)
    assert 2 == len(json.loads(town("show", "town", "garage-g1", "--json").stdout))
    deleted = town("delete", "town", "garage-g1", "--yes", "--actor", "user:7", "--why", "pulled down")
    assert "garage-g1 of town: 2 events deleted.\n" == deleted.stdout
    shown = town("show", "town", "garage-g1", "--json")
    assert "garage-g1 was deleted by user:7 (pulled down) on 2" in shown.stderr
    (row,) = json.loads(shown.stdout)
    assert (3, "spine.StreamEnded") == (row["version"], row["event"]["type"])
    assert ("user:7", "pulled down") == (row["event"]["actor"], row["event"]["why"])
    trail = say("audit-trail", "--json")
    assert "2 events can't be in it" in trail.stderr
    assert ("user:7", "spine.StreamEnded") in [
        (row["actor"], row["type"]) for row in map(json.loads, trail.stdout.splitlines())
    ]


def test_one_that_was_deleted_already_says_when_and_by_whom_and_is_not_asked_about(town: Any) -> None:
    town("delete", "town", "garage-g1", "--yes", "--actor", "user:7", "--why", "pulled down")
    again = town("delete", "town", "garage-g1", "--actor", "user:8")
    assert (0, True) == (again.exit_code, "was deleted by user:7 (pulled down) on 2" in again.stdout), again.output
    assert "already. What was said then, by --actor and --why, stays." in again.stdout
    assert 1 == len(json.loads(town("show", "town", "garage-g1", "--json").stdout))


def test_one_that_was_deleted_has_a_mark_in_the_list(town: Any) -> None:
    town("delete", "town", "garage-g1", "--yes")
    listed = {row["stream"]: row["deleted"] for row in json.loads(town("list", "--json").stdout)}
    assert {"garage-g1": True, "garage-g2": False} == listed
    assert [True, False] == [line.rstrip().endswith("deleted") for line in town("list").stdout.splitlines()[-2:]]


def test_one_that_was_deleted_is_not_truncated(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    town("delete", "town", "garage-g1", "--yes")
    for how in (("--unchecked",), ("--aggregate", f"{__name__}:Restated")):
        told = town("truncate", "town", "garage-g1", "--before", "2", "--yes", *how)
        assert (True, True) == (told.exit_code != 0, "garage-g1 of town was deleted on 2" in told.output), told.output


def test_one_that_is_not_there_is_answered_with_what_may_be_meant(town: Any) -> None:
    for command in (["delete"], ["truncate", "--before", "2", "--unchecked"]):
        result = town(*command, "town", "g1", "--yes")
        assert (4, True) == (result.exit_code, "Did you mean garage-g1?" in result.output)


def test_one_is_truncated_before_what_restates_it(town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))

    async def count() -> None:
        async with Spine(f"sqlite:///{tmp_path}/spine.db", service=Service("town")) as spine:
            garage = await spine.load(Restated, "g1")
            garage.count()
            await spine.save(garage)

    asyncio.run(count())
    truncate = ("truncate", "town", "garage-g1", "--yes", "--before")
    aggregate = ("--aggregate", f"{__name__}:Restated")
    assert 2 == town(*truncate, "3").exit_code
    assert 2 == town(*truncate, "3", *aggregate, "--unchecked").exit_code
    assert "is no aggregate" in town(*truncate, "3", "--aggregate", f"{__name__}:Filled").output
    assert "leaves out cars" in town(*truncate, "2", *aggregate).output
    told = town(*truncate, "3", *aggregate)
    assert "garage-g1 of town: 2 events deleted; it begins with version 3.\n" == told.stdout, told.output
    assert [3] == [row["version"] for row in json.loads(town("show", "town", "garage-g1", "--json").stdout)]
    other = town("truncate", "town", "garage-g2", "--before", "2", "--unchecked", "--yes")
    assert "garage-g2 of town has 1 version; its last event stays" in other.output


def test_doctor_finds_one_that_lacks_an_event(town: Any, say: Any, tmp_path: Path) -> None:
    town("truncate", "town", "garage-g1", "--before", "2", "--unchecked", "--yes")
    assert 0 == say("doctor", "--deep").exit_code, say("doctor", "--deep").output
    with closing(sqlite3.connect(tmp_path / "spine.db")) as file:
        file.execute("delete from spine_events where position = 3")
        file.commit()
    assert "1 stream lacks events between its first and its last" in say("doctor", "--deep").output.replace(
        "their", "its"
    )


def test_a_backup_that_still_has_what_was_deleted_is_told_by_name(town: Any, say: Any) -> None:
    town("delete", "town", "garage-g1", "--yes")
    say("backup", "copy.db")
    assert [] == json.loads(say("restore", "copy.db", "--verify", "--json").stdout)["newer"]["deleted"]
    town("delete", "town", "garage-g2", "--yes")
    verified = json.loads(say("restore", "copy.db", "--verify", "--json").stdout)
    assert [{"service": "town", "stream": "garage-g2"}] == verified["newer"]["deleted"]
    for options in (["--verify"], ["--yes"]):
        told = say("restore", "copy.db", *options)
        assert (0, True) == (told.exit_code, "knows as deleted: garage-g2 of town." in told.output), told.output
    assert "What was there is " in told.output and ".bak." in told.output


def test_the_name_of_the_event_that_ends_a_stream_is_one() -> None:
    assert ENDED == IN_A_FILE


def test_a_backup_of_what_is_left_is_whole(town: Any, say: Any) -> None:
    town("truncate", "town", "garage-g1", "--before", "2", "--unchecked", "--yes")
    town("delete", "town", "garage-g2", "--yes")
    assert "Verified" in say("backup", "copy.db").output
    verified = json.loads(say("restore", "copy.db", "--verify", "--json").stdout)
    assert (True, "holds", 2, 2) == tuple(verified[name] for name in ("ok", "seal", "events", "streams"))
    assert 0 == say("restore", "copy.db", "--yes").exit_code
    assert [2] == [row["version"] for row in json.loads(town("show", "town", "garage-g1", "--json").stdout)]
