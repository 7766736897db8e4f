from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing

import pytest

from eventspine.cli import output
from eventspine.journal.port import Put, Unit


def test_dead_deliveries_are_listed_with_their_reason(say, story):
    listed = say("dead", "list")

    assert 0 == listed.exit_code
    heads, first, second = listed.stdout.splitlines()
    assert heads.split() == ["NUMBER", "DIED", "HANDLER", "TYPE", "KEY", "ATTEMPTS", "REASON"]
    assert first.split()[0] == "1"
    assert "SmtpDown" in first
    assert "undecodable: no JSON" in second


def test_nothing_printed_can_act_on_the_terminal(say, story):
    for listed in (
        say("dead", "list"),
        say("dead", "show", "1", "2"),
        say("dead", "list", "--json"),
        say("tail", "--no-follow"),
    ):
        assert "\x1b" not in listed.stdout
        assert "\u202e" not in listed.stdout
        assert "\\u202e" in listed.stdout


def test_without_the_escapes_it_could(say, story, monkeypatch):
    monkeypatch.setattr(output, "printable", str)

    assert "\u202e" in say("dead", "list").stdout


def test_a_list_in_json_is_one_array(say, story):
    dead = json.loads(say("dead", "list", "--json").stdout)

    assert [1, 2] == [delivery["number"] for delivery in dead]
    assert "email.confirm" == dead[0]["subscription"]
    assert 8 == dead[0]["attempts"]


def test_an_empty_list_is_an_answer(say, story):
    listed = say("dead", "list", "--key", "nobody")

    assert (0, "") == (listed.exit_code, listed.stdout)
    assert "No dead delivery fits" in listed.stderr
    assert [] == json.loads(say("dead", "list", "--key", "nobody", "--json").stdout)


def test_what_a_retired_handler_left_is_not_said_to_be_tried_again(say, story):
    """Nobody would: it stayed parked for good, and no command spoke of it."""
    say("subscriptions", "retire", "email.confirm", "--yes")

    named, all_of_them = say("dead", "replay", "1"), say("dead", "replay", "--all")

    assert 2 == named.exit_code
    told = "email.confirm is retired, and tries nothing again: 1 dead delivery of it, such as 1. `spine dead drop` gives them up."
    assert f"{told} Nothing was changed." in named.stderr
    assert (0, "0 dead deliveries to be tried again.\n") == (all_of_them.exit_code, all_of_them.stdout)
    assert "2 dead deliveries of it, such as 1" in all_of_them.stderr
    assert [1, 2] == [delivery["number"] for delivery in json.loads(say("dead", "list", "--json").stdout)]


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (["--reason", "undecodable"], [2]),
        (["--reason", "undecodable", "--reason", "SmtpDown"], [1, 2]),
        (["--service", "email"], [1, 2]),
        (["--service", "stock"], []),
        (["--handler", "email.confirm"], [1, 2]),
        (["--handler", "email/email.count"], []),
        (["--type", "Reserved", "--key", "c1"], [1]),
        (["--type", "stock.Reserved"], [1, 2]),
        (["--type", "orders.Reserved"], []),
    ],
)
def test_filters_choose(say, story, filters, numbers):
    listed = say("dead", "list", "--json", *filters)

    assert numbers == [delivery["number"] for delivery in json.loads(listed.stdout)]


def test_a_misspelled_handler_is_not_an_empty_list(say, story):
    listed = say("dead", "list", "--handler", "email.confrim")

    assert (4, "") == (listed.exit_code, listed.stdout)
    assert "Did you mean email.confirm?" in listed.stderr
    for command in (("list", "--json"), ("replay",), ("drop", "--yes")):
        assert (4, "") == ((refused := say("dead", *command, "--handler", "nope")).exit_code, refused.stdout)


@pytest.mark.parametrize("name", ["confirm", "email.confirm", "email/confirm", "email/email.confirm"])
def test_a_handler_is_named_as_in_code_or_as_it_is_stored(say, story, name):
    assert len(json.loads(say("dead", "list", "--handler", name, "--json").stdout)) == 2


def test_a_misspelt_name_as_in_code_is_known_too(say, story):
    assert "Did you mean email.confirm?" in say("dead", "list", "--handler", "confrm").stderr


def test_a_handler_s_bare_name_that_two_services_have_is_refused(say, story):
    say("subscriptions", "rename", "email.count", "email.reserve")

    refused = say("dead", "list", "--handler", "reserve")

    assert refused.exit_code == 2
    assert "Several services have a handler 'reserve'. Say which: email.reserve, stock.reserve." in refused.stderr


