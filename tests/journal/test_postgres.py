"""What the PostgreSQL journal promises beyond the public suite: its feed beside many writers, and what becomes of units when
connections and servers are lost."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from eventspine import Event, Service, Spine, View
from eventspine.errors import (
    JournalBusy,
    JournalDenied,
    JournalError,
    JournalVersion,
    OutcomeUnknown,
    SettingsError,
    SpineError,
    StatementRefused,
    UnitFailed,
    ViewNotKept,
)
from eventspine.journal import (
    _postgres_calls,
    _postgres_connect,
    _postgres_feed,
    _postgres_lookout,
    _postgres_schema,
    _postgres_session,
    _postgres_sql,
    open_journal,
    postgres as _postgres,
)
from eventspine.journal._postgres_sql import Ask, Cursor
from eventspine.journal.migrations import Migration
from eventspine.journal.port import Append, Done, Note, Record, Seen, Statement, Timer, Unit
from eventspine.journal.postgres import PostgresJournal
from eventspine.testing.servers import Server

from .material import WAIT_S, Bell, commit, event, one_subscription, publish, whole_feed

pytestmark = pytest.mark.setup("postgres", processes="postgres processes")


@asynccontextmanager
async def opened(url: str, **given: Any) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(url, **given)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
async def journal(postgres_url: str) -> AsyncIterator[PostgresJournal]:
    async with opened(postgres_url) as journal:
        yield journal


@contextmanager
def connected(journal: PostgresJournal) -> Iterator[psycopg.Connection]:
    with psycopg.connect(journal.target.conninfo, options=f"-c search_path={journal.target.schema}") as connection:
        yield connection
        connection.rollback()


def fresh(**given: Any) -> Record:
    return event(id=os.urandom(16), **given)


# --- its tables ---------------------------------------------------------------------------------------------------------


async def test_several_that_open_a_new_schema_at_the_same_moment_make_its_tables_once(postgres_url: str, schema: str):
    """All of them have seen that there are none, and wait for the lock of who makes them."""
    journals = [PostgresJournal(postgres_url) for _ in range(5)]
    key = (_postgres_schema._MAKING, _postgres_schema.signed(zlib.crc32(f'"{schema}"'.encode())))
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and classid = %s and not granted"
    with psycopg.connect(journals[0].target.conninfo, autocommit=True) as first:
        first.execute("select pg_advisory_lock(%s, %s)", key)
        opening = [asyncio.create_task(journal.open()) for journal in journals]
        async with asyncio.timeout(WAIT_S):
            while first.execute(waiting, (key[0],)).fetchone() != (len(journals),):
                await asyncio.sleep(0.01)
        first.execute("select pg_advisory_unlock(%s, %s)", key)
        await asyncio.gather(*opening)
    assert [journal.created for journal in journals].count(True) == 1
    assert len({journal.id for journal in journals}) == 1
    for journal in journals:
        await journal.close()


# --- the feed -----------------------------------------------------------------------------------------------------------


async def test_an_event_whose_transaction_commits_late_is_waited_for(journal: PostgresJournal):
    late, early = fresh(), fresh()
    with connected(journal) as slow:
        journal.write_within(slow, Unit([Append([late])]))
        await publish(journal, early)
        page = await journal.feed(0, limit=10)
        assert ((), 0) == (tuple(page.records), page.scanned)
        assert "server process" in str((await journal.describe())["feed_held_up_by"])
        slow.commit()
    assert [late.id, early.id] == [record.id for record in await whole_feed(journal)]
    assert (await journal.describe())["feed_held_up_by"] is None


async def test_without_the_fence_that_event_is_lost(journal: PostgresJournal):
    """What the fence is good for: the same as above, with the fence switched off."""
    journal._here().fence.on = False
    late, early = fresh(), fresh()
    with connected(journal) as slow:
        journal.write_within(slow, Unit([Append([late])]))
        await publish(journal, early)
        page = await journal.feed(0, limit=10)
        assert [early.id] == [record.id for record in page.records]
        slow.commit()
    assert [] == list((await journal.feed(page.scanned, limit=10)).records), "the reader has passed it, for ever"


async def test_a_page_asks_for_few_positions_where_they_hold_enough_and_for_more_where_they_do_not(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
):
    """The planner may read and sort all that is asked for, whatever the limit."""
    await commit(journal, Unit([Append([fresh(type="rare" if n % 700 == 699 else "usual") for n in range(2_800)])]))
    asked: list[int] = []
    execute = _postgres_feed.Cursor.execute

    def noting(cursor: Any, sql: str, parameters: Any = ()) -> Any:
        if "octet_length" in sql:
            asked.append(parameters[1] - parameters[0])
        return execute(cursor, sql, parameters)

    monkeypatch.setattr(_postgres_feed.Cursor, "execute", noting)
    full = await journal.feed(0, limit=100)
    assert (100, 100, [100]) == (len(full.records), full.scanned, asked)
    asked.clear()
    sparse = await journal.feed(0, limit=100, types=["rare"])
    assert [700, 1400, 2100, 2800] == [record.position for record in sparse.records]
    assert (2800, False) == (sparse.scanned, sparse.more)
    assert [100, 400, 1600, 700] == asked
    monkeypatch.setattr("eventspine.journal._sql_read.PAGE_BYTES_MAX", 1)
    cut = await journal.feed(0, limit=100, types=["rare"])
    assert ([700], 700) == ([record.position for record in cut.records], cut.scanned)


async def test_a_transaction_that_never_commits_leaves_a_hole_and_holds_nobody_up(journal: PostgresJournal):
    with connected(journal) as given_up:
        journal.write_within(given_up, Unit([Append([fresh(), fresh()])]))
        after = fresh()
        await publish(journal, after)
        given_up.rollback()
    assert [(3, after.id)] == [(record.position, record.id) for record in await whole_feed(journal)]
    assert 3 == await journal.head()


async def test_an_unrelated_transaction_holds_nobody_up_however_long_it_is_open(journal: PostgresJournal):
    with connected(journal) as given_up, connected(journal) as unrelated:
        unrelated.execute("create table unrelated (n integer)")  # it has written, and has a number
        journal.write_within(given_up, Unit([Append([fresh()])]))
        given_up.rollback()  # a gap, which is the time when readers wait for somebody
        await publish(journal, fresh())
        assert 2 == await journal.head()


async def test_24_writers_that_also_roll_back_and_dawdle_lose_nothing_and_reorder_nothing(journal: PostgresJournal):
    """Each takes its own connection and transactions, as programs do that publish within their own."""
    stored: list[bytes] = []
    writing = True

    def write(number: int) -> None:
        draw = random.Random(number)
        with connected(journal) as own:
            for _ in range(30):
                records = [fresh(correlation=f"w{number % 7}") for _ in range(draw.choice((1, 1, 1, 3)))]
                journal.write_within(own, Unit([Append(records, "orders", f"w{number % 7}")]))
                if draw.random() < 0.07:
                    own.rollback()
                    continue
                if draw.random() < 0.05:
                    time.sleep(0.03)
                own.commit()
                stored.extend(record.id for record in records)

    seen: list[Record] = []

    async def read() -> None:
        after = 0
        while writing or after < await journal.head():
            page = await journal.feed(after, limit=50)
            seen.extend(page.records)
            after = page.scanned
            await asyncio.sleep(0.002)

    with connected(journal) as unrelated:
        unrelated.execute("create table unrelated (n integer)")
        reading = asyncio.create_task(read())
        await asyncio.gather(*(asyncio.to_thread(write, number) for number in range(24)))
        writing = False
        await asyncio.wait_for(reading, WAIT_S)
    assert Counter(stored) == Counter(record.id for record in seen), "each once"
    assert sorted(record.position for record in seen) == [record.position for record in seen]
    for name in {record.correlation for record in seen}:
        in_stream = [record.id for record in await journal.stream("orders", name or "")]
        assert in_stream == [record.id for record in seen if record.correlation == name], (
            "a stream's order is the feed's"
        )


# --- what units are judged by ------------------------------------------------------------------------------------------


async def test_rows_that_are_missing_in_several_tables_are_made_for_one_unit(journal: PostgresJournal):
    mine = await one_subscription(journal)
    unit = Unit(
        [Append([fresh()], "orders", "o-1", 0)],
        done=[Done(mine.number, 5, [(0, 1)], mine.generation)],
        marks=[Seen(mine.number, "elsewhere", "orders", 7, [(0, 3)])],
        notes=[Note("orders", "snapshot", "o-1", b"{}", expected=0)],
    )
    verdict = await commit(journal, unit)
    assert ("done", [1]) == (verdict.kind, verdict.versions)
    assert "repeated" == (await commit(journal, unit)).kind


async def test_a_repetition_beside_the_first_that_makes_the_stream_is_told_its_result(journal: PostgresJournal):
    """It has looked for the event before, waits for the stream's row, and must look again."""
    unit = Unit([Append([fresh()], "orders", "o-1", 0)])
    with connected(journal) as own:
        journal.write_within(own, unit)
        repeated = asyncio.ensure_future(commit(journal, unit))
        await _somebody_waits(own)
        own.commit()
    assert "repeated" == (await repeated).kind


