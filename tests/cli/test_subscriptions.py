from __future__ import annotations

import json
import signal

import pytest

from eventspine.journal.port import PARTITIONS, WHOLE_FEED, Append, Done, Put, Registration, Unit

from .conftest import NEW, RESERVED, declared, record


def listed(say, *options: str) -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(say("subscriptions", "--json", *options).stdout)}


def test_what_each_service_reads_and_how_far_it_has_come(say, story):
    rows = listed(say)

    assert ["email.confirm", "email.count", "stock.reserve"] == list(rows)
    assert (6, 0, 1, 2) == tuple(rows["email.confirm"][name] for name in ("position", "lag", "parked", "dead"))
    assert 3 == rows["email.confirm"]["unfinished"], "as the refusal of a rename counts"
    assert (2, 2) == (rows["email.count"]["position"], rows["email.count"]["lag"])
    assert 1 == rows["stock.reserve"]["lag"], "the private event in between is nobody's"


def test_the_position_is_that_of_the_work_and_not_of_partitions_in_which_nothing_was(say, story):
    """A process that is killed has stored cursors of what it handled, and none of the partitions that had nothing."""
    say("subscriptions", "rewind", "email.count", "--to", "earliest")
    (count,) = [row for row in story.journal(lambda journal: journal.subscriptions()) if row.name == "email.count"]
    assert (1, 3) == tuple(listed(say)["email.count"][name] for name in ("position", "lag"))

    done = Done(count.number, count.partition_of(RESERVED), [(0, 2)], count.generation)
    story.journal(lambda journal: journal.commit([Unit(done=[done])]))
    assert (2, 2) == tuple(listed(say)["email.count"][name] for name in ("position", "lag"))


def test_the_table_and_the_list_command(say, story):
    table = say("subscriptions")

    assert table.stdout == say("subscriptions", "list").stdout
    assert (
        "SERVICE  SUBSCRIPTION   STATE   POSITION  LAG  RATE  PARKED  DEAD  ORDER  READS"
        == table.stdout.splitlines()[0]
    )
    assert ["email.confirm", "email.count"] == list(listed(say, "--service", "email"))


def test_pause_and_resume(say, story):
    assert "email.count is paused.\n" == say("subscriptions", "pause", "email.count").stdout
    assert "paused" == listed(say)["email.count"]["state"]
    assert "email.count is paused already.\n" == say("subscriptions", "pause", "email/email.count").stdout
    assert "email.count is active.\n" == say("subscriptions", "resume", "email.count").stdout
    assert "active" == listed(say)["email.count"]["state"]


def test_a_misspelled_name(say, story):
    refused = say("subscriptions", "pause", "email.counts")

    assert 4 == refused.exit_code
    assert "Did you mean email.count?" in refused.stderr


@pytest.mark.parametrize(
    "command", [("subscriptions",), ("subscriptions", "list"), ("top",), ("dead", "list"), ("streams", "list")]
)
def test_a_misspelled_service_is_not_an_empty_list(say, story, command):
    """Also with --json: nothing is printed that could be taken for an answer."""
    for json_too in ((), ("--json",)):
        refused = say(*command, "--service", "emial", *json_too)
        assert (4, "") == (refused.exit_code, refused.stdout)
        assert "No service 'emial' has registered here. Did you mean email?" in refused.stderr


def test_a_service_without_handlers_is_known(say, story):
    """It only publishes; and what is asked of its deliveries is not what all have."""
    story.journal(lambda journal: journal.register(Registration("orders", ("orders",), ()), 1_700_000_000_000_000))
    listed = say("subscriptions", "--service", "orders")
    assert (0, "orders has no handlers here.\n") == (listed.exit_code, listed.stderr)
    assert "[]\n" == say("subscriptions", "--service", "orders", "--json").stdout
    assert "[]\n" == say("dead", "list", "--service", "orders", "--json").stdout
    assert "0 dead deliveries dropped.\n" == say("dead", "drop", "--service", "orders", "--yes").stdout


