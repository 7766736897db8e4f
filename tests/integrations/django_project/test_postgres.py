"""Django on PostgreSQL: the same promises as on SQLite, by the same tests, and what only a server can do to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import django
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.db.backends.postgresql import psycopg_any
from django.db.backends.postgresql.base import DatabaseWrapper
from django.test import override_settings

from eventspine import Event, Reject, Service, View
from eventspine.errors import JournalDenied, JournalError, SettingsError
from eventspine.integrations.django import atomic_delivery, journals, load, publish, send, view
from eventspine.integrations.django.testing import running
from eventspine.journal._postgres_connect import target_of
from eventspine.journal._postgres_schema import identity
from eventspine.journal._postgres_session import channel_of
from eventspine.policies import Retry
from eventspine.sync import Spine
from eventspine.testing.servers import Server

from . import test_handlers, test_publishing, test_state
from .conftest import Stored
from .desk.events import Ask, Counter, Said, Say, called, desk
from .desk.models import Done, Row
from .test_checks import found
from .test_handlers import WAIT_S, dead, ear, max_age, until  # noqa: F401 -- fixtures
from .test_state import Undone, fresh, keeping  # noqa: F401 -- fixtures

pytestmark = pytest.mark.setup("postgres")
_numbers = count(1)
PROJECT = Path(__file__).parents[3] / "examples" / "django_shop"
POSTGRES = "django.db.backends.postgresql"
ONLY_ON_SQLITE = {  # about its file, its write lock, or nothing that is stored
    "test_a_killed_process_has_done_all_of_it_or_nothing_and_sending_again_does_it_once",  # below, for another promise
    "test_an_async_handler_cannot_have_a_transaction_of_djangos_and_is_told_so",
    "test_and_so_is_who_finds_tables_of_an_older_release",
    "test_in_tests_they_are_made_on_djangos_own_connection",
    "test_migrate_makes_the_tables_in_the_file_of_the_database_that_is_named",
    "test_r21_a_snapshot_that_is_too_old_names_the_setting_that_prevents_it",
    "test_r4_waiting_for_the_turn_is_not_the_handlers_time",
    "test_settings_that_cannot_be_meant_say_what_can",
    "test_the_database_may_be_another_than_the_default",
    "test_what_a_handler_reads_cannot_be_stale_when_it_writes_whatever_the_transaction_mode",
    "test_without_django_the_line_that_installs_it_is_named",
}
globals().update(
    {
        name: test
        for module in (test_publishing, test_handlers, test_state)
        for name, test in vars(module).items()
        if name.startswith("test_") and name not in ONLY_ON_SQLITE
    }
)


class Database(Stored):
    """One of its own for a test, as Django and as anybody else sees it."""

    def __init__(self, server: Server) -> None:
        self.server_url, self.name = server.url, f"desk_{next(_numbers)}"
        where = urlsplit(server.url)
        self.url = where._replace(path=f"/{self.name}").geturl()
        self.settings = {
            "ENGINE": POSTGRES, "NAME": self.name, "USER": "postgres", "HOST": where.hostname, "PORT": where.port, "OPTIONS": {}
        }  # fmt: skip
        self.administer(f"create database {self.name}")

    @property
    def given(self) -> str:
        return json.dumps(self.settings)

    def administer(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.server_url, autocommit=True) as own:
            cursor = own.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as own:
            cursor = own.execute(sql)
            return cursor.fetchall() if cursor.description else []


def forget() -> None:
    """Django's connection of this thread: the next is made as the settings say then."""
    connections["default"].close()
    if getattr(connections["default"], "pool", None):
        connections["default"].close_pool()
    del connections["default"]


def forget_everywhere() -> None:
    """Also that of the thread in which async code uses the database."""
    forget()
    asyncio.run(sync_to_async(forget)())


@pytest.fixture
def empty(postgres_server: Server, tmp_path: Path) -> Iterator[Database]:
    """A database that nobody has migrated yet."""
    database = Database(postgres_server)
    connections["other"].close()
    connections["other"].settings_dict["NAME"] = connections.settings["other"]["NAME"] = tmp_path / "other.sqlite3"
    before = connections.settings["default"]
    forget_everywhere()
    connections.settings["default"] = {**before, **database.settings}
    yield database
    forget_everywhere()
    connections.close_all()
    connections.settings["default"] = before
    database.administer(f"drop database {database.name} with (force)")


@pytest.fixture
def path(empty: Database) -> Database:
    call_command("migrate", run_syncdb=True, verbosity=0)
    return empty


