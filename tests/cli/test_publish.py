from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from eventspine.journal._sqlite_locks import LOCKS
from eventspine.journal.lockfile import HAS_FLOCK, TurnLock

ORDER = '{"customer": "ann", "title": "Emma"}'


def publish(spine, *arguments: str, stdin: str = ""):
    return spine.asked_here("publish", *arguments, "--module", "bookshop", stdin=stdin)


def test_an_event_is_published_with_its_receipt(spine):
    receipt = spine("publish", "orders.BookOrdered", ORDER, "--module", "bookshop")

    assert receipt.stdout.startswith("orders.BookOrdered  key=ann  #1  "), receipt.stderr
    (event,) = [json.loads(line) for line in spine("tail", "--no-follow", "--json").stdout.splitlines()]
    assert {"customer": "ann", "title": "Emma", "copies": 1} == event["data"]
    assert ("shopfront", "ann") == (event["source"], event["subject"])
    assert event["id"] in receipt.stdout


def test_json_lines_are_published_in_order(spine):
    lines = "".join(json.dumps({"customer": f"c{n % 7}", "title": str(n)}) + "\n" for n in range(1200)) + "\n"
    receipts = publish(spine, "BookOrdered", "-", "--json", stdin=lines.rstrip("\n"))

    assert list(range(1, 1201)) == [json.loads(line)["position"] for line in receipts.stdout.splitlines()]
    events = [json.loads(line) for line in spine.asked_here("tail", "--no-follow", "--json").stdout.splitlines()]
    assert [str(n) for n in range(1200)] == [event["data"]["title"] for event in events]


@pytest.mark.skipif(not HAS_FLOCK, reason="processes take no turns here")
@pytest.mark.parametrize(
    "command", [("publish", "BookOrdered", ORDER, "--module", "bookshop"), ("subscriptions", "pause", "email.confirm")]
)
def test_who_waits_for_the_write_lock_says_so_and_for_whom(spine, command):
    shop = spine.run_shop()
    shop.terminate()
    shop.communicate(timeout=60)
    turn = TurnLock(spine.folder / "spine.db-lock")
    turn.take()
    process = spine.start(*command)
    told = spine.until(process, "write lock")
    assert told.startswith(f"waiting for the write lock of sqlite:///{spine.folder}/spine.db for ")
    assert f"; process {os.getpid()} holds it. If it is stopped, continue or kill it" in told

    turn.give_back()
    turn.close()
    assert ("", 0) == (process.communicate(timeout=60)[1], process.returncode), "told once, and done"


def test_so_does_who_waits_for_another_program(spine):
    publish(spine, "BookOrdered", ORDER)
    with closing(sqlite3.connect(spine.folder / "spine.db", isolation_level=None)) as own:
        own.execute("begin immediate")
        process = spine.start("publish", "BookOrdered", ORDER, "--module", "bookshop")
        assert "waiting for the write lock of " in spine.until(process, "write lock")
        own.execute("rollback")
    receipt, told = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert "write lock" not in told
    assert "  #2  " in receipt


@pytest.mark.parametrize("made", [False, True], ids=["a file in which a journal is to be made", "a journal"])
@pytest.mark.parametrize(
    "command", [("publish", "BookOrdered", ORDER, "--module", "bookshop"), ("run", "bookshop")], ids=["publish", "run"]
)
def test_who_waits_for_another_program_to_begin_says_so(spine, command, made):
    if made:
        publish(spine, "BookOrdered", ORDER)
    with closing(sqlite3.connect(spine.folder / "spine.db", isolation_level=None)) as own:
        own.execute("pragma journal_mode=wal")
        own.execute("begin immediate")
        process = spine.start(*command)
        told = spine.until(process, "write lock")
        assert f"waiting for the write lock of sqlite:///{spine.folder}/spine.db for " in told
        if LOCKS.exists():
            assert f"process {os.getpid()} holds it" in told
        own.execute("rollback")
    if command[0] == "run":
        assert "write lock" not in spine.until(process, "running shopfront")
        process.terminate()
    assert "write lock" not in process.communicate(timeout=60)[1]
    assert 0 == process.returncode


def test_a_line_that_is_no_event_is_named_and_nothing_after_it_is_published(spine):
    lines = f'{ORDER}\n\n{{"customer": "ann"}}\n{ORDER}\n'
    stopped = publish(spine, "BookOrdered", "-", stdin=lines)

    assert 1 == stopped.exit_code
    assert "Line 3: orders.BookOrdered" in stopped.stderr
    assert "title" in stopped.stderr
    assert 1 == len(spine.asked_here("tail", "--no-follow").stdout.splitlines())


