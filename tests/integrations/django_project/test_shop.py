"""The example, as its users run it: `manage.py runserver`, `manage.py spine run`, SIGKILL, and the books at the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3] / "examples" / "django_shop"
WAIT_S = 60.0


def until(condition: Callable[[], object], what: str) -> object:
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
    return value


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]

    @property
    def environment(self) -> dict[str, str]:
        given = {"SHOP_FOLDER": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SPINE_")}
        return {**kept, **given}

    def manage(self, *arguments: str, code: int = 0) -> str:
        line = [sys.executable, "-W", "error", "manage.py", *arguments]
        done = subprocess.run(
            line, cwd=PROJECT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=WAIT_S,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments], cwd=PROJECT, env=self.environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def serve(self) -> subprocess.Popen[bytes]:
        web = self.start("runserver", "--noreload", f"127.0.0.1:{self.port}")
        until(self.answers, "the server to answer")
        return web

    def answers(self) -> bool:
        try:
            return bool(self.get("books/"))
        except OSError:
            return False

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def get(self, path: str) -> dict[str, int]:
        with urllib.request.urlopen(self.url(path), timeout=WAIT_S) as answer:
            return json.load(answer)

    def order(self, number: str, path: str = "orders/") -> bool:
        """Whether it was accepted; who gets no answer asks again."""
        data = urllib.parse.urlencode({"number": number, "sku": f"pot-{len(number) % 3}", "units": 1}).encode()
        request = urllib.request.Request(self.url(path), data, {"X-Request-ID": f"request-{number}"})
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.status in (200, 201)
        except urllib.error.HTTPError:
            raise
        except OSError:  # the server died
            return False

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "db.sqlite3", timeout=WAIT_S)) as own:
            return own.execute(sql).fetchall()

    def count(self, table: str) -> int:
        return int(str(self.ask(f"select count(*) from {table}")[0][0]))

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_S)

    def logs(self) -> str:
        return "\n".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    Shop(folder).manage("migrate", "-v", "0")
    with closing(sqlite3.connect(folder / "db.sqlite3")) as own:
        own.executemany("insert into shop_stock (sku, free) values (?, 10000)", [(f"pot-{n}",) for n in range(3)])
        own.commit()
    return folder / "db.sqlite3"  # the last connection has left: nothing of it is in another file


@pytest.fixture
def shop(tmp_path: Path, migrated: Path) -> Iterator[Shop]:
    shutil.copy(migrated, tmp_path)
    shop = Shop(tmp_path)
    yield shop
    for process in shop.processes:
        if process.poll() is None:
            shop.kill(process)


def test_its_own_tests_pass(shop):
    assert "OK" in shop.manage("test")


def test_it_is_set_up_as_the_checks_advise(shop):
    assert "no issues (0 silenced)" in shop.manage("check", "--fail-level", "WARNING")
    assert "No changes detected" in shop.manage("makemigrations", "--check", "--dry-run")


def test_an_order_goes_through_and_can_be_followed(shop):
    shop.serve()
    run = shop.start("spine", "run")
    assert shop.order("A-1")
    assert shop.order("A-22", "async/orders/")
    until(lambda: shop.count("shop_parcel") == 2, "the parcels")
    assert set(shop.ask("select distinct correlation from spine_events")) == {("request-A-1",), ("request-A-22",)}
    assert "warehouse.StockReserved" in shop.manage("spine", "tail", "--no-follow")
    assert "warehouse.reserve" in shop.manage("spine", "subscriptions")
    run.terminate()
    assert run.wait(WAIT_S) == 0, shop.logs()
    assert "everything in hand was finished" in (shop.folder / "spine.log").read_text()


def test_killed_again_and_again_each_order_is_placed_reserved_and_packed_once(shop):
    """The web server and the handlers are killed while they work. Whoever got no answer asks again."""
    chance = random.Random(7)
    web, handlers = shop.serve(), [shop.start("spine", "run") for _ in range(2)]
    for n in range(120):
        number = f"{'x' * (n % 3)}{n}"
        while not shop.order(number, "async/orders/" if n % 4 == 0 else "orders/"):
            if web.poll() is not None:
                web = shop.serve()
        if n % 20 == 10:
            until(lambda so_far=n: shop.count("shop_reservation") > so_far // 2, "some work to be under way")
            killed = handlers.pop(chance.randrange(2))
            shop.kill(killed)
            handlers.append(shop.start("spine", "run"))
        if n % 40 == 25:
            shop.kill(web)
    until(lambda: shop.count("shop_parcel") >= 120, f"the parcels; {shop.logs()}")
    for table, column in (("shop_order", "number"), ("shop_reservation", '"order"'), ("shop_parcel", '"order"')):
        counted = Counter(row for (row,) in shop.ask(f"select {column} from {table}"))
        assert (120, {1}) == (len(counted), set(counted.values())), table
    types = dict(shop.ask("select type, count(*) from spine_events group by type"))
    assert types == {"orders.OrderPlaced": 120, "warehouse.StockReserved": 120}
    assert shop.ask("select sum(free) from shop_stock") == [(30_000 - 120,)]
    assert shop.count("spine_deliveries where state = 'dead'") == 0


def test_several_processes_find_the_project_from_any_folder(shop, tmp_path):
    shop.serve()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "elsewhere.py").write_text("from project.settings import *\n")
    line = [sys.executable, str(PROJECT / "manage.py"), "spine", "run", "--processes", "2"]
    line += [f"--pythonpath={tmp_path / 'more'}", "--settings", "elsewhere"]
    with (tmp_path / "run.log").open("ab") as log:
        run = subprocess.Popen(
            line, cwd=tmp_path, env=shop.environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    shop.processes.append(run)
    for n in range(10):
        assert shop.order(f"A-{n}")
    until(lambda: shop.count("shop_parcel") == 10, f"the parcels; {shop.logs()}")
    until(lambda: shop.count("spine_processes") == 2, f"both processes; {shop.logs()}")
    run.terminate()
    assert run.wait(WAIT_S) == 0, shop.logs()


def test_under_an_asgi_server_both_kinds_of_views_publish(shop):
    line = [sys.executable, "-m", "uvicorn", "project.asgi:application", "--port", str(shop.port)]
    with (shop.folder / "uvicorn.log").open("ab") as log:
        web = subprocess.Popen(
            line, cwd=PROJECT, env=shop.environment, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    shop.processes.append(web)
    until(shop.answers, "the server to answer")
    with ThreadPoolExecutor(8) as clients:
        orders = [(f"A-{n}", "async/orders/" if n % 2 else "orders/") for n in range(40)]
        assert all(clients.map(lambda order: shop.order(*order), orders))
    assert shop.count("shop_order") == shop.count("spine_events") == 40
    correlations = {row for (row,) in shop.ask("select correlation from spine_events")}
    assert correlations == {f"request-A-{n}" for n in range(40)}


def test_the_reloader_of_runserver_does_no_harm(shop):
    web = shop.start("runserver", f"127.0.0.1:{shop.port}")
    until(shop.answers, "the server to answer")
    assert shop.order("A-1")
    assert shop.count("spine_events") == 1
    shop.kill(web)


# --- manage.py spine ----------------------------------------------------------------------------------------------------


def test_an_event_may_be_published_by_hand_of_whatever_the_project_declares(shop):
    shop.manage("spine", "publish", "OrderPlaced", '{"order": "C-1", "sku": "pot-1", "units": 1}')
    run = shop.start("spine", "run", "shop.handlers:warehouse", "--log-level", "debug")
    until(lambda: shop.count("shop_parcel") == 1, "the parcel")
    run.terminate()
    assert run.wait(WAIT_S) == 0


def test_the_command_ends_as_spine_does(shop):
    assert "Usage: manage.py spine" in shop.manage("help", "spine")
    assert "Usage: manage.py spine" in shop.manage("spine", "--help")
    assert "no such" in shop.manage("spine", "nonsense", code=2).lower()
    assert "no module 'nowhere'" in shop.manage("spine", "run", "nowhere", code=2)
    assert "--journal" in shop.manage("spine", "tail", "--journal", "sqlite:///x.db", code=2)
    assert "own database" in shop.manage("spine", "reset", "--yes", code=2)
    assert shop.count("shop_stock") == 3
    assert "[]" in shop.manage("spine", "dead", "list", "--json", "--settings", "project.settings")
    call = "from django.core.management import call_command as c; c('spine', 'tail', '--no-follow'); print('after')"
    assert "after" in shop.manage("shell", "-v", "0", "-c", call)


def test_run_says_what_is_not_migrated(tmp_path):
    shop = Shop(tmp_path)
    run = shop.start("spine", "run")
    log = tmp_path / "spine.log"
    until(lambda: "unapplied migration" in log.read_text() and "running " in log.read_text(), "the word")
    run.terminate()
    assert run.wait(WAIT_S) == 0


def test_run_refuses_a_project_that_the_checks_refuse(shop, tmp_path):
    (tmp_path / "wrong.py").write_text("from project.settings import *\nDATABASES['default']['AUTOCOMMIT'] = False\n")
    said = shop.manage("spine", "run", "--settings=wrong", f"--pythonpath={tmp_path}", code=2)
    assert "eventspine.E004" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{}", "Service('warehouse', 2 handlers)"),
        ("{'DISCOVER': ['events']}", "No installed app declares a service with handlers"),
        ("{'DISCOVER': ['handlers']}", "Service('warehouse', 2 handlers)"),
        ("{'DISCOVER': [], 'RUN': ['shop.handlers:warehouse']}", "Service('warehouse', 2 handlers)"),
        ("{'RUN': ['shop.events:storefront']}", "Service('storefront', 0 handlers)"),
        ("{'RUN': ['shop.handlers:nobody']}", "nobody does not exist"),
    ],
)
def test_what_runs_is_what_the_settings_say(shop, tmp_path, given, said):
    (tmp_path / "given.py").write_text(f"from project.settings import *\nEVENTSPINE = {given}\n")
    program = """
