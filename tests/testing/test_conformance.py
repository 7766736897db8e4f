"""The public suites themselves: found by pytest without a plug-in for asyncio, nothing skipped in silence, and their page."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import pytest

from eventspine import Service
from eventspine.brokers import memory
from eventspine.brokers.feed import FeedBroker
from eventspine.errors import SettingsError
from eventspine.journal.memory import MemoryJournal
from eventspine.testing import conformance
from eventspine.testing.conformance import (
    BrokerCapabilities,
    BrokerConformance,
    CarriedSite,
    FeedConformance,
    JournalCapabilities,
    JournalConformance,
    running,
)
from eventspine.testing.conformance.brokers import carried
from eventspine.testing.conformance.brokers.capabilities import of_broker, of_feed
from eventspine.testing.conformance.table import BEGIN, END, Table, in_words

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "reference" / "conformance.md"
OURS = [
    "tests/journal/test_memory.py",
    "tests/journal/test_sqlite_conformance.py",
    "tests/journal/test_postgres_conformance.py",
    "tests/brokers/test_feed_conformance.py",
    "tests/brokers/test_memory_conformance.py",
    "tests/brokers/test_nats.py::TestNats",
    "tests/brokers/test_rabbitmq.py::TestRabbitMQ",
    "tests/brokers/test_kafka_conformance.py",
    "tests/brokers/test_pulsar_conformance.py",
    "tests/brokers/test_eventbridge_conformance.py",
]
HEAD = "from eventspine.journal.memory import MemoryJournal\nfrom eventspine.testing.conformance import *\n\n"


def run(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(test)
    line = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "test_it.py"]
    return subprocess.run(
        [*line, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
    )


MEMORY = (
    HEAD
    + "class TestMine(JournalConformance):\n    async def make(self, clock):\n        return MemoryJournal(clock)\n"
)


def test_it_needs_no_plug_in_for_asyncio_and_shows_what_is_not_declared(tmp_path: Path) -> None:
    done = run(tmp_path, MEMORY, "-rs", "-k", "Timers or Statements")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^sql +not declared$", done.stdout, re.MULTILINE)
    assert re.search(r"^Timers +✓ \d+$", done.stdout, re.MULTILINE)
    assert re.search(r"^Statements +✓ 1, \d+ not declared$", done.stdout, re.MULTILINE)
    assert "not declared: sql" in done.stdout


def test_what_is_declared_and_does_not_hold_fails(tmp_path: Path) -> None:
    declaring = MEMORY.replace("    async", "    capabilities = JournalCapabilities(sql=True, backups=True)\n    async")
    done = run(tmp_path, declaring, "-k", "Tables or BackingUp")
    assert done.returncode == 1
    assert re.search(r"^sql +✗ \d of \d failed", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^backups +✗ 2 of 2 failed", done.stdout, re.MULTILINE), done.stdout


def test_make_may_ask_for_any_fixture(tmp_path: Path) -> None:
    test = MEMORY.replace("self, clock", "self, clock, place, tmp_path").replace(
        "class TestMine", "import pytest\n\n@pytest.fixture\ndef place():\n    return 'here'\n\n\nclass TestMine"
    )
    done = run(
        tmp_path, test.replace("        return", "        assert place == 'here'\n        return"), "-k", "Closing"
    )
    assert "1 passed" in done.stdout, done.stdout


def test_a_suite_without_make_says_what_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, HEAD + "class TestMine(JournalConformance):\n    pass\n", "-k", "Closing")
    assert "TestMine needs `async def make(self, ...)`" in done.stdout


@pytest.mark.parametrize("line", ["return MemoryJournal(clock)", "yield MemoryJournal(clock)"])
def test_a_make_that_is_no_coroutine_says_what_to_write(tmp_path: Path, line: str) -> None:
    plain = HEAD + f"class TestMine(JournalConformance):\n    def make(self, clock):\n        {line}\n"
    done = run(tmp_path, plain, "-k", "Closing")
    assert "TestMine.make is no `async def`" in done.stdout
    assert "Write `async def make(self, ...)`, which returns the journal." in done.stdout


OF_MY_OWN = """
import my_broker
from eventspine.testing.conformance import *

class TestMine(BrokerConformance):
    capabilities = BrokerCapabilities(topology=True, claims=True)
    features = my_broker.Mine("mine://").features

    async def make(self, tmp_path):
        return CarriedSite(f"mine://{tmp_path.name}", FOLDER, opens=my_broker.Mine)
"""
MY_BROKER = """
from eventspine.brokers.memory import MemoryBroker, server

class Mine(MemoryBroker):
    def __init__(self, url):
        super().__init__(server(url))
        self.url = url
