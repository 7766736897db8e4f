from __future__ import annotations

import asyncio
import json
import shutil
from typing import Any

import pytest

from eventspine import Event, Service, Spine
from eventspine.cli import trace as tracing
from eventspine.ids import id_text
from eventspine.journal.memory import MemoryJournal
from eventspine.journal.port import Append, Change, Record, Timer, Unit

from .conftest import ORDER, SCHEDULED, SLOW, record


def test_the_tree_of_an_order(say, story):
    heading, root, reserve, child, *confirm = say("trace", story.order).stdout.splitlines()

    assert f"correlation {story.order}: 2 events from 2 services" in heading
    assert root.startswith("orders.Ordered  +0ms  key=c1  by orders  #1")
    assert "│  · stock.reserve  done" == reserve
    assert child.startswith("└─ stock.Reserved  +")
    assert confirm[0].startswith("      · email.confirm  dead after 8 attempts: SmtpDown: ")
    assert "      · email.count  done" == confirm[1]


def test_any_event_of_the_tree_will_do(say, story):
    whole = say("trace", story.order).stdout

    assert whole == say("trace", story.reserved).stdout
    assert whole == say("trace", story.reserved.replace("-", "").upper()).stdout


def test_the_tree_in_json(say, story):
    tree = json.loads(say("trace", story.reserved, "--json").stdout)

    (root,) = tree["roots"]
    (child,) = root["children"]
    assert (story.order, 2, False) == (tree["correlation"], tree["events"], tree["truncated"])
    assert {"title": "Emma", "copies": 2} == root["event"]["data"]
    assert story.order == child["event"]["causationid"]
    assert [("email.confirm", "dead"), ("email.count", "done")] == [
        (delivery["subscription"], delivery["state"]) for delivery in child["deliveries"]
    ]


def schedule(story, *timers: Timer) -> None:
    story.journal(lambda journal: journal.commit([Unit(timers=list(timers))]))


def test_what_is_scheduled_stands_below_what_scheduled_it(say, story):
    later = record(8, "stock.Returned", "c1", cause=ORDER)
    schedule(story, Timer(4_000_000_000_000_000, later))
    lines = say("trace", story.order).stdout.splitlines()
    tree = json.loads(say("trace", story.order, "--json").stdout)

    assert "│  · stock.reserve  done" == lines[2]
    assert lines[3].startswith("│  · stock.Returned  scheduled, due in ")
    assert lines[3].endswith(f"key=c1  by stock  {id_text(later.id)}")
    assert [("2096-10-02T07:06:40Z", id_text(later.id))] == [
        (one["due"], one["event"]["id"]) for one in tree["scheduled"]
    ]
    assert 2 == tree["events"]


def test_of_a_story_that_is_all_to_come_that_is_shown(say, story):
    shown = say("trace", id_text(SCHEDULED.id)).stdout.splitlines()

    assert shown[0].endswith("nothing of it has been published yet")
    assert shown[1].startswith("orders.Ordered  scheduled, due in ")
    assert [] == json.loads(say("trace", id_text(SCHEDULED.id), "--json").stdout)["roots"]


def test_what_waits_and_what_is_parked(say, story):
    waiting = say("trace", "01900000-0000-7000-8000-000000000006").stdout
    parked = say("trace", "01900000-0000-7000-8000-000000000004").stdout

    assert "stock.reserve  waiting" in waiting
    assert "email.confirm  parked after 2 attempts, next in " in parked
    assert "email.count  waiting" in parked


@pytest.mark.parametrize(
    ("attempts", "reason", "error", "told"),
    [
        (1, "behind", "", "settled; it waited behind its key"),
        (2, "behind", "", "settled after 2 attempts; it waited behind its key"),
        (1, "behind", "behind: the moon", "settled after 1 attempt; failed with behind: the moon"),
        (2, "SmtpDown", "SmtpDown: no route", "settled after 2 attempts; failed with SmtpDown: no route"),
    ],
)
def test_what_is_done_in_the_end_says_whether_it_failed_or_waited(say, story, attempts, reason, error, told):
    async def settle(journal):
        (parked,) = await journal.deliveries(states=["parked"])
        change = Change(parked.number, "settled", attempts, reason=reason, error=error)
        (verdict,) = await journal.commit([Unit(changes=[change])])
        assert verdict.ok, verdict

    story.journal(settle)

    assert f"email.confirm  {told}\n" in say("trace", id_text(SLOW.id)).stdout


def test_a_paused_subscription_says_what_it_waits_for(say, story):
    say("subscriptions", "pause", "stock.reserve")

    assert "waiting (the subscription is paused)" in say("trace", "01900000-0000-7000-8000-000000000006").stdout


def test_an_id_that_nobody_knows(say, story):
    unknown = say("trace", "nonsense")

    assert (4, "") == (unknown.exit_code, unknown.stdout)
    assert "'nonsense'" in unknown.stderr


def chain(length: int) -> list[Record]:
    ids = [number.to_bytes(16, "big") for number in range(1, length + 1)]
    first = id_text(ids[0])
    return [
        Record(
            0,
            id,
            "c",
            1,
            "k",
            "c.E",
            1,
            1,
            0,
            "c",
            None if n == 0 else first,
            None if n == 0 else id_text(ids[n - 1]),
            n,
            None,
            b"{}",
        )
        for n, id in enumerate(ids)
    ]


def traced(records: list[Record], asked: str, *others: list[Record]) -> tracing.Trace:
    """In a journal for each list, stored one after the other."""

    async def find() -> Any:
        journals = []
        for some in (records, *others):
            journals.append(MemoryJournal())
            await journals[-1].open()
            await journals[-1].commit([Unit(appends=[Append(some)])])
        return await tracing.trace(journals, asked)

    return asyncio.run(find())