@pytest.fixture
def stored(path: Database) -> Database:
    return path


# --- commits ------------------------------------------------------------------------------------------------------------


def test_it_is_heard_of_when_the_transaction_commits_and_not_before(stored):
    heard: list[object] = []
    with psycopg.connect(stored.url, autocommit=True) as own:
        known = identity(own, '"public"')
        own.execute(f"listen {channel_of(known)}")
        with pytest.raises(Undone), transaction.atomic():
            publish(Said(name="never"))
            raise Undone
        with transaction.atomic():
            publish(Said())
            transaction.on_commit(lambda: heard.append(stored.keys))
            assert [] == list(own.notifies(timeout=0.2))
        assert 1 == len(list(own.notifies(timeout=WAIT_S, stop_after=1)))
    assert [["ann"]] == heard, "who is called on commit finds it stored"


def test_a_subscriber_is_woken_by_the_commit(stored, ear, monkeypatch):  # noqa: F811
    """With the looking that would find it otherwise turned down to once in a minute."""
    monkeypatch.setattr("eventspine.journal._postgres_lookout.LOOK_EVERY_S", 60.0)

    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    with running(ear):
        publish(Said(name="bob"))
        until(lambda: stored.done, WAIT_S)


def test_handlers_write_side_by_side(stored, ear):  # noqa: F811
    both = threading.Barrier(2, timeout=WAIT_S)

    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)
        both.wait()

    publish(Said(name="ann"), Said(name="bob"), Said(name="cid"), Said(name="dee"))
    with running(ear) as spine:
        until(lambda: len(stored.done) == 4)
        assert [] == dead(spine)


