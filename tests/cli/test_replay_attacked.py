"""`spine replay` out of PostgreSQL when things go wrong: ended on the way, without rights, without a server, with large events."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result

from eventspine.journal import _sqlite_scratch as scratches, open_journal
from eventspine.journal._stopping import stoppable
from eventspine.testing.servers import Server
from tests.journal.material import events, publish, publish_to
from tests.servers import needed

from .conftest import Processes

pytestmark = pytest.mark.setup("postgres", processes="postgres processes")
COUNT = 5
MIB = 1024 * 1024


async def fill(url: str, *records: Any) -> None:
    journal = open_journal(url)
    await journal.open()
    for record in records:
        await publish(journal, record)
    await publish_to(journal, "o-1", *events(COUNT))
    await journal.close()


@pytest.fixture
def journal(spine: Processes, postgres_url: str) -> str:
    asyncio.run(fill(postgres_url))
    spine.environment["SPINE_JOURNAL"] = postgres_url
    return postgres_url


@contextmanager
def held_up(url: str, table: str = "spine_stream_events") -> Iterator[psycopg.Connection[Any]]:
    """Whoever reads this table waits, until the end of it."""
    server, _, schema = url.partition("?schema=")
    with psycopg.connect(server) as connection:
        connection.execute(f"lock table {schema}.{table} in access exclusive mode")
        yield connection


def half_way(spine: Processes, connection: psycopg.Connection[Any]) -> subprocess.Popen[str]:
    replaying = spine.start("replay", "--into", "scratch.db")
    until_it_waits(replaying, connection)
    assert (spine.folder / f"scratch.db.part-{replaying.pid}").exists()
    return replaying


def until_it_waits(process: subprocess.Popen[str], connection: psycopg.Connection[Any]) -> None:
    deadline = time.monotonic() + 60
    query = "select count(*) from pg_locks where not granted and relation::regclass::text like '%spine_stream_events'"
    while not connection.execute(query).fetchone()[0]:  # type: ignore[index]
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def left(spine: Processes) -> list[str]:
    return sorted(path.name for path in spine.folder.glob("scratch*"))


def positions(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as copy:
        return [position for (position,) in copy.execute("select position from spine_events order by 1")]


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(spine: Processes, journal: str) -> None:
    """Though a statement of it is under way on the server, which is told to end it."""
    with held_up(journal) as connection:
        replaying = half_way(spine, connection)
        replaying.send_signal(signal.SIGINT)
        told = replaying.communicate(timeout=60)
        assert (130, ("", "\n")) == (replaying.returncode, told)
    assert [] == left(spine)


@pytest.mark.parametrize(
    "words", [("list",), ("show", "orders", "o-1"), ("delete", "orders", "o-1", "--yes")], ids=lambda words: words[0]
)
def test_ctrl_c_ends_what_only_waits_for_others(spine: Processes, journal: str, words: tuple[str, ...]) -> None:
    """Who holds the table may do so for hours."""
    with held_up(journal) as connection:
        asking = spine.start("streams", *words)
        until_it_waits(asking, connection)
        asking.send_signal(signal.SIGINT)
        told = asking.communicate(timeout=60)
        assert (130, ("", "\n")) == (asking.returncode, told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_killed_one_leaves_is_no_journal_and_the_next_removes_it(
    spine: Processes, journal: str, number: int
) -> None:
    with held_up(journal) as connection:
        replaying = half_way(spine, connection)
        replaying.send_signal(number)
        assert -number == replaying.wait(60)
        assert [f"scratch.db.part-{replaying.pid}"] == left(spine)
    ended = spine("replay", "--into", "scratch.db")
    assert 0 == ended.returncode, ended.stderr
    assert ["scratch.db"] == left(spine)
    assert COUNT == len(positions(spine.folder / "scratch.db"))


def test_a_server_that_dies_half_way_is_told_with_what_to_do(spine: Processes, tmp_path: Path) -> None:
    with needed("postgres")(tmp_path / "server") as server:
        url = f"{server.url}?schema=shop"
        asyncio.run(fill(url))
        spine.environment["SPINE_JOURNAL"] = url
        with closing(psycopg.connect(server.url)) as connection:
            connection.execute("lock table shop.spine_stream_events in access exclusive mode")
            replaying = half_way(spine, connection)
            server.kill()
            out, told = replaying.communicate(timeout=120)
        assert (1, "") == (replaying.returncode, out)
        assert "Traceback" not in told
        assert "was lost" in told
        assert "once more" in told
        assert [] == left(spine)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_large_events_are_in_memory_a_few_at_a_time(spine: Processes, postgres_url: str) -> None:
    asyncio.run(fill(postgres_url, *events(150, data=bytes(MIB))))
    line = [sys.executable, "-c", PEAK, "replay", "--into", "scratch.db", "--journal", postgres_url]
    ended = subprocess.run(
        line, cwd=spine.folder, env=spine.environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert 0 == ended.returncode, ended.stderr
    assert 155 == len(positions(spine.folder / "scratch.db"))
    assert int(ended.stdout.splitlines()[-1]) < 150 * MIB


PEAK = """
import sys
from pathlib import Path
from eventspine.cli.app import spine
try:
    spine(sys.argv[1:])
