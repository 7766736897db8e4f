"""The same without an event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal

import pytest

from eventspine.errors import NoSuchAggregate
from eventspine.journal.port import Journal
from eventspine.sync import Spine

from .bank import Account, bank
from .material import OrderPlaced, OrdersByCustomer, connection_to, counting, publisher


def test_load_save_and_change(journal: Callable[[], Journal]) -> None:
    with Spine(journal(), service=bank()) as spine:
        account = spine.load_or_new(Account, "ann")
        account.deposit(500)
        (receipt,) = spine.save(account)
        changed = spine.change(Account, "ann", lambda one: one.withdraw(200), command_id="c-1")
        again = spine.change(Account, "ann", lambda one: one.withdraw(200), command_id="c-1")
        assert (300, False, True) == (changed.aggregate.cents, changed.repeated, again.repeated)
        assert 500 == spine.load(Account, "ann", at_position=receipt.position).cents
        with pytest.raises(NoSuchAggregate):
            spine.load(Account, "bob")


def test_a_command_decides_in_the_thread_that_sent_it(journal: Callable[[], Journal]) -> None:
    """Django's connections belong to a thread."""
    threads: list[int] = []

    def decide(account: Account) -> None:
        threads.append(threading.get_ident())
        account.begin()

    with Spine(journal(), service=bank()) as spine:
        spine.change(Account, "ann", decide, new=True)
    assert [threading.get_ident()] == threads


def test_within_a_transaction_of_the_caller(database: Callable[[], Journal]) -> None:
    with Spine(database(), service=bank()) as spine:
        with closing(connection_to(spine.journal)) as connection:
            for end in (connection.rollback, connection.commit):
                account = Account("ann")
                account.begin()
                (receipt,) = spine.save(account, within=connection)
                assert not receipt.durable
                end()
        assert 1 == spine.load(Account, "ann").version


def test_a_view_is_waited_for_and_read(journal: Callable[[], Journal]) -> None:
    with Spine(journal(), service=publisher()) as spine, spine.running(counting()):
        view = spine.view(OrdersByCustomer)
        view.wait(spine.publish(OrderPlaced()), timeout_s=20)
        row = view.get("ann")
        assert row == OrdersByCustomer(customer_id="ann", orders=1, spent=Decimal(1))
        assert [row] == view.all(orders=1, order_by="-spent", limit=1)
        if spine.journal.sql:
            assert [{"orders": 1}] == view.query("select orders from orders_by_customer")
