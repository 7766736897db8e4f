"""The reconciliation finds what it claims to find: each test does one thing wrong to books that agree."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
from contextlib import closing
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from examples.shop import __main__ as demo
from examples.shop.email.mailbox import Mailbox, letter, ordinal
from examples.shop.kept import kept_in
from examples.shop.oracle import cents, expect
from examples.shop.orders import Order
from examples.shop.reconcile import Events, reconcile

SHOP = Path(demo.__file__).parent
REPORT_KEYS = [
    "orders", "units", "revenue", "customers", "refused", "lost", "twice", "out_of_order", "dead", "kills", "seconds", "ok",
]  # fmt: skip


@pytest.fixture
def orders():
    return [
        Order(
            number,
            f"customer {number % 4}",
            date(1997, 1, 1) + timedelta(number // 6),
            number % 9,
            Decimal(number) / 10,
        )
        for number in range(1, 31)
    ]


@pytest.fixture
def folder(tmp_path, orders):
    """What a faultless run of the shop keeps."""
    expected = expect(orders)
    mailbox = Mailbox(tmp_path / "mail")
    with closing(sqlite3.connect(tmp_path / "spine.db")) as journal:
        for script in ("storefront.sql", "inventory.sql", "analytics.sql", "email/release_2.sql"):
            journal.executescript((SHOP / script).read_text())
        for order in orders:
            number, customer, day, units, _ = order
            reserved, nth = number not in expected.refused, expected.nth[number]
            row = (number, customer, day.isoformat(), units, cents(order))
            answer = "reserved" if reserved else "refused"
            journal.execute("insert into storefront_orders values (null, ?, ?, ?, ?, ?)", row)
            journal.execute("insert into inventory_answers values (null, ?, ?, ?, ?, ?)", (*row[:4], reserved))
            journal.execute("insert into email_letters values (null, ?, ?, ?, ?)", (number, customer, nth, reserved))
            journal.execute(
                "insert into email_counts values (?, 1) on conflict do update set orders = orders + 1", (answer,)
            )
            for table, name in (("analytics_days", day.isoformat()), ("analytics_customers", customer)):
                journal.execute(
                    f"insert into {table} values (?, 1, ?, ?) on conflict do update set orders = orders + 1,"
                    " units = units + excluded.units, cents = cents + excluded.cents",
                    (name, *row[3:]),
                )
            key = f"key{number}"
            mailbox.send(letter(customer, number, nth=nth, reserved=reserved, extra="", key=key), day=day, key=key)
        journal.commit()
    return tmp_path


def tamper(folder, sql):
    with closing(sqlite3.connect(folder / "spine.db")) as journal:
        assert journal.execute(sql).rowcount > 0
        journal.commit()


def write(path, orders):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["customer_id", "date", "units", "amount"])
        rows.writerows(order[1:] for order in orders)
    return path


def books_of(folder, orders):
    return reconcile(expect(orders), kept_in(folder), Events(dead=3, kills=2, seconds=1.25))


def test_books_of_a_faultless_run_agree(folder, orders):
    result = books_of(folder, orders)

    assert result.differences == []
    assert result.ok


def test_the_report_has_exactly_the_promised_keys_and_money_to_the_cent(folder, orders):
    report = json.loads(books_of(folder, orders).report_json(), parse_float=Decimal)
    everyone = {"input", "storefront", "inventory", "email", "analytics"}

    assert REPORT_KEYS == list(report)
    assert dict.fromkeys(everyone, 30) == report["orders"]
    assert dict.fromkeys(everyone, 4) == report["customers"]
    assert dict.fromkeys(everyone - {"email"}, sum(order.units for order in orders)) == report["units"]
    assert dict.fromkeys(["input", "storefront", "analytics"], Decimal("46.50")) == report["revenue"]
    assert {"lost": 0, "twice": 0, "out_of_order": 0, "dead": 3, "kills": 2, "ok": True}.items() <= report.items()
    assert report["refused"] == len(expect(orders).refused) > 0


@pytest.mark.parametrize(
    ("sql", "mistake", "count"),
    [
        ("delete from storefront_orders where number = 7", "lost", 1),
        ("delete from inventory_answers where number in (7, 8)", "lost", 2),
        ("delete from email_letters where number = 7", "lost", 1),
        ("update analytics_customers set orders = orders - 1 where customer_id = 'customer 1'", "lost", 1),
        ("update email_counts set orders = orders - 1 where answer = 'reserved'", "lost", 1),
        ("insert into inventory_answers select null, order_id, customer_id, day, units, reserved from inventory_answers where number = 7", "twice", 1),
        ("insert into email_letters select null, order_id, customer_id, nth, reserved from email_letters where number < 3", "twice", 2),
        ("update analytics_customers set orders = orders + 1 where customer_id = 'customer 1'", "twice", 1),
        ("update email_counts set orders = orders + 1 where answer = 'reserved'", "twice", 1),
        ("update inventory_answers set number = 100 where number = 1", "out_of_order", 1),
        ("update email_letters set number = -number where number <= 8", "out_of_order", 4),
        ("update storefront_orders set number = 100 where number = 3", "out_of_order", 1),
    ],
)  # fmt: skip
def test_what_is_lost_twice_or_out_of_order_is_counted(folder, orders, sql, mistake, count):
    tamper(folder, sql)
    result = books_of(folder, orders)

    assert result.total(mistake) == count
    assert not result.ok


@pytest.mark.parametrize(
    "sql",
    [
        "update storefront_orders set cents = cents + 1 where number = 7",
        "update inventory_answers set units = units + 1 where number = 7",
        "update inventory_answers set reserved = not reserved where number in (7, 14)",
        "update email_letters set reserved = not reserved where number = 7",
        "update email_letters set nth = nth + 1 where number = 7",
        "update email_letters set customer_id = 'customer 0' where number = 7",
        "update analytics_days set cents = cents + 1 where day = '1997-01-02'",
        "update analytics_customers set cents = cents - 1 where customer_id = 'customer 1'",
    ],
)
def test_any_other_figure_that_differs_is_told(folder, orders, sql):
    tamper(folder, sql)

    assert not books_of(folder, orders).ok


def test_a_second_letter_for_one_order_is_seen_on_disk(folder, orders):
    [first, *_] = sorted((folder / "mail").glob("*/*.eml"))
    first.with_name("another-key.eml").write_text(first.read_text())

    assert books_of(folder, orders).total("twice") == 1


def test_a_letter_that_is_missing_on_disk_is_lost(folder, orders):
    next((folder / "mail").glob("*/*.eml")).unlink()

    assert books_of(folder, orders).total("lost") == 1


def test_a_letter_that_counts_wrongly_is_told(folder, orders):
    [wrong] = (folder / "mail").glob("*/key9.eml")
    wrong.write_text(wrong.read_text().replace("Your 3rd order", "Your 4th order"))

    assert ["n-th order in a letter: 9 has 4; the file gives 3"] == books_of(folder, orders).differences


def test_a_shop_that_never_opened_has_lost_everything(tmp_path, orders):
    result = books_of(tmp_path, orders)

    assert result.total("lost") == 30 * 5  # e-mail's letters and counts are two books
    assert not result.ok


def test_a_shop_whose_demo_failed_is_not_in_order_even_if_its_books_are(folder, orders):
    result = reconcile(expect(orders), kept_in(folder), Events(failures=["inventory ended with code 1"]))

    assert not result.ok
    assert result.differences == ["inventory ended with code 1"]


def test_the_exit_code_says_whether_the_books_agree(folder, orders, tmp_path):
    file = write(tmp_path / "orders.csv", orders)
    report = tmp_path / "report.json"
    arguments = ["--orders", str(file), "--report", str(report), "--check", str(folder)]

    assert demo.main(arguments) == 0
    assert json.loads(report.read_text())["ok"] is True
    tamper(folder, "update inventory_answers set units = units + 1 where number = 7")
    assert demo.main(arguments) == 1
    assert json.loads(report.read_text())["ok"] is False


def test_the_looks_around_that_the_demo_names_work_as_they_are_printed(tmp_path):
    with closing(sqlite3.connect(tmp_path / "spine.db")) as empty:
        empty.execute("vacuum")
    into, *looks = demo._looks(tmp_path)
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{into} && {looks[0]}"], env={"PATH": "/bin"}, capture_output=True, text=True, check=False
    )

    assert ended.returncode == 4, "spine was found, and says that no journal is there"
    assert "spine:" in ended.stderr


def test_a_letter_sent_again_takes_the_place_of_the_first(tmp_path):
    mailbox = Mailbox(tmp_path)
    for _ in range(2):
        mailbox.send("the same words", day=date(1997, 1, 1), key="one-key")

    assert [path.name for path in tmp_path.glob("*/*")] == ["one-key.eml"]


def test_ordinals_are_english():
    written = [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111, 112, 123)]

    assert written == [
        "1st",
        "2nd",
        "3rd",
        "4th",
        "11th",
        "12th",
        "13th",
        "21st",
        "22nd",
        "101st",
        "111th",
        "112th",
        "123rd",
    ]