finally:  # not getrusage, which begins with what the parent had
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(peak.split()[1]) * 1024)
"""


@pytest.fixture
def clerk(postgres_server: Server, schema: str, journal: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("create role clerk login")
        connection.execute("grant all on database postgres to clerk")
        yield connection
        connection.execute("drop owned by clerk; drop role clerk")


@pytest.fixture
def as_clerk(spine: Processes, journal: str, clerk: psycopg.Connection[Any], schema: str) -> Callable[..., Result]:
    """The commands of who may do `right` to the journal's tables, but for the one that is `lacking`."""

    def asked(*words: str, right: str = "all", lacking: str = "") -> Result:
        clerk.execute(
            f"grant usage on schema {schema} to clerk; grant {right} on all tables in schema {schema} to clerk"
        )
        if lacking:
            clerk.execute(f"revoke all on {schema}.{lacking} from clerk")
        spine.environment["SPINE_JOURNAL"] = journal.replace("postgres@", "clerk@")
        return spine.asked_here(*words)

    return asked


REPLAY = ("replay", "--into", "scratch.db")
CHANGING = (
    ("streams", "delete", "orders", "o-1", "--yes"),
    ("streams", "truncate", "orders", "o-1", "--before", "2", "--unchecked", "--yes"),
)


@pytest.mark.parametrize("lacking", ["spine_meta", "spine_events", "spine_stream_events", "spine_subscriptions"])
def test_a_right_that_a_role_lacks_is_named_with_who_can_give_it(
    as_clerk: Callable[..., Result], spine: Processes, lacking: str
) -> None:
    ended = as_clerk(*REPLAY, lacking=lacking)
    assert (2, "") == (ended.exit_code, ended.stdout)
    assert f"permission denied for table {lacking}. As the owner of the journal's tables grant" in ended.stderr
    assert [] == left(spine)


def test_who_may_only_read_replays_and_shows_and_changes_nothing(as_clerk: Callable[..., Result], journal: str) -> None:
    for words in (REPLAY, ("streams", "list"), ("streams", "show", "orders", "o-1")):
        assert 0 == as_clerk(*words, right="select").exit_code
    for words in CHANGING:
        ended = as_clerk(*words, right="select")
        assert (2, "") == (ended.exit_code, ended.stdout)
        assert "permission denied for table spine_streams. As the owner" in ended.stderr


@pytest.mark.parametrize("words", [REPLAY, *CHANGING, ("streams", "list"), ("backup", "copy.db")])
def test_a_role_without_the_schema_is_told_so_by_each_command(
    spine: Processes, journal: str, clerk: psycopg.Connection[Any], words: tuple[str, ...]
) -> None:
    spine.environment["SPINE_JOURNAL"] = journal.replace("postgres@", "clerk@")
    ended = spine.asked_here(*words)
    assert (2, "") == (ended.exit_code, ended.stdout)
    assert "permission denied for schema" in ended.stderr
    assert "grant usage on schema" in ended.stderr


# --- where it goes ----------------------------------------------------------------------------------------------------


def test_no_file_that_is_there_or_in_use_is_taken(spine: Processes, journal: str) -> None:
    """Whatever it is: a folder, another journal, a name without a file behind it, or the log of an open file."""
    asyncio.run(fill(f"sqlite:///{spine.folder}/other.db"))
    before = (spine.folder / "other.db").read_bytes()
    (spine.folder / "folder").mkdir()
    (spine.folder / "link").symlink_to("nowhere.db")
    (spine.folder / "used.db-wal").write_bytes(b"of a program that has it open")
    for into, told in (
        ("other.db", "exists, and was left alone. Name another file"),
        ("folder", "exists, and was left alone. Name another file"),
        ("link", "exists, and was left alone. Name another file"),
        ("used.db", "a program has used.db open"),
        ("nowhere/scratch.db", "Create it, then try again"),
    ):
        ended = spine.asked_here("replay", "--into", into)
        assert (2, "") == (ended.exit_code, ended.stdout)
        assert told in ended.stderr
    assert before == (spine.folder / "other.db").read_bytes()
    assert not (spine.folder / "nowhere.db").exists()


def test_a_name_that_is_taken_meanwhile_stays_whose_it_is(spine: Processes, journal: str) -> None:
    with held_up(journal) as connection:
        replaying = half_way(spine, connection)
        (spine.folder / "scratch.db").write_text("precious")
    _, told = replaying.communicate(timeout=60)
    assert 2 == replaying.returncode
    assert "has come to be meanwhile, and was left alone" in told
    assert "precious" == (spine.folder / "scratch.db").read_text()
    assert ["scratch.db"] == left(spine)


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_who_no_longer_waits_has_it_stop_wherever_it_is(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    url = f"sqlite:///{tmp_path}/spine.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    await fill(url)
    for step in ("_choose", "_complete_streams", "_copy_events", "_copy_subscriptions", "_sync"):
        await _stopped_at(step, url, tmp_path / f"{step}.db", monkeypatch)
    assert not list(tmp_path.glob("_*"))


async def _stopped_at(step: str, url: str, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    does = getattr(scratches, step)

    def waits(*given: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return does(*given)

    journal = open_journal(url)
    await journal.open()
    with monkeypatch.context() as patched:
        patched.setattr(scratches, step, waits)
        chosen = scratches.Chosen(0, await journal.head())
        copying = asyncio.create_task(stoppable(partial(scratches.copy_history, journal, target, chosen)))
        assert await asyncio.to_thread(begun.wait, 60)
        copying.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await copying
    await journal.close()