def test_one_delivery_in_full(say, story):
    shown = say("dead", "show", "1").stdout

    assert "SmtpDown" in shown
    assert "\n  Trace\n    back\n" in shown
    assert f"correlationid    {story.order}" in shown
    assert '"n": 1' in shown


def test_undecodable_data_is_shown_raw(say, story):
    shown = say("dead", "show", "2")
    delivery = json.loads(say("dead", "show", "2", "--json").stdout)

    assert "\\xff\\x1b[2Jnot json" in shown.stdout
    assert b"\xff\x1b[2Jnot json" == base64.b64decode(delivery["event"]["data_base64"])


def test_what_a_handler_has_rejected_is_listed_with_its_words(say, story, tmp_path):
    with closing(sqlite3.connect(tmp_path / "spine.db")) as journal:
        journal.execute(
            "update spine_deliveries set reason = 'rejected', error = 'Reject: no such street' where number = 1"
        )
        journal.commit()
    assert "rejected: no such street" in say("dead", "list").stdout


def test_a_delivery_that_is_not_there(say, story):
    assert 4 == say("dead", "show", "9").exit_code
    assert 4 == say("dead", "replay", "1", "9").exit_code
    assert "has the number 8 or 9. Nothing was changed" in say("dead", "replay", "1", "8", "9").stderr
    assert 2 == len(json.loads(say("dead", "list", "--json").stdout)), "all or none"


def test_replayed_deliveries_are_parked_and_due(say, story):
    replayed = say("dead", "replay", "--reason", "undecodable")

    assert "1 dead delivery to be tried again.\n" == replayed.stdout
    assert [1] == [delivery["number"] for delivery in json.loads(say("dead", "list", "--json").stdout)]
    parked = json.loads(say("parked", "list", "--json").stdout)
    assert (2, True) in [(delivery["number"], delivery["late"]) for delivery in parked]


def test_a_second_replay_changes_nothing(say, story):
    assert "2 dead deliveries" in say("dead", "replay", "--all").stdout
    again = say("dead", "replay", "--all")

    assert (0, "0 dead deliveries to be tried again.\n") == (again.exit_code, again.stdout)


@pytest.mark.parametrize("arguments", [["replay"], ["drop", "--yes"], ["replay", "--all", "1"]])
def test_one_says_which(say, story, arguments):
    refused = say("dead", *arguments)

    assert 2 == refused.exit_code
    assert "--all" in refused.stderr


def test_dropping_in_a_pipe_needs_a_yes(say, story):
    refused = say("dead", "drop", "1")

    assert 2 == refused.exit_code
    assert "add --yes" in refused.stderr
    assert "1 dead delivery dropped.\n" == say("dead", "drop", "1", "--yes").stdout
    assert [2] == [delivery["number"] for delivery in json.loads(say("dead", "list", "--json").stdout)]


def test_what_is_parked_behind_another_says_behind_which(say, story):
    async def two_more(journal):
        (confirm,) = [row for row in await journal.subscriptions() if row.name == "email.confirm"]
        (slow,) = await journal.deliveries(numbers=[3])
        later = [slow.record._replace(id=bytes([n] * 16), position=n) for n in (5, 6)]
        puts = [Put(confirm.number, slow.partition, one, "parked", 0, None, "behind") for one in later]
        await journal.commit([Unit(puts=puts)])

    story.journal(two_more)
    _, first, *behind = say("parked", "list").stdout.splitlines()
    assert "behind" not in first
    assert [["4", "behind", "3"], ["5", "behind", "3"]] == [row.split()[:3] for row in behind]

    say("parked", "skip", "3", "--yes")
    _, first, second = say("parked", "list").stdout.splitlines()
    assert ("next of its key" in first, "behind 4" in second) == (True, True)


def test_parked_deliveries_are_listed_retried_and_skipped(say, story):
    (parked,) = json.loads(say("parked", "list", "--json").stdout)
    assert f"delivery {parked['number']}: parked" in say("parked", "show", str(parked["number"])).stdout
    assert "2096-10-02T07:06:40Z" == parked["due"]

    assert "1 parked delivery due now.\n" == say("parked", "retry", "--all").stdout
    (parked,) = json.loads(say("parked", "list", "--json").stdout)
    assert parked["due"] < "2096"

    assert "1 parked delivery skipped.\n" == say("parked", "skip", "3", "--yes").stdout
    assert [] == json.loads(say("parked", "list", "--json").stdout)
