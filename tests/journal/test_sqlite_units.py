"""Units on SQLite: SQL of handlers beside our own (R5), cursors folded after verdicts (R3), and what happens without."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from eventspine.errors import JournalError, RowsUnexpected, StatementRefused, UnitFailed
from eventspine.journal import cursors
from eventspine.journal._sql_known import Coming
from eventspine.journal._sqlite_guard import parameters_of
from eventspine.journal.port import Append, Fence, Seen, Statement, Unit, Verdict
from eventspine.journal.sqlite import SQLiteJournal

from .material import commit, cursor, event, finished, one_subscription, process

TABLES = """
    -- a script may have comments; with semicolons
    create table stock (sku text primary key, free integer not null check (free >= 0));
    create table owner (id integer primary key);
    create table thing (id integer primary key, owner integer references owner (id) deferrable initially deferred);
    create table poison (id integer);
    create trigger bites before insert on poison begin select raise(rollback, 'bitten'); end;
"""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SQLiteJournal]:
    opened = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await opened.open()
    await opened.run_tables("inventory", "1", TABLES)
    yield opened
    await opened.close()


def sql(text: str, expect_rows: int | None = None, **parameters: Any) -> Unit:
    return Unit(statements=[Statement(text, parameters, expect_rows)])


def stock(sku: str) -> Unit:
    return sql("insert into stock values (:sku, 5)", sku=sku)


async def skus(journal: SQLiteJournal) -> list[str]:
    return [row["sku"] for row in await journal.query("select sku from stock order by sku", {})]


def kinds(verdicts: list[Verdict]) -> list[str]:
    return [verdict.kind for verdict in verdicts]


# --- R5: one unit's statement can't undo another's ------------------------------------------------------------------

CULPRITS = {
    "a statement that fails": sql("insert into stock values ('a', -1)"),
    "INSERT OR ROLLBACK": sql("insert or rollback into stock values ('before', 1)"),
    "a trigger that raises ROLLBACK": sql("insert into poison values (1)"),
    "a deferred foreign key": sql("insert into thing values (1, 99)"),
    "COMMIT": sql("commit"),
    "COMMIT behind a comment": sql("/* just */ -- a\n commit"),
    "END": sql("end"),
    "a savepoint of its own": sql("release spine_unit"),
    "several statements": sql("delete from stock; commit"),
    "a failing second statement": Unit(
        statements=[
            Statement("insert into stock values ('half', 1)", {}),
            Statement("insert into nothing values (1)", {}),
        ]
    ),
    "an expectation that fails": sql("delete from stock where sku = 'none'", 1),
}


@pytest.mark.parametrize("culprit", CULPRITS.values(), ids=CULPRITS.keys())
async def test_r5_one_units_statement_harms_only_itself(journal: SQLiteJournal, culprit: Unit) -> None:
    """In one commit with others before and after it, which all are durable."""
    appended = Unit(appends=[Append([event()])])
    verdicts = await journal.commit([stock("before"), appended, culprit, stock("behind"), stock("last")])

    assert ["done", "done", "failed", "done", "done"] == kinds(verdicts)
    assert isinstance(verdicts[2].error, UnitFailed | StatementRefused)
    assert ["before", "behind", "last"] == await skus(journal)
    assert 1 == await journal.head()
    assert [] == await journal.query("select * from thing", {})


async def test_r5_several_culprits_in_one_commit_each_fail_alone(journal: SQLiteJournal) -> None:
    units = [unit for index, culprit in enumerate(CULPRITS.values()) for unit in (stock(f"{index:02}"), culprit)]

    verdicts = await journal.commit([stock("before"), *units])

    assert ["done", *["done", "failed"] * len(CULPRITS)] == kinds(verdicts)
    assert len(CULPRITS) + 1 == len(await skus(journal))


async def test_r5_without_the_second_run_innocent_units_are_lost(journal: SQLiteJournal) -> None:
    """The ablation: what INSERT OR ROLLBACK destroys, when a group that fails as a whole is not run again."""
    journal._safeguards.rerun = False

    verdicts = await journal.commit([stock("before"), CULPRITS["INSERT OR ROLLBACK"], stock("behind")])

    assert ["done", "done", "done"] == kinds(verdicts)
    assert [] == await skus(journal)


async def test_r5_without_savepoints_half_a_failed_unit_stays(journal: SQLiteJournal) -> None:
    journal._safeguards.savepoints = False

    verdicts = await journal.commit([CULPRITS["a failing second statement"]])

    assert ["failed"] == kinds(verdicts)
    assert ["half"] == await skus(journal)


REFUSED = [
    "begin",
    "rollback",
    "savepoint a",
    "attach 'other.db' as other",
    "detach main",
    "pragma foreign_keys = off",
    "vacuum",
    "drop table stock",
    "create table mine (a)",
    "select * from spine_events",
    "select count(*) from SPINE_EVENTS",
    "with a as (select 1 from spine_meta) select * from a",
    "delete from spine_events",
    "update spine_meta set value = '9'",
    "insert into stock select id, 1 from spine_timers",
    "select * from pragma_table_info('stock')",
    "select spine_keep(1)",
    "/*spine*/ select 1",
    "/*spine*/ commit",
    "",
    "-- nothing",
]


@pytest.mark.parametrize("text", REFUSED)
async def test_a_handlers_sql_is_refused_where_it_is_not_the_handlers_business(
    journal: SQLiteJournal, text: str
) -> None:
    """Twice, since a statement that was prepared once is not asked about again."""
    for _ in range(2):
        verdict = await commit(journal, sql(text))
        assert "failed" == verdict.kind
        assert isinstance(verdict.error, StatementRefused), verdict.error


async def test_statements_of_ours_are_not_handed_to_a_handler(journal: SQLiteJournal) -> None:
    """Python's cache gives out a prepared statement without asking the authorizer: the very text of ours."""
    await commit(journal, Unit(appends=[Append([event()])]))
    texts = [
        text
        for text in (Path(cursors.__file__).parent / "_sqlite_writer.py").read_text().split('"')
        if text.startswith("/*spine*/")
    ]
    assert "/*spine*/ commit" in texts
    for text in texts:
        assert isinstance((await commit(journal, sql(text))).error, StatementRefused)


