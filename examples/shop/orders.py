"""The file of orders: read whole, and refused whole, with every bad line named, before anything starts.

Columns `customer_id,date,units,amount`, in any order, plain or gzip. Orders are numbered by line, from 1, and are
placed in order of date; those of one day in order of the file. Rows that repeat exactly are orders like any other.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import IO, NamedTuple

COLUMNS = ("customer_id", "date", "units", "amount")
FAULTS_SHOWN_MAX = 5
_UNITS = re.compile(r"\d{1,9}", re.ASCII)
_AMOUNT = re.compile(r"\d{1,12}(\.\d{1,2})?", re.ASCII)


class Order(NamedTuple):
    number: int
    customer_id: str
    day: date
    units: int
    amount: Decimal


class OrdersUnreadable(Exception):
    """The file is not a file of orders; the message names the lines and what was expected there."""


def read_orders(path: Path) -> list[Order]:
    """All orders of the file, in the order in which they are placed."""
    try:
        with _open(path) as file:
            orders = _parse(path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise OrdersUnreadable(f"{path} can't be read: {error}") from error
    except UnicodeDecodeError as error:
        raise OrdersUnreadable(f"{path} is not UTF-8 text: {error}. Save it as CSV in UTF-8, plain or gzip.") from error
    return sorted(orders, key=lambda order: order.day)  # stable: orders of one day stay in order of the file


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return (gzip.open if zipped else open)(path, "rt", encoding="utf-8-sig", newline="")


def _parse(path: Path, file: IO[str]) -> list[Order]:
    reader = csv.DictReader(file, strict=True)
    orders: list[Order] = []
    faults: list[str] = []
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise OrdersUnreadable(f"{path} has no column {', '.join(missing)}; it needs {','.join(COLUMNS)}.")
        for number, row in enumerate(reader, start=1):
            found = [f"line {reader.line_num}: {fault}" for fault in _faults(row)]
            faults += found
            if not found:
                orders.append(_order(number, row))
    except csv.Error as error:
        raise OrdersUnreadable(f"{path}, after line {reader.line_num}: {error}") from error
    if faults:
        raise OrdersUnreadable(_all_of(path, faults))
    if not orders:
        raise OrdersUnreadable(f"{path} holds no orders; give one line per order below {','.join(COLUMNS)}.")
    return orders


def _order(number: int, row: Mapping[str, str]) -> Order:
    day = date.fromisoformat(row["date"])
    return Order(number, row["customer_id"], day, int(row["units"]), Decimal(row["amount"]))


def _faults(row: Mapping[str | None, str | None]) -> Iterator[str]:
    if None in row or None in row.values():
        yield f"has {'more' if None in row else 'fewer'} fields than the header"
        return
    customer_id, day, units, amount = (row[column] or "" for column in COLUMNS)
    if not customer_id.strip() or len(customer_id.encode()) > 80:
        yield f"customer_id is {customer_id!r}; it must have 1 to 80 bytes"
    if not _is_day(day):
        yield f"date is {day!r}; it must be a day such as 1997-01-31"
    if not _UNITS.fullmatch(units):
        yield f"units is {units!r}; it must be a whole number such as 2"
    if not _AMOUNT.fullmatch(amount):
        yield f"amount is {amount!r}; it must be a sum such as 11.77"


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _all_of(path: Path, faults: list[str]) -> str:
    shown = "\n  ".join(faults[:FAULTS_SHOWN_MAX])
    more = len(faults) - FAULTS_SHOWN_MAX
    return f"{path} can't be used:\n  {shown}" + (f"\n  and {more} more" if more > 0 else "")
