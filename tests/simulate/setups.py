"""What is run: the shop, one service with every kind of handler, and one whose handlers change something now and then."""

from __future__ import annotations

from eventspine.testing.simulate import Faults
from eventspine.testing.simulate.history import Setup
from tests.simulate.chains import bursts, bursts_beside_an_operator, mix, written_once
from tests.simulate.kinds import (
    letters,
    letters_are_counted_once,
    letters_beside_an_operator,
    office,
    reminders_come_once,
)
from tests.simulate.shop import books, each_order_takes_stock_once, orders, stock

SHOP = Setup((stock, books), orders, (each_order_takes_stock_once,), 2, Faults(), None)
KINDS = Setup((office,), letters, (letters_are_counted_once, reminders_come_once), 2, Faults(), None)
CHAINS = Setup((mix,), bursts, (written_once,), 2, Faults(), None)
KINDS_OPERATED = Setup(
    (office,), letters_beside_an_operator, (letters_are_counted_once, reminders_come_once), 2, Faults(), None
)
CHAINS_OPERATED = Setup((mix,), bursts_beside_an_operator, (written_once,), 2, Faults(), None)
OFTEN = Faults(
    crashes=3, restarts=2, pauses=2, cuts=2, lost_requests=0.1, lost_answers=0.1, refused=0.05, failing=0.05
)  # goes wrong what goes wrong outside of handlers
CHAINS_OFTEN = Setup((mix,), bursts, (written_once,), 2, OFTEN, None)