async def _somebody_waits(connection: psycopg.Connection) -> None:
    async with asyncio.timeout(WAIT_S):
        while not connection.execute("select 1 from pg_locks where not granted").fetchone():
            await asyncio.sleep(0.01)


# --- lost connections ---------------------------------------------------------------------------------------------------


@pytest.mark.promise("commit unknown", "postgres processes")
async def test_a_commit_whose_answer_is_lost_is_looked_up_and_done_once(journal: PostgresJournal):
    session = journal._here().writer.session
    record, other = fresh(), fresh()

    def lost_after(connection: Any, bell: str) -> None:
        session.commit_statement = _postgres_session._commit
        connection.execute(f"commit{bell}")
        connection.close()
        raise psycopg.OperationalError("the connection was lost")

    def lost_before(connection: Any, bell: str) -> None:
        session.commit_statement = _postgres_session._commit
        connection.close()
        raise psycopg.OperationalError("the connection was lost")

    for lost, one in ((lost_after, record), (lost_before, other)):
        session.commit_statement = lost
        assert "done" == (await commit(journal, Unit([Append([one])]))).kind
    assert [record.id, other.id] == [each.id for each in await whole_feed(journal)]


async def test_a_commit_whose_bell_is_ended_behind_it_is_done(journal: PostgresJournal):
    """By an administrator, a statement_timeout, or a handler's transaction whose time is over just then."""
    session = journal._here().writer.session
    ended = "select pg_cancel_backend(pg_backend_pid()), pg_sleep(9)"

    def after(connection: Any, bell: str) -> None:
        session.commit_statement = _postgres_session._commit
        connection.execute(f"commit; {ended}")

    def before(connection: Any, bell: str) -> None:
        session.commit_statement = _postgres_session._commit
        connection.execute(f"{ended}; commit")

    stored, refused = fresh(), fresh()
    session.commit_statement = after
    assert "done" == (await commit(journal, Unit([Append([stored])]))).kind
    session.commit_statement = before
    verdict = await commit(journal, Unit([Append([refused])]))
    assert ("failed", JournalBusy) == (verdict.kind, type(verdict.error))
    assert [stored.id] == [each.id for each in await whole_feed(journal)]