async def test_a_column_may_be_called_what_it_likes(journal: SQLiteJournal) -> None:
    await journal.run_tables("other", "1", "create table mine (spine_length integer)")

    assert "done" == (await commit(journal, sql("insert into mine (spine_length) values (7)"))).kind
    assert [{"spine_length": 7}] == await journal.query("select spine_length from mine", {})


@pytest.mark.parametrize(
    "text",
    [
        "delete from stock",
        "with a as (select 'a' as sku) delete from stock where sku in (select sku from a)",
        "insert into stock values ('a', 1) returning sku",
        "select * from spine_events",
        "pragma query_only = off",
        "select 1; select 2",
        "begin",
    ],
)
async def test_a_query_only_reads_and_only_what_is_the_handlers(journal: SQLiteJournal, text: str) -> None:
    for _ in range(2):
        with pytest.raises(StatementRefused):
            await journal.query(text, {})
        with pytest.raises(StatementRefused):
            await asyncio.to_thread(journal.query_blocking, text, {})
    assert [] == await skus(journal)
    with pytest.raises(UnitFailed, match="no such table"):
        await journal.query("select * from missing", {})


async def test_a_page_of_large_events_stays_within_some_megabytes(journal: SQLiteJournal) -> None:
    small = [event(data=b"x") for _ in range(100)]
    large = [event(data=b"x" * 3_000_000) for _ in range(6)]
    await journal.commit([Unit(appends=[Append([*small, *large])])])
    after, sizes = 0, []
    while (page := await journal.feed(after, limit=1_000)).records:
        sizes.append(sum(len(record.data) for record in page.records))
        after = page.scanned

    assert max(sizes) <= 8 * 1024 * 1024
    assert sum(sizes) == 100 + 6 * 3_000_000


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("update stock set free = free - 1", 2),
        ("delete from stock where sku = 'a'", 1),
        ("insert into stock values ('c', 1), ('d', 1), ('e', 1)", 3),
        ("insert into stock values ('c', 1), ('d', 1) returning sku", 2),
        ("with new as (select 'c' as sku) insert into stock select sku, 1 from new", 1),
        ("with old as (select 'a' as sku) delete from stock where sku in (select sku from old)", 1),
        ("-- a comment\n update stock set free = 1 where sku = 'b'", 1),
        ("select * from stock", 2),
        ("update stock set free = 1 where sku = 'none'", 0),
    ],
)
async def test_expected_rows_are_counted_for_every_form_of_statement(
    journal: SQLiteJournal, text: str, rows: int
) -> None:
    await journal.commit([stock("a"), stock("b")])

    missed = await commit(journal, sql(text, rows + 1))
    assert "failed" == missed.kind
    assert isinstance(missed.error, RowsUnexpected)
    assert ["a", "b"] == await skus(journal)
    assert "done" == (await commit(journal, sql(text, rows))).kind


