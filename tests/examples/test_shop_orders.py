"""The file of orders is read whole or refused whole, and every refusal names the line."""

from __future__ import annotations

import gzip
from datetime import date
from decimal import Decimal

import pytest

from examples.shop.orders import Order, OrdersUnreadable, read_orders

HEADER = "customer_id,date,units,amount\n"


def read(tmp_path, text, name="orders.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_orders(path)


def test_orders_are_numbered_by_line_and_placed_by_day(tmp_path):
    orders = read(
        tmp_path, HEADER + "b,1997-01-02,1,5.00\na,1997-01-01,2,11.7\nb,1997-01-02,1,5.00\nc,1997-01-01,3,4\n"
    )

    assert orders == [
        Order(2, "a", date(1997, 1, 1), 2, Decimal("11.7")),
        Order(4, "c", date(1997, 1, 1), 3, Decimal(4)),
        Order(1, "b", date(1997, 1, 2), 1, Decimal("5.00")),
        Order(3, "b", date(1997, 1, 2), 1, Decimal("5.00")),
    ]


def test_gzip_is_known_by_its_content_whatever_its_name(tmp_path):
    text = HEADER + "a,1997-01-01,2,11.77\n"

    assert read(tmp_path, text) == read(tmp_path, gzip.compress(text.encode()), "zipped.csv")


def test_columns_may_stand_in_any_order_after_a_byte_order_mark_with_windows_line_ends(tmp_path):
    [order] = read(tmp_path, "\ufeffamount,units,date,customer_id\r\n11.77,2,1997-01-01,00001\r\n")

    assert order == Order(1, "00001", date(1997, 1, 1), 2, Decimal("11.77"))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("a,1997-01-01,two,1.00", "units is 'two'"),
        ("a,1997-01-01,-1,1.00", "units is '-1'"),
        ("a,1997-01-01,1,1.001", "amount is '1.001'"),
        ("a,1997-01-01,1,NaN", "amount is 'NaN'"),
        ("a,1997-01-01,1,1e3", "amount is '1e3'"),
        ("a,1997-02-30,1,1.00", "date is '1997-02-30'"),
        ("a,19970101,1,1.00", "date is '19970101'"),
        (" ,1997-01-01,1,1.00", "customer_id is ' '"),
        ("x" * 81 + ",1997-01-01,1,1.00", "1 to 80 bytes"),
        ("a,1997-01-01,1", "fewer fields"),
        ("a,1997-01-01,1,1.00,9", "more fields"),
    ],
)
def test_a_malformed_row_is_refused_by_its_line(tmp_path, row, told):
    with pytest.raises(OrdersUnreadable, match="line 3: ") as refused:
        read(tmp_path, f"{HEADER}a,1997-01-01,1,1.00\n{row}\n")

    assert told in str(refused.value)


def test_of_many_malformed_rows_the_first_are_named_and_the_rest_counted(tmp_path):
    with pytest.raises(OrdersUnreadable, match=r"line 6: (.|\n)*and 3 more"):
        read(tmp_path, HEADER + "a,1997-01-01,x,1.00\n" * 8)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no column customer_id, date, units, amount"),
        (b"customer_id,date,units\n", "no column amount"),
        (HEADER.encode(), "holds no orders"),
        (HEADER.encode() + b"\xff\xfe,1997-01-01,1,1.00\n", "not UTF-8"),
        (gzip.compress(HEADER.encode() + b"a,1997-01-01,1,1.00\n", mtime=0)[:-6], "can't be read"),
        (HEADER.encode() + b'"a,1997-01-01,1,1.00\n', "after line 1"),
    ],
)
def test_what_is_no_file_of_orders_is_refused(tmp_path, content, told):
    with pytest.raises(OrdersUnreadable, match=told):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(OrdersUnreadable, match="can't be read"):
        read_orders(tmp_path / "missing.csv")
