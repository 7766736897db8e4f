"""Commands, aggregates and views on Django's own connection: one commit with the rows of its models, or nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import IntegrityError, connections, transaction
from django.test import Client, override_settings

from eventspine import Reject, Service
from eventspine.errors import (
    CommandRefused,
    CommandReused,
    Conflict,
    DeclarationError,
    NoSuchAggregate,
    NotHandled,
    SettingsError,
    SpineError,
    ViewBehind,
    ViewNotKept,
    WouldDeadlock,
)
from eventspine.integrations.django import asend, change, load, load_or_new, publish, save, send, view
from eventspine.observe.correlation import correlate
from eventspine.sync import Spine

from .desk.events import Ask, Counted, Counter, Counts, Said, Say, called, desk, tally
from .desk.models import Row

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def fresh():
    called.clear()
    before = dict(desk.commands)
    yield
    desk.commands.clear()
    desk.commands.update(before)


class Undone(Exception):
    pass


# --- commands -----------------------------------------------------------------------------------------------------------


def test_rows_events_the_aggregate_and_the_answer_are_one_commit(stored):
    first = send(Say(), command_id="k")
    assert type(first) is UUID
    assert first == send(Say(), command_id="k")
    assert (["ann"], ["ann", "ann"]) == (stored.rows, stored.keys)
    assert 1 == len(called)
    assert 1 == load(Counter, "ann").n


def test_a_refusal_takes_everything_back_and_the_id_may_be_tried_again(stored):
    for _ in range(2):
        with pytest.raises(Reject, match="not thirteen"):
            send(Say(n=13), command_id="k")
    assert ([], []) == (stored.rows, stored.keys)
    assert 2 == len(called)


def test_an_error_of_the_database_is_the_senders_and_takes_everything_back(stored):
    Row.objects.create(name="ann")
    with pytest.raises(IntegrityError):
        send(Say())
    assert (["ann"], []) == (stored.rows, stored.keys)


def test_an_error_that_the_handler_swallows_is_not_a_success(stored):
    @desk.command(Ask)
    def ask(command, delivery):
        Row.objects.create(name="ann")
        try:
            Row.objects.create(name="ann")
        except IntegrityError:
            delivery.publish(Said())

    with pytest.raises(transaction.TransactionManagementError):
        send(Ask())
    assert ([], []) == (stored.rows, stored.keys)


def test_inside_of_a_transaction_that_is_rolled_back_it_was_never_done(stored):
    with pytest.raises(Undone), transaction.atomic():
        send(Say(), command_id="k")
        raise Undone
    assert ([], []) == (stored.rows, stored.keys)
    send(Say(), command_id="k")
    assert 2 == len(called)


def test_what_it_did_is_stored_when_the_callers_transaction_commits(stored):
    with transaction.atomic():
        send(Say(), command_id="k")
        with pytest.raises(Reject):
            send(Say(name="bob", n=13))  # a savepoint of its own
        assert ([], []) == (stored.rows, stored.keys)
    assert (["ann"], ["ann", "ann"]) == (stored.rows, stored.keys)


def test_values_other_commands_and_unknown_ones_are_refused(stored):
    with pytest.raises(CommandRefused, match="n: Expected `int`"):
        send(Say(n="many"))
    send(Say(), command_id="k")
    with pytest.raises(CommandReused):
        send(Say(n=2), command_id="k")
    with pytest.raises(NotHandled, match="Nobody here handles desk.Ask"):
        send(Ask())


def test_what_is_published_belongs_to_the_request_and_the_command(stored):
    with correlate("r-1"):
        send(Say())
    assert [("r-1", 1)] * 2 == stored.ask("select correlation, hops from spine_events")
    assert 1 == len(set(stored.ask("select causation from spine_events")))


def test_sql_of_the_delivery_commits_with_it_and_reads_see_the_transaction(stored):
    @desk.command(Ask)
    def ask(command, delivery):
        Row.objects.create(name="cid")
        assert [{"name": "cid"}] == delivery.query("select name from desk_row")
        delivery.execute("update desk_row set name = :to", to="dee", expect_rows=1)
        with pytest.raises(WouldDeadlock):
            with delivery.transaction():
                pass

    send(Ask())
    assert ["dee"] == stored.rows


def test_an_async_handler_is_refused_when_it_is_sent_and_by_the_checks(stored):
    @desk.command(Ask)
    async def ask(command):
        pass

    with pytest.raises(DeclarationError, match="desk.ask is `async def`, and Django has no transactions there"):
        send(Ask())
    with pytest.raises(SystemCheckError, match="eventspine.E008"):
        call_command("check")


def test_two_services_that_handle_one_command_are_found_by_the_checks(path, monkeypatch):
    from .desk import events

    other = Service("other", publishes="desk")
    other.command(Say)(events.say)
    monkeypatch.setattr(events, "other", other, raising=False)
    with pytest.raises(SystemCheckError, match=r"desk\.Say is handled by desk\.say and by other\.say"):
        call_command("check")


def test_many_threads_that_send_the_same_call_it_once(stored):
    def one(_):
        try:
            return send(Say(), command_id="k")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(10) as threads:
        assert 1 == len(set(threads.map(one, range(20))))
    assert 1 == len(called)
    assert (["ann"], ["ann", "ann"]) == (stored.rows, stored.keys)


def test_from_async_code_it_is_asend(stored):
    async def ask():
        with pytest.raises(SynchronousOnlyOperation, match="await asend"):
            send(Say())
        made = await asend(Say(), command_id="k")
        from asgiref.sync import sync_to_async

        await sync_to_async(connections.close_all)()
        return made

    assert asyncio.run(ask()) == send(Say(), command_id="k")
    assert ["ann"] == stored.rows


CHILD = """
import os, signal, sys
from tests.integrations.django_project import conftest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
conftest.use(sys.argv[1])
from eventspine.integrations.django import send
from tests.integrations.django_project.desk.events import Say
point, proper = sys.argv[2], BaseDatabaseWrapper.commit
def commit(self):
    if point == "after COMMIT":
        proper(self)
    os.kill(os.getpid(), signal.SIGKILL)
