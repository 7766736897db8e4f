"""The whole demo on a few orders: real processes, real kills, and books that must agree."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from examples.shop.__main__ import ORDERS
from examples.shop.oracle import expect
from examples.shop.orders import read_orders
from tests.servers import needed

ROOT = ORDERS.parents[2]
AT_WORK = re.compile(r"inventory [1-9]\d*%  email [1-9]\d*%  analytics [1-9]")


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.shop", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def few_orders(path: Path) -> Path:
    """The first customers of the real file, and one who wants too much, twice on the same day."""
    with gzip.open(ORDERS, "rt") as file:
        lines = [next(file) for _ in range(181)]
    greedy = [f"greedy: & Söhne,1997-0{month}-03,12,{month}.10\n" * 2 for month in range(1, 7)]
    path.write_text("".join([*lines, *greedy]), encoding="utf-8")
    return path


@pytest.mark.parametrize("victims", [("inventory", "email"), ("storefront", "analytics")])
@pytest.mark.promise("process killed", "sqlite processes")
def test_books_agree_whoever_is_killed(tmp_path, victims):
    orders = few_orders(tmp_path / "orders.csv")
    report = tmp_path / "report.json"
    folder = tmp_path / "shop"
    done = demo("--orders", orders, "--report", report, "--folder", folder, "--kill", *victims)
    told = json.loads(report.read_text())
    expected = expect(read_orders(orders))

    assert done.returncode == 0, done.stdout + done.stderr
    assert told["ok"] is True
    assert told["orders"] == dict.fromkeys(["input", "storefront", "inventory", "email", "analytics"], 192)
    assert told["refused"] == len(expected.refused) >= 6
    assert (told["lost"], told["twice"], told["out_of_order"]) == (0, 0, 0)
    assert (told["dead"], told["kills"]) == (len(expected.jammed), 2)
    assert "orders.OrderPlaced" in done.stdout  # the traced order

    # And the same check on the same books finds one figure that somebody changes afterwards.
    assert demo("--orders", orders, "--folder", folder, "--check", folder).returncode == 0
    with closing(sqlite3.connect(folder / "spine.db")) as journal:
        journal.execute("update analytics_days set cents = cents + 1 where day = '1997-01-03'")
        journal.commit()
    again = demo("--orders", orders, "--check", folder)
    assert again.returncode == 1
    assert "DIFFERS" in again.stdout


@pytest.mark.parametrize("broker", ["nats", "pulsar", "eventbridge"])
@pytest.mark.timeout(600)
def test_books_agree_across_a_broker_that_is_killed_too(tmp_path, broker):
    """Four journals and a real server between them."""
    needed("ministack" if broker == "eventbridge" else broker)
    orders = few_orders(tmp_path / "orders.csv")
    report = tmp_path / "report.json"
    done = demo("--broker", broker, "--orders", orders, "--report", report, "--folder", tmp_path / "shop")
    told = json.loads(report.read_text())

    assert done.returncode == 0, done.stdout + done.stderr
    assert told["ok"] is True
    assert told["orders"] == dict.fromkeys(["input", "storefront", "inventory", "email", "analytics"], 192)
    assert (told["lost"], told["twice"], told["out_of_order"]) == (0, 0, 0)
    assert (told["kills"], told["broker"]) == (2, broker)
    assert told["broker_kills"] == (0 if broker == "eventbridge" else 2)
    assert "brought into sqlite:///../inventory/spine.db" in done.stdout  # the traced order, over the journals
    assert "inventory.StockReserved" in done.stdout


@pytest.mark.promise("process killed", "postgres processes")
@pytest.mark.timeout(300)
def test_books_agree_on_postgresql_whoever_is_killed(tmp_path):
    needed("postgres")
    orders = few_orders(tmp_path / "orders.csv")
    report, folder = tmp_path / "report.json", tmp_path / "shop"
    done = demo("--journal", "postgres", "--orders", orders, "--report", report, "--folder", folder)
    told, expected = json.loads(report.read_text()), expect(read_orders(orders))

    assert done.returncode == 0, done.stdout + done.stderr
    assert told["ok"] is True
    assert told["orders"] == dict.fromkeys(["input", "storefront", "inventory", "email", "analytics"], 192)
    assert (told["lost"], told["twice"], told["out_of_order"]) == (0, 0, 0)
    assert (told["refused"], told["dead"], told["kills"]) == (len(expected.refused), len(expected.jammed), 2)
    assert not list(folder.rglob("*.db"))
    again = demo("--journal", "postgres", "--orders", orders, "--check", folder)  # the server starts with what it had
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_single_order_is_enough_for_a_demo(tmp_path):
    orders = tmp_path / "orders.csv"
    orders.write_text("customer_id,date,units,amount\nonly,2024-02-29,1,0.01\n")
    report = tmp_path / "report.json"
    done = demo("--orders", orders, "--report", report, "--folder", tmp_path / "shop")

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["dead"] == 1


def test_a_malformed_row_is_refused_before_anything_starts(tmp_path):
    orders = tmp_path / "orders.csv"
    orders.write_text("customer_id,date,units,amount\na,1997-01-01,1,1.00\nb,yesterday,1,1.00\n")
    done = demo("--orders", orders, "--folder", tmp_path / "shop")

    assert done.returncode == 2
    assert "line 3: date is 'yesterday'" in done.stderr
    assert not (tmp_path / "shop").exists()


def test_a_folder_with_files_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    done = demo("--folder", tmp_path)

    assert done.returncode == 2
    assert "no demo's" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_where_a_demo_is_running_is_left_alone(tmp_path):
    (tmp_path / "demo.pid").write_text(str(os.getpid()))
    done = demo("--folder", tmp_path)

    assert done.returncode == 2
    assert "is running" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_no_service_outlives_a_demo_that_is_stopped(tmp_path, number, code):
    command = [sys.executable, "-m", "examples.shop", "--folder", str(tmp_path / "shop")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert any(AT_WORK.search(line) for line in running.stdout)
        with closing(sqlite3.connect(tmp_path / "shop" / "spine.db")) as journal:
            services = [pid for (pid,) in journal.execute("select pid from spine_processes")]
        running.send_signal(number)
        assert running.wait() == code

    assert len(services) == 3
    for pid in services:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
