"""What must come out, on files small enough to check by hand, and on the real one by what is known of it."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest

from examples.shop.__main__ import ORDERS
from examples.shop.oracle import expect
from examples.shop.orders import Order, read_orders

FIRST = date(1997, 1, 1)


def orders(*rows):
    """Each row: customer, days after the first, units, and perhaps an amount."""
    return [
        Order(number, customer, FIRST + timedelta(days), units, Decimal(amount[0] if amount else "1.00"))
        for number, (customer, days, units, *amount) in enumerate(rows, start=1)
    ]


def refused(*rows):
    return expect(orders(*rows)).refused


def test_twenty_units_are_reserved_and_the_next_is_refused():
    assert refused(("a", 0, 20), ("a", 0, 1)) == {2}
    assert refused(("a", 0, 21)) == {1}


def test_a_reservation_counts_for_thirty_days_its_own_included():
    assert refused(("a", 0, 20), ("a", 29, 1)) == {2}
    assert refused(("a", 0, 20), ("a", 30, 1)) == set()


def test_what_was_refused_takes_no_room():
    assert refused(("a", 0, 15), ("a", 1, 10), ("a", 2, 5)) == {2}


def test_customers_do_not_share_their_room():
    assert refused(("a", 0, 20), ("b", 0, 20)) == set()


def test_an_order_that_repeats_exactly_counts_again():
    expected = expect(orders(("a", 0, 12, "9.99"), ("a", 0, 12, "9.99")))

    assert (expected.refused, expected.nth, expected.units, expected.cents) == ({2}, {1: 1, 2: 2}, 24, 1998)


def test_a_refused_order_is_still_the_customers_nth_and_still_revenue():
    expected = expect(orders(("a", 0, 30, "0.10"), ("a", 0, 1, "0.20"), ("b", 1, 1, "0.30")))

    assert expected.nth == {1: 1, 2: 2, 3: 1}
    assert expected.cents_by_day == {FIRST: 30, FIRST + timedelta(1): 30}
    assert expected.cents_by_customer == {"a": 30, "b": 30}


def test_ties_of_a_day_are_answered_in_order_of_the_file(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("customer_id,date,units,amount\na,1997-01-02,5,1\na,1997-01-01,20,1\na,1997-01-01,2,1\n")
    expected = expect(read_orders(path))

    assert expected.numbers == [2, 3, 1]
    assert expected.refused == {3, 1}
    assert expected.nth == {2: 1, 3: 2, 1: 3}


def test_a_square_number_holds_up_its_customers_later_letters():
    expected = expect(orders(("a", 0, 1), ("b", 0, 1), ("a", 0, 1), ("c", 0, 1), ("c", 0, 1), ("b", 0, 1)))

    assert expected.jammed == {"a", "c"}
    assert expected.delayed == {1, 3, 4, 5}


@pytest.fixture(scope="module")
def real():
    return expect(read_orders(ORDERS))


def test_the_real_file_is_the_one_that_is_cited(real):
    placed = read_orders(ORDERS)

    assert (len(placed), len(real.orders_by_customer), len(real.refused)) == (69_659, 23_570, 1_005)
    assert len(placed) - len({order[1:] for order in placed}) == 255
    assert (real.units, real.cents) == (167_881, 250_031_563)


def test_some_orders_of_the_real_file_die_and_hold_up_others(real):
    assert (len(real.jammed), len(real.delayed)) == (261, 1_613)