BaseDatabaseWrapper.commit = commit
send(Say(), command_id="k")
"""


@pytest.mark.parametrize("point", ["before COMMIT", "after COMMIT"])
@pytest.mark.promise("process killed", "sqlite")
def test_a_killed_process_has_done_all_of_it_or_nothing_and_sending_again_does_it_once(stored, point):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-c", textwrap.dedent(CHILD), stored.given, point]
    assert subprocess.run(line, cwd=ROOT, env=environment, check=False, timeout=60).returncode == -signal.SIGKILL
    assert stored.rows == (["ann"] if point == "after COMMIT" else [])
    send(Say(), command_id="k")
    assert (["ann"], ["ann", "ann"]) == (stored.rows, stored.keys)
    assert len(called) == (0 if point == "after COMMIT" else 1)


# --- aggregates ---------------------------------------------------------------------------------------------------------


def test_an_aggregate_is_changed_loaded_and_saved_in_a_line(stored):
    changed = change(Counter, "ann", lambda counter: counter.count(3), new=True, command_id="k")
    again = change(Counter, "ann", lambda counter: counter.count(3), command_id="k")
    assert (3, False, 3, True) == (changed.aggregate.n, changed.repeated, again.aggregate.n, again.repeated)
    counter = load(Counter, "ann")
    counter.count(4)
    save(counter)
    assert (7, 3) == (load(Counter, "ann").n, load(Counter, "ann", at_version=1).n)
    with pytest.raises(NoSuchAggregate):
        load(Counter, "bob")
    assert 0 == load_or_new(Counter, "bob").version


def test_what_it_records_shares_the_fate_of_the_transaction(stored):
    with pytest.raises(Undone), transaction.atomic():
        Row.objects.create(name="ann")
        change(Counter, "ann", lambda counter: counter.count(1), new=True)
        assert 1 == load(Counter, "ann").n  # this transaction sees it
        raise Undone
    assert ([], []) == (stored.rows, stored.keys)


def test_of_two_that_save_from_one_version_the_second_is_in_conflict(stored):
    change(Counter, "ann", lambda counter: counter.count(1), new=True)
    first, second = load(Counter, "ann"), load(Counter, "ann")
    first.count(1)
    second.count(1)
    save(first)
    with pytest.raises(Conflict):
        save(second)
    assert 2 == load(Counter, "ann").n


def test_threads_that_change_one_aggregate_take_turns(stored):
    def one(_):
        try:
            change(Counter, "ann", lambda counter: counter.count(1), new=True)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(one, range(24)))
    assert 24 == load(Counter, "ann").n


# --- views --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keeping(stored):
    with Spine(stored.url) as spine, spine.running(tally()):
        yield spine


def test_a_view_is_read_and_waited_for(stored, keeping):
    receipts = change(Counter, "ann", lambda counter: counter.count(5), new=True).receipts
    reading = view(Counts)
    reading.wait(*receipts, timeout_s=20)
    assert (5, None) == (reading.get("ann").n, reading.get("bob"))
    assert [{"n": 5}] == reading.query("select n from counts")
    assert ["ann"] == [row.name for row in reading.all(order_by="-n")]


def test_one_that_is_behind_says_so_and_inside_of_a_transaction_it_is_not_waited_for(stored):
    with Spine(stored.url) as spine, spine.running(tally()):
        pass
    receipt = publish(Counted(name="ann", n=1))
    with pytest.raises(ViewBehind, match=r"1 to go"):
        view(Counts).wait(receipt, timeout_s=0.05)
    with transaction.atomic(), pytest.raises(WouldDeadlock, match="non_atomic_requests"):
        view(Counts).wait(receipt)
    with pytest.raises(SettingsError, match="longer than a request"):
        view(Counts).as_of(1)


# --- over HTTP ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["/command/", "/async/command/"])
def test_a_form_of_another_page_is_refused(stored, url):
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""):
        refused = Client().generic("POST", url, b'{"n": 1}', content_type=content_type)
        assert (415, "application/problem+json") == (refused.status_code, refused["Content-Type"])
    assert ([], []) == (stored.rows, stored.keys)


def test_a_view_that_nobody_has_kept_yet_is_to_be_asked_for_again(stored):
    with pytest.raises(ViewNotKept, match="Nobody has kept the view counts"):
        view(Counts).get("ann")
    got = Client().get("/counts/ann/")
    assert (503, "5", "application/problem+json") == (got.status_code, got["Retry-After"], got["Content-Type"])


def post(url, body, **headers):
    return Client().post(url, body, content_type="application/json", headers=headers)


@pytest.mark.parametrize("url", ["/command/", "/async/command/"])
def test_a_request_with_a_key_is_done_once_and_its_answer_has_a_token(stored, keeping, url):
    first, again = (post(url, {"name": "ann", "n": 2}, **{"Idempotency-Key": "k"}) for _ in range(2))
    assert (201, 201) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert first["Spine-Token"] == again["Spine-Token"]
    got = Client().get("/counts/ann/", headers={"Spine-Token": first["Spine-Token"]})
    assert {"n": 2} == got.json()
    assert "Spine-Token" not in got


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"n": 13}, {}, 409),
        ({"n": "x"}, {}, 422),
        ({"m": 1}, {}, 422),
        ([], {}, 422),
        ({}, {"Idempotency-Key": "a b"}, 400),
        ({}, {"Idempotency-Key": "a,b"}, 400),
        ({}, {"Idempotency-Key": "x" * 256}, 400),
    ],
)
@pytest.mark.parametrize("url", ["/command/", "/async/command/"])
def test_what_is_refused_has_a_status_of_its_own(stored, url, body, headers, status):
    refused = post(url, body, **headers)
    assert (status, "application/problem+json") == (refused.status_code, refused["Content-Type"])
    assert ([], []) == (stored.rows, stored.keys)


def test_a_view_that_is_behind_and_a_token_that_is_none_have_theirs(stored):
    with Spine(stored.url) as spine, spine.running(tally()):
        pass
    token = post("/command/", {})["Spine-Token"]
    behind = Client().get("/counts/ann/?wait=0.01", headers={"Spine-Token": token})
    assert (503, "1") == (behind.status_code, behind["Retry-After"])
    assert 400 == Client().get("/counts/ann/", headers={"Spine-Token": "1.x"}).status_code


@pytest.mark.parametrize("url", ["/bills/a%00b/"])
def test_a_tenant_that_none_can_be_is_the_clients_mistake(stored, url):
    refused = Client().get(url)
    assert (422, "application/problem+json") == (refused.status_code, refused["Content-Type"])


def test_both_can_be_turned_off(stored):
    with override_settings(EVENTSPINE={**settings.EVENTSPINE, "TOKEN": False, "ANSWERS": False}):
        assert "Spine-Token" not in post("/command/", {})
        with pytest.raises(Reject):
            post("/command/", {"name": "bob", "n": 13})


def test_in_a_handler_of_events_a_command_would_commit_apart(path):
    from types import SimpleNamespace

    from eventspine.delivery import Delivery
    from eventspine.observe.correlation import current

    handling = Delivery(SimpleNamespace(name="desk.react"), SimpleNamespace(), None)
    token = current.set(handling)
    try:
        with pytest.raises(SpineError, match="sends desk.Say, which would commit apart"):
            send(Say())
    finally:
        current.reset(token)