@pytest.mark.parametrize("length", [1, 60, 5000])
def test_a_chain_of_any_depth_is_shown(length, capsys):
    records = chain(length)
    found = traced(records, id_text(records[-1].id))

    tracing.write_tree(found)
    lines = capsys.readouterr().out.splitlines()
    tracing.write_json(found)
    as_json = capsys.readouterr().out

    assert length + 1 == len(lines)
    assert max(map(len, lines)) < 300
    assert length == as_json.count('"children":[')
    assert as_json.count("[") == as_json.count("]")
    assert as_json.count("{") == as_json.count("}")
    if length < 100:
        assert length == json.loads(as_json)["events"]


def test_siblings_stand_in_order_of_the_feed_and_a_false_cause_makes_no_circle(capsys):
    root, first, second, third = chain(4)
    own = id_text(root.id)
    records = [
        root,
        first._replace(causation=own),
        second._replace(causation=id_text(third.id)),  # claims to be caused by one that came later
        third._replace(causation=own),
    ]
    found = traced(records, own)

    tracing.write_json(found)

    roots = json.loads(capsys.readouterr().out)["roots"]
    assert [1, 3] == [node["event"]["position"] for node in roots]
    assert [2, 4] == [node["event"]["position"] for node in roots[0]["children"]]


def test_a_tree_goes_on_from_one_journal_to_the_next(capsys):
    placed, reserved, sent, _ = chain(4)
    found = traced([placed], id_text(sent.id), [placed, reserved], [reserved, sent])

    tracing.write_tree(found)
    lines = capsys.readouterr().out.splitlines()
    tracing.write_json(found, several=True)
    tree = json.loads(capsys.readouterr().out)

    assert 3 == tree["events"]
    (root,) = tree["roots"]
    (below,) = root["children"]
    (last,) = below["children"]
    assert [1, 1] == [copy["position"] for copy in root["copies"]]
    assert [2, 1] == [copy["position"] for copy in below["copies"]]
    assert [] == last["children"]
    assert ["c.E", "brought into", "c.E", "brought into", "c.E"] == [
        next(word for word in ("brought into", "c.E") if word in line) for line in lines[1:]
    ]


def test_journals_that_contradict_one_another_make_no_circle(capsys):
    one, other, _, _ = chain(4)
    correlated = id_text(one.id)
    of_other = one._replace(causation=id_text(other.id), correlation=correlated)
    of_one = other._replace(causation=id_text(one.id), correlation=correlated)
    found = traced([of_other], correlated, [of_one])

    tracing.write_json(found, several=True)

    assert 2 == capsys.readouterr().out.count('"children":[')


class Asked(Event, context="questions", key="who"):
    who: str = "ann"


class Answered(Event, context="answers", key="who"):
    who: str = "ann"


def desk(*added_later: Any) -> Service[Any]:
    service: Service[Any] = Service("desk", publishes="answers")

    @service.on(Asked)
    async def note(event: Asked) -> None: ...

    for function in added_later:
        service.on(Asked, start="earliest")(function)
    return service


async def asked_before_two_were_added(url: str) -> str:
    handled = set[str]()
    both = asyncio.Event()

    def has_handled(name: str) -> None:
        handled.add(name)
        if len(handled) == 2:
            both.set()

    async def answer(event: Asked) -> Answered:
        has_handled("answer")
        return Answered(who=event.who)

    async def count(event: Asked) -> None:
        has_handled("count")

    async with Spine(url, service=Service("asker", publishes="questions")) as spine:
        async with spine.running(desk()):
            asked = await spine.publish(Asked())
        async with spine.running(desk(answer, count)):
            await both.wait()
    return asked.id


def test_what_a_handler_added_later_has_answered_it_has_not_passed(say, tmp_path):
    asked = asyncio.run(asked_before_two_were_added(f"sqlite:///{tmp_path}/spine.db"))
    tree = say("trace", asked).stdout

    assert "desk.answer  done\n" in tree
    assert "desk.count  done (older than this handler: passed, unless it began earlier or was rewound)" in tree


def test_several_journals_are_named_one_by_one(say, story, tmp_path):
    shutil.copy(tmp_path / "spine.db", tmp_path / "copy.db")
    both = ("--journal", "sqlite:///spine.db", "--journal", "sqlite:///copy.db")
    tree = json.loads(say("trace", story.order, *both, "--json").stdout)
    missing = say("trace", story.order, *both, "--journal", "sqlite:///none.db")

    (root,) = tree["roots"]
    assert 2 == len(root["copies"])
    assert {copy["journal"] for copy in root["copies"]} == {delivery["journal"] for delivery in root["deliveries"]}
    assert "There is no journal at" in missing.stderr
    assert "brought into" not in say("trace", story.order, *both[:2]).stdout


def test_an_event_that_is_older_than_a_handler_added_later_is_not_called_handled(say, story):
    """The journal keeps when a handler was added, not where it began."""
    from eventspine.cli.times import now_us
    from eventspine.journal.port import Registration

    from .conftest import declared

    async def add(journal):
        both = (
            declared("email.confirm", "stock", "stock.Reserved"),
            declared("email.count", "stock", "stock.Reserved", extra="replayable"),
            declared("email.late", "stock", "stock.Reserved")._replace(start=None),
        )
        await journal.register(Registration("email", ("email",), both), now_us())

    story.journal(add)

    tree = say("trace", story.order).stdout
    assert "email.late  done (older than this handler: passed, unless it began earlier or was rewound)" in tree
    assert "stock.reserve  done\n" in tree, "a service's first handlers begin with the earliest event"
    assert "email.count  done\n" in tree