async def test_a_connection_whose_questions_were_ended_again_and_again_is_as_good_as_new(postgres_url: str):
    """psycopg takes a question for prepared that was asked five times, though one before it in its pipeline has failed."""
    async with opened(postgres_url, statements_s=0.05) as journal:

        def unit() -> Unit:
            return Unit([Append([fresh()], "orders", "o-1")], notes=[Note("orders", "kind", "key", b"value")])

        async def are_done(count: int) -> None:
            assert ["done"] * count == [(await commit(journal, unit())).kind for _ in range(count)]

        async def are_ended(count: int) -> None:
            with connected(journal) as other:
                other.execute("select * from spine_streams for update")
                for _ in range(count):
                    assert isinstance((await commit(journal, unit())).error, JournalBusy)

        await are_done(1)
        await are_ended(2)
        await are_done(4)
        await are_ended(3)
        await are_done(8)


async def test_so_is_a_callers_own(journal: PostgresJournal):
    with connected(journal) as own, connected(journal) as other:

        def are_done(count: int) -> None:
            for _ in range(count):
                journal.write_within(
                    own, Unit([Append([fresh()], "orders", "o-1")], notes=[Note("orders", "kind", "key", b"value")])
                )
                own.commit()

        def are_ended(count: int) -> None:
            other.execute("select * from spine_streams for update")
            for _ in range(count):
                own.execute("set local statement_timeout = 50")
                with pytest.raises(SpineError):
                    are_done(1)
                own.commit()  # of which nothing is left but what the caller has written
            other.rollback()

        are_done(1)
        are_ended(2)
        are_done(4)
        are_ended(3)
        are_done(8)
    assert 13 == len(await whole_feed(journal))


async def test_a_commit_that_nobody_can_tell_of_is_unknown_until_it_is_asked_again(
    postgres_url: str, postgres_server: Server
):
    async with opened(postgres_url, busy_s=0.5) as journal:
        mine = await one_subscription(journal)
        session = journal._here().writer.session
        unit = Unit([Append([fresh()])], done=[Done(mine.number, 5, [(0, 1)], mine.generation)])

        def server_dies(connection: Any, bell: str) -> None:
            session.commit_statement = _postgres_session._commit
            connection.execute(f"commit{bell}")
            postgres_server.kill()
            raise psycopg.OperationalError("the connection was lost")

        session.commit_statement = server_dies
        verdict = await commit(journal, unit)
        assert "unknown" == verdict.kind
        assert isinstance(verdict.error, OutcomeUnknown)
        postgres_server.start()
        assert "repeated" == (await commit(journal, unit)).kind
        assert 1 == len(await whole_feed(journal))


async def test_killed_backends_lose_nothing_and_double_nothing(journal: PostgresJournal, postgres_url: str):
    async with opened(postgres_url) as other:
        acknowledged: list[bytes] = []
        killing = True

        async def write(each: PostgresJournal) -> None:
            for _ in range(60):
                records = [fresh() for _ in range(3)]
                assert "done" == (await commit(each, Unit([Append(records)]))).kind
                acknowledged.extend(record.id for record in records)

        def kill() -> None:
            with psycopg.connect(journal.target.conninfo, autocommit=True) as admin:
                while killing:
                    admin.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where application_name = 'eventspine' and pid <> pg_backend_pid()"
                    )
                    time.sleep(0.05)

        reaper = threading.Thread(target=kill)
        reaper.start()
        try:
            await asyncio.gather(write(journal), write(other))
        finally:
            killing = False
            reaper.join()
        assert Counter(acknowledged) == Counter(record.id for record in await whole_feed(journal))


