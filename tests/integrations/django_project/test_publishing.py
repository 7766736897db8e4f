"""Events and rows of Django's are one commit, or none."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from functools import partial

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings
from django.test.utils import setup_test_environment, teardown_test_environment

from eventspine.errors import EventRefused, JournalBusy, SettingsError, UnknownPublisher
from eventspine.integrations.django import apublish, cancel, publish
from eventspine.observe.correlation import correlate
from eventspine.sync import Spine

from .desk.events import Heard, Said, desk
from .desk.models import Row


class Undone(Exception):
    pass


def test_an_event_is_stored_when_the_transaction_commits_and_not_before(stored):
    with transaction.atomic():
        Row.objects.create(name="ann")
        receipt = publish(Said(name="ann"))
        assert (receipt.durable, receipt.position) == (False, 0)
        assert ([], []) == (stored.rows, stored.keys)
    assert (["ann"], ["ann"]) == (stored.rows, stored.keys)


def test_what_is_rolled_back_was_never_published(stored):
    with pytest.raises(Undone), transaction.atomic():
        Row.objects.create(name="ann")
        publish(Said(name="ann"))
        raise Undone
    assert ([], []) == (stored.rows, stored.keys)


def test_a_savepoint_that_is_rolled_back_takes_its_own_events_with_it_and_no_others(stored):
    with transaction.atomic():
        publish(Said(name="ann"))
        with pytest.raises(Undone), transaction.atomic():
            Row.objects.create(name="bob")
            publish(Said(name="bob"))
            raise Undone
        with transaction.atomic():
            Row.objects.create(name="cid")
            publish(Said(name="cid"))
    assert (["cid"], ["ann", "cid"]) == (stored.rows, stored.keys)


def test_outside_of_a_transaction_it_is_durable_when_publish_returns(stored):
    receipts = publish(Said(name="ann"), Said(name="bob"))
    assert [(True, 1), (True, 2)] == [(receipt.durable, receipt.position) for receipt in receipts]
    assert ["ann", "bob"] == stored.keys
    assert not connection.in_atomic_block


def test_where_autocommit_is_off_it_waits_for_the_commit_too(stored):
    transaction.set_autocommit(False)
    try:
        Row.objects.create(name="ann")
        assert not publish(Said(name="ann")).durable
        transaction.rollback()
        assert ([], []) == (stored.rows, stored.keys)
        publish(Said(name="bob"))
        transaction.commit()
        assert ["bob"] == stored.keys
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_a_transaction_that_django_has_given_up_takes_no_event(stored):
    with pytest.raises(TransactionManagementError), transaction.atomic():
        Row.objects.create(name="ann")
        with pytest.raises(IntegrityError):
            with transaction.atomic(savepoint=False):
                Row.objects.create(name="ann")
        publish(Said(name="ann"))
    assert ([], []) == (stored.rows, stored.keys)


def test_a_refused_event_leaves_the_transaction_as_it_was(stored):
    with transaction.atomic():
        Row.objects.create(name="ann")
        with pytest.raises(UnknownPublisher):
            publish(Heard())
        publish(Said(name="ann"))
    assert (["ann"], ["ann"]) == (stored.rows, stored.keys)


def test_the_same_id_is_published_once(stored):
    id = "0190163d-8694-739b-aea5-966c26f8ad91"
    assert publish(Said(), id=id).position == publish(Said(), id=id).position == 1
    assert ["ann"] == stored.keys


def test_it_belongs_to_the_correlation_around_it(stored):
    with correlate("request-7"), transaction.atomic():
        publish(Said())
    assert [("request-7",)] == stored.ask("select correlation from spine_events")


def test_it_can_be_published_later_and_taken_back(stored):
    with transaction.atomic():
        ours = publish(Said(name="ann"), after=timedelta(hours=1))
    theirs = publish(Said(name="bob"), after=timedelta(hours=1))
    assert theirs.durable
    with pytest.raises(Undone), transaction.atomic():
        assert cancel(ours) == 1
        raise Undone
    assert cancel(ours) == 1
    assert cancel(ours) == 0
    assert [(1,)] == stored.ask("select count(*) from spine_timers")
    assert [] == stored.keys


# --- who makes the tables ---------------------------------------------------------------------------------------------


def test_migrate_makes_the_tables_in_the_file_of_the_database_that_is_named(path):
    journal = "select count(*) from sqlite_master where name = 'spine_events'"
    for name, tables in (("default", 1), ("other", 0)):
        with closing(sqlite3.connect(path.with_name(f"{name}.sqlite3"))) as own:
            assert own.execute(journal).fetchone() == (tables,)


def test_migrate_makes_the_tables_of_services_too(stored):
    assert [] == stored.ask("select * from kept_things")


@pytest.mark.parametrize("alias", ["other", "memory"])
def test_in_tests_they_are_made_on_djangos_own_connection(path, alias):
    """Which in memory is the only one, and in a file begins no write-ahead log that a copy of the file would miss."""
    setup_test_environment()
    try:
        with override_settings(EVENTSPINE={**settings.EVENTSPINE, "DATABASE": alias}):
            call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
            with transaction.atomic(using=alias):
                assert publish(Said()).position == 0
            with connections[alias].cursor() as cursor:
                assert cursor.execute("select count(*) from kept_things").fetchone() == (0,)
                assert cursor.execute("select count(*) from spine_events").fetchone() == (1,)
                assert cursor.execute("pragma journal_mode").fetchone()[0] in ("delete", "memory")
    finally:
        teardown_test_environment()
        if (driver := connections["memory"].connection) is not None:
            driver.close()  # Django itself never closes one in memory
            connections["memory"].connection = None


def test_before_that_whoever_publishes_first_outside_of_a_transaction_makes_them(empty):
    assert publish(Said()).position == 1


def test_and_inside_of_one_is_told_to_migrate_at_once(empty):
    with transaction.atomic(), pytest.raises(SettingsError, match="manage.py migrate"):
        publish(Said())


def test_and_so_is_who_finds_tables_of_an_older_release(path):
    with closing(sqlite3.connect(path)) as own:
        own.execute("drop table spine_notes")
        own.execute("update spine_meta set value = '1' where name = 'schema_version'")
        own.commit()
    with transaction.atomic(), pytest.raises(SettingsError, match="manage.py migrate"):
        publish(Said())
    assert publish(Said()).durable


def test_flush_and_dumpdata_leave_the_journal_alone(stored, capsys):
    Row.objects.create(name="ann")
    publish(Said())
    call_command("flush", interactive=False, verbosity=0)
    assert ([], ["ann"]) == (stored.rows, stored.keys)
    capsys.readouterr()
    call_command("dumpdata")
    assert "spine" not in capsys.readouterr().out


def test_migrations_that_copy_tables_leave_the_journal_alone(stored):
    publish(Said())
    with connection.schema_editor() as editor:
        field = Row._meta.get_field("name").clone()
        field.max_length, field.null = 80, True
        field.set_attributes_from_name("name")
        field.model = Row
        editor.alter_field(Row, Row._meta.get_field("name"), field)
    publish(Said(name="bob"))
    assert ["ann", "bob"] == stored.keys


# --- what is refused --------------------------------------------------------------------------------------------------


def test_r21_an_event_beside_rows_of_another_database_is_a_dual_write_and_refused(stored):
    with transaction.atomic(using="other"), pytest.raises(SettingsError, match="using='default'"):
        publish(Said())
    assert [] == stored.keys


def test_r21_who_says_which_of_the_two_decides_may(stored):
    with transaction.atomic(using="other"), transaction.atomic():
        publish(Said())
    assert ["ann"] == stored.keys


def test_r21_a_snapshot_that_is_too_old_names_the_setting_that_prevents_it(stored):
    options = connection.settings_dict["OPTIONS"]
    connection.close()
    mode = options.pop("transaction_mode", None)
    try:
        with transaction.atomic():
            assert not Row.objects.exists()
            with closing(sqlite3.connect(stored.path)) as other:
                other.execute("insert into desk_row (name) values ('bob')")
                other.commit()
            with pytest.raises(JournalBusy, match='"transaction_mode": "IMMEDIATE"'):
                publish(Said())
    finally:
        options.update({"transaction_mode": mode} if mode else {})
        connection.close()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"SERVICE": "nobody.knows:desk"}, "no module 'nobody'"),
        ({"SERVICE": "json:loads"}, "is a function, no Service"),
        ({"SERVICE": "json:nothing"}, "does not exist"),
        ({"SERVICE": "json"}, "module and the name"),
        ({"SERVICE": 7}, "is a text"),
        ({"SERVIC": "x"}, "Did you mean 'SERVICE'"),
        ({"RUN": {"shop.handlers"}}, "is a list"),
        ([], "is a dict"),
        ({}, "SERVICE"),
        ({"SERVICE": "x:y", "DATABASE": "nowhere"}, "DATABASES has default, other"),
        ({"SERVICE": "x:y", "DATABASE": "elsewhere"}, "The journal is in SQLite or PostgreSQL"),
        ({"SERVICE": "x:y", "DATABASE": "memory"}, "is in memory"),
    ],
)
def test_settings_that_cannot_be_meant_say_what_can(path, given, word):
    with override_settings(EVENTSPINE=given):
        with pytest.raises((SettingsError, UnknownPublisher), match=word):
            publish(Said())


def test_the_database_may_be_another_than_the_default(path):
    with override_settings(EVENTSPINE={**settings.EVENTSPINE, "DATABASE": "other"}):
        call_command("migrate", database="other", run_syncdb=True, verbosity=0)
        publish(Said())
    with closing(sqlite3.connect(path.with_name("other.sqlite3"))) as own:
        assert own.execute("select count(*) from spine_events").fetchone() == (1,)


# --- async ------------------------------------------------------------------------------------------------------------


def test_an_event_loop_is_told_to_await(path):
    async def view():
        publish(Said())

    with pytest.raises(SynchronousOnlyOperation, match="apublish"):
        asyncio.run(view())


def test_apublish_publishes_in_the_thread_where_djangos_own_async_calls_are(stored):
    def ask():
        with transaction.atomic():
            Row.objects.create(name="bob")
            publish(Said(name="bob"))

    async def view():
        await Row.objects.acreate(name="ann")
        assert (await apublish(Said(name="ann"))).durable
        await sync_to_async(ask)()
        await sync_to_async(connections.close_all)()

    asyncio.run(view())
    assert (["ann", "bob"], ["ann", "bob"]) == (stored.rows, stored.keys)


# --- within= of any spine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["alias", "connection", "proxy"])
def test_r21_any_spine_writes_within_djangos_connection_or_its_alias(stored, how):
    within = {"alias": "default", "connection": connections["default"], "proxy": connection}[how]
    with Spine(stored.url, service=desk) as spine:
        with pytest.raises(Undone), transaction.atomic():
            spine.publish(Said(name="ann"), within=within)
            raise Undone
        with transaction.atomic():
            spine.publish(Said(name="bob"), within=within)
        with pytest.raises(SettingsError, match=r"transaction\.atomic"):
            spine.publish(Said(name="cid"), within=within)
    assert ["bob"] == stored.keys


def test_without_django_the_line_that_installs_it_is_named():
    """And `import eventspine` imports nothing of it."""
    program = """
