"""tail, schedule, streams and doctor, on a journal that is there."""

from __future__ import annotations

import json

import pytest

from eventspine.journal.port import Append, Record, Unit


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
    ],
)
def test_tail_shows_what_was_asked_for(say, story, options, shown):
    assert shown == positions(say("tail", "--no-follow", "--json", *options))


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


def test_the_doctor_says_what_needs_somebody(say, story):
    examined = say("doctor", "--json")
    seen = json.loads(examined.stdout)

    assert 1 == examined.exit_code
    assert ("sqlite", 6, 1) == (seen["journal"]["kind"], seen["events"], seen["timers"])
    assert "power loss" in seen["journal"]["durability"]
    assert {"parked": 1, "dead": 2, "held": 0} == seen["deliveries"]
    assert any("no process of stock is alive" in finding for finding in seen["findings"])
    assert any("2 deliveries are dead" in finding for finding in seen["findings"])
    assert "1. email.count has 2 events to handle" in say("doctor").stdout


def test_the_doctor_waits_for_no_lock(say, story, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "spine.db-lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert "events" in say("doctor").stdout
        assert [] != positions(say("tail", "--no-follow", "--json"))
