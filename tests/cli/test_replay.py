"""`spine replay`: what happened, once more, in a file of its own and beside nobody."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from eventspine import Aggregate, Delivery, Envelope, Event, Service, Spine, applies
from eventspine.brokers.memory import server
from eventspine.errors import StreamNeeded, VersionsDeleted
from eventspine.journal import _sqlite_scratch as scratches
from eventspine.journal.port import Record


class Ordered(Event, context="shop", key="customer"):
    customer: str
    number: int


class Reserved(Event, context="stock", key="customer"):
    customer: str
    number: int


class Basket(Aggregate):
    count: int = 0

    def put(self, number: int) -> None:
        self.record(Ordered(customer=self.id, number=number))

    @applies(Ordered)
    def _ordered(self, event: Ordered) -> None:
        self.count += 1


SHOP: Service[Any] = Service("shop")


def tables(connection: Any) -> None:
    connection.execute("create table if not exists reserved (customer text, number integer)")


def stock(saw: Callable[[Ordered, Delivery], None] = lambda *_: None) -> Service[Any]:
    service: Service[Any] = Service("stock", tables=tables)

    @service.on(Ordered)
    async def reserve(event: Ordered, delivery: Delivery) -> Reserved:
        saw(event, delivery)
        delivery.execute("insert into reserved values (:c, :n)", c=event.customer, n=event.number)
        return Reserved(customer=event.customer, number=event.number)

    return service


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, say: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a file that is found without being named, or of a database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/spine.db"
    url: str = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("SPINE_JOURNAL", url)
    return url


in_a_file = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
in_a_database = pytest.mark.parametrize("url", ["postgres"], indirect=True)


async def _publish(url: str) -> None:
    async with Spine(url, service=SHOP) as spine:
        for number in range(3):
            await spine.publish(*(Ordered(customer=name, number=number) for name in ("ann", "bob")))
        async with spine.running(stock()):
            while await spine.journal.head() < 12:
                await asyncio.sleep(0.01)


async def feed(url: str) -> Sequence[Record]:
    async with Spine(url) as spine:
        return (await spine.journal.feed(0, limit=1000, private=True)).records


@pytest.fixture
def replay(say: Any, url: str, tmp_path: Path) -> Any:
    asyncio.run(_publish(url))
    return lambda *arguments: say("replay", "--into", "scratch.db", *arguments)


def scratch(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/scratch.db"


async def run(url: str, service: Service[Any], done: Callable[[], bool]) -> Any:
    async with Spine(url) as spine, spine.running(service):
        async with asyncio.timeout(30):
            while not done():
                await asyncio.sleep(0.01)
    async with Spine(url) as spine:
        return await spine.journal.query("select customer, number from reserved order by rowid", {})


def test_a_handler_sees_what_it_saw_and_its_effects_are_seen_by_nobody_else(
    replay: Any, url: str, tmp_path: Path
) -> None:
    before = asyncio.run(feed(url))
    result = replay()
    assert result.exit_code == 0, result.output
    assert before == asyncio.run(feed(scratch(tmp_path)))

    saw: list[tuple[str, int, str, datetime]] = []
    service = stock(lambda event, d: saw.append((event.customer, event.number, d.event_id, d.time)))
    rows = asyncio.run(run(scratch(tmp_path), service, lambda: len(saw) == 6))
    assert sorted((row["customer"], row["number"]) for row in rows) == sorted((c, n) for c, n, *_ in saw)
    assert {id for *_, id, _ in saw} == {Envelope(record).id for record in before if record.type == "shop.Ordered"}
    assert asyncio.run(feed(url)) == before


def test_what_a_handler_publishes_again_stands_there_once(replay: Any, tmp_path: Path) -> None:
    """Its ids derive from the subscription, which has come along; so those downstream handle it once."""
    replay()
    saw: list[int] = []
    asyncio.run(run(scratch(tmp_path), stock(lambda event, _: saw.append(event.number)), lambda: len(saw) == 6))
    assert len([record for record in asyncio.run(feed(scratch(tmp_path))) if record.type == "stock.Reserved"]) == 6


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--key", "ann", "--type", "Ordered"], [("ann", 0), ("ann", 1), ("ann", 2)]),
        (["--type", "shop.Ordered", "--from", "3", "--to", "4"], [("ann", 1), ("bob", 1)]),
        (["--to", "2"], [("ann", 0), ("bob", 0)]),
        (["--channel", "shop", "--key", "bob", "--from", "6"], [("bob", 2)]),
    ],
)
def test_history_is_chosen_by_place_key_type_and_channel(
    replay: Any, tmp_path: Path, arguments: list[str], wanted: list[tuple[str, int]]
) -> None:
    assert replay(*arguments).exit_code == 0
    saw: list[tuple[str, int]] = []
    service = stock(lambda event, _: saw.append((event.customer, event.number)))
    asyncio.run(run(scratch(tmp_path), service, lambda: len(saw) == len(wanted)))
    assert sorted(saw) == wanted
    assert len({record.position for record in asyncio.run(feed(scratch(tmp_path)))}) >= len(wanted)


def test_history_is_chosen_by_time_and_by_correlation(replay: Any, say: Any, tmp_path: Path) -> None:
    shown = [json.loads(line) for line in say("tail", "--no-follow", "--json").stdout.splitlines()]
    assert replay("--to", shown[2]["recordedtime"], "--json").exit_code == 0
    assert [record.position for record in asyncio.run(feed(scratch(tmp_path)))] == [1, 2]
    (tmp_path / "scratch.db").unlink()
    assert replay("--correlation", shown[1]["id"]).exit_code == 0
    found = asyncio.run(feed(scratch(tmp_path)))
    assert [(record.type, record.key) for record in found] == [("shop.Ordered", "bob"), ("stock.Reserved", "bob")]


def test_a_stream_comes_whole_and_its_past_is_not_handled_again(say: Any, url: str, tmp_path: Path) -> None:
    async def fill() -> None:
        async with Spine(url, service=SHOP) as spine:
            for number in range(4):
                basket = await spine.load_or_new(Basket, "ann")
                basket.put(number)
                await spine.save(basket)
                await spine.publish(Ordered(customer="bob", number=number))
            async with spine.running(stock()):
                while await spine.journal.head() < 16:
                    await asyncio.sleep(0.01)

    asyncio.run(fill())
    result = say("replay", "--into", "scratch.db", "--from", "5", "--to", "6", "--json")
    made = json.loads(result.stdout)
    assert (made["events"], made["earlier"], made["first"], made["last"], made["streams"]) == (4, 2, 1, 6, 1)

    async def loaded() -> int:
        async with Spine(scratch(tmp_path), service=SHOP) as spine:
            basket = await spine.load(Basket, "ann")
            basket.put(9)
            await spine.save(basket)  # at the version that the copy is at
            return basket.count

    assert asyncio.run(loaded()) == 4
    saw: list[tuple[str, int]] = []
    service = stock(lambda event, _: saw.append((event.customer, event.number)))
    asyncio.run(run(scratch(tmp_path), service, lambda: len(saw) == 3))
    assert sorted(saw) == [("ann", 2), ("ann", 9), ("bob", 2)]


def test_no_file_is_written_over(replay: Any, tmp_path: Path) -> None:
    (tmp_path / "scratch.db").write_bytes(b"mine")
    result = replay()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "exists, and was left alone" in result.output
    assert (tmp_path / "scratch.db").read_bytes() == b"mine"


FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
sys.argv = ["spine", "replay", "--into", "scratch.db"]
runpy.run_module("eventspine.cli", run_name="__main__")
"""


