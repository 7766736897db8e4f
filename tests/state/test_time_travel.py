"""An aggregate as it was: at a version, a position, a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from eventspine import Spine
from eventspine.errors import NoSuchAggregate, SettingsError, SpineError
from eventspine.journal.port import Journal

from .bank import Account, Deposited, Opened, bank


def day(number: int) -> datetime:
    return datetime(1997, 6, number, tzinfo=UTC)


@pytest.fixture
async def spine(journal: Callable[[], Journal]) -> AsyncIterator[Spine]:
    async with Spine(journal(), service=bank()) as spine:
        yield spine


@pytest.fixture
async def positions(spine: Spine) -> list[int]:
    account = Account("ann")
    account.record(Opened(account="ann"), time=day(1))
    account.record(Deposited(account="ann", cents=10), time=day(2))
    account.record(Deposited(account="ann", cents=100), time=day(4))
    return [receipt.position for receipt in await spine.save(account)]


async def test_at_each_version(spine: Spine, positions: list[int]) -> None:
    assert [0, 10, 110] == [(await spine.load(Account, "ann", at_version=n)).cents for n in (1, 2, 3)]


async def test_at_each_position(spine: Spine, positions: list[int]) -> None:
    assert [0, 10, 110] == [(await spine.load(Account, "ann", at_position=n)).cents for n in positions]
    with pytest.raises(NoSuchAggregate, match="as of position"):
        await spine.load(Account, "ann", at_position=positions[0] - 1)


async def test_at_each_time(spine: Spine, positions: list[int]) -> None:
    assert [0, 10, 10, 110] == [(await spine.load(Account, "ann", at=day(n))).cents for n in (1, 2, 3, 4)]
    with pytest.raises(NoSuchAggregate, match="as of 1997-05-31"):
        await spine.load(Account, "ann", at=datetime(1997, 5, 31, tzinfo=UTC))


async def test_by_time_it_is_a_state_that_it_really_had_also_where_clocks_disagreed(spine: Spine) -> None:
    account = Account("ann")
    for number, cents in ((1, 1), (5, 10), (2, 100)):
        account.record(Deposited(account="ann", cents=cents), time=day(number))
    await spine.save(account)
    assert 1 == (await spine.load(Account, "ann", at=day(3))).cents


async def test_what_was_can_not_be_gone_on_with(spine: Spine, positions: list[int]) -> None:
    then = await spine.load(Account, "ann", at_version=2)
    with pytest.raises(SpineError, match="loaded as of version 2: nothing can be added to what was"):
        then.deposit(1)


async def test_the_advice_names_the_argument_that_was_given(spine: Spine, positions: list[int]) -> None:
    for given in ({"at_version": 2}, {"at_position": positions[1]}, {"at": day(2)}):
        [word] = given
        then = await spine.load(Account, "ann", **given)  # type: ignore[arg-type]
        with pytest.raises(SpineError, match=f"Load it without {word}=[.]"):
            then.deposit(1)
    with pytest.raises(NoSuchAggregate, match="Load it without at_position=, or as of later"):
        await spine.load(Account, "ann", at_position=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"at_version": -1},
        {"at_version": True},
        {"at_position": 1.5},
        {"at": datetime(1997, 6, 1)},  # noqa: DTZ001 -- that is what is wrong
        {"at": "1997"},
        {"at_version": 1, "at": day(1)},
    ],
)
async def test_what_is_no_point_in_time_is_refused(spine: Spine, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        await spine.load(Account, "ann", **wrong)


async def test_a_version_that_it_has_not_come_to_is_none(spine: Spine) -> None:
    await spine.save(_began())
    with pytest.raises(NoSuchAggregate, match="has 1 version, and no version 99 yet"):
        await spine.load(Account, "zoe", at_version=99)
    assert (await spine.load(Account, "zoe", at_version=1)).open


def _began() -> Account:
    account = Account("zoe")
    account.begin()
    return account