"""


@pytest.mark.parametrize("folder", ["None", "tmp_path"])
def test_a_site_carries_through_a_broker_of_ones_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / "my_broker.py").write_text(MY_BROKER)
    done = run(tmp_path, OF_MY_OWN.replace("FOLDER", folder), "-k", "Attributes or Claiming")
    assert done.returncode == 0, done.stdout


def test_another_process_makes_the_broker_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_broker.py").write_text(MY_BROKER)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("my_broker").Mine
    site = CarriedSite("mine://here", tmp_path, opens=mine)
    assert site.opened_by.endswith(":spine_at")
    assert isinstance(carried.spine_at(site.address, Service("listener")).broker, mine)
    with pytest.raises(SettingsError, match="Other processes make this broker too, and can't import"):
        CarriedSite("mine://here", tmp_path, opens=partial(mine))


def test_a_test_that_hangs_ends(tmp_path: Path) -> None:
    hanging = MEMORY.replace(
        "        return", "        import asyncio\n        await asyncio.Event().wait()\n        return"
    )
    done = run(tmp_path, hanging.replace("    async", "    limit_s = 0.2\n    async"), "-k", "Closing")
    assert "TimeoutError" in done.stdout


def test_the_table_is_written_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    for _ in range(2):
        run(tmp_path, MEMORY, "-k", "Closing", f"--eventspine-conformance={page}")
    text = page.read_text()
    assert text.startswith(f"# Mine\n\n{BEGIN}\n\n| journal | Mine |\n|---|---|\n| sql | not declared |")
    assert text.endswith(f"| Closing | ✓ 1 |\n\n{END}\n\nThe end.\n")


def test_a_page_without_a_place_for_it_is_refused_before_any_test_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    done = run(tmp_path, MEMORY, f"--eventspine-conformance={page}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the table goes between them" in done.stderr
    assert page.read_text() == "# Mine\n"


def test_a_test_that_is_skipped_for_another_reason_is_not_called_undeclared(tmp_path: Path) -> None:
    serverless = MEMORY.replace("self, clock", "self, clock, server").replace(
        "class TestMine", "@pytest.fixture\ndef server():\n    pytest.skip('no server here')\n\n\nclass TestMine"
    )
    done = run(tmp_path, "import pytest\n" + serverless, "-k", "Closing or Reopening")
    assert re.search(r"^Closing +1 skipped$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^Reopening +1 not declared$", done.stdout, re.MULTILINE), done.stdout


def test_two_of_one_name_have_a_column_each() -> None:
    table = Table()
    for module in ("one", "two"):
        noted = {"suite": "TestMine", "title": "journal", "group": "Feed", "needs": [], "declared": {"sql": True}}
        table.add(noted | {"module": module}, "passed")
    assert "| Feed | ✓ 1 | ✓ 1 |" in table.markdown()


def test_without_pytest_the_error_names_the_pip_line() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None; import eventspine.testing; import eventspine.testing.conformance"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MissingExtra" in done.stderr
    assert 'pip install "eventspine[testing]"' in done.stderr


def test_the_plug_in_loads_no_suite_before_somebody_uses_one(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n    assert not [m for m in sys.modules if m.startswith('eventspine.testing.conf')]\n"
    )
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert "1 passed" in done.stdout, done.stdout


def test_no_group_says_a_test_twice_and_each_has_a_promise_in_its_name() -> None:
    for suite in (JournalConformance, FeedConformance, BrokerConformance):
        names = [group.__name__ for group in suite.groups]
        assert len(names) == len(set(names))
        assert all(running.tests_of(group) for group in suite.groups)


@pytest.mark.parametrize("suite", [JournalConformance, FeedConformance, BrokerConformance])
def test_each_capability_has_a_test_that_only_those_who_declare_it_have_to_pass(suite: type[running.Suite]) -> None:
    tests = [test for group in suite.groups for test in running.tests_of(group).values()]
    needed = {name for test in tests for name in getattr(test, "needs", ())}
    declared = set(asdict(JournalCapabilities() if suite is JournalConformance else BrokerCapabilities()))
    if suite is FeedConformance:
        declared |= set(of_feed(FeedBroker(MemoryJournal()).features))
        declared -= {"claims", "full"}  # one journal needs no place at a broker, and nothing waits in it to be sent
    if suite is BrokerConformance:
        declared |= set(of_broker(memory.from_url("memory://x").features))
    assert needed == declared


# --- the page -------------------------------------------------------------------------------------------------------------


def test_every_name_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    names = [name for name in conformance.__all__ if name != "capability"]
    assert [name for name in names if f"{name}" not in text] == []
    for kind in (JournalCapabilities, BrokerCapabilities):
        assert len(fields(kind)) == len(running.meanings(kind))
        for name, meaning in running.meanings(kind).items():
            assert f"| `{name}` | {meaning} |" in text


def test_the_table_on_the_page_has_every_test_that_there_is() -> None:
    """Fails when a group has got another test: the page says how the table is made again."""
    line = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *OURS]
    collected = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there: Counter[tuple[str, str]] = Counter()
    for suite, group in re.findall(r"::(Test\w+)::(Test\w+)::", collected):
        there[in_words(suite), in_words(group)] += 1

    table = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    shown: Counter[tuple[str, str]] = Counter()
    for part in table.strip().split("\n\n"):
        head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in part.splitlines()]
        for name, *cells in rows:
            for suite, cell in zip(head[1:], cells, strict=True):
                assert "failed" not in cell, f"{suite}: {name} {cell}"
                if name[0].isupper():
                    shown[suite, name] += sum(map(int, re.findall(r"\d+", cell)))
    assert there == +shown