def test_a_disk_that_is_full_is_said_of_the_new_file(replay: Any, tmp_path: Path, url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FULL],
        cwd=tmp_path,
        env=os.environ | {"SPINE_JOURNAL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "There is no space left to write" in result.stderr
    assert "scratch.db" in result.stderr
    assert "spine.db" not in result.stderr
    assert not list(tmp_path.glob("scratch*"))


@in_a_file
@pytest.mark.parametrize("into", ["spine.db", "nowhere/scratch.db", "dangling"])
def test_it_goes_nowhere_but_into_a_new_file(replay: Any, say: Any, tmp_path: Path, into: str) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "spine.db-wal2")
    assert say("replay", "--into", into).exit_code == 2
    assert not (tmp_path / "spine.db-wal2").exists()


def test_where_nothing_fits_there_is_no_file(replay: Any, tmp_path: Path) -> None:
    result = replay("--key", "nobody")
    assert (result.exit_code, result.stdout) == (4, "")
    assert not list(tmp_path.glob("scratch*"))


@pytest.mark.parametrize("place", [str(2**63), str(2**70)])
def test_a_place_beyond_all_numbers_is_one_after_the_end(replay: Any, place: str) -> None:
    assert replay("--from", place).exit_code == 4
    assert replay("--to", place).exit_code == 0


def test_it_says_what_to_run_next(replay: Any, tmp_path: Path) -> None:
    result = replay("shop.stock:stock")
    assert (
        f"python -m pdb -m eventspine.cli run shop.stock:stock --journal sqlite:///{tmp_path}/scratch.db"
        in result.output
    )
    assert not list(tmp_path.glob("*.part-*"))