def test_a_session_that_ends_before_several_queries_is_one_error_and_no_word_of_the_driver_s(
    postgres_server: Server, caplog: pytest.LogCaptureFixture
):
    """As a unit may find it between its begin and what it reads at first, which no test can time."""
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        connection = psycopg.connect(postgres_server.url, autocommit=True)
        admin.execute("select pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError, match="closed|terminat") as lost:
        Cursor(connection, "public").together([Ask("select 1"), Ask("select 2")])
    assert _postgres_connect.is_lost(lost.value)
    assert not [record for record in caplog.records if record.name.startswith("psycopg")]


def test_the_first_error_of_several_queries_is_the_one_that_is_raised(postgres_server: Server):
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            Cursor(connection, "public").together([Ask("select 1"), Ask("select 1/0"), Ask("select nonsense")])
        assert [[(1,)], [(2,)]] == Cursor(connection, "public").together([Ask("select 1"), Ask("select 2")])


@pytest.mark.promise("server killed", "postgres", "postgres processes")
async def test_a_server_that_is_killed_and_started_again_loses_nothing(
    journal: PostgresJournal,
    postgres_url: str,
    postgres_server: Server,
):
    async with opened(postgres_url) as other:
        acknowledged: list[bytes] = []
        asked: set[bytes] = set()
        bell, writing = Bell(other), True

        async def write(each: PostgresJournal) -> None:
            while writing:
                record = fresh()
                asked.add(record.id)
                while not (await commit(each, Unit([Append([record])]))).ok:
                    await asyncio.sleep(0.01)
                acknowledged.append(record.id)

        writers = [asyncio.create_task(write(each)) for each in (journal, other)]
        for _ in range(2):
            count = len(acknowledged)
            while len(acknowledged) < count + 20:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.to_thread(postgres_server.start)
        count = len(acknowledged)
        while len(acknowledged) < count + 20:
            await asyncio.sleep(0.01)
        writing = False
        await asyncio.gather(*writers)
        seen = Counter(record.id for record in await whole_feed(journal))
        assert Counter(acknowledged) == seen
        assert asked == set(acknowledged)
        await bell.rings()
        before = bell.times
        await publish(journal, fresh())
        async with asyncio.timeout(WAIT_S):
            while bell.times == before:  # who watched before hears again
                await asyncio.sleep(0.01)
        bell.stop()


@pytest.mark.promise("cut off", "postgres", "postgres processes")
async def test_who_is_cut_off_from_the_server_waits_and_goes_on(postgres_server: Server, schema: str):
    with postgres_server.proxy() as network:
        async with (
            opened(f"{network.url}?schema={schema}") as cut_off,
            opened(f"{postgres_server.url}?schema={schema}") as beside,
        ):
            first, waiting, other = fresh(), fresh(), fresh()
            await publish(cut_off, first)
            network.refuse()
            network.reset()
            held = asyncio.create_task(commit(cut_off, Unit([Append([waiting])])))
            await publish(beside, other)
            assert [first.id, other.id] == [record.id for record in await whole_feed(beside)], "nobody waits for it"
            assert not held.done()
            network.mend()
            assert "done" == (await asyncio.wait_for(held, WAIT_S)).kind
            assert [first.id, other.id, waiting.id] == [record.id for record in await whole_feed(cut_off)]
        with psycopg.connect(postgres_server.url, autocommit=True) as admin:
            admin.execute(f"drop schema {schema} cascade")


async def test_a_server_that_is_gone_is_named_without_its_password():
    journal = PostgresJournal("postgres://shop:s3cr3t@127.0.0.1:1/shop?schema=spine&password=s3cr3t", busy_s=0.1)
    with pytest.raises(JournalError) as caught:
        await journal.open()
    assert "can't be reached" in str(caught.value)
    for text in (str(caught.value), repr(caught.value), str(journal.url), repr(journal.target), f"{journal.url}"):
        assert "s3cr3t" not in text


# --- waking up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notified", [True, False], ids=["by a notification", "by looking"])
async def test_a_commit_elsewhere_is_heard(postgres_url: str, monkeypatch: pytest.MonkeyPatch, notified: bool):
    if notified:
        monkeypatch.setattr(_postgres_lookout, "LOOK_EVERY_S", 3600.0)
    else:
        monkeypatch.setattr(_postgres_lookout, "channel_of", lambda _: "nobody_notifies_this")
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        bell = Bell(one)
        await bell.rings()  # the first look of all
        before = bell.times
        await publish(other, fresh())
        async with asyncio.timeout(WAIT_S):
            while bell.times == before:
                await asyncio.sleep(0.01)
        bell.stop()
        if notified:  # end its waiting
            await publish(other, fresh())


async def test_a_commit_of_a_callers_own_transaction_is_heard(postgres_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_postgres_lookout, "LOOK_EVERY_S", 3600.0)
    async with opened(postgres_url) as journal:
        bell = Bell(journal)
        await bell.rings()
        before = bell.times
        with connected(journal) as own:
            journal.write_within(own, Unit([Append([fresh()])]))
            own.commit()
        async with asyncio.timeout(WAIT_S):
            while bell.times == before:
                await asyncio.sleep(0.01)
        bell.stop()
        await publish(journal, fresh())


# --- limits -------------------------------------------------------------------------------------------------------------


async def test_sql_that_takes_too_long_fails_its_unit_alone(postgres_url: str):
    async with opened(postgres_url, statements_s=0.3) as journal:
        slow = Unit([Append([fresh()])], statements=[Statement("select pg_sleep(60)", {})])
        verdicts = await journal.commit([slow, Unit([Append([fresh()])])])
        assert ["failed", "done"] == [verdict.kind for verdict in verdicts]
        assert "took longer than 0.3 s" in str(verdicts[0].error)


async def test_a_row_that_somebody_else_holds_is_busy_and_nothing_is_to_blame(postgres_url: str):
    async with opened(postgres_url, statements_s=0.3) as journal:
        with connected(journal) as own:
            journal.write_within(own, Unit([Append([fresh()], "orders", "o-1", 0)]))
            verdict = await commit(journal, Unit([Append([fresh()], "orders", "o-1")]))
            assert "failed" == verdict.kind
            assert isinstance(verdict.error, JournalBusy)
            own.commit()
        assert "done" == (await commit(journal, Unit([Append([fresh()], "orders", "o-1")]))).kind


async def test_transactions_beyond_what_the_url_allows_wait_for_their_turn(postgres_url: str):
    async with opened(f"{postgres_url}&transactions=2", busy_s=0.3) as journal:
        held = [await journal.begin(10), await journal.begin(10)]
        with pytest.raises(JournalError, match="transactions=8"):
            await journal.begin(10)
        await held.pop().rollback()
        held.append(await journal.begin(10))
        for each in held:
            await each.rollback()


async def test_sql_of_a_handler_keeps_away_from_the_journals_tables(journal: PostgresJournal):
    for sql in (
        'select * from "spine_events"',
        "delete from spine_cursors",
        "do $$ begin end $$",
        "select 1; select 2",
    ):
        verdict = await commit(journal, Unit([Append([fresh()])], statements=[Statement(sql, {})]))
        assert isinstance(verdict.error, (StatementRefused, UnitFailed)), sql
    assert 0 == await journal.head()


# --- schemas and roles --------------------------------------------------------------------------------------------------


async def test_two_schemas_of_a_database_are_two_journals(postgres_url: str):
    async with opened(postgres_url) as one, opened(f"{postgres_url}_too") as two:
        await publish(one, fresh())
        assert (1, 0) == (await one.head(), await two.head())
        assert one.id != two.id
        with connected(two) as own:
            two.write_within(own, Unit([Append([fresh()])]))
            one.write_within(own, Unit([Append([fresh()])]))  # one transaction, one database: one commit
            own.commit()
        assert (2, 1) == (await one.head(), await two.head())
        with psycopg.connect(one.target.conninfo, autocommit=True) as admin:
            admin.execute(f"drop schema {two.target.schema} cascade")


async def test_the_tables_belong_to_the_role_that_is_named(postgres_url: str, schema: str, postgres_server: Server):
    role = f"{schema}_owner"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {role}; grant create on database postgres to {role}")
        async with opened(f"{postgres_url}&role={role}") as journal:
            await publish(journal, fresh())
            query = "select tableowner from pg_tables where schemaname = %s and tablename = 'spine_events'"
            assert (role,) == admin.execute(query, (schema,)).fetchone()


def url_of(server: Server, user: str, options: str, database: str = "") -> str:
    url = server.url.replace("postgres@", f"{user}@")
    return f"{url.rpartition('/')[0]}/{database}?{options}" if database else f"{url}?{options}"


async def test_everything_is_done_as_the_role_that_is_named(schema: str, postgres_server: Server):
    """Who connects may do nothing by itself, and inherits nothing."""
    owner, login = f"{schema}_owner", f"{schema}_login"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {owner}; grant create on database postgres to {owner}")
        admin.execute(f"create role {login} login noinherit; grant {owner} to {login}")
    async with opened(url_of(postgres_server, login, f"schema={schema}&role={owner}")) as journal:
        assert journal.exists()
        bell = Bell(journal)
        await bell.rings()  # who listens has looked
        await publish(journal, fresh())
        record = fresh()
        assert await journal.run_tables("shop", "1", "create table own (n integer);")
        insert = Statement("insert into own (n) values (:n)", {"n": 7})
        assert (await commit(journal, Unit([Append([record])], statements=[insert]))).ok
        assert 2 == len(await whole_feed(journal)) == await journal.head()
        assert record.id == (await journal.event(record.id) or record).id
        assert [{"role": owner}] == await journal.query("select current_user::text as role", {})
        assert [{"n": 7}] == await journal.query("select n from own", {})
        transaction = await journal.begin(5.0)
        assert [{"role": owner}] == await transaction.query("select current_user::text as role", {})
        await transaction.rollback()
        assert journal.id == (await journal.describe())["id"]
    async with opened(url_of(postgres_server, login, f"schema={schema}&role={owner}")) as again:
        assert 2 == await again.head()
        here = again._here().readers
        here.submit(lambda cursor: cursor.run("select 1")).result()
        assert [(login,)] == here._idle[0].execute("select current_user::text").fetchall()  # of the session it is not


class Placed(Event, context="orders", key="customer"):
    customer: str


class ByCustomer(View, key="customer"):
    customer: str
    orders: int = 0


async def test_a_service_and_its_view_are_at_work_as_the_role_that_is_named(schema: str, postgres_server: Server):
    owner, login = f"{schema}_owner", f"{schema}_login"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {owner}; grant create on database postgres to {owner}")
        admin.execute(f"create role {login} login noinherit; grant {owner} to {login}")
    reports: Service[None] = Service("reports", publishes="orders")

    @reports.projection(ByCustomer, Placed)
    def count(view: View[ByCustomer], event: Placed) -> None:
        view.row(event.customer).orders += 1

    url = url_of(postgres_server, login, f"schema={schema}&role={owner}")
    async with Spine(url, service=reports) as spine:
        with pytest.raises(ViewNotKept):
            await spine.view(ByCustomer).get("ann")
        async with spine.running(reports):
            receipt = await spine.publish(Placed(customer="ann"))
            await spine.view(ByCustomer).wait(receipt, timeout_s=WAIT_S)
            assert [ByCustomer(customer="ann", orders=1)] == await spine.view(ByCustomer).all()
            assert [{"n": 1}] == await spine.view(ByCustomer).query("select sum(orders)::int as n from by_customer")


DENIED = [
    ("{login}", "schema={schema}", "nowhere", 'database "nowhere" does not exist.*createdb'),
    ("{login}_too", "schema={schema}", "", 'role ".*_too" does not exist.*Make the role'),
    ("{login}", "schema={schema}&role=nobody_at_all", "", 'role "nobody_at_all" does not exist.*Make the role'),
    ("{login}", "schema={schema}&role={owner}", "", "permission denied to set role.*grant {owner} to"),
    ("{login}", "schema={schema}", "", "permission denied for schema.*grant usage on schema {schema}"),
    ("{owner}", "schema={schema}", "", "not permitted to log in.*Name a role with LOGIN"),
    ("{secret}", "schema={schema}", "", "(authentication failed|no password supplied).*Mend the user or the password"),
    ("{secret}:wr0ng", "schema={schema}", "", "authentication failed.*Mend the user or the password"),
    ("{outside}", "schema={schema}", "", "pg_hba.conf.*Let this user in"),
]


@pytest.fixture
def strangers(postgres_server: Server, schema: str) -> Iterator[dict[str, str]]:
    """Roles that are let in in different ways, beside a journal that is none of theirs."""
    names = {name: f"{schema}_{name}" for name in ("owner", "login", "secret", "outside")}
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {names['owner']}; create schema {schema} authorization {names['owner']}")
        admin.execute(f"create table {schema}.spine_meta (name text, value text)")
        for name in ("login", "secret", "outside"):
            admin.execute(f"create role {names[name]} login password 's3cr3t'")
        (path,) = admin.execute("show hba_file").fetchone() or ("",)
        hba = Path(path)
        before = hba.read_text()
        lines = [
            f"{kind} all {names[role]} {where}{how}"
            for role, how in (("secret", "scram-sha-256"), ("outside", "reject"))
            for kind, where in (("local", ""), ("host", "all "))
        ]
        hba.write_text("\n".join([*lines, before]))
        admin.execute("select pg_reload_conf()")
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            try:
                psycopg.connect(url_of(postgres_server, names["outside"], "connect_timeout=5")).close()
            except psycopg.OperationalError:
                break
            time.sleep(0.02)
        yield {**names, "schema": schema}
        hba.write_text(before)
        admin.execute("select pg_reload_conf()")
        admin.execute(f"drop schema {schema} cascade")


async def test_what_waiting_does_not_mend_is_told_with_what_does(postgres_server: Server, strangers: dict[str, str]):
    for user, options, database, told in DENIED:
        url = url_of(postgres_server, user.format(**strangers), options.format(**strangers), database)
        began = time.monotonic()
        with pytest.raises(JournalDenied, match=told.format(**strangers)) as denied:
            await PostgresJournal(url).open()
        assert time.monotonic() - began < 10, "it was waited for"
        assert "wr0ng" not in str(denied.value)


async def test_a_right_that_is_taken_away_is_told_and_nothing_is_stored(
    postgres_url: str, schema: str, postgres_server: Server
):
    owner, login = f"{schema}_owner", f"{schema}_login"
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {owner}; grant create on database postgres to {owner}")
        admin.execute(f"create role {login} login noinherit; grant {owner} to {login}")
        async with opened(url_of(postgres_server, login, f"schema={schema}&role={owner}")) as journal:
            await publish(journal, fresh())
            admin.execute(f"revoke {owner} from {login}")
            verdict = await commit(journal, Unit([Append([fresh()])]))
            assert isinstance(verdict.error, JournalDenied)
            for asked in (journal.head(), journal.query("select 1", {}), journal.begin(5.0)):
                with pytest.raises(JournalDenied, match=f"grant {owner} to"):
                    await asked
            admin.execute(f"grant {owner} to {login}")
            await publish(journal, fresh())  # it goes on where it stood
            assert 2 == await journal.head()


async def test_a_server_that_is_not_there_is_waited_for_and_no_denial():
    with pytest.raises(JournalError, match="can't be reached") as missed:
        await PostgresJournal("postgresql://shop@127.0.0.1:1/shop").open()
    assert not isinstance(missed.value, JournalDenied)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "postgres+psycopg2"])