import sys
import eventspine, eventspine.sync, eventspine.within
assert "django" not in sys.modules
sys.modules["django"] = None
try:
    import eventspine.integrations.django
except eventspine.errors.MissingExtra as error:
    print(error)
"""
    line = [sys.executable, "-W", "error", "-c", program]
    assert 'pip install "eventspine[django]"' in subprocess.run(line, stdout=subprocess.PIPE, text=True).stdout


# --- processes --------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from tests.integrations.django_project import conftest
from django.db import connections, transaction
from tests.integrations.django_project.desk.events import Said
from tests.integrations.django_project.desk.models import Row
from eventspine.integrations.django import publish
conftest.use(sys.argv[1])
"""


def run(stored, program):
    code = CHILD + program
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, stored.given], timeout=60, cwd=os.getcwd()
    ).returncode


def test_a_publish_in_on_commit_is_lost_by_a_kill_and_one_in_the_transaction_is_not(stored):
    """Why there is no `on_commit(publish)` in the documentation but as a trap."""
    kill = "transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))\n    "
    begin = "\nwith transaction.atomic():\n    Row.objects.create(name='{0}')\n    "
    trap = begin.format("ann") + kill + "transaction.on_commit(lambda: publish(Said(name='ann')))"
    right = begin.format("bob") + kill + "publish(Said(name='bob'))"
    assert [-9, -9] == [run(stored, trap), run(stored, right)]
    assert (["ann", "bob"], ["bob"]) == (stored.rows, stored.keys)