async def test_values_are_bound_as_people_use_them(journal: SQLiteJournal) -> None:
    class Colour(Enum):
        RED = "red"

    @dataclass
    class Row:
        amount: Decimal
        colour: Colour

    uid = UUID("0190f0c0-0000-7000-8000-000000000001")
    await journal.run_tables("shop", "1", "create table kept (value)")
    values = {
        Decimal("12.30"): "12.30",
        uid: str(uid),
        date(2024, 2, 29): "2024-02-29",
        datetime(2024, 2, 29, 12, tzinfo=UTC): "2024-02-29T12:00:00+00:00",
        Colour.RED: "red",
        True: 1,
        b"raw": b"raw",
        None: None,
        2.5: 2.5,
    }
    for value in values:
        assert "done" == (await commit(journal, sql("insert into kept values (:value)", value=value))).kind

    assert list(values.values()) == [row["value"] for row in await journal.query("select * from kept", {})]
    assert {"amount": "1.50", "colour": "red"} == parameters_of(Row(Decimal("1.50"), Colour.RED))


async def test_a_time_without_zone_fails_its_unit_with_the_way_out(journal: SQLiteJournal) -> None:
    naive = datetime(2024, 1, 1)  # noqa: DTZ001 -- the mistake that is being made
    verdict = await commit(journal, sql("insert into stock values (:at, 1)", at=naive))

    assert "failed" == verdict.kind
    assert "time zone" in str(verdict.error)


async def test_a_value_that_sqlite_cannot_keep_fails_only_its_unit(journal: SQLiteJournal) -> None:
    """In a record of an event, too: whoever made it is told, and nobody else."""
    verdicts = await journal.commit(
        [
            Unit(appends=[Append([event()])]),
            Unit(appends=[Append([event(time_us=2**70)])]),
            Unit(appends=[Append([event(key="\ud800")])]),
            Unit(appends=[Append([event()])]),
        ]
    )

    assert ["done", "failed", "failed", "done"] == kinds(verdicts)
    assert 2 == len((await journal.feed(0, limit=10)).records)


async def test_a_unit_whose_events_are_known_does_not_run_its_statements_again(journal: SQLiteJournal) -> None:
    """Asked again after an unknown outcome, when it finishes nothing that would tell."""
    unit = Unit(appends=[Append([event()])], statements=[Statement("insert into stock values ('once', 1)", {})])

    assert ["done", "repeated"] == [(await commit(journal, unit)).kind for _ in range(2)]


# --- R3, R13: cursors ------------------------------------------------------------------------------------------------


async def test_r3_a_failed_unit_moves_no_cursor_that_others_move_in_the_same_commit(journal: SQLiteJournal) -> None:
    subscription = await one_subscription(journal)
    ten = Unit(done=[finished(subscription, (0, 10))], statements=CULPRITS["a statement that fails"].statements)
    eleven = Unit(done=[finished(subscription, (10, 11))], statements=stock("eleven").statements)

    assert ["failed", "done"] == kinds(await journal.commit([ten, eleven]))
    assert (0, [(10, 11)]) == await cursor(journal, subscription)


async def test_r3_folding_before_the_verdicts_loses_the_failed_event(journal: SQLiteJournal) -> None:
    """The ablation: the cursor passes 10, which was never handled."""
    journal._safeguards.fold_after_verdicts = False
    subscription = await one_subscription(journal)
    ten = Unit(done=[finished(subscription, (0, 10))], statements=CULPRITS["a statement that fails"].statements)
    eleven = Unit(done=[finished(subscription, (10, 11))], statements=stock("eleven").statements)

    await journal.commit([ten, eleven])

    assert (11, []) == await cursor(journal, subscription)


async def test_r3_folding_before_the_verdicts_marks_the_failed_number_too(journal: SQLiteJournal) -> None:
    """The ablation: it would be taken for a duplicate when it comes again."""
    journal._safeguards.fold_after_verdicts = False
    seen = Seen((await one_subscription(journal)).number, "5f0c:1", "orders", 5, [(0, 1)])
    failing = Unit(statements=CULPRITS["a statement that fails"].statements, marks=[seen])

    await journal.commit([failing, stock("beside")])

    assert {5: (1, [])} == await journal.marks(seen.subscription, "5f0c:1", "orders")


async def test_r13_without_fences_an_owner_from_before_writes_over_the_new_one(journal: SQLiteJournal) -> None:
    """The ablation: a paused process wakes up late, and settles what is no longer its own."""
    subscription = await one_subscription(journal)
    await journal.lease(process("old"), ["p5"], [], 1_000, 2_000)
    await journal.lease(process("new"), ["p5"], [], 3_000, 4_000)
    late = Unit(fences=[Fence("p5", 1)], done=[finished(subscription, (0, 10))])

    assert "fenced" == (await commit(journal, late)).kind
    journal._safeguards.fences = False
    assert "done" == (await commit(journal, late)).kind


