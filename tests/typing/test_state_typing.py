"""Aggregates as a user's checker sees them.

Each line that is wrong on purpose carries what the checkers say; an ignore that nothing needs is itself an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, assert_type

from eventspine import Aggregate, Delivery, Event, Receipt, Service, Spine, View, applies, sync
from eventspine.testing import given


class Opened(Event, context="bank", key="account"):
    account: str


class Closed(Event, context="bank", key="account"):
    account: str


class Renamed(Event, context="bank", key="account"):
    account: str


class Account(Aggregate, snapshot_every=100, conflict_tries=3):
    open: bool = False

    def begin(self) -> None:
        self.record(Opened(account=self.id))

    @applies(Opened)
    def _opened(self, event: Opened) -> None:
        self.open = True

    @applies(Closed, Renamed)
    def _either(self, event: Closed | Renamed) -> None: ...


async def on_a_spine(spine: Spine) -> None:
    assert_type(await spine.load(Account, "a", at_version=3), Account)
    assert_type(await spine.load_or_new(Account, ("nl", 7)), Account)
    assert_type(await spine.save(Account("a")), list[Receipt])
    changed = await spine.change(Account, "a", lambda account: account.begin(), command_id="x")
    assert_type(changed.aggregate, Account)
    assert_type(changed.receipts, list[Receipt])


def blocking(spine: sync.Spine) -> None:
    assert_type(spine.load(Account, "a"), Account)
    assert_type(spine.change(Account, "a", Account.begin, new=True).aggregate, Account)


class Balance(View, key="account"):
    account: str
    cents: int = 0


reports = Service("reports")


@reports.projection(Balance, Opened, Closed, order="key", on_dead="waits", switch="by_hand")
def keep(view: View[Balance], event: Opened | Closed) -> None:
    row = view.row(event.account)
    assert_type(row, Balance)
    assert_type(view.get(event.account), Balance | None)
    row.cents += 1


assert_type(keep, Callable[[View[Balance], Opened | Closed], None])


async def reading(spine: Spine, blocking: sync.Spine) -> None:
    view = spine.view(Balance)
    await view.wait(await spine.publish(Opened(account="a")), timeout_s=5)
    assert_type(await view.get("a"), Balance | None)
    assert_type(await view.all(cents=1, order_by="-cents", limit=1), list[Balance])
    assert_type(await view.query("select 1"), list[dict[str, Any]])
    assert_type(blocking.view(Balance).get("a"), Balance | None)


async def in_a_handler(delivery: Delivery, blocking: sync.Delivery) -> None:
    assert_type(await delivery.load(Account, "a"), Account)
    assert_type(delivery.save(Account("a")), list[Receipt])
    assert_type(blocking.load_or_new(Account, "a"), Account)


def test_a_test_of_an_aggregate_is_typed() -> None:
    assert_type(given(Account("a")).when(Account.begin).then(Opened(account="a")).aggregate, Account)


if TYPE_CHECKING:

    async def wrong(spine: Spine) -> None:
        await spine.load(Opened, "a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
        await spine.change(Account, "a", lambda account: account.start())  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

    Balance(account="a", euros=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    reports.projection(Balance, Opened, batch=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]

    @reports.projection(Balance, Opened)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def other(view: View[Balance], event: Closed) -> None: ...

    class Wrong(Aggregate):
        @applies(Opened)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        def _closed(self, event: Closed) -> None: ...
