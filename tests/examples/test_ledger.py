"""The ledger's demo, on some thousand of its orders; and that it would say so if a figure were wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import date

import pytest

from eventspine import Spine
from eventspine.errors import CommandRefused, Conflict
from examples.ledger import __main__ as demo
from examples.ledger.accounts import LIMIT_CENTS, Account, AlreadyBooked, Overdrawn, Post, TakeOver
from examples.ledger.entries import CASH, SALES, Entry, Posting, Unbalanced, order, payment, transfer
from examples.ledger.teller import take_over
from examples.ledger.views import release_1
from tests.servers import needed

DAY = date(1997, 1, 1)


@pytest.fixture
async def spine(tmp_path) -> AsyncIterator[Spine]:
    async with Spine(f"sqlite:///{tmp_path}/ledger.db", service=release_1()) as spine:
        yield spine


async def postings(spine: Spine) -> list[tuple[str, int, int]]:
    rows = await spine.journal.query("select * from ledger_postings order by entry, account", {})
    return [(row["account"], row["debit"], row["credit"]) for row in rows]


@pytest.mark.parametrize("journal", ["sqlite", "postgres"])
async def test_every_figure_is_that_of_the_file(capsys, journal):
    if journal == "postgres":
        needed("postgres")
    await demo.main(demo.ORDERS, 2000, 100, journal)
    told = capsys.readouterr().out.splitlines()
    assert 21 == sum(line.startswith("right ") for line in told)
    assert told[0].startswith("2,000 orders") and "All agree." == told[-1]


def test_a_figure_that_is_wrong_ends_it():
    with pytest.raises(SystemExit, match="WRONG  the sum: the file says 3, and the journal 2"):
        demo.check("the sum", 3, 2)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("1", DAY, "payment", (Posting(CASH, debit=500), Posting("ann", credit=501))),
        Entry("1", DAY, "payment", (Posting(CASH, debit=500),)),
        Entry("1", DAY, "payment", ()),
        Entry("1", DAY, "transfer", (Posting("ann", debit=5), Posting("ann", credit=5))),
        Entry("1", DAY, "transfer", (Posting("ann", debit=5, credit=5), Posting("bob", debit=5, credit=5))),
        Entry("1", DAY, "payment", (Posting(CASH, debit=5), Posting("ann", credit=5), Posting("bob"))),
        transfer("1", DAY, 0, source="ann", target="bob"),
    ],
)
async def test_an_entry_that_does_not_balance_is_refused_and_leaves_nothing(spine, entry):
    for command in (Post(entry=entry), TakeOver(entries=(order("0", DAY, 5, "ann"), entry))):
        with pytest.raises(Unbalanced):
            await spine.send(command)
    assert not await postings(spine)
    assert not await spine.journal.head()


async def test_cents_below_zero_are_refused(spine):
    with pytest.raises(CommandRefused, match="debit"):
        await spine.send(Post(entry=transfer("1", DAY, -5, source="ann", target="bob")))


async def test_of_several_who_draw_on_one_account_at_once_none_overdraws_it(spine):
    a_third = LIMIT_CENTS // 3
    sent = [spine.send(Post(entry=transfer(str(n), DAY, a_third, source="ann", target=f"shop-{n}"))) for n in range(5)]
    refused = [answer for answer in await asyncio.gather(*sent, return_exceptions=True) if answer]
    assert [Overdrawn, Overdrawn] == [type(error) for error in refused]
    assert -3 * a_third == (await spine.load(Account, "ann")).cents
    assert 3 == await demo.count(spine, "entries")


async def test_an_order_may_be_free(spine):
    await spine.send(Post(entry=order("1", DAY, 0, "ann")))
    assert (1, 0) == ((found := await spine.load(Account, "ann")).orders, found.cents)


async def test_a_split_entry_is_booked_on_each_of_its_accounts(spine):
    entry = Entry(
        "1", DAY, "payment", (Posting(CASH, debit=700), Posting("ann", credit=500), Posting("bob", credit=200))
    )
    await spine.send(Post(entry=entry))
    assert [("ann", 0, 500), ("bob", 0, 200), ("cash", 700, 0)] == await postings(spine)
    assert [500, 200] == [(await spine.load(Account, who)).cents for who in ("ann", "bob")]


async def test_a_command_sent_twice_posts_once_and_an_entry_under_another_command_is_refused(spine):
    paid = Post(entry=payment("1", DAY, 500, "ann"))
    for _ in range(2):
        await spine.send(paid, command_id="form-1")
    with pytest.raises(AlreadyBooked, match="entry 1 is booked already"):
        await spine.send(paid, command_id="form-2")
    with pytest.raises(AlreadyBooked):
        await spine.send(TakeOver(entries=(order("2", DAY, 5, "bob"), order("1", DAY, 5, "bob"))))
    with pytest.raises(AlreadyBooked):
        await spine.send(TakeOver(entries=(order("3", DAY, 5, "bob"), order("3", DAY, 5, "cid"))))
    assert [("ann", 0, 500), ("cash", 500, 0)] == await postings(spine)
    assert 500 == (await spine.load(Account, "ann")).cents


async def test_of_two_entries_of_one_id_at_the_same_moment_the_second_is_told_that_it_is_booked(spine):
    for number in range(10):
        both = [Post(entry=payment(str(number), DAY, 500, who)) for who in ("ann", "bob")]
        answers = await asyncio.gather(*map(spine.send, both), return_exceptions=True)
        assert [AlreadyBooked] == [type(one) for one in answers if one is not None]
    assert 10 == await demo.count(spine, "entries")


async def test_an_account_is_taken_over_only_if_it_is_new(spine):
    await spine.send(Post(entry=payment("1", DAY, 500, "ann")))
    with pytest.raises(Conflict):
        await spine.send(TakeOver(entries=(order("2", DAY, 5, "bob"), order("3", DAY, 5, "ann"))))
    assert 1 == await demo.count(spine, "entries")


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("insert into ledger_postings values ('1', 'nobody', 0, 5)", "FOREIGN KEY"),
        ("insert into ledger_postings values ('no entry', 'ann', 0, 5)", "FOREIGN KEY"),
        ("insert into ledger_postings values ('1', 'sales', 5, 5)", "CHECK"),
        ("update ledger_postings set debit = -5", "CHECK"),
        ("insert into ledger_entries values ('2', '1997-01-01', 'whim')", "CHECK"),
        ("insert into ledger_entries values ('1', '1997-01-01', 'order')", "UNIQUE"),
    ],
)
async def test_the_tables_refuse_what_no_command_would_write(spine, tmp_path, sql, why):
    await spine.send(Post(entry=payment("1", DAY, 500, "ann")))
    await spine.send(Post(entry=order("o", DAY, 500, "ann")))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.execute("pragma foreign_keys=on")
        with pytest.raises(sqlite3.IntegrityError, match=why):
            connection.execute(sql)


async def test_a_ledger_that_is_not_that_of_the_file_is_found(spine):
    books = demo.read(demo.ORDERS, 50)
    await take_over(spine, books)
    async with spine.running(release_1()):
        await demo.check_ledger(spine, books)
        books.moved.update({SALES: 1})
        with pytest.raises(SystemExit, match="WRONG  the balance of each account"):
            await demo.check_ledger(spine, books)


async def test_the_look_back_finds_a_state_that_is_not_that_of_the_file(spine):
    books = demo.read(demo.ORDERS, 50)
    await take_over(spine, books)
    assert 0 == await demo.look_back(spine, books, 100)
    for orders in books.orders.values():
        orders[0] = orders[0]._replace(cents=orders[0].cents + 1)
    assert await demo.look_back(spine, books, 100)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_demo_that_is_stopped_says_nothing_of_its_inside_and_leaves_no_process(number, code):
    command = [sys.executable, "-u", "-m", "examples.ledger"]
    with subprocess.Popen(
        command, cwd=demo.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        assert "69,659 orders" in running.stdout.readline()
        until(lambda: len(family(running.pid)) > 1)
        running.send_signal(number)
        _, told = running.communicate(timeout=60)
    assert (code, "") == (running.returncode, told)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)


def family(group):
    """The processes of a group."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, check=True, timeout=60)
    return [each for each in listed.stdout.split() if int(each) == group]


def until(reached):
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)