def test_a_rewind_that_would_repeat_effects_must_be_meant(say, story):
    refused = say("subscriptions", "rewind", "email.confirm", "--to", "earliest")
    assert 2 == refused.exit_code
    assert "--repeat-effects" in refused.stderr

    rewound = say("subscriptions", "rewind", "email.confirm", "--to", "earliest", "--repeat-effects")
    assert (0, "email.confirm goes on from position 1.\n") == (rewound.exit_code, rewound.stdout)
    assert "Discarding 1 parked and 2 dead from there on" in rewound.stderr
    row = listed(say)["email.confirm"]
    assert (1, 3, 0, 0) == tuple(row[name] for name in ("position", "lag", "parked", "dead"))


def test_a_handler_declared_replayable_may_be_rewound(say, story):
    rewound = say("subscriptions", "rewind", "email.count", "--to", "2")

    assert (0, "email.count goes on from position 2.\n") == (rewound.exit_code, rewound.stdout)
    assert 1 == listed(say)["email.count"]["position"]


def test_a_rewind_to_where_the_feed_has_not_come_yet_says_so(say, story):
    rewound = say("subscriptions", "rewind", "email.count", "--to", "1000", "--skip-unhandled")

    assert 0 == rewound.exit_code
    end = int(rewound.stdout.split()[-1].rstrip(".")) - 1
    assert f"The feed ends at position {end}: there is nothing yet at 1,000." in rewound.stderr
    assert "feed ends" not in say("subscriptions", "rewind", "email.count", "--to", str(end + 1)).stderr


def test_publishing_again_needs_a_fresh_token(say, story):
    tokens = []
    for _ in range(2):
        say("subscriptions", "rewind", "email.count", "--to", "earliest", "--publish-again")
        rows = story.journal(lambda journal: journal.subscriptions("email"))
        tokens.append(next(row.republish for row in rows if row.name == "email.count"))

    assert all(tokens)
    assert tokens[0] != tokens[1]


def test_going_ahead_passes_what_was_not_handled_only_when_told(say, story):
    refused = say("subscriptions", "rewind", "email.count", "--to", "now")
    assert 2 == refused.exit_code
    assert "has not handled 2 events" in refused.stderr

    assert 0 == say("subscriptions", "rewind", "email.count", "--to", "now", "--skip-unhandled").exit_code
    assert 0 == listed(say)["email.count"]["lag"]


def test_going_ahead_repeats_nothing_and_needs_no_word_on_effects(say, story):
    refused = say("subscriptions", "rewind", "stock.reserve", "--to", "now")
    assert (2, False) == (refused.exit_code, "--repeat-effects" in refused.stderr)
    assert "has not handled 1 event" in refused.stderr

    passed = say("subscriptions", "rewind", "stock.reserve", "--to", "now", "--skip-unhandled")
    assert (0, "stock.reserve goes on from position 7.\n") == (passed.exit_code, passed.stdout)


def test_going_ahead_of_a_feed_tells_that_it_passes_the_dead_one_at_which_that_stands(say, story):
    feed = declared("reports.count", "stock", "stock.Reserved")._replace(order="feed", on_dead="waits")
    registration = Registration("reports", ("reports",), (feed,))
    (count,) = story.journal(lambda journal: journal.register(registration, 1_700_000_000_000_000)).subscriptions
    dead = Put(count.number, WHOLE_FEED, RESERVED._replace(position=2), "dead", 8, None, "SmtpDown")
    story.journal(lambda journal: journal.commit([Unit(puts=[dead])]))

    refused = say("subscriptions", "rewind", "reports.count", "--to", "now")
    assert "has not handled 3 events before that place, 1 of them dead, which would be passed" in refused.stderr
    passed = say("subscriptions", "rewind", "reports.count", "--to", "now", "--skip-unhandled")
    assert (
        "Passing 3 events not handled, 1 of them dead.\nWhat is dead stays so, and is handled, late," in passed.stderr
    )

    (row,) = json.loads(say("dead", "list", "--service", "reports", "--json").stdout)
    again = say("subscriptions", "rewind", "reports.count", "--to", "now", "--skip-unhandled")
    assert ("dead", "") == (row["state"], again.stderr), "it has been passed"