def test_a_url_of_sqlalchemys_is_told_how_it_is_written(scheme: str):
    with pytest.raises(SettingsError, match=r"write 'postgresql://…@db/shop\?schema=spine'") as refused:
        open_journal(f"{scheme}://shop:s3cr3t@db/shop?schema=spine")
    assert "s3cr3t" not in str(refused.value)


async def test_a_role_that_may_not_make_tables_says_what_to_grant(postgres_server: Server, schema: str):
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute(f"create role {schema}_nobody login")
    poor = postgres_server.url.replace("postgres@", f"{schema}_nobody@") + f"?schema={schema}"
    with pytest.raises(SettingsError, match="grant create"):
        await PostgresJournal(poor).open()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_a_database_that_can_t_keep_every_text_is_refused(postgres_server: Server, schema: str, encoding: str):
    name = f"{schema}_{encoding.lower()}"
    sql = f"create database {name} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(sql)
    with pytest.raises(SettingsError, match=f"keeps its texts as {encoding}.*createdb --encoding=UTF8"):
        await PostgresJournal(urlsplit(postgres_server.url)._replace(path=f"/{name}").geturl()).open()


@pytest.mark.parametrize("where", ["PGCLIENTENCODING", "url", "options"])
async def test_whatever_encoding_a_client_is_told_texts_are_whole(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, where: str
):
    url = {"url": "&client_encoding=LATIN1", "options": "&options=-c%20client_encoding%3DLATIN1"}.get(where, "")
    if where == "PGCLIENTENCODING":
        monkeypatch.setenv(where, "LATIN1")
    async with opened(postgres_url + url) as journal:
        (verdict,) = await journal.commit([Unit(notes=[Note("", "words", "\u6f22", b"1")])])
        assert verdict.ok, verdict.error
        assert [note.key for note in await journal.notes("", "words")] == ["\u6f22"]


