"""`spine audit-trail`: who had what done, when and why."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from eventspine import Delivery, Event, Service, Spine, acting, correlate
from eventspine.journal import open_journal
from eventspine.journal.port import Append, Unit
from eventspine.periodic import TICKS

from .conftest import record


class Opened(Event, context="bank", key="account"):
    account: str
    note: str = ""


class Frozen(Event, context="bank", key="account"):
    account: str


class Counted(Event, context="desk", key="account"):
    account: str


BANK: Service[Any] = Service("bank")
DESK: Service[Any] = Service("desk")


@DESK.on(Frozen)
async def count(event: Frozen, delivery: Delivery) -> Counted:
    return Counted(account=event.account)


@pytest.fixture
def trail(say: Any, tmp_path: Path) -> Any:
    asyncio.run(_publish(f"sqlite:///{tmp_path}/spine.db"))
    return lambda *arguments: say("audit-trail", *arguments)


async def _publish(url: str) -> None:
    async with Spine(url, service=BANK) as spine:
        with correlate("web-1"), acting("user:ann"):
            await spine.publish(Opened(account="a-1", note="x"))
        with acting("user:bob", why="ticket 811, fraud"):
            await spine.publish(Frozen(account="a-1"))
        await spine.publish(Opened(account="=cmd|'/c calc'!A0"))
        async with spine.running(DESK):
            while await spine.journal.head() < 4:
                await asyncio.sleep(0.01)


def lines(result: Any) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_it_says_who_what_when_and_why_also_of_what_came_of_it(trail: Any) -> None:
    opened, frozen, other, counted = lines(trail("--json"))
    assert (opened["actor"], opened["why"], opened["type"], opened["key"]) == ("user:ann", None, "bank.Opened", "a-1")
    assert (opened["service"], opened["position"], opened["correlation"]) == ("bank", 1, "web-1")
    assert (frozen["actor"], frozen["why"]) == ("user:bob", "ticket 811, fraud")
    assert (other["actor"], other["why"]) == (None, None)
    assert (counted["actor"], counted["why"], counted["causation"]) == ("user:bob", "ticket 811, fraud", frozen["id"])
    assert opened["recorded"] <= frozen["recorded"]


@pytest.mark.parametrize(
    ("arguments", "positions"),
    [
        (["--actor", "user:bob"], [2, 4]),
        (["--actor", "user:bob", "--actor", "user:ann"], [1, 2, 4]),
        (["--actor", "user:bob", "--type", "Frozen"], [2]),
        (["--type", "bank.Opened"], [1, 3]),
        (["--key", "a-1"], [1, 2, 4]),
        (["--correlation", "web-1"], [1]),
        (["--actor", "nobody"], []),
    ],
)
def test_it_is_asked_by_actor_type_key_and_correlation(trail: Any, arguments: list[str], positions: list[int]) -> None:
    assert [line["position"] for line in lines(trail("--json", *arguments))] == positions


def test_since_begins_with_what_was_recorded_then_and_until_ends_before(trail: Any) -> None:
    frozen = lines(trail("--json"))[1]["recorded"]
    assert [line["position"] for line in lines(trail("--json", "--since", frozen))] == [2, 3, 4]
    assert [line["position"] for line in lines(trail("--json", "--until", frozen))] == [1]
    assert lines(trail("--json", "--since", frozen, "--until", frozen)) == []
    assert lines(trail("--json", "--until", "1h")) == []


def test_a_backdated_event_is_found_when_it_was_recorded_and_says_when_it_happened(trail: Any, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    async def backdate() -> None:
        async with Spine(f"sqlite:///{tmp_path}/spine.db", service=BANK) as spine:
            await spine.publish(Opened(account="old"), time=datetime(1997, 6, 1, tzinfo=UTC))

    asyncio.run(backdate())
    (found,) = lines(trail("--json", "--since", "1h", "--key", "old"))
    assert found["happened"] == "1997-06-01T00:00:00Z" < found["recorded"]


def test_csv_reads_back_as_it_was_written_and_no_cell_is_a_formula(trail: Any) -> None:
    result = trail("--csv", "--data")
    rows = list(csv.DictReader(io.StringIO(result.stdout, newline="")))
    assert [row["actor"] for row in rows] == ["user:ann", "user:bob", "", "user:bob"]
    assert rows[1]["why"] == "ticket 811, fraud"
    assert rows[2]["key"] == "'=cmd|'/c calc'!A0"
    assert json.loads(rows[0]["data"]) == {"account": "a-1", "note": "x"}
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1", "＝1"])
def test_every_beginning_of_a_formula_is_written_as_text(evil: str) -> None:
    from eventspine.cli.audit_trail import cell

    assert str(cell(evil)).startswith("'")
    assert cell("a" + evil[-1:]) == "a" + evil[-1:]
    assert cell(7) == 7


def test_nothing_in_an_event_acts_on_the_terminal(say: Any, story: Any) -> None:
    for how in ((), ("--csv", "--data"), ("--json", "--data"), ("--data",)):
        result = say("audit-trail", "--journal", story.url, *how)
        assert result.exit_code == 0
        assert not {"\x1b", "\u202e"} & set(result.stdout)


def test_private_events_are_in_it_and_ticks_are_not(say: Any, story: Any) -> None:
    shown = lines(say("audit-trail", "--json", "--journal", story.url))
    assert "stock.Counted" in [line["type"] for line in shown]
    ticks = [record(n, "stock.Tick", None, channel=f"stock{TICKS}") for n in (90, 91)]
    (told,) = story.journal(lambda journal: journal.commit([Unit(appends=[Append(ticks)])]))
    assert told.ok
    assert lines(say("audit-trail", "--json", "--journal", story.url)) == shown


def test_a_table_for_people_has_a_column_for_each_question(trail: Any) -> None:
    head, first, second, *_ = trail().stdout.splitlines()
    assert head.lower().split() == ["recorded", "actor", "why", "type", "key", "service", "position"]
    assert "user:ann" in first
    assert "ticket 811, fraud" in second


def test_only_one_form_is_printed(trail: Any) -> None:
    result = trail("--json", "--csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--json or --csv" in result.output


def test_a_long_trail_needs_the_memory_of_a_page(tmp_path: Path) -> None:
    """Eight thousand events of 2 kB, while a few pages of 500 are held."""
    from eventspine.cli.audit_trail import trail
    from eventspine.cli.tail import Wanted

    async def measure() -> tuple[int, int]:
        journal = open_journal(f"sqlite:///{tmp_path}/spine.db")
        await journal.open()
        for start in range(0, 8_000, 2_000):
            many = [record(start + n, "orders.Ordered", f"c{n}", b'"%s"' % (b"x" * 2_000)) for n in range(2_000)]
            await journal.commit([Unit(appends=[Append(many)])])
        tracemalloc.start()
        count = 0
        async for _ in trail(journal, Wanted(private=True, ticks=False), (), None, None):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await journal.close()
        return count, peak

    count, peak = asyncio.run(measure())
    assert count == 8_000
    assert peak < 6_000_000


def test_an_operator_publishes_in_his_own_name(spine: Any) -> None:
    order = ("BookOrdered", '{"customer": "ann", "title": "Emma"}', "--module", "bookshop")
    published = spine("publish", *order, "--actor", "ops:ann", "--why", "by hand")
    assert published.returncode == 0, published.stderr
    shown = json.loads(spine("audit-trail", "--json").stdout)
    assert (shown["actor"], shown["why"]) == ("ops:ann", "by hand")
