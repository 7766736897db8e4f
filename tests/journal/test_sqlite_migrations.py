"""R9: one file, many services, several releases of us; and the services' own tables."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventspine.errors import JournalVersion, SettingsError, StatementRefused
from eventspine.journal import _sql_apply, migrations
from eventspine.journal.migrations import Migration, statements
from eventspine.journal.port import Append, Note, Process, Unit
from eventspine.journal.sqlite import SQLiteJournal
from eventspine.service import tables_script

from .material import LEASE_US, START_US, HandClock, commit, event, one_subscription, process

OURS, WRITER_MIN = _sql_apply.SCHEMA_VERSION, _sql_apply.WRITER_MIN
ADDS = Migration(
    OURS + 1,
    "create table spine_added (added text); -- a column more, say\n create index spine_n on spine_added (added)",
)
REMOVES = Migration(OURS + 2, "drop table spine_marks", removes=True, needs="0.3.0")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/spine.db"


async def opened(url: str) -> SQLiteJournal:
    journal = SQLiteJournal(url, HandClock())
    await journal.open()
    return journal


def newer(monkeypatch: pytest.MonkeyPatch, *steps: Migration) -> None:
    """This process is of a release with these migrations."""
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, *steps))
    monkeypatch.setattr(_sql_apply, "SCHEMA_VERSION", steps[-1].version)


def tables(url: str) -> set[str]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return {row[0] for row in connection.execute("select name from sqlite_master")}


def meta(url: str) -> tuple[int, int]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        rows = dict(connection.execute("select name, value from spine_meta").fetchall())
        return int(rows["schema_version"]), int(rows["writer_min"])


def release(text: str, id: str = "p") -> Process:
    return process(id)._replace(release=text)


async def test_r9_what_a_newer_release_adds_lets_an_older_one_go_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await opened(url)
    with monkeypatch.context() as as_newer:
        newer(as_newer, ADDS)
        new = await opened(url)
        await new.close()
    assert (OURS + 1, WRITER_MIN) == meta(url)
    assert {"spine_added", "spine_n"} <= tables(url)

    assert "done" == (await commit(old, appends=[Append([event()])])).kind
    await old.close()
    again = await opened(url)
    assert "done" == (await commit(again, appends=[Append([event()])])).kind
    await again.close()


async def test_r9_removing_is_refused_while_an_older_process_lives(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = await opened(url)
    await old.lease(release("0.2.9"), [], [], START_US, START_US + LEASE_US)
    newer(monkeypatch, ADDS, REMOVES)

    with pytest.raises(JournalVersion, match=r"0\.2\.9.*Upgrade it to 0\.3\.0") as caught:
        await opened(url)
    assert "email" in str(caught.value)
    assert (OURS, WRITER_MIN) == meta(url)
    assert "spine_marks" in tables(url)
    await old.close()


@pytest.mark.parametrize("left", ["dead", "newer"])
async def test_r9_removing_goes_on_when_the_older_have_ended_or_been_upgraded(
    url: str, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    old = await opened(url)
    last = release("0.2.9") if left == "dead" else release("0.10.0")
    await old.lease(last, [], [], START_US - LEASE_US, START_US - 1 if left == "dead" else START_US + LEASE_US)
    await old.close()
    newer(monkeypatch, ADDS, REMOVES)
    new = await opened(url)
    await new.close()

    assert (OURS + 2, OURS + 2) == meta(url)
    assert "spine_marks" not in tables(url)


async def test_r9_every_write_of_an_older_release_is_refused_after_that(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was open all the time, and asks in each transaction."""
    old = await opened(url)
    with monkeypatch.context() as as_newer:
        newer(as_newer, ADDS, REMOVES)
        await (await opened(url)).close()

    verdict = await commit(old, appends=[Append([event()])])
    assert ("failed", JournalVersion) == (verdict.kind, type(verdict.error))
    assert "Upgrade eventspine" in str(verdict.error)
    writes = (
        old.fire(START_US, 10),
        old.control([]),
        old.lease(process("p"), [], [], START_US, START_US),
        old.leave(process("p")),
        old.run_tables("a", "1", "create table a (b)"),
        one_subscription(old),
    )
    for write in writes:
        with pytest.raises(JournalVersion):
            await write
    with closing(sqlite3.connect(old.path)) as own, pytest.raises(JournalVersion):
        old.write_within(own, Unit(appends=[Append([event()])]))
    assert 0 == await old.head()  # reading goes on
    await old.close()
    with pytest.raises(JournalVersion, match="newer release"):
        await opened(url)


async def test_r9_a_migration_that_fails_leaves_the_file_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await opened(url)).close()
    before = tables(url)
    newer(monkeypatch, Migration(OURS + 1, "create table spine_one (a); create table spine_one (a);"))

    with pytest.raises(sqlite3.OperationalError):
        await opened(url)
    assert (OURS, WRITER_MIN) == meta(url)
    assert before == tables(url)


# --- each step that there has been ----------------------------------------------------------------------------------------


def as_of_version_1(url: str) -> None:
    """A file as the first release made it."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("drop table spine_notes")
        connection.execute("update spine_meta set value = '1' where name in ('schema_version', 'writer_min')")


def shape(url: str) -> set[tuple[str, str, str]]:
    """Of tables and indexes, whatever the white space they were made with."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where name like 'spine%'")]
        query = 'select name || type || "notnull" || pk from pragma_table_xinfo(?)'
        columns = {(name, "column", row[0]) for name in names for row in connection.execute(query, (name,))}
        indexes = {
            (name, "index", str(row[1:])) for name in names for row in connection.execute(f"pragma index_list({name})")
        }
        return columns | indexes


