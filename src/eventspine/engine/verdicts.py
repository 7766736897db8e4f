"""What becomes of a run: what of it goes into its unit, and what the verdict on that unit means for each of its events.

An event that has failed leaves those after it in its key to be handled again, behind it. Where the unit as a whole failed nobody
knows the culprit, so all of it runs one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..journal.port import Done, Fence, Verdict
from .failures import culprit
from .lanes import Item, Lane, Part

if TYPE_CHECKING:
    from ..runs import BatchDelivery
    from .subscription import Subscription

Run = list[tuple[Any, Item]]  # events, each with its item
Left = dict[Item, None]  # of a run: those in hand of which nothing has been decided yet


@contextmanager
def answering_for(subscription: Subscription, items: Sequence[Item]) -> Iterator[Left]:
    """An error of the engine's own must not leave keys taken: what is left by then is loaded again later."""
    left: Left = dict.fromkeys(items)
    try:
        yield left
    except Exception as error:
        subscription.workers.stumbled(list(left), error)


def remaining(run: Run, outcomes: Mapping[int, BaseException]) -> Run:
    """What has not failed, nor comes after one in its key that has."""
    stopped: set[Lane] = set()
    kept = []
    for event, item in run:
        if id(event) in outcomes:
            stopped.add(item.lane)
        elif item.lane not in stopped:
            kept.append((event, item))
    return kept


def commit(
    subscription: Subscription,
    items: list[Item],
    events: list[Any],
    delivery: BatchDelivery[Any],
    outcomes: Mapping[int, BaseException],
) -> None:
    if outcomes or not all(item.plain for item in items):
        _commit_each(subscription, items, events, delivery, outcomes)
        return
    unit = delivery._unit
    delivery._move_all(events)
    parts = _by_part(items)
    for part, some in parts:
        unit.fences.append(Fence(part.lease, part.epoch))
        # One range for each, however they follow each other: by where each ends a repetition of some of them is known.
        ranges = [(item.after, item.record[0]) for item in some]  # type: ignore[index]  # handled, so loaded
        unit.done.append(Done(subscription.number, part.number, ranges, part.generation))
    subscription.committer.submit(unit, partial(_all_done, subscription, items, parts))


ByPart = Sequence[tuple[Part, list[Item]]]


def _by_part(items: list[Item]) -> ByPart:
    found: dict[Part, list[Item]] = {}
    for item in items:
        found.setdefault(item.part, []).append(item)
    return list(found.items())


def _all_done(subscription: Subscription, items: list[Item], parts: ByPart, verdict: Verdict) -> None:
    """The verdict on a run of which every event is done, and none has a row of its own."""
    if not verdict.ok:
        _verdict(subscription, items, [], verdict)
        return
    with answering_for(subscription, items) as left:
        for _, some in parts:
            subscription.finished(some, verdict)
        left.clear()


def _commit_each(
    subscription: Subscription,
    items: list[Item],
    events: list[Any],
    delivery: BatchDelivery[Any],
    outcomes: Mapping[int, BaseException],
) -> None:
    unit = delivery._unit
    done: list[Item] = []
    kept: list[Any] = []  # their events
    failed: list[tuple[Item, BaseException, list[Item]]] = []
    stopped: dict[Any, list[Item]] = {}
    for event, item in zip(events, items, strict=True):
        error = outcomes.get(id(event))
        if item.lane in stopped:
            stopped[item.lane].append(item)
        elif error is None:
            done.append(item)
            kept.append(event)
            subscription.complete(item, unit)
        else:
            stopped[item.lane] = []
            failed.append((item, error, stopped[item.lane]))
    if not done:  # nothing of a run of which no event is done
        _verdict(subscription, done, failed, Verdict("done"))
        return
    delivery._move_all(kept)
    subscription.committer.submit(unit, partial(_verdict, subscription, done, failed))


def _verdict(
    subscription: Subscription,
    done: list[Item],
    failed: list[tuple[Item, BaseException, list[Item]]],
    verdict: Verdict,
) -> None:
    everything = done + [item for item, _, _ in failed] + [one for _, _, after in failed for one in after]
    with answering_for(subscription, everything) as left:
        if not verdict.ok and verdict.kind != "fenced":
            everything.sort(key=_position)
            fail_whole(subscription, everything, verdict.error or RuntimeError("the unit failed"), left)
            return
        for item in done:
            subscription.verdict(item, verdict)
            del left[item]
        for item, error, followers in failed:
            back(subscription, followers, left)
            fail(subscription, item, error, left)


def fail_whole(subscription: Subscription, items: list[Item], error: BaseException, left: Left) -> None:
    """The run as a whole failed: one by one from here, so that only the culprit does."""
    if len(items) == 1:
        fail(subscription, items[0], culprit(subscription, error), left)
        return
    for item in items:
        item.single = True
    back(subscription, items, left)
    subscription.workers.wake()


def back(subscription: Subscription, items: list[Item], left: Left) -> None:
    subscription.back(items)
    for item in items:
        del left[item]
        subscription.waiting.unsuspect(item)


def fail(subscription: Subscription, item: Item, error: BaseException, left: Left) -> None:
    subscription.waiting.failed(item, error)
    del left[item]


def _position(item: Item) -> int:
    return item.record.position if item.record is not None else 0