DYING = """
import os, signal, sys
from tests.integrations.django_project import conftest
conftest.use(sys.argv[1])
from django.db.backends.base.base import BaseDatabaseWrapper
from eventspine import Service
from eventspine.integrations.django import atomic_delivery, publish
from eventspine.integrations.django.testing import running
from tests.integrations.django_project.desk.events import Heard, Said
from tests.integrations.django_project.desk.models import Done
import time

ear, proper, handling = Service("ear"), BaseDatabaseWrapper.commit, False

@ear.on(Said)
@atomic_delivery
def hear(event: Said) -> Heard:
    global handling
    Done.objects.create(name=event.name)
    handling = True
    return Heard(name="heard")

def commit(self):
    if handling and sys.argv[2] == "before COMMIT":
        os.kill(os.getpid(), signal.SIGKILL)
    proper(self)
    if handling and sys.argv[2] == "after COMMIT":
        os.kill(os.getpid(), signal.SIGKILL)

BaseDatabaseWrapper.commit = commit
with running(ear) as spine:
    while not spine._loop.run(spine.journal.cursors([1])) or min(
        c.position for c in spine._loop.run(spine.journal.cursors([1]))
    ) < 1:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("point", ["before COMMIT", "after COMMIT"])
@pytest.mark.promise("process killed", "postgres")
def test_killed_around_the_commit_an_event_is_handled_once(stored, point):
    publish(Said())
    line = [sys.executable, "-c", DYING, stored.given]
    assert -signal.SIGKILL == subprocess.run([*line, point], timeout=WAIT_S * 2, cwd=os.getcwd()).returncode
    assert stored.done == (["ann"] if point == "after COMMIT" else [])
    assert 0 == subprocess.run([*line, "never"], timeout=WAIT_S * 2, cwd=os.getcwd()).returncode
    assert (["ann"], ["ann", "heard"]) == (stored.done, stored.keys)


@pytest.mark.parametrize("point", ["before COMMIT", "after COMMIT"])
@pytest.mark.promise("process killed", "postgres")
def test_killed_around_the_commit_a_command_is_done_once(stored, point):
    test_state.test_a_killed_process_has_done_all_of_it_or_nothing_and_sending_again_does_it_once(stored, point)


def test_a_conflict_rolls_back_the_rows_of_the_handler_before_it_is_called_again(stored):
    """Others may save the same aggregate between its loading and its saving, since nobody has a lock on all of the database."""
    other, once = threading.Event(), []

    @desk.command(Ask)
    def ask(command, delivery):
        counter = delivery.load(Counter, "ann")
        Done.objects.create(name=f"saw {counter.n}")
        if not once:
            once.append(threading.Thread(target=elsewhere))
            once[0].start()
            assert other.wait(WAIT_S)
        counter.count(1)
        delivery.save(counter)

    def elsewhere() -> None:
        try:
            send(Say(name="ann", n=5), command_id="other")
        finally:
            connections.close_all()
            other.set()

    send(Say(name="ann", n=1), command_id="first")
    Row.objects.all().delete()
    send(Ask())
    once[0].join()
    assert ["saw 6"] == stored.done
    assert 7 == load(Counter, "ann").n


# --- which database -----------------------------------------------------------------------------------------------------


def test_r21_a_connection_to_another_database_is_refused(stored, postgres_server):
    other = Database(postgres_server)
    try:
        with Spine(other.url, service=desk) as spine:
            with transaction.atomic(), pytest.raises(SettingsError, match="two commits|Two databases are two commits"):
                spine.publish(Said(), within="default")
            with pytest.raises(SettingsError, match="No transaction is open on the database 'default'"):
                spine.publish(Said(), within=connection)
    finally:
        other.administer(f"drop database {other.name} with (force)")
    assert [] == stored.keys


def test_a_handler_of_another_journal_is_not_joined(stored, postgres_server, ear):  # noqa: F811
    other = Database(postgres_server)

    @ear.on(Said, retry=Retry(attempts=1))
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    try:
        with Spine(other.url, service=desk) as spine, spine.running(ear):
            spine.publish(Said())
            (reason,) = until(lambda: dead(spine))
        assert "two commits" in reason
    finally:
        other.administer(f"drop database {other.name} with (force)")
    assert [] == stored.done


def test_the_journal_may_be_in_a_schema_of_its_own(empty):
    with override_settings(EVENTSPINE={**settings.EVENTSPINE, "SCHEMA": "Spine"}):
        call_command("migrate", run_syncdb=True, verbosity=0)
        with transaction.atomic():
            Row.objects.create(name="ann")
            publish(Said())
        assert [("ann",)] == empty.ask('select key from "Spine".spine_events')
        with Spine(journals.url_of(journals.wrapper())) as spine, spine.running(test_state.tally()):
            send(Say(name="bob", n=3))
            counts = view(test_state.Counts)
            until(lambda: counts.get("bob"))
            assert [{"n": 3}] == counts.query("select n from counts")
        with connection.cursor() as cursor:
            cursor.execute("select current_schema()")
            assert ("public",) == cursor.fetchone(), "the connection is left as it was"
    assert [] == empty.ask("select 1 from pg_tables where schemaname = 'public' and tablename like 'spine_%'")


def test_a_role_that_django_assumes_owns_the_tables(empty):
    empty.administer("drop role if exists desk_owner")
    empty.administer("create role desk_owner nologin")
    empty.ask("grant create, usage on schema public to desk_owner")
    connections.settings["default"]["OPTIONS"] = {"assume_role": "desk_owner"}
    try:
        call_command("migrate", run_syncdb=True, verbosity=0)
        publish(Said())
        assert "role=desk_owner" in journals.url_of(journals.wrapper())
        assert [("desk_owner",)] == empty.ask("select tableowner from pg_tables where tablename = 'spine_events'")
        with Spine(journals.url_of(journals.wrapper())) as spine:
            assert spine.health()["status"] == "ok"
    finally:
        forget()
        empty.ask("drop owned by desk_owner cascade; drop role desk_owner")


def test_a_role_that_may_not_is_told_so(stored):
    stored.administer("drop role if exists desk_guest")
    stored.administer("create role desk_guest login")
    stored.ask("grant all on all tables in schema public to desk_guest; revoke all on spine_meta from desk_guest")
    connections.settings["default"]["USER"] = "desk_guest"
    forget()
    try:
        with pytest.raises(JournalDenied, match="spine_meta"):
            publish(Said())
        with pytest.raises(JournalDenied), transaction.atomic():
            Row.objects.create(name="ann")
            publish(Said())
        assert [] == stored.rows
    finally:
        forget()
        stored.ask("drop owned by desk_guest; drop role desk_guest")


HOSTS = {
    "plain": ({"HOST": "db.example", "PORT": 5433}, "postgresql://desk@db.example:5433/shop"),
    "nothing": ({}, "postgresql://desk@/shop"),
    "a socket": ({"HOST": "/run/pg", "PORT": "5433"}, "postgresql://desk@/shop?host=%2Frun%2Fpg&port=5433"),
    "IPv6": ({"HOST": "::1"}, "postgresql://desk@/shop?host=%3A%3A1"),
    "several": ({"HOST": "one,two"}, "postgresql://desk@/shop?host=one%2Ctwo"),
    "a password": ({"HOST": "db", "PASSWORD": "p:/@? 1"}, "postgresql://desk:p%3A%2F%40%3F%201@db/shop"),
    "options": (
        {"HOST": "db", "OPTIONS": {"sslmode": "require", "options": "-c search_path=a,b", "pool": True, "isolation_level": 2}},
        "postgresql://desk@db/shop?sslmode=require&options=-c%20search_path%3Da%2Cb",
    ),
    "a service": ({"NAME": "", "USER": "", "OPTIONS": {"service": "shop"}}, "postgresql:///?service=shop"),
    "a pooler": ({"HOST": "db", "DISABLE_SERVER_SIDE_CURSORS": True}, "postgresql://desk@db/shop?prepare=off"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTS)
def test_processes_of_handlers_connect_as_django_does(kind):
    given, expected = HOSTS[kind]
    base = {"NAME": "shop", "USER": "desk", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}, "TIME_ZONE": None}
    url = journals.url_of(DatabaseWrapper({**base, **given}, "default"))
    assert expected == url
    libpq = psycopg.conninfo.conninfo_to_dict(target_of(url).conninfo)
    assert given.get("PASSWORD", libpq.get("password")) == libpq.get("password")
    assert given.get("HOST", libpq.get("host")) == libpq.get("host")


# --- connections --------------------------------------------------------------------------------------------------------


def end_sessions(stored: Database) -> None:
    """As a restart of the server does, or a firewall."""
    stored.administer(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{stored.name}'")
    until(lambda: not stored.administer(f"select 1 from pg_stat_activity where datname = '{stored.name}'"))


@pytest.mark.parametrize("inside", [True, False])
def test_a_connection_that_is_kept_and_was_lost_fails_once_and_is_made_anew(stored, inside):
    with max_age(None):
        publish(Said(name="before"))
        end_sessions(stored)
        with pytest.raises((JournalError, OperationalError)):
            if inside:
                with transaction.atomic():
                    publish(Said(name="lost"))
            else:
                publish(Said(name="lost"))
        publish(Said(name="after"))
    assert ["before", "after"] == stored.keys


def test_with_health_checks_it_does_not_even_fail_once(stored):
    connections.settings["default"]["CONN_HEALTH_CHECKS"] = True
    forget()
    with max_age(None):
        publish(Said(name="before"))
        end_sessions(stored)
        connection.close_if_unusable_or_obsolete()  # as a request begins
        publish(Said(name="after"))
    assert ["before", "after"] == stored.keys


def test_a_connection_lost_in_the_middle_of_a_transaction_leaves_nothing_of_it(stored):
    with pytest.raises((JournalError, OperationalError)), transaction.atomic():
        Row.objects.create(name="ann")
        publish(Said(name="ann"))
        end_sessions(stored)
        publish(Said(name="bob"))
    assert ([], []) == (stored.rows, stored.keys)
    publish(Said(name="cid"))
    assert ["cid"] == stored.keys


@pytest.mark.skipif(django.VERSION < (5, 1), reason="has no pool")
def test_with_djangos_pool_of_connections(stored, ear):  # noqa: F811
    forget()
    connections.settings["default"]["OPTIONS"] = {"pool": {"min_size": 1, "max_size": 3}}

    @ear.on(Said)
    @atomic_delivery
    def hear(event: Said) -> None:
        Done.objects.create(name=event.name)

    for n in range(20):
        with transaction.atomic():
            Row.objects.create(name=f"n{n}")
            publish(Said(name=f"n{n}"))
        connection.close()  # back to the pool
    with running(ear) as spine:
        until(lambda: len(stored.done) == 20)
        assert [] == dead(spine)
    assert sorted(stored.done) == sorted(stored.rows) == sorted(stored.keys)


def test_what_django_registers_on_its_connections_changes_no_value_of_ours(stored):
    """Without USE_TZ, Django reads times without their zone, and JSON always as text."""

    class Seen(View, key="name"):
        name: str
        at: datetime | None = None
        tags: list[str] = []  # noqa: RUF012 -- a default of a view's

    class Met(Event, context="desk", key="name"):
        name: str
        at: datetime

    keeper, when = Service("keeper", publishes=()), datetime(2026, 7, 1, 12, tzinfo=UTC)

    @keeper.projection(Seen, Met)
    def keep(view: View[Seen], event: Met) -> None:
        row = view.row(event.name)
        row.at, row.tags = event.at, ["a"]

    with override_settings(USE_TZ=False, TIME_ZONE="America/New_York"):
        forget()
        with Spine(stored.url, service=desk) as spine, spine.running(keeper):
            publish(Met(name="ann", at=when))
            until(lambda: spine.view(Seen).get("ann"))
            row = view(Seen).get("ann")
            assert [{"at": when, "tags": ["a"]}] == view(Seen).query("select at, tags::jsonb as tags from seen")
        assert (when, ["a"]) == (row.at, row.tags)
        forget()


# --- tests of projects --------------------------------------------------------------------------------------------------


def test_checks_find_nothing_to_say_and_what_cannot_work(path, monkeypatch):
    assert found() == {}
    for schema, word in (("spine; drop", "no plain name"), ("pg_mine", "keeps for itself")):
        with override_settings(EVENTSPINE={**settings.EVENTSPINE, "SCHEMA": schema}):
            assert word in found()["eventspine.E001"]
    monkeypatch.setitem(connections.settings["default"], "AUTOCOMMIT", False)
    forget()
    assert "AUTOCOMMIT" in found()["eventspine.E004"]
    monkeypatch.setattr(psycopg_any, "is_psycopg3", False)
    assert "psycopg 2" in found()["eventspine.E002"]


def test_migrate_is_repeatable_and_makes_the_tables_once(stored):
    publish(Said())
    call_command("migrate", run_syncdb=True, verbosity=0)
    assert not journals.make_first(journals.wrapper())
    assert ["ann"] == stored.keys


def test_a_refusal_of_the_handler_leaves_nothing_on_the_server(stored):
    with pytest.raises(Reject, match="not thirteen"):
        send(Say(n=13), command_id="k")
    assert ([], []) == (stored.rows, stored.keys)
    assert 1 == len(called)


class Project:
    """The example, as its users run it, with its settings moved to PostgreSQL."""

    def __init__(self, folder: Path, database: Database) -> None:
        (folder / "on_postgres.py").write_text(
            f"from project.settings import *\nDATABASES['default'] = {database.settings!r}\n"
            "EVENTSPINE = {**EVENTSPINE, 'SCHEMA': 'spine'}\n"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SPINE_")}
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.environment = {
            **kept, "DJANGO_SETTINGS_MODULE": "on_postgres", "PYTHONPATH": path, "SHOP_FOLDER": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200", "NO_COLOR": "1",
        }  # fmt: skip
        self.log = folder / "run.log"

    def manage(self, *arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *arguments], cwd=PROJECT, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT_S * 2,
        )  # fmt: skip
        assert code in (None, done.returncode), done.stdout
        return done.stdout

    def run(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", "spine", "run", "--processes", "2"], cwd=PROJECT, env=self.environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


@pytest.mark.promise("process killed", "postgres processes")
def test_manage_py_spine_runs_a_project_whose_processes_are_killed_and_each_order_is_packed_once(
    tmp_path, postgres_server
):
    database = Database(postgres_server)
    database.settings["PASSWORD"] = "s3cr3t"
    project = Project(tmp_path, database)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        assert "no issues (0 silenced)" in project.manage("check", "--fail-level", "WARNING")
        project.manage("migrate", "-v", "0")
        database.ask("insert into shop_stock (sku, free) values ('pot', 1000)")
        place = "from shop.views import place\nfor n in range({0}, {0} + 30): place(f'A-{{n}}', 'pot', 1)"
        packed = "select count(*) from shop_parcel"
        for begin in (0, 30):
            processes.append(project.run())
            project.manage("shell", "-v", "0", "-c", place.format(begin))
            if begin == 0:
                until(lambda: database.ask(packed) >= [(5,)], WAIT_S)
                os.killpg(processes[0].pid, signal.SIGKILL)
        until(lambda: database.ask(packed) >= [(60,)], WAIT_S * 2)
        assert [(60, 60)] == database.ask('select count(*), count(distinct "order") from shop_parcel')
        assert [(940,)] == database.ask("select free from shop_stock")
        assert "warehouse.reserve" in project.manage("spine", "subscriptions")
        assert "warehouse.StockReserved" in project.manage("spine", "tail", "--no-follow")
        assert "own database" in project.manage("spine", "reset", "--yes", code=2)
        assert "[]" in project.manage("spine", "dead", "list", "--json")
        assert "DATABASES['default']" in project.manage("spine", "settings")
        for shown in (
            ("settings",),
            ("settings", "--json"),
            ("doctor",),
            ("tail", "--no-follow", "--json"),
            ("topology",),
        ):
            assert "s3cr3t" not in project.manage("spine", *shown, code=None)
        processes[-1].terminate()
        assert processes[-1].wait(WAIT_S) == 0, project.log.read_text()[-3000:]
        assert "s3cr3t" not in project.log.read_text()
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(WAIT_S)
        database.administer(f"drop database {database.name} with (force)")