async def test_a_schema_with_a_percent_sign_in_the_search_path_is_refused(postgres_server: Server, schema: str):
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'create schema "{schema}%s"')
    url = f"{postgres_server.url}?options=-c%20search_path%3D%22{schema}%25s%22"
    with pytest.raises(SettingsError, match="read as a parameter of SQL"):
        await PostgresJournal(url).open()


async def test_a_journal_that_a_newer_release_has_closed_refuses_this_one(journal: PostgresJournal, postgres_url: str):
    with connected(journal) as admin:
        admin.execute("update spine_meta set value = '99' where name = 'writer_min'")
        admin.commit()
    verdict = await commit(journal, Unit([Append([fresh()])]))
    assert isinstance(verdict.error, JournalVersion)
    with pytest.raises(JournalVersion):
        await PostgresJournal(postgres_url).open()


async def test_a_migration_runs_once_whoever_opens_it(
    journal: PostgresJournal,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
):
    await publish(journal, fresh())
    monkeypatch.setattr(_postgres_schema, "MIGRATIONS", (Migration(3, "create table spine_notes_more (n integer);"),))
    async with opened(postgres_url) as one, opened(postgres_url) as two:
        assert 1 == await one.head() == await two.head()
        assert 3 == (await one.describe())["schema_version"]
    await publish(journal, fresh())  # the older release, which is still at work


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("schema=a-b", "no plain name"),
        ("schema=pg_spine", "PostgreSQL keeps for itself"),
        ("role=x;drop", "no plain name"),
        ("prepare=maybe", "neither on nor off"),
        ("transactions=0", "no number from 1 to 100"),
        ("readers=many", "no number from 1 to 100"),
        ("colour=blue", "names no PostgreSQL database"),
    ],
)
def test_an_option_that_is_wrong_is_refused(option: str, said: str):
    with pytest.raises(SettingsError, match=said) as caught:
        open_journal(f"postgresql://shop:s3cr3t@localhost/shop?{option}")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    import sys

    from eventspine.errors import MissingExtra

    for name in [name for name in sys.modules if name.startswith("eventspine.journal.") and "postgres" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r'pip install "eventspine\[postgres\]"'):
        open_journal("postgresql://localhost/shop")


