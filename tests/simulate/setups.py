"""What is run: the shop, and one service with every kind of handler."""

from __future__ import annotations

from eventspine.testing.simulate import Faults
from eventspine.testing.simulate.history import Setup
from tests.simulate.kinds import letters, letters_are_counted_once, office, reminders_come_once
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

SHOP = Setup((stock, books), orders, (each_order_takes_stock_once,), 2, Faults(), None)
KINDS = Setup((office,), letters, (letters_are_counted_once, reminders_come_once), 2, Faults(), None)