def test_a_place_between_passes_some_and_repeats_others_and_both_must_be_meant(say, story):
    """Another partition is through with what comes after an event that one has not come to."""
    later = record(8, "orders.Ordered", "c9")
    assert later.slot % PARTITIONS != NEW.slot % PARTITIONS
    (reserve,) = story.journal(lambda journal: journal.subscriptions("stock"))
    done = Done(reserve.number, later.slot % PARTITIONS, [(0, 7)], reserve.generation)
    story.journal(lambda journal: journal.commit([Unit(appends=[Append([later])])]))
    story.journal(lambda journal: journal.commit([Unit(done=[done])]))

    rewind = ("subscriptions", "rewind", "stock.reserve", "--to", "7")
    refused = say(*rewind)
    assert (2, True, True) == (
        refused.exit_code,
        "--repeat-effects" in refused.stderr,
        "--skip-unhandled" in refused.stderr,
    )
    assert 2 == say(*rewind, "--skip-unhandled").exit_code
    assert 2 == say(*rewind, "--repeat-effects").exit_code
    assert 0 == say(*rewind, "--skip-unhandled", "--repeat-effects").exit_code


def test_help_names_every_place(say):
    assert "earliest, now, a position" in say("subscriptions", "rewind", "--help").stdout


@pytest.mark.parametrize("place", ["yesterday", "2026-01-01T00:00:00", "-3"])
def test_a_place_that_is_none(say, story, place):
    refused = say("subscriptions", "rewind", "email.count", f"--to={place}")

    assert 2 == refused.exit_code


def test_rename(say, story):
    assert "email.count is now email.tally.\n" == say("subscriptions", "rename", "email.count", "email.tally").stdout
    assert 2 == say("subscriptions", "rename", "email.tally", "email.confirm").exit_code
    assert "email.tally" in listed(say)


def test_a_new_name_is_one_that_code_can_declare(say, story):
    assert "email.count is now email.tally.\n" == say("subscriptions", "rename", "count", "tally").stdout
    for name in ("other.thing", "email.", "a b", "email/tally"):
        refused = say("subscriptions", "rename", "tally", name)
        assert (2, True) == (refused.exit_code, "can't name a handler of email" in refused.stderr)
    assert "email.tally" in listed(say)


def test_retiring_says_what_is_lost_and_asks(say, story):
    refused = say("subscriptions", "retire", "email.confirm")
    assert 2 == refused.exit_code
    assert "with 0 unhandled, 1 parked and 2 dead" in refused.stderr

    assert "email.confirm is retired.\n" == say("subscriptions", "retire", "email.confirm", "--yes").stdout
    assert "email.confirm" not in listed(say)
    assert "retired" == listed(say, "--retired")["email.confirm"]["state"]


def test_a_rewind_may_be_waited_for(spine):
    spine.run_shop()
    orders = "\n".join(json.dumps({"customer": f"c{n}", "title": "Emma"}) for n in range(50))
    spine("publish", "-m", "bookshop", "BookOrdered", "-", stdin=orders)
    sent = spine.folder / "sent"
    while not sent.exists() or sent.read_text().count("\n") < 50:
        assert spine("subscriptions").returncode == 0

    rewound = spine("subscriptions", "rewind", "confirm", "--to", "earliest", "--repeat-effects", "--wait")

    assert rewound.returncode == 0, rewound.stderr
    assert sent.read_text().count("\n") == 100
    assert "email.confirm has come to position 100, with 0 parked and 0 dead." in rewound.stdout


def test_a_rewind_that_waits_for_nobody_says_so(spine, story):
    waiting = spine.start("subscriptions", "rewind", "email.count", "--to", "earliest", "--wait")

    assert "No process of email runs; it begins when one does." in spine.until(waiting, "No process")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(30) == 130