def test_what_can_not_be_this_event_is_refused(spine):
    for data, word in (
        ("{", "not JSON"),
        ("[]", "is a JSON object"),
        ('{"customer": 1, "title": "x"}', "customer"),
        ('{"customer": "a", "title": "x", "copy": 2}', "has no field 'copy'"),
    ):
        refused = publish(spine, "BookOrdered", data)
        assert (1, "") == (refused.exit_code, refused.stdout)
        assert word in refused.stderr
    assert not (spine.folder / "spine.db").exists()


PROJECT = {
    "events": "from eventspine import Event\n"
    'class OrderPlaced(Event, context="desk", key="order"):\n    order: str\n'
    'class OrderConfirmed(Event, context="desk", key="order"):\n    order: str\n',
    "service": "from eventspine import Service\nfrom .events import OrderConfirmed, OrderPlaced\n"
    'desk = Service("desk")\n'
    "@desk.on(OrderPlaced)\nasync def confirm(event: OrderPlaced) -> OrderConfirmed:\n"
    "    return OrderConfirmed(order=event.order)\n",
    "shipping": "from eventspine import Event, Service\nfrom .events import OrderConfirmed\n"
    'class ParcelSent(Event, context="shipping", key="order"):\n    order: str\n'
    'shipping = Service("shipping")\n'
    "@shipping.on(OrderConfirmed)\nasync def send(event: OrderConfirmed) -> ParcelSent:\n"
    "    return ParcelSent(order=event.order)\n",
}


def test_of_a_project_with_two_services_every_event_is_published_without_a_word_of_where(spine):
    package = spine.folder / "desks"
    package.mkdir()
    for name, text in PROJECT.items():
        (package / f"{name}.py").write_text(text)
    (spine.folder / "spine.toml").write_text('modules = ["desks.service", "desks.shipping"]\n')
    for type in ("OrderPlaced", "OrderConfirmed", "ParcelSent"):
        done = spine.asked_here("publish", type, '{"order": "o-1"}', "--json")
        assert 0 == done.exit_code, done.stderr
    sources = [json.loads(line)["source"] for line in spine("tail", "--no-follow", "--json").stdout.splitlines()]
    assert ["desk", "desk", "shipping"] == sources, "the service that publishes the event's context"

    refused = spine.asked_here("publish", "OrderConfirmd", '{"order": "o-1"}')
    assert 2 == refused.exit_code
    assert "desks.service, desks.shipping know no event 'OrderConfirmd'. Did you mean " in refused.stderr


def test_two_classes_of_one_name_are_asked_about(spine):
    for name in ("one", "two"):
        (spine.folder / f"{name}.py").write_text(PROJECT["shipping"].replace("from .events", "from three"))
    (spine.folder / "three.py").write_text(PROJECT["events"])
    (spine.folder / "spine.toml").write_text('modules = ["one", "two"]\n')
    refused = spine.asked_here("publish", "ParcelSent", '{"order": "o-1"}')
    assert 2 == refused.exit_code
    assert "shipping.ParcelSent in one, shipping.ParcelSent in two. Name the module" in refused.stderr


def test_what_it_can_not_tell_it_asks_for(spine):
    for arguments, word in (
        (("publish", "BookOrdered", ORDER), "--module shop.storefront"),
        (("publish", "BookOrdered", ORDER, "--module", "bookshpo"), "There is no module 'bookshpo'"),
        (("publish", "BookOrdered", ORDER, "--module", "bookshop.py"), "Name the module, as in an import: bookshop"),
        (
            ("publish", "BookOrdered", ORDER, "--module", "bookshop:email"),
            "'bookshop:email' names 'email' in one. Say --module bookshop,",
        ),
        (("publish", "BookOrdered", ORDER, "--module", "bookshop", "--at", "10m"), "say --after 10m"),
        (("publish", "BookOrderd", ORDER, "--module", "bookshop"), "It knows: orders.BookOrdered, stock.BookReserved"),
        (("publish", "BookOrdered", ORDER, "--module", "bookshop", "--service", "x"), "no service named 'x'"),
        (("publish", "BookOrdered", ORDER, "--module", "bookshop", "--at", "2030-01-01"), "has no time zone"),
        (("publish", "BookOrdered", ORDER, "--module", "bookshop", "--service", "email"), "belongs to the context"),
    ):
        refused = spine.asked_here(*arguments)
        assert 2 == refused.exit_code, refused
        assert word in refused.stderr