from eventspine.integrations.django.discovery import to_run
try:
    print(to_run())
except Exception as error:
    print(error)
"""
    assert said in shop.manage("shell", "-v", "0", "--settings=given", f"--pythonpath={tmp_path}", "-c", program)


# --- the first hour -------------------------------------------------------------------------------------------------------


def test_before_migrate_a_reader_is_told_to_migrate(tmp_path):
    said = Shop(tmp_path).manage("spine", "tail", "--no-follow", code=4)
    assert "`python manage.py migrate` makes its tables" in said
    assert "spine run MODULE" not in said
    assert "--journal" not in said


def test_a_first_start_before_migrate_says_migrate_and_alarms_nobody(tmp_path):
    shop = Shop(tmp_path)
    run = shop.start("spine", "run")
    log = tmp_path / "spine.log"
    until(lambda: "running " in log.read_text(), "the start")
    run.terminate()
    assert run.wait(WAIT_S) == 0
    said = log.read_text()
    assert "`python manage.py migrate` makes them" in said
    assert "restore a backup" not in said
    assert "WARNING" not in said
    assert "already" not in shop.manage("migrate", "-v", "0")
    again = shop.start("spine", "run")
    until(lambda: log.read_text().count("running ") == 2, "the start")
    again.terminate()
    assert again.wait(WAIT_S) == 0
    assert log.read_text().count("have been made") == 1


def test_a_misspelt_event_is_told_what_may_be_meant(shop):
    said = shop.manage("spine", "publish", "OrderPlacd", "{}", code=2)
    assert "This project knows no event 'OrderPlacd'. Did you mean orders.OrderPlaced?" in said.replace("\n", " ")
    assert "eventspine.integrations" not in said


def test_settings_say_that_the_journal_is_the_projects(shop):
    said = shop.manage("spine", "settings")
    assert "project DATABASES['default']" in said
    assert "SPINE_JOURNAL" not in said
    told = json.loads(shop.manage("spine", "settings", "--json"))["settings"]["journal"]
    assert ("project", "DATABASES['default']") == (told["from"], told["where"])