def test_workers_that_are_forked_after_the_first_publish_go_on_with_ids_of_their_own(stored):
    """As gunicorn does with preload_app. Each worker opens Django's connection anew, as Django asks for."""
    program = """
publish(Said(name="before"))
connections.close_all()
children = []
for n in range(4):
    if not (child := os.fork()):
        for m in range(10):
            with transaction.atomic():
                Row.objects.create(name=f"{n}-{m}")
                publish(Said(name=f"{n}-{m}"))
        os._exit(0)
    children.append(child)
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""
    assert run(stored, program) == 0
    assert len(set(stored.keys)) == 41
    assert set(stored.rows) == set(stored.keys) - {"before"}


def test_many_threads_publish_beside_their_rows_and_none_is_turned_away(stored):
    from concurrent.futures import ThreadPoolExecutor

    def place(name):
        try:
            with transaction.atomic():
                Row.objects.create(name=name)
                publish(Said(name=name))
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as threads:
        for done in [threads.submit(partial(place, f"n{n}")) for n in range(200)]:
            done.result()
    assert sorted(stored.rows) == sorted(stored.keys)
    assert len(stored.keys) == 200


def test_an_id_of_ones_own_is_for_outside_of_handlers_only(path):
    with pytest.raises(EventRefused, match="not a UUID|not an event id"):
        publish(Said(), id="x")