def test_a_module_that_breaks_says_where(spine):
    (spine.folder / "broken.py").write_text("x = 1\nraise KeyError('x')\n")
    broken = spine("run", "broken")

    assert 1 == broken.returncode
    assert "broken can't be imported: KeyError: 'x'" in broken.stderr
    assert "broken.py, line 2" in broken.stderr

    (spine.folder / "broken.py").write_text("x = 1\n\ny = (\n")
    broken = spine("run", "broken")
    assert "SyntaxError: '(' was never closed" in broken.stderr
    assert f"({spine.folder / 'broken.py'}, line 3)" in broken.stderr


def test_the_key_may_be_given_apart(spine):
    assert "key=bob" in publish(spine, "BookOrdered", '{"title": "Emma"}', "--key", "bob").stdout


def test_a_later_event_is_scheduled(spine):
    receipt = publish(spine, "BookOrdered", ORDER, "--after", "2h", "--json")

    due = json.loads(receipt.stdout)["due"]
    (timer,) = json.loads(spine.asked_here("schedule", "list", "--json").stdout)
    assert due == timer["due"]
    assert "" == spine.asked_here("tail", "--no-follow").stdout


def test_when_it_happened_may_be_said_by_how_long_ago(spine):
    publish(spine, "BookOrdered", ORDER, "--time", "2h")

    event = json.loads(spine.asked_here("tail", "--no-follow", "--json").stdout)
    ago = datetime.now(UTC) - datetime.fromisoformat(event["time"])
    assert timedelta(hours=2) <= ago < timedelta(hours=3)


def test_a_correlation_may_be_joined(spine):
    publish(spine, "BookOrdered", ORDER, "--correlation", "request-7")

    assert "correlation request-7: 1 event" in spine.asked_here("trace", "request-7").stdout


def test_hostile_input_is_refused_in_clear_words(spine):
    deep = '{"customer": "ann", "title": ' + "[" * 60_000
    for data, stdin, word in (
        (deep, "", "nested too deeply"),
        ("-", deep, "nested too deeply"),
        ("-", "x" * 9_000_000, "longer than 8,000,000 bytes"),
        (b'{"customer": "\xff"}', "", "DATA is not UTF-8"),
    ):
        refused = spine("publish", "BookOrdered", data, "--module", "bookshop", stdin=stdin)
        assert (True, "") == (refused.returncode > 0, refused.stdout)
        assert word in refused.stderr
        assert "unexpected" not in refused.stderr


def test_a_field_that_is_said_twice_is_refused_wherever_it_stands(spine):
    for data in (
        '{"customer": "ann", "title": "x", "customer": "bob"}',
        '{"customer": "ann", "title": {"a": 1, "a": 2}}',
    ):
        refused = publish(spine, "BookOrdered", data)
        assert (1, "") == (refused.exit_code, refused.stdout)
        assert "is said twice in one JSON object" in refused.stderr


def test_a_file_of_a_windows_editor_is_read(spine):
    assert publish(spine, "BookOrdered", "-", stdin=f"\ufeff{ORDER}\r\n{ORDER}\r\n").stdout.count("key=ann") == 2


def test_it_says_what_was_published_before_a_line_that_is_no_event(spine):
    too_long = "x" * 9_000_000
    for lines, told in (
        ("{\n", "Line 1: This is not JSON"),
        ("{\n", "Nothing was published."),
        (f"{ORDER}\n{too_long}", "Line 2: This is longer than 8,000,000 bytes"),
        (f"{ORDER}\n{too_long}", "The lines before it were published; this one and those after it were not."),
    ):
        assert told in publish(spine, "BookOrdered", "-", stdin=lines).stderr


def test_a_duration_beyond_the_calendar_is_no_duration(spine):
    far = "999999999999999999d"
    assert "is no duration" in publish(spine, "BookOrdered", ORDER, "--after", far).stderr
    assert "is no place in the feed" in spine.asked_here("tail", "--no-follow", "--from", far).stderr


@pytest.mark.parametrize("option", ["--correlation", "--actor", "--why"])
def test_what_is_said_and_empty_is_refused_and_no_journal_is_made(spine, option):
    refused = publish(spine, "BookOrdered", ORDER, option, "")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert option.strip("-") in refused.stderr
    assert not (spine.folder / "spine.db").exists()