def test_a_scratch_journal_is_carried_by_no_broker(
    replay: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the settings name one: what others have seen already would reach them again."""
    replay()
    broker, saw = server(uuid4().hex), list[int]()

    async def handle() -> None:
        async with (
            Spine(scratch(tmp_path), service=SHOP, broker=f"memory://{broker.name}") as spine,
            spine.running(stock(lambda event, _: saw.append(event.number))),
        ):
            await spine.publish(Ordered(customer="ann", number=7))
            async with asyncio.timeout(30):
                while len(saw) < 7:
                    await asyncio.sleep(0.01)

    asyncio.run(handle())
    assert "is a scratch journal: nothing of it goes to the broker" in caplog.text
    assert not any(name.startswith("relay:") for name in asyncio.run(services(scratch(tmp_path))))


async def services(url: str) -> list[str]:
    async with Spine(url) as spine:
        return [row.service for row in await spine.journal.subscriptions()]


def test_a_debugger_stops_in_the_handler_with_the_very_event(spine: Any, tmp_path: Path) -> None:
    """As the command says to: the service in production goes on meanwhile, and has its dead delivery still."""
    (spine.folder / "faulty.py").write_text(
        textwrap.dedent(
            """
            from eventspine import Event, Service

            class Ordered(Event, context="shop", key="customer"):
                customer: str
                number: int

            shop = Service("shop")

            @shop.on(Ordered)
            async def reserve(event: Ordered) -> None:
                rate = 100 / (event.number - 3)
            """
        )
    )
    for number in (1, 3):
        data = json.dumps({"customer": "ann", "number": number})
        assert spine("publish", "shop.Ordered", data, "-m", "faulty").returncode == 0
    assert spine("replay", "--into", "scratch.db", "--from", "2", "faulty").returncode == 0
    line = [*spine.line(()), "run", "faulty", "--journal", "sqlite:///scratch.db"]
    pdb = [line[0], "-m", "pdb", *line[1:]]
    told = subprocess.run(
        pdb, cwd=spine.folder, env=spine.environment, capture_output=True, text=True, timeout=90, check=False,
        input="import faulty\nb faulty.py:12\nc\np ('seen', event.number)\nimport os\nos._exit(0)\n",
    )  # fmt: skip
    assert "('seen', 3)" in told.stdout, told.stdout + told.stderr
    assert sys.executable == line[0]


# --- out of a database ------------------------------------------------------------------------------------------------


@in_a_database
def test_of_a_database_all_is_of_one_moment(replay: Any, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """What is published, and deleted, while history is being copied is in none of its parts, or in each."""
    copying = scratches._complete_streams

    def meddled_with(*arguments: Any) -> int:
        with psycopg.connect(url.partition("?")[0]) as connection:
            schema = url.rpartition("=")[2]
            connection.execute(f"delete from {schema}.spine_events where position <= 3")
        return copying(*arguments)

    monkeypatch.setattr(scratches, "_complete_streams", meddled_with)
    assert replay().exit_code == 0
    assert 12 == len(asyncio.run(feed(scratch(tmp_path))))
    assert 9 == len(asyncio.run(feed(url)))


@in_a_database
def test_a_position_that_the_feed_has_not_come_to_is_its_end(replay: Any, tmp_path: Path) -> None:
    """What comes after the end that is decided may still have a gap."""
    assert replay("--to", "1000").exit_code == 0
    note = asyncio.run(noted(scratch(tmp_path)))
    assert 12 == json.loads(note)["upto"]


async def noted(url: str) -> bytes:
    async with Spine(url) as spine:
        (row,) = await spine.journal.notes("", "scratch")
        return row.value


@in_a_database
def test_the_copy_is_for_its_owner_alone(replay: Any, tmp_path: Path) -> None:
    assert replay().exit_code == 0
    assert 0o600 == (tmp_path / "scratch.db").stat().st_mode & 0o777


@in_a_database
def test_a_server_that_goes_away_leaves_no_file(replay: Any, url: str, tmp_path: Path, monkeypatch: Any) -> None:
    def kill(*_: Any) -> None:
        with psycopg.connect(url.partition("?")[0], autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and state = 'idle in transaction'"
            )

    copying = scratches._copy_events
    monkeypatch.setattr(scratches, "_copy_events", lambda *arguments: [kill(), copying(*arguments)][1])
    result = replay()
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    assert not isinstance(result.exception, psycopg.Error)
    assert not list(tmp_path.glob("scratch*"))


def test_a_stream_that_was_truncated_comes_with_what_is_left_of_it(replay: Any, url: str, tmp_path: Path) -> None:
    async def cut() -> None:
        async with Spine(url, service=SHOP) as spine:
            basket = Basket("ann")
            for number in range(3):
                basket.put(number)
            await spine.save(basket)
            async with spine.running(stock()):
                while True:
                    try:
                        await spine.journal.cut("shop", "basket-ann", before=3)
                    except StreamNeeded:
                        await asyncio.sleep(0.01)
                    else:
                        return

    asyncio.run(cut())
    assert "1 stream." in replay().output

    async def left() -> list[int]:
        async with Spine(scratch(tmp_path), service=SHOP) as spine:
            with pytest.raises(VersionsDeleted):
                await spine.journal.stream("shop", "basket-ann")
            return [
                len(await spine.journal.stream("shop", "basket-ann", after=2)),
                (await spine.load(Basket, "ann")).version,
            ]

    assert [1, 3] == asyncio.run(left())