# --- within -------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_is_not_on_the_journals_database_is_refused(
    journal: PostgresJournal, postgres_server: Server
):
    with psycopg.connect(postgres_server.url, autocommit=True) as admin:
        admin.execute("create database elsewhere")
    with psycopg.connect(postgres_server.url.removesuffix("postgres") + "elsewhere") as elsewhere:
        with pytest.raises(SettingsError, match="elsewhere"):
            journal.write_within(elsewhere, Unit([Append([fresh()])]))
    with psycopg.connect(postgres_server.url, autocommit=True) as own:
        with pytest.raises(SettingsError, match=r"connection\.transaction"):
            journal.write_within(own, Unit([Append([fresh()])]))
        with own.transaction():
            assert "done" == journal.write_within(own, Unit([Append([fresh()])])).kind
    with pytest.raises(SettingsError, match="no connection to it of psycopg"):
        journal.write_within(object(), Unit([Append([fresh()])]))
    assert 1 == await journal.head()


async def test_what_is_denied_once_connected_is_told_by_code_in_whatever_language_the_server_says_it(
    postgres_server: Server, strangers: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """By PostgreSQL's own codes, with the table of its English words taken away."""
    monkeypatch.setattr(_postgres_connect, "_DENIALS", ())
    for option, told in [
        ("schema={schema}&role=nobody_at_all", "Make the role"),
        ("schema={schema}&role={owner}", "grant {owner} to"),
        ("schema={schema}", "grant usage on schema {schema}"),
    ]:
        url = url_of(postgres_server, strangers["login"], option.format(**strangers))
        with pytest.raises(JournalDenied, match=told.format(**strangers)):
            await PostgresJournal(url).open()


async def test_a_role_whose_statements_have_next_to_no_time_opens_a_journal_all_the_same(
    postgres_url: str, schema: str
):
    """Even where it waits for longer than that, for somebody else who makes the tables."""
    journal = PostgresJournal(f"{postgres_url}&options=-c%20statement_timeout%3D200")
    key = (_postgres_schema._MAKING, _postgres_schema.signed(zlib.crc32(f'"{schema}"'.encode())))
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and classid = %s and not granted"
    with psycopg.connect(postgres_url.partition("?")[0], autocommit=True) as first:
        first.execute("select pg_advisory_lock(%s, %s)", key)
        opening = asyncio.create_task(journal.open())
        async with asyncio.timeout(WAIT_S):
            while first.execute(waiting, (key[0],)).fetchone() != (1,):
                await asyncio.sleep(0.01)
        first.execute("select pg_sleep(0.4)")  # twice what a statement of the role may take
        first.execute("select pg_advisory_unlock(%s, %s)", key)
        await opening
    assert journal.created
    await journal.close()


async def test_what_takes_too_long_while_a_journal_is_opened_or_read_is_no_error_of_the_drivers(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_postgres, "OPENING_S", 0.2)
    hasty = f"{postgres_url}&options=-c%20statement_timeout%3D200"
    async with opened(postgres_url), opened(hasty) as reading:
        with psycopg.connect(postgres_url.partition("?")[0]) as other:
            other.execute(f"lock {schema}.spine_meta, {schema}.spine_streams in access exclusive mode")
            with pytest.raises(JournalBusy, match="alter role .* set statement_timeout"):
                await PostgresJournal(hasty).open()
            with pytest.raises(JournalBusy, match="alter role .* set statement_timeout"):
                await reading.stream_version("tests", "one")
            other.rollback()
        assert 0 == await reading.stream_version("tests", "one")


async def test_timers_that_are_due_at_once_are_fired_so_much_at_a_time(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All in one would be more than PostgreSQL takes of a client at once: it drops the connection, each time."""
    timed = [fresh(data=b"0" * 4_000) for _ in range(5)]
    await commit(journal, timers=[Timer(20 + n, one) for n, one in enumerate(timed)])
    monkeypatch.setattr(_postgres_calls, "FIRED_BYTES", 10_000)
    assert [3, 2, 0] == [await journal.fire(99, 100) for _ in range(3)]
    assert [one.id for one in timed] == [one.id for one in await whole_feed(journal)]


async def test_values_that_are_more_than_is_sent_at_once_fail_their_unit(
    journal: PostgresJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await journal.run_tables("mail", "1", "create table mail_texts (a text, b bytea)")
    monkeypatch.setattr(_postgres_sql, "VALUES_MAX", 10_000)
    sql = "insert into mail_texts values (:a, :b)"
    large, small = (Statement(sql, {"a": "x" * 6_000, "b": b"x" * size}) for size in (6_000, 3_000))
    refused, beside = await journal.commit([Unit(statements=[large]), Unit(statements=[small])])
    assert ("failed", "done") == (refused.kind, beside.kind)
    assert isinstance(refused.error, UnitFailed)
    assert "The values of one statement are 12,000 characters or bytes" in str(refused.error)
