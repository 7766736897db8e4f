"""A journal that pg_dump copied and pg_restore put back, over itself or beside it: what goes on, and what is noticed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventspine import Event, Service, Spine, View
from eventspine.cli.doctor import examine, findings
from eventspine.errors import BrokerTaken, StreamDeleted
from eventspine.testing.servers import Server
from tests.state.bank import Account

from .material import WAIT_S
from .test_postgres_failover import STEPS

pytestmark = pytest.mark.setup("postgres")


class Said(Event, context="talk", key="number"):
    number: int


class Heard(View, key="number"):
    number: int
    times: int = 0


def speaker() -> Service[None]:
    return Service("speaker", publishes=("talk", "bank"))


def listener(saw: list[int]) -> Service[Any]:
    service = Service[Any]("listener")

    @service.on(Said)
    async def hear(event: Said) -> None:
        saw.append(event.number)

    @service.projection(Heard, Said)
    def count(view: View[Heard], event: Said) -> None:
        view.row(event.number).times += 1

    return service


class Database:
    """One of the server's, with a journal in the schema `spine`."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name
        self.plain = f"{server.url.rpartition('/')[0]}/{name}"
        self.url = f"{self.plain}?schema=spine"
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"create database {name}")

    def remove(self) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.name} with (force)")

    def dump(self, file: Path) -> None:
        self._run("pg_dump", "--format=custom", f"--file={file}", f"--dbname={self.plain}")

    def restore(self, file: Path) -> None:
        self._run("pg_restore", "--exit-on-error", "--clean", "--if-exists", f"--dbname={self.plain}", str(file))

    def say(self, *statements: str) -> None:
        with psycopg.connect(self.plain) as connection:
            for statement in statements:
                connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [str(self.server.bin / program), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,  # type: ignore[attr-defined]
        )
        assert 0 == ran.returncode, ran.stderr


@pytest.fixture
def database(postgres_server: Server, request: pytest.FixtureRequest) -> Callable[[], Database]:
    def make() -> Database:
        made = Database(postgres_server, f"d{os.urandom(6).hex()}")
        request.addfinalizer(made.remove)
        return made

    return make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def fill(url: str, saw: list[int]) -> None:
    """One and two are handled, three waits; one stream is there, and one was deleted."""
    async with Spine(url, service=speaker()) as spine:
        async with spine.running(listener(saw)):
            receipts = await spine.publish(Said(number=1), Said(number=2))
            await until(lambda: sorted(saw) == [1, 2])
            await spine.view(Heard).wait(receipts[-1], timeout_s=WAIT_S)
        await spine.publish(Said(number=3))
        for id in ("ann", "ben"):
            account = Account(id)
            account.deposit(5)
            account.deposit(6)
            await spine.save(account)
        await spine.delete_stream(Account, "ben")


async def told(url: str) -> bool:
    async with Spine(url) as spine:
        return any("promoted or restored" in finding for finding in findings(await examine(spine.journal)))


@pytest.mark.parametrize("place", ["over itself", "beside it"])
async def test_a_restored_dump_goes_on_exactly_once_from_where_it_was_made(
    database: Callable[[], Database], tmp_path: Path, place: str
) -> None:
    saw: list[int] = []
    first = database()
    await fill(first.url, saw)
    first.dump(tmp_path / "dump")
    async with Spine(first.url, service=speaker()) as spine:
        before, seen = (await spine.journal.feed(0, limit=100, private=True)).records, await spine.journal.head()
        await spine.publish(Said(number=99))  # after the dump: it is lost there
    restored = first if place == "over itself" else database()
    restored.restore(tmp_path / "dump")
    assert await told(restored.url)
    restored.say(*STEPS)

    async with Spine(restored.url, service=speaker()) as spine:
        assert before == (await spine.journal.feed(0, limit=100, private=True)).records
        receipt = await spine.publish(Said(number=4))
        assert receipt.position is not None and receipt.position > seen
        async with spine.running(listener(saw)):
            await until(lambda: len(saw) >= 4)
            await spine.view(Heard).wait(receipt, timeout_s=WAIT_S)
        assert [1, 2, 3, 4] == sorted(saw), "what was handled is not handled again"
        assert {(number, 1) for number in (1, 2, 3, 4)} == {
            (row.number, row.times) for row in await spine.view(Heard).all()
        }
        account = await spine.load(Account, "ann")
        account.deposit(1)
        await spine.save(account)
        assert (12, 3) == ((await spine.load(Account, "ann")).cents, account.version)
        with pytest.raises(StreamDeleted):
            await spine.load(Account, "ben")
    assert not await told(restored.url)


@pytest.mark.parametrize("steps", [True, False])
async def test_numbers_are_given_out_again_and_only_another_incarnation_tells_them_apart(
    database: Callable[[], Database], tmp_path: Path, steps: bool
) -> None:
    """Without the steps a broker's readers take what is new for what they had before the restore, and miss it."""
    broker, heard = f"memory://{os.urandom(8).hex()}", list[int]()
    other = Service[Any]("other")

    @other.on(Said)
    async def hear(event: Said) -> None:
        heard.append(event.number)

    first = database()
    async with Spine("memory://", broker=broker) as away, away.running(other):
        async with Spine(first.url, service=speaker(), broker=broker, lease_s=1) as spine:
            await spine.publish(Said(number=1))
            await until(lambda: heard == [1])
        first.dump(tmp_path / "dump")
        async with Spine(first.url, service=speaker(), broker=broker, lease_s=1) as spine:
            lost = await spine.publish(Said(number=1), id="01a20a97-b1dd-7a1f-8f6d-b3c75ebd7608")
            await until(lambda: heard == [1, 1])
        first.restore(tmp_path / "dump")
        assert await told(first.url), "unnoticed it is not"
        if steps:
            first.say(*STEPS)
            with pytest.raises(BrokerTaken, match="--take-over"):
                await Spine(first.url, service=speaker(), broker=broker, lease_s=1).open()
        async with Spine(first.url, service=speaker(), broker=broker, lease_s=1, take_over=steps) as spine:
            again = await spine.publish(Said(number=1), id="01a20a97-b1dd-7a1f-8f6d-b3c75ebd7609")
            assert again.position == lost.position, "the same number, of another event"
            if steps:
                await until(lambda: heard == [1, 1, 1])
            else:
                await spine.publish(Said(number=7))  # of another key, whose number is its first
                await until(lambda: 7 in heard)
                assert [1, 1, 7] == heard, "the one whose number was known was taken for a repetition"
