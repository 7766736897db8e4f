"""Snapshots are a shortcut and never the truth: what does not fit in every way is ignored, counted, and read anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from eventspine import Aggregate, Spine, applies
from eventspine.errors import Conflict
from eventspine.journal.port import Journal, Note, Unit
from eventspine.state.shapes import figures
from eventspine.state.snapshots import KIND

from .bank import Deposited, bank


@pytest.fixture
async def spine(journal: Callable[[], Journal]) -> AsyncIterator[Spine]:
    async with Spine(journal(), service=bank()) as spine:
        yield spine


def purse(add: int = 0, every: int = 3, **options: Any) -> type[Any]:
    """A class of its own, so that each test counts its own; `add` makes it other code."""
    if add:

        class Purse(Aggregate, name="purse", snapshot_every=every, **options):
            cents: int = 0

            @applies(Deposited)
            def _deposited(self, event: Deposited) -> None:
                self.cents += event.cents + 1000

    else:

        class Purse(Aggregate, name="purse", snapshot_every=every, **options):  # type: ignore[no-redef]
            cents: int = 0

            @applies(Deposited)
            def _deposited(self, event: Deposited) -> None:
                self.cents += event.cents

    return Purse


async def filled(spine: Spine, cls: type[Any], times: int = 4) -> None:
    for _ in range(times):
        one = await spine.load_or_new(cls, "a")
        one.record(Deposited(account="a", cents=1))
        await spine.save(one)


async def noted(spine: Spine) -> list[Any]:
    return await spine.journal.notes("bank", KIND, ["purse-a"])


async def put(spine: Spine, value: bytes) -> None:
    (verdict,) = await spine.journal.commit([Unit(notes=[Note("bank", KIND, "purse-a", value)])])
    assert verdict.ok


async def test_a_load_begins_at_the_snapshot(spine: Spine, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, asked = purse(), []
    await filled(spine, cls, 4)
    stream = spine.journal.stream

    async def asking(service: str, name: str, *, after: int = 0, **how: Any) -> Any:
        asked.append(after)
        return await stream(service, name, after=after, **how)

    monkeypatch.setattr(spine.journal, "stream", asking)
    found = await spine.load(cls, "a")
    assert ((4, 4), [2]) == (
        (found.cents, found.version),
        asked,
    )  # the event it ends with proves that it is of this stream
    assert 1 == figures(cls)["snapshots written"]


async def test_one_is_written_whenever_a_save_passes_a_multiple(spine: Spine) -> None:
    cls = purse()
    one = cls("a")
    for _ in range(7):
        one.record(Deposited(account="a", cents=1))
    await spine.save(one)
    assert 1 == figures(cls)["snapshots written"]
    assert 7 == (await spine.load(cls, "a")).version


async def test_trap_17_a_snapshot_commits_with_its_events_or_not_at_all(spine: Spine) -> None:
    cls = purse(every=2)
    await filled(spine, cls, 1)
    first, second = await spine.load(cls, "a"), await spine.load(cls, "a")
    for one, cents in ((first, 10), (second, 100)):
        one.record(Deposited(account="a", cents=cents))
    await spine.save(first)
    with pytest.raises(Conflict):
        await spine.save(second)
    assert 11 == (await spine.load(cls, "a")).cents


async def test_trap_16_a_snapshot_of_other_code_is_ignored(spine: Spine) -> None:
    await filled(spine, purse(), 3)
    other = purse(add=1)
    assert 3003 == (await spine.load(other, "a")).cents
    assert (1, None) == (figures(other)["snapshots ignored"], figures(other).get("snapshots used"))


async def test_trap_16_a_raised_snapshot_version_makes_it_other_code(spine: Spine) -> None:
    await filled(spine, purse(), 3)
    raised = purse(snapshot_version=2)
    await spine.load(raised, "a")
    assert 1 == figures(raised)["snapshots ignored"]


@pytest.mark.parametrize("value", [b"", b"\xc1", b"nonsense", msgspec.msgpack.encode([1, 2, 3, 4])])
async def test_trap_16_one_that_can_not_be_read_is_ignored(spine: Spine, value: bytes) -> None:
    cls = purse()
    await filled(spine, cls, 3)
    await put(spine, value)
    assert 3 == (await spine.load(cls, "a")).cents
    assert 1 == figures(cls)["snapshots ignored"]


async def test_trap_16_a_state_that_can_not_be_read_is_ignored(spine: Spine) -> None:
    cls = purse()
    await filled(spine, cls, 3)
    hash, version, last, _ = msgspec.msgpack.decode((await noted(spine))[0].value)
    await put(spine, msgspec.msgpack.encode([hash, version, last, b'["five"]']))
    assert 3 == (await spine.load(cls, "a")).cents


async def test_one_that_ends_with_an_event_of_another_stream_is_ignored(spine: Spine) -> None:
    cls = purse()
    await filled(spine, cls, 3)
    hash, version, _, state = msgspec.msgpack.decode((await noted(spine))[0].value)
    await put(spine, msgspec.msgpack.encode([hash, version, b"x" * 16, state]))
    assert 3 == (await spine.load(cls, "a")).cents
    assert 1 == figures(cls)["snapshots ignored"]


async def test_what_it_looks_like_does_not_depend_on_a_snapshot(spine: Spine) -> None:
    class Both(Aggregate, name="purse", snapshot_every=2):
        open: bool = False
        cents: int = 0
        back: int = 0

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.cents += event.cents
            self.back = 0

    await filled(spine, Both, 1)
    assert "Both('a', version=1, cents=1)" == repr(await spine.load(Both, "a"))
    await filled(spine, Both, 1)
    assert "Both('a', version=2, cents=2)" == repr(await spine.load(Both, "a"))
    assert 1 == figures(Both)["snapshots used"]


async def test_one_of_a_later_version_is_not_used_for_the_past(spine: Spine) -> None:
    cls = purse()
    await filled(spine, cls, 4)
    assert [1, 2, 3, 4] == [(await spine.load(cls, "a", at_version=n)).cents for n in (1, 2, 3, 4)]


async def test_state_that_is_not_declared_has_no_snapshot_and_says_so(
    spine: Spine, caplog: pytest.LogCaptureFixture
) -> None:
    class Loose(Aggregate, name="purse", snapshot_every=1):
        cents: int = 0

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.cents += event.cents
            self.found = event.account

    await filled(spine, Loose, 2)
    assert 2 == (await spine.load(Loose, "a")).cents
    assert 2 == figures(Loose)["snapshots not written"]
    assert 1 == sum("found is not declared" in line for line in caplog.messages)


async def test_state_that_comes_back_as_another_has_no_snapshot(spine: Spine) -> None:
    class Vague(Aggregate, name="purse", snapshot_every=1):
        last: Any = None

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.last = datetime(1997, 6, 1)  # noqa: DTZ001 -- whatever it is: as JSON it is a text

    await filled(spine, Vague, 1)
    assert 1 == figures(Vague)["snapshots not written"]
    assert datetime(1997, 6, 1) == (await spine.load(Vague, "a")).last  # noqa: DTZ001


async def test_a_snapshot_that_is_too_large_is_left_out(spine: Spine) -> None:
    class Wide(Aggregate, name="purse", snapshot_every=1):
        text: str = ""

        @applies(Deposited)
        def _deposited(self, event: Deposited) -> None:
            self.text = "x" * 2_000_000

    await filled(spine, Wide, 1)
    assert 1 == figures(Wide)["snapshots not written"]
    assert 2_000_000 == len((await spine.load(Wide, "a")).text)
