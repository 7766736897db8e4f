"""Adapters of others: a package that is installed, and whose URLs are known wherever ours are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Processes
from .test_run import ORDER

ADAPTERS = """
from eventspine.brokers.memory import MemoryBroker, server
from eventspine.journal.sqlite import SQLiteJournal

NOT_CALLABLE = 7


class Broker(MemoryBroker):
    def __init__(self, url):
        super().__init__(server(url))
        self.url = url


def journal(url):
    made = SQLiteJournal(url.replace("ledger://", "sqlite:///"))
    made.url = url
    return made


def nothing(url):
    return object()
"""
BROKERS = """
[eventspine.brokers]
ledger = ledger_adapters:Broker
gone = not_installed:Broker
seven = ledger_adapters:NOT_CALLABLE
nothing = ledger_adapters:nothing
"""
JOURNALS = """
[eventspine.journals]
ledger = ledger_adapters:journal
"""


@pytest.fixture
def installed(spine: Processes) -> Processes:
    (spine.folder / "ledger_adapters.py").write_text(ADAPTERS)
    install(spine.folder, "ledger", BROKERS + JOURNALS)
    return spine


def install(folder: Path, package: str, points: str) -> None:
    """As pip leaves it."""
    told = folder / f"{package}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(points)


def test_services_run_on_the_journal_and_the_broker_of_an_installed_package(installed: Processes) -> None:
    at = ["--journal", "ledger://shop.db"]
    installed.run_shop(*at, "--broker", "ledger://here")
    told = installed("publish", "BookOrdered", ORDER % "ann", "--module", "bookshop", "--json", *at)
    order = json.loads(told.stdout)["id"]
    while "email.confirm  done" not in (traced := installed("trace", order, *at)).stdout:
        assert not traced.returncode, traced.stderr
    assert (installed.folder / "shop.db").exists()
    assert "ledger://here" in installed("doctor", *at, "--broker", "ledger://here").stdout
    assert 0 == installed("topology", "plan", "bookshop", "--broker", "ledger://here").returncode


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gone://x", r"The broker for gone:// of ledger (not_installed:Broker) can't be imported: No module named"),
        ("seven://x", "is named as the broker for seven://, and can't be called"),
        ("nothing://x", "is neither a URL, such as kafka://localhost:9092, nor a broker"),
        ("leger://x", "names no broker. Known are kafka://,"),
        ("leger://x", "memory://, gone://, ledger://, nothing://, seven://"),
    ],
)
def test_what_is_no_adapter_after_all_is_told(installed: Processes, url: str, said: str) -> None:
    refused = installed("run", "bookshop", "--broker", url)
    assert (2, True) == (refused.returncode, said in refused.stderr), refused.stderr


def test_two_packages_with_one_scheme_are_refused_and_ours_are_always_ours(installed: Processes) -> None:
    install(installed.folder, "other", "[eventspine.brokers]\nledger = other:Broker\nmemory = other:Broker\n")
    refused = installed("run", "bookshop", "--broker", "ledger://here")
    assert "Several packages have a broker for ledger://: ledger, other. Uninstall all but one." in refused.stderr
    assert 0 == installed("topology", "plan", "bookshop", "--broker", "memory://here").returncode


def test_a_journal_is_asked_for_with_those_that_are_installed(installed: Processes) -> None:
    refused = installed("doctor", "--journal", "leger://x")
    assert "postgresql://user@host/database, ledger://… or memory://" in refused.stderr