edges = st.lists(st.integers(0, 40), min_size=2, max_size=2, unique=True).map(lambda pair: (min(pair), max(pair)))


@given(st.integers(0, 20), st.lists(edges, max_size=12), st.lists(st.lists(edges, min_size=1, max_size=3), max_size=6))
def test_what_a_commit_takes_for_finished_is_what_folding_would(
    position: int, before: list[tuple[int, int]], units: list[list[tuple[int, int]]]
) -> None:
    """The quick question while units are judged, and the arithmetic that writes the cursor, never differ."""
    position, beyond = cursors.fold(position, [], before)
    coming = Coming(position, beyond, stored=True)
    for ranges in units:
        changed = cursors.fold(position, beyond, ranges)
        finished = [cursors.is_finished(position, beyond, upto) for _, upto in ranges]
        assert finished == list(coming.ends(ranges))
        coming.accepted += ranges
        position, beyond = changed
    assert (position, beyond) == coming.folded()


# --- group commit ------------------------------------------------------------------------------------------------------


async def test_units_that_wait_together_share_one_commit(journal: SQLiteJournal) -> None:
    """Those who come while a commit is on its way are all in the next one."""
    before = journal.figures.commits

    verdicts = await asyncio.gather(*(commit(journal, Unit(appends=[Append([event()])])) for _ in range(500)))

    assert list(range(1, 501)) == sorted(position for verdict in verdicts for position in verdict.positions)
    assert journal.figures.commits - before < 50


async def test_a_commit_is_bounded_in_count_and_bytes(journal: SQLiteJournal) -> None:
    before = journal.figures.commits
    large = [Unit(appends=[Append([event(data=b"x" * 1_000_000)])]) for _ in range(12)]
    many = [Unit(appends=[Append([event()])]) for _ in range(5_000)]

    assert {"done"} == set(kinds(await journal.commit(large)))
    assert 3 <= journal.figures.commits - before
    before = journal.figures.commits
    assert {"done"} == set(kinds(await journal.commit(many)))
    assert 3 <= journal.figures.commits - before


async def test_threads_and_several_event_loops_may_commit_at_once(journal: SQLiteJournal) -> None:
    def another_loop() -> list[str]:
        async def publish_some() -> list[str]:
            return [(await commit(journal, Unit(appends=[Append([event()])]))).kind for _ in range(20)]

        return asyncio.run(publish_some())

    def blocking() -> list[str]:
        return [journal.commit_blocking([Unit(appends=[Append([event()])])])[0].kind for _ in range(20)]

    results = await asyncio.gather(
        *(asyncio.to_thread(work) for work in (another_loop, blocking, another_loop, blocking))
    )

    assert {"done"} == {kind for result in results for kind in result}
    assert 80 == await journal.head()


async def test_a_committer_that_was_cancelled_disturbs_nobody(journal: SQLiteJournal) -> None:
    tasks = [asyncio.create_task(commit(journal, Unit(appends=[Append([event()])]))) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert ["done"] * 10 == [result.kind for result in results if isinstance(result, Verdict)]


async def test_the_writer_outlives_whatever_goes_wrong_around_it(
    journal: SQLiteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever: a bell that can't be rung is only noted, and a turn that can't be taken refuses."""

    def fails() -> None:
        raise OSError("too many open files")

    running = journal._here()
    with monkeypatch.context() as without_bells:
        without_bells.setattr(running.bells, "ring", fails)
        assert "done" == (await commit(journal, Unit(appends=[Append([event()])]))).kind
    with monkeypatch.context() as without_turns:
        without_turns.setattr(running.writer.turn, "take", fails)
        assert "failed" == (await commit(journal, Unit(appends=[Append([event()])]))).kind
        with pytest.raises(JournalError, match="too many open files"):
            await journal.fire(1, 1)
    assert "done" == (await commit(journal, Unit(appends=[Append([event()])]))).kind
    assert 3 == len(journal.figures.errors)


async def test_closing_finishes_what_waits_and_refuses_what_comes(tmp_path: Path) -> None:
    journal = SQLiteJournal(f"sqlite:///{tmp_path}/spine.db")
    await journal.open()
    waiting = [asyncio.create_task(commit(journal, Unit(appends=[Append([event()])]))) for _ in range(50)]
    await asyncio.sleep(0)
    await journal.close()

    assert ["done"] * 50 == [(await task).kind for task in waiting]
    with pytest.raises(JournalError, match="not open"):
        await journal.commit([Unit()])
    assert 50 == sqlite3_count(tmp_path / "spine.db")


def sqlite3_count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("select count(*) from spine_events").fetchone()[0])
    finally:
        connection.close()