async def test_r9_a_file_of_the_first_release_becomes_what_a_new_one_is(url: str, tmp_path: Path) -> None:
    new = f"sqlite:///{tmp_path}/new.db"
    for each in (url, new):
        await (await opened(each)).close()
    as_of_version_1(url)
    old = await opened(url)

    assert (OURS, 1) == meta(url) == meta(new)
    assert shape(new) == shape(url)
    assert "done" == (await commit(old, notes=[Note("email", "k", "a", b"1")])).kind
    await old.close()


# --- tables of a service ------------------------------------------------------------------------------------------------


@pytest.fixture
async def journal(url: str) -> AsyncIterator[SQLiteJournal]:
    made = await opened(url)
    yield made
    await made.close()


async def test_a_schema_runs_once_per_service_and_version(url: str, journal: SQLiteJournal) -> None:
    other = await opened(url)
    script = "create table if not exists seen (at); insert into seen values (1);"
    ran = await asyncio.gather(*(each.run_tables("a", "1", script) for each in (journal, other, journal, other)))
    ran += [await journal.run_tables("a", "2", script), await journal.run_tables("b", "1", script)]

    assert [1, 1, 1] == [1 for yes in ran if yes]
    assert 3 == len(await journal.query("select * from seen", {}))
    await other.close()


@pytest.mark.parametrize(
    "script",
    [
        "create table one (a); insert into spine_meta values ('a', 'b')",
        "create table one (a); commit",
        "create table one (a); attach 'x.db' as x",
        "create table one (a); pragma user_version = 3",
        "create table one (a); drop table spine_events",
        "create table one (a); alter table spine_events rename to mine",
        "create table one (a); create table spine_mine (a)",
        "create table one (a); create index mine on spine_events (key)",
        "create table one (a); create trigger t after insert on spine_events begin select 1; end",
        "create table one (a); vacuum",
    ],
)
async def test_a_schema_runs_as_a_whole_and_reaches_nothing_of_ours(journal: SQLiteJournal, script: str) -> None:
    with pytest.raises(StatementRefused):
        await journal.run_tables("a", "1", script)

    assert [] == await journal.query("select name from sqlite_master where name = 'one'", {})


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (
            "creat table one (a);",
            StatementRefused,
            "failed: A statement of tables= begins with one of alter, .* this one is 'creat",
        ),
        ("drop table spine_events;", StatementRefused, "failed: Not allowed: "),
        ("create tble one (a);", SettingsError, 'failed, and nothing of them was kept: near "tble"'),
    ],
)
async def test_a_file_that_fails_is_named_with_its_service(
    journal: SQLiteJournal, tmp_path: Path, text: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "shop.sql").write_text(text)
    version, script = tables_script(str(tmp_path / "shop.sql"))
    whose = re.escape(f"The tables= of the service 'shop' ({tmp_path / 'shop.sql'}) ")
    with pytest.raises(error, match=f"^{whose}{says}"):
        await journal.run_tables("shop", version, script)


def adds_a_column_twice(tables: Any) -> None:
    tables.execute("create table one (a)")
    tables.execute("alter table one add column a")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("create table one (a); create tble two (b)", 'near "tble": syntax error'),
        (adds_a_column_twice, "duplicate column name: a"),
    ],
)
async def test_a_schema_that_fails_says_whose_it_is_and_leaves_nothing(
    journal: SQLiteJournal, script: Any, said: str
) -> None:
    with pytest.raises(SettingsError, match="tables= of the service 'shop' failed, and nothing") as caught:
        await journal.run_tables("shop", "1", script)
    assert said in str(caught.value)
    assert "Another version" not in str(caught.value)
    assert [] == await journal.query("select name from sqlite_master where name = 'one'", {})


async def test_one_that_was_changed_and_can_not_run_again_is_told_how(journal: SQLiteJournal) -> None:
    await journal.run_tables("shop", "1", "create table one (a)")
    with pytest.raises(
        SettingsError, match="table one already exists.* Another version .* `create table if not exists`"
    ):
        await journal.run_tables("shop", "2", "create table one (a); insert into one values (1)")


async def test_a_trigger_or_view_cannot_reach_ours_either(journal: SQLiteJournal) -> None:
    await journal.run_tables(
        "a", "1",
        "create table one (a); create view peek as select * from spine_events;"
        "create trigger t after insert on one begin delete from spine_events; end;",
    )  # fmt: skip
    await commit(journal, appends=[Append([event()])])

    with pytest.raises(StatementRefused):
        await journal.query("select * from peek", {})
    verdict = await commit(journal, Unit(statements=[], appends=[]))
    assert "done" == verdict.kind
    assert 1 == await journal.head()


async def test_a_callable_gets_a_connection_in_the_same_transaction(journal: SQLiteJournal) -> None:
    kept: list[Any] = []

    def make(connection: Any) -> None:
        kept.append(connection)
        connection.execute("create table price (sku text, amount text)")
        connection.executemany("insert into price values (?, ?)", [("a", 1), ("b", 2)])
        connection.execute("insert into price values (:sku, :amount)", {"sku": "c", "amount": None})
        assert [(3,)] == connection.execute("select count(*) from price")

    assert await journal.run_tables("a", "1", make)
    with pytest.raises(StatementRefused, match="is over"):
        kept[0].execute("delete from price")

    def fails(connection: Any) -> None:
        connection.execute("delete from price")
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        await journal.run_tables("a", "2", fails)
    assert 3 == len(await journal.query("select * from price", {}))


def test_a_script_is_split_where_statements_end() -> None:
    script = """
        create table a (b text default ';'); -- not; here
        create trigger t after insert on a begin delete from a; select 1; end;
        /* nor; here */ insert into a values ('x;y')
    """
    assert ["create table", "-- not; here", "/* nor; here"] == [text[:12] for text in statements(script)]
    assert [] == statements("-- nothing;\n /* at; all */")
