"""A primary that is killed and a standby that takes its place: what is kept, and what is said where something can't be."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest

from eventspine import Event, Service, Spine
from eventspine.cli.doctor import examine, findings
from eventspine.errors import BrokerTaken, JournalError, OutcomeUnknown, SettingsError, UnitFailed
from eventspine.journal import _postgres_session
from eventspine.journal.port import Append, Done, Unit
from eventspine.journal.postgres import PostgresJournal
from tests.servers import needed

from .failover_service import Counted
from .material import WAIT_S, Bell, commit, cursor, one_subscription, publish, whole_feed
from .standby import Pair, pair, said, wait_for
from .test_postgres import fresh, opened

pytestmark = pytest.mark.setup("postgres", processes="postgres processes")


ROOT = Path(__file__).parents[2]
STEPS = (  # of how-to/postgresql.md
    "update spine.spine_meta set value = (value::integer + 1)::text where name = 'incarnation'",
    "delete from spine.spine_meta where name = 'lineage'",
)


class Said(Event, context="talk", key="number"):
    number: int


def speaker() -> Service[None]:
    return Service("speaker", publishes="talk")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path, needed("postgres")) as servers:
        yield servers


@pytest.mark.promise("failover", "postgres", "postgres processes")
async def test_no_acknowledged_event_is_lost_where_the_standby_is_synchronous(servers: Pair):
    servers.synchronous()
    url = f"{servers.url}?schema=spine"
    async with opened(url) as journal, opened(url) as other:
        acknowledged: list[bytes] = []
        asked: set[bytes] = set()
        bell, writing = Bell(other), True

        async def write(each) -> None:
            while writing:
                record = fresh()
                asked.add(record.id)
                while not (await commit(each, Unit([Append([record])]))).ok:
                    await asyncio.sleep(0.01)
                acknowledged.append(record.id)

        async def more(number: int) -> None:
            count = len(acknowledged)
            async with asyncio.timeout(WAIT_S):
                while len(acknowledged) < count + number:
                    await asyncio.sleep(0.01)

        writers = [asyncio.create_task(write(each)) for each in (journal, other) for _ in range(4)]
        await more(40)
        await asyncio.to_thread(servers.fail_over)
        await more(40)
        writing = False
        await asyncio.gather(*writers)
        assert Counter(acknowledged) == Counter(record.id for record in await whole_feed(journal))
        assert asked == set(acknowledged)
        await bell.rings()
        before = bell.times
        await publish(journal, fresh())
        async with asyncio.timeout(WAIT_S):
            while bell.times == before:  # who listened to the old primary hears the new one
                await asyncio.sleep(0.01)
        bell.stop()


async def test_a_standby_is_no_journal(servers: Pair):
    url = f"{servers.standby.url}?schema=spine"
    for one in (url, f"{url}&target_session_attrs=any", f"{url}&target_session_attrs=primary"):
        with pytest.raises(JournalError, match="is a standby, or read-only.* Name the primary, or all hosts"):
            await PostgresJournal(one).open()
    with pytest.raises(SettingsError, match="target_session_attrs=prefer-standby .* asks for a standby"):
        PostgresJournal(f"{url}&target_session_attrs=prefer-standby")
    async with opened(f"{servers.url}?schema=spine") as journal:
        assert [1] == await publish(journal, fresh()), "of both hosts the primary is found"


async def test_a_commit_is_acknowledged_when_a_synchronous_standby_has_it_however_long_that_takes(servers: Pair):
    """A limit of statements that reached this wait would end it with success, as if the standby had it."""
    servers.synchronous()
    late = "select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep' and clock_timestamp() - query_start > '1 s'"
    async with opened(f"{servers.url}?schema=spine", statements_s=0.3) as journal:
        await publish(journal, fresh())
        servers.standby.pause()
        try:
            asked = asyncio.create_task(commit(journal, Unit([Append([fresh()])])))
            await asyncio.to_thread(wait_for, servers.primary, late)
            assert not asked.done()
            assert 1 == await journal.head(), "nobody reads it before"
        finally:
            servers.standby.resume()
        assert "done" == (await asyncio.wait_for(asked, WAIT_S)).kind


WAITS = "select count(*) = {} from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.mark.promise("commit unknown", "postgres")
@pytest.mark.parametrize("lost", ["session", "server"])
async def test_what_is_committed_on_the_primary_alone_is_acknowledged_when_the_standby_has_it(servers: Pair, lost: str):
    """A session that ends while it waits for the standby leaves a transaction that is committed and not there."""
    servers.synchronous()
    url, unit = f"{servers.url}?schema=spine", Unit([Append([fresh()])])
    async with opened(url) as journal, opened(url) as other:
        await publish(other, fresh())
        servers.standby.pause()
        try:
            asked = asyncio.create_task(commit(journal, unit))
            await asyncio.to_thread(wait_for, servers.primary, WAITS.format(1))
            if lost == "server":
                await asyncio.to_thread(servers.primary.kill)
                await asyncio.to_thread(servers.primary.start)
            else:
                said(
                    servers.primary,
                    "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'",
                )
            await asyncio.to_thread(wait_for, servers.primary, "select count(*) = 2 from spine.spine_events")
            again = asyncio.create_task(commit(other, unit))
            await asyncio.to_thread(wait_for, servers.primary, WAITS.format(2))
            assert not asked.done() and not again.done()
        finally:
            servers.standby.resume()
        assert ["done", "repeated"] == [
            one.kind for one in await asyncio.wait_for(asyncio.gather(asked, again), WAIT_S)
        ]


async def test_who_closes_does_not_wait_for_a_standby_that_is_away(servers: Pair):
    servers.synchronous()
    async with opened(f"{servers.url}?schema=spine", busy_s=0.5) as journal:
        await publish(journal, fresh())
        servers.standby.pause()
        try:
            record = fresh()
            asked = asyncio.create_task(commit(journal, Unit([Append([record])])))
            called = asyncio.create_task(journal.run_tables("shop", "1", "create table shop (n integer)"))
            await asyncio.to_thread(wait_for, servers.primary, WAITS.format(2))
            async with asyncio.timeout(WAIT_S):
                await journal.close()
            assert isinstance((await asked).error, OutcomeUnknown)
            with pytest.raises(OutcomeUnknown):
                await called
        finally:
            servers.standby.resume()
    async with opened(f"{servers.url}?schema=spine") as again:
        assert (await commit(again, Unit([Append([record])]))).ok
        assert 1 == [each.id for each in await whole_feed(again)].count(record.id)


async def test_a_primary_that_comes_back_is_not_gone_back_to(servers: Pair):
    """It is the first of the URL, takes whatever is written, and nobody else would read it."""
    servers.synchronous()
    async with opened(f"{servers.url}?schema=spine", busy_s=0.5) as journal:
        await publish(journal, fresh())
        await asyncio.to_thread(servers.fail_over)
        await publish(journal, fresh())
        await asyncio.to_thread(servers.primary.start)
        said(servers.primary, "alter system reset synchronous_standby_names", "select pg_reload_conf()")
        said(
            servers.standby,
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eventspine'",
        )
        verdict = await commit(journal, Unit([Append([fresh()])]))
        assert "it was the primary once, and has come back" in str(verdict.error)
        await asyncio.to_thread(servers.primary.kill)
        assert await publish(journal, fresh())
        assert 3 == len(await whole_feed(journal))


def test_the_steps_after_a_failover_are_those_of_the_page():
    page = (ROOT / "docs" / "how-to" / "postgresql.md").read_text(encoding="utf-8")
    assert all(f"\n{step};\n" in page for step in STEPS)


# --- a standby that lags ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
async def test_the_number_of_a_transaction_is_not_taken_for_anothers_on_the_new_primary(
    servers: Pair, monkeypatch: pytest.MonkeyPatch, told: bool
):
    if not told:  # what it is good for to know the timeline: without, a unit is acknowledged that is nowhere
        monkeypatch.setattr("eventspine.journal._postgres_lineage.lineage_of", lambda connection: None)
    async with opened(f"{servers.url}?schema=spine") as journal:
        mine = await one_subscription(journal)
        await publish(journal, *(fresh() for _ in range(5)))
        session = journal._here().writer.session
        servers.standby.cut_off()

        def server_dies(connection, bell: str) -> None:
            session.commit_statement = _postgres_session._commit
            connection.execute(f"commit{bell}")
            servers.fail_over()
            said(servers.standby, *["select pg_current_xact_id()"] * 200)  # of others
            raise psycopg.OperationalError("the connection was lost")

        session.commit_statement = server_dies
        verdict = await commit(journal, Unit(done=[Done(mine.number, 5, [(0, 1)], mine.generation)]))
        assert (0, []) == await cursor(journal, mine), "it is nowhere"
        assert ("unknown" if told else "done") == verdict.kind


async def test_a_process_that_has_seen_more_than_a_promoted_standby_has_stores_nothing_more(servers: Pair):
    url = f"{servers.url}?schema=spine"
    async with opened(url) as ahead, opened(url) as idle:
        await publish(ahead, fresh())
        servers.standby.cut_off()
        for _ in range(5):  # more than positions are logged in advance
            await publish(ahead, *(fresh() for _ in range(20)))
        assert 101 == await ahead.head()
        await asyncio.to_thread(servers.fail_over)
        verdict = await commit(ahead, Unit([Append([fresh()])]))
        assert "failed" == verdict.kind
        assert "promoted without all that was acknowledged: this process has seen position 101" in str(verdict.error)
        with pytest.raises(JournalError, match="Nothing more is stored by it"):
            await ahead.head()
        assert await publish(idle, fresh()), "who has seen no more than there is goes on"
    async with opened(url) as anew:
        assert await publish(anew, fresh()), "and so does who begins anew"
        assert any("promoted or restored" in finding for finding in findings(await examine(anew)))


async def test_after_a_failover_that_lost_events_another_incarnation_numbers_anew(servers: Pair):
    url, broker = f"{servers.url}?schema=spine", f"memory://{os.urandom(8).hex()}"
    heard: list[int] = []
    listener = Service("listener")

    @listener.on(Said)
    async def hear(event: Said) -> None:
        heard.append(event.number)

    async def until_heard(*numbers: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while sorted(heard) != list(numbers):
                await asyncio.sleep(0.01)

    async with Spine("memory://", broker=broker) as other, other.running(listener):
        async with Spine(url, service=speaker(), broker=broker, lease_s=1) as spine:
            await spine.publish(Said(number=1))
            await until_heard(1)
            servers.standby.cut_off()
            await spine.publish(Said(number=2))
            await until_heard(1, 2)
        await asyncio.to_thread(servers.fail_over)
        said(servers.standby, *STEPS)
        with pytest.raises(BrokerTaken, match="--take-over"):
            await Spine(url, service=speaker(), broker=broker, lease_s=1).open()
        async with Spine(url, service=speaker(), broker=broker, lease_s=1, take_over=True) as spine:
            await spine.publish(Said(number=3))
            await until_heard(1, 2, 3)
            assert not any("promoted or restored" in finding for finding in findings(await examine(spine.journal)))


# --- services -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def running(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = ["-m", "eventspine.cli", "run", "tests.journal.failover_service", "--journal", url]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, cwd=ROOT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.promise("failover", "postgres processes")
async def test_services_go_on_at_the_new_primary_with_every_effect_once_and_in_order(servers: Pair):
    """Two processes handle; one of them dies with the primary, and the other takes its leases over."""
    servers.synchronous()
    url = f"{servers.url}?schema=spine"
    publishing = True
    published: dict[str, int] = {}

    async def publish_on(spine: Spine, name: str) -> None:
        while publishing:
            number, id = published.get(name, 0) + 1, str(uuid.uuid4())
            while True:
                try:
                    await spine.publish(Counted(name=name, number=number), id=id)
                    break
                except (OutcomeUnknown, JournalError):
                    await asyncio.sleep(0.01)
            published[name] = number

    async def answer(question: str) -> bool:
        try:
            return await spine.journal.query(question, {}) == [{"yes": True}]
        except (JournalError, UnitFailed):  # nobody is there, or there is no table so far
            return False

    async def until(question: str) -> None:
        async with asyncio.timeout(3 * WAIT_S):
            while not await answer(question):
                await asyncio.sleep(0.05)

    async with Spine(url, service=Service("till", publishes="counting")) as spine:
        async with running(url) as one, running(url) as two:
            writers = [asyncio.create_task(publish_on(spine, f"key {n}")) for n in range(12)]
            await until(
                f"select count(distinct pid) = 2 as yes from spine.counter_rows where pid in ({one.pid}, {two.pid})"
            )
            await asyncio.to_thread(servers.primary.kill)
            one.kill()
            await asyncio.to_thread(servers.standby.promote)
            so_far = max(published.values())
            await until(f"select count(distinct name) = 12 as yes from spine.counter_rows where number > {so_far}")
            publishing = False
            await asyncio.gather(*writers)
            await until(f"select count(*) = {sum(published.values())} as yes from spine.counter_rows")
            assert two.returncode is None, "it has waited"
            rows = await spine.journal.query("select name, number from spine.counter_rows order by place", {})
    for name, count in published.items():
        assert [*range(1, count + 1)] == [row["number"] for row in rows if row["name"] == name]
