"""tail, schedule, streams and doctor, on a journal that is there."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from contextlib import closing

import pytest

from eventspine.cli import doctor
from eventspine.journal import _sqlite_locks as locks
from eventspine.journal.port import Append, Process, Record, Unit
from eventspine.journal.processes import pid_start, this_host

from .conftest import record

needs_a_list = pytest.mark.skipif(not locks.LOCKS.exists(), reason="this system doesn't tell who holds a lock")


def positions(result) -> list[int]:
    return [json.loads(line)["position"] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], [1, 2, 3, 4, 6]),
        (["--private"], [1, 2, 3, 4, 5, 6]),
        (["--type", "stock.Reserved"], [2, 3, 4]),
        (["--type", "Ordered", "--type", "stock.Reserved"], [1, 2, 3, 4, 6]),
        (["--key", "c1"], [1, 2]),
        (["--channel", "orders"], [1, 6]),
        (["--correlation", "01900000-0000-7000-8000-000000000001"], [1, 2]),
        (["--from", "4"], [4, 6]),
        (["--from", "now"], []),
        (["--from", "1h"], [1, 2, 3, 4, 6]),
        (["--from", "2999-01-01T00:00:00Z"], []),
        (["-n", "2"], [1, 2]),
        (["--last", "2"], [4, 6]),
        (["--last", "2", "-n", "1"], [4]),
        (["--last", "2", "--type", "Reserved"], [3, 4]),
        (["--last", "1", "--key", "c1"], [2]),
        (["--last", "9"], [1, 2, 3, 4, 6]),
    ],
)
def test_tail_shows_what_was_asked_for(say, story, options, shown):
    assert shown == positions(say("tail", "--no-follow", "--json", *options))


UNKNOWN = "No event of the type {!r} is known here: it is not among the last 10,000 events, and no handler wants it."


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--type", "Nope"], f"Nothing of that is recorded.\n{UNKNOWN.format('Nope')}"),
        (
            ["--type", "stock.Reservd"],
            f"Nothing of that is recorded.\n{UNKNOWN.format('stock.Reservd')} Did you mean stock.Reserved?",
        ),
        (["--type", "Counted"], "Nothing of that is recorded."),
        (["--from", "7"], "Nothing is recorded from position 7 on: the last is 6."),
        (["--from", "99999", "--json"], "Nothing is recorded from position 99,999 on: the last is 6."),
        (["--type", "Reserved"], ""),
    ],
)
def test_tail_says_when_nothing_fits(say, story, options, told):
    ended = say("tail", "--no-follow", *options)

    assert (0, told) == (ended.exit_code, ended.stderr.strip())
    assert bool(told) == (ended.stdout == "")


def test_tail_that_waits_for_a_type_that_nobody_knows_says_so_and_goes_on(spine, story):
    tail = spine.start("tail", "--type", "orders.Orderd", "--type", "orders.New", "-n", "1", "--json")
    told = spine.until(tail, "No event")
    assert f"{UNKNOWN.format('orders.Orderd')} Did you mean orders.Ordered?" in told
    assert UNKNOWN.format("orders.New") in told

    new = record(99, "orders.New", "k")
    story.journal(lambda journal: journal.commit([Unit(appends=[Append([new])])]))
    shown, more = tail.communicate(timeout=60)
    assert (0, "orders.New", "") == (tail.returncode, json.loads(shown)["type"], more)


def test_an_event_is_one_line(say, story):
    lines = say("tail", "--no-follow").stdout.splitlines()

    assert 5 == len(lines)
    assert lines[0].endswith('#1  orders.Ordered  key=c1  orders  {"title": "Emma", "copies": 2}')


def test_an_event_in_json_is_a_cloud_event(say, story):
    event = json.loads(say("tail", "--no-follow", "--json", "--from", "2", "-n", "1").stdout)

    assert ("1.0", "stock.Reserved", "c1", "stock") == tuple(
        event[name] for name in ("specversion", "type", "subject", "source")
    )
    assert (story.order, story.order) == (event["correlationid"], event["causationid"])
    assert {"n": 1} == event["data"]


def test_tail_passes_page_after_page(say, story):
    data = b'{"pad": "%s"}' % (b"x" * 2000)
    many = [
        Record(0, n.to_bytes(16, "big"), "orders", 1, "k", "orders.Many", 1, 1, 0, "orders", None, None, 0, None, data)
        for n in range(1, 2001)
    ]
    story.journal(lambda journal: journal.commit([Unit(appends=[Append(many)])]))

    assert list(range(7, 2007)) == positions(say("tail", "--no-follow", "--json", "--type", "orders.Many"))
    assert [1, 2] == positions(say("tail", "--no-follow", "--json", "--key", "c1"))
    assert [2005, 2006] == positions(say("tail", "--no-follow", "--json", "--last", "2"))
    assert [2] == positions(say("tail", "--no-follow", "--json", "--last", "1", "--key", "c1"))


def test_what_is_scheduled_can_be_cancelled(say, story):
    (timer,) = json.loads(say("schedule", "list", "--json").stdout)
    assert ("2096-10-02T07:06:40Z", "c4") == (timer["due"], timer["event"]["subject"])

    assert 4 == say("schedule", "cancel", timer["event"]["id"], "nonsense").exit_code
    assert "1 scheduled event cancelled.\n" == say("schedule", "cancel", timer["event"]["id"]).stdout
    assert 4 == say("schedule", "cancel", timer["event"]["id"]).exit_code
    assert "Nothing is scheduled." in say("schedule", "list").stderr


def test_the_events_of_a_stream(say, story):
    versions = [
        Record(0, n.to_bytes(16, "big"), None, 1, "a1", "stock.Moved", 1, 1, 0, "stock", None, None, 0, None, b"{}")
        for n in (1, 2)
    ]
    story.journal(lambda journal: journal.commit([Unit(appends=[Append(versions, "stock", "shelf-1")])]))

    shown = json.loads(say("streams", "show", "stock", "shelf-1", "--json").stdout)
    assert [(1, 7), (2, 8)] == [(item["version"], item["event"]["position"]) for item in shown]
    assert 3 == len(say("streams", "show", "stock", "shelf-1").stdout.splitlines())
    assert 4 == say("streams", "show", "stock", "shelf-2").exit_code


def test_the_events_of_a_stream_as_it_was(say, story):
    """Up to the first that happened later: the third happened on the second day, and is not a state without the second."""
    day_us = 86_400_000_000
    versions = [
        Record(0, n.to_bytes(16, "big"), None, 1, "a1", "stock.Moved", 1, day * day_us, 0, "stock", None, None, 0, None, b"{}")
        for n, day in ((1, 0), (2, 5), (3, 1))
    ]  # fmt: skip
    story.journal(lambda journal: journal.commit([Unit(appends=[Append(versions, "stock", "shelf-1")])]))

    def shown(*options: str) -> list[int]:
        return [
            item["version"]
            for item in json.loads(say("streams", "show", "stock", "shelf-1", *options, "--json").stdout)
        ]

    assert [1] == shown("--at", "1970-01-03T00:00Z")
    assert [1, 2, 3] == shown("--at", "1970-01-06T00:00Z")
    assert [2, 3] == shown("--at", "1970-01-06T00:00Z", "--after", "1")
    assert [] == shown("--at", "1969-12-31T00:00Z")
    assert [1, 2, 3] == shown("--at", "10m")
    assert [] == shown("--at", "90000d"), "in 1970 none of it had happened"
    assert 2 == say("streams", "show", "stock", "shelf-1", "--at", "1970-01-03T00:00").exit_code  # no zone


def test_the_doctor_says_what_needs_somebody(say, story):
    examined = say("doctor", "--json")
    seen = json.loads(examined.stdout)

    assert 1 == examined.exit_code
    assert ("sqlite", 6, 1) == (seen["journal"]["kind"], seen["events"], seen["timers"])
    assert "power loss" in seen["journal"]["durability"]
    assert {"parked": 1, "dead": 2, "held": 0} == seen["deliveries"]
    assert any("no process of stock is alive" in finding for finding in seen["findings"])
    assert any("2 deliveries are dead" in finding for finding in seen["findings"])
    report = say("doctor").stdout
    assert "email.count has 2 events to handle" in report
    assert "email.confirm has 1 event to handle" in report, "one that is parked needs somebody too"


def test_the_doctor_s_advice_for_the_dead_is_a_command_that_works(say, story):
    advice = re.search("`spine (dead replay [^`]*)`", say("doctor").stdout)

    assert advice
    assert 0 == say(*advice[1].split()).exit_code
    assert "dead" not in say("doctor").stdout.rpartition("\n\n")[2]


@pytest.fixture
def alive(story):
    """A process of email, this one, whose lease ran out long ago; and one of stock that is dead."""
    us = 1_700_000_000_000_000

    async def take(journal):
        here = Process("here", "email", 1, os.getpid(), this_host(), us, 1, "", pid_started=pid_start(os.getpid()))
        await journal.lease(here, ["email/0"], [], us, us + 1)
        gone = Process("gone", "stock", 1, 1, this_host(), us, 1, "", pid_started="no such start")
        await journal.lease(gone, [], [], us, us + 1)

    story.journal(take)


def test_a_living_process_is_not_taken_for_gone_because_its_lease_waits_to_be_renewed(say, alive):
    report = say("doctor").stdout
    here, gone = sorted(line for line in report.splitlines() if line.startswith("process"))

    assert re.search(rf"email  pid {os.getpid()}  up .*, its leases ran out .* ago  1 lease$", here)
    assert gone.endswith("gone without leaving; its work waits for a process of stock  0 leases")
    assert "no process of email" not in report
    assert [True, False] == sorted(
        (row["alive"] for row in json.loads(say("doctor", "--json").stdout)["processes"]), reverse=True
    )


@needs_a_list
def test_the_doctor_names_who_holds_the_file_though_nobody_of_ours_waits(say, story, tmp_path):
    with closing(sqlite3.connect(tmp_path / "spine.db", isolation_level=None)) as own:
        own.execute("begin immediate")
        examined = json.loads(say("doctor", "--json").stdout)
        own.execute("rollback")

    assert os.getpid() == examined["journal"]["lock_pid"]
    assert examined["journal"]["lock_since"].endswith("Z")
    assert any(f"Process {os.getpid()} has held the write lock for 1." in one for one in examined["findings"])
    assert json.loads(say("doctor", "--json").stdout)["journal"]["lock_pid"] is None


@pytest.mark.parametrize(
    ("holder", "waiter", "told"),
    [
        (7, None, "Process 7 has held the write lock for "),
        (7, 8, "Process 7 has held the write lock for 9.0s, and process 8 waits for it: nobody else can write."),
        (None, 8, "Process 8 has waited for the write lock for 9.0s, which a connection holds that is not the spine's"),
    ],
)
def test_the_doctor_tells_the_holder_from_those_who_wait(monkeypatch, holder, waiter, told):
    monkeypatch.setattr(doctor, "now_us", lambda: 9_000_000)
    (finding,) = doctor._of_the_file({"lock_pid": holder, "lock_waits_pid": waiter, "lock_since_us": 0})

    assert finding.startswith(told)


def test_the_doctor_waits_for_no_lock(say, story, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "spine.db-lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert "events" in say("doctor").stdout
        assert [] != positions(say("tail", "--no-follow", "--json"))


def test_a_bare_group_says_once_what_there_is(spine):
    for words in ((), ("dead",)):
        told = spine(*words)
        both = told.stdout + told.stderr
        assert 1 == both.count("Usage: spine"), both
        assert "spine: Usage" not in both
        assert "Commands:" in both
