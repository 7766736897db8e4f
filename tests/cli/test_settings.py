"""Settings reach what they are about, from the command line."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from pathlib import Path

import pytest

SLOW = """
import asyncio

from eventspine import Event, Service


class Asked(Event, context="slow", key="who"):
    who: str


slow = Service("slow")


@slow.on(Asked)
async def answer(event: Asked) -> None:
    print("in hand", flush=True)
    await asyncio.sleep(60 if event.who == "slow" else 0)
"""


def shown(say, *options: str) -> dict[str, dict[str, object]]:
    return json.loads(say("settings", "--json", *options).stdout)["settings"]


def test_each_setting_is_shown_with_where_it_came_from(say, tmp_path, monkeypatch):
    (tmp_path / "spine.toml").write_text('modules = ["shop"]\nhealth = "0.0.0.0:80"\n[retention]\norders = "90d"\n')
    monkeypatch.setenv("SPINE_LOG_LEVEL", "debug")

    found = shown(say, "--journal", "sqlite:///x.db")

    assert found["journal"] == {"value": f"sqlite:///{tmp_path}/x.db", "from": "flag", "where": "--journal"}
    assert found["log_level"] == {"value": "debug", "from": "environment", "where": "SPINE_LOG_LEVEL"}
    assert found["modules"] == {"value": ["shop"], "from": "file", "where": f"{tmp_path}/spine.toml, line 1"}
    assert (found["health"]["value"], found["retention"]["value"]) == ("0.0.0.0:80", {"orders": "90d"})
    assert found["drain_s"] == {"value": 30.0, "from": "default", "where": None}
    table = say("settings").stdout
    assert "SETTING" in table
    assert f"{tmp_path}/spine.toml, line 1" in table


def test_no_password_is_shown(say, monkeypatch):
    monkeypatch.setenv("SPINE_JOURNAL", "postgres://shop:hunter2@db/shop")

    assert "hunter2" not in say("settings").stdout + say("settings", "--json").stdout
    refused = say("settings", "--journal", "shop:hunter2@db")
    assert (refused.exit_code, "hunter2" in refused.stderr) == (2, False)
    assert "hunter2" not in say("tail").stderr


def test_a_misspelt_variable_is_pointed_at(say, monkeypatch):
    monkeypatch.setenv("SPINE_MODULE", "shop")

    assert "Is SPINE_MODULES meant?" in say("settings").stderr


@pytest.mark.parametrize("arguments", [("tail",), ("settings",), ("run",), ("doctor", "--json")])
def test_a_mistake_in_the_file_ends_every_command_with_2(say, tmp_path, arguments):
    (tmp_path / "spine.toml").write_text("journl = 'x'\n")

    refused = say(*arguments)

    assert refused.exit_code == 2
    assert f"{tmp_path}/spine.toml, line 1: there is no setting 'journl'. Did you mean journal?" in refused.stderr


@pytest.mark.parametrize("before", [True, False])
def test_the_settings_file_may_be_named_before_and_after_the_command(say, tmp_path, before):
    (tmp_path / "deploy.toml").write_text("drain_s = 3\n")
    flag = ("--settings", "deploy.toml")

    answer = say(*flag, "settings", "--json") if before else say("settings", "--json", *flag)

    assert json.loads(answer.stdout)["settings"]["drain_s"]["value"] == 3.0


# --- each reaches what it is about ------------------------------------------------------------------------------------


def test_modules_and_journal_of_the_file_reach_run_from_any_folder(spine, folder):
    """Also: modules are found beside the file, and publish finds the event's class in them."""
    (folder / "spine.toml").write_text(
        'journal = "sqlite:///data.db"\nmodules = ["bookshop:stock", "bookshop:email"]\n'
    )
    (folder / "deep").mkdir()
    spine.folder = folder / "deep"

    process = spine.start("run")
    told = spine.until(process, "running stock, email")

    assert f"journal {folder}/data.db (new)" in told
    published = spine("publish", "BookOrdered", '{"customer": "c1", "title": "Emma"}')
    assert published.returncode == 0, published.stderr
    assert "orders.BookOrdered" in spine("tail", "--no-follow").stdout
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert [path.name for path in (folder / "deep").iterdir()] == []
    again = spine.start("run", "bookshop:stock")
    assert "bookshop" in spine.until(again, "bookshop"), "a module on the command line is looked for where one stands"


def test_modules_of_a_named_file_may_be_in_the_current_folder(spine, folder):
    (folder / "deploy").mkdir()
    (folder / "deploy" / "live.toml").write_text('modules = ["bookshop:stock"]\n')

    process = spine.start("run", "--settings", "deploy/live.toml")

    assert "running stock" in spine.until(process, "running stock")


def test_a_journal_that_is_there_is_not_called_new(spine):
    first = spine.run_shop()
    first.send_signal(signal.SIGTERM)
    first.wait(30)

    told = spine.until(spine.start("run", "bookshop"), "running")

    assert f"journal {spine.folder}/spine.db\n" in told


def test_run_without_any_module_says_where_to_write_one(say, tmp_path):
    refused = say("run")

    assert refused.exit_code == 2
    assert f'write modules = ["MODULE"] into {tmp_path}/spine.toml' in refused.stderr


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_drain_s_and_the_log_s_format_and_level_reach_run(spine, folder: Path, how):
    (folder / "slow.py").write_text(SLOW)
    said = {"drain_s": "0.2", "log_format": "json", "log_level": "debug"}
    flags: list[str] = []
    if how == "flag":
        flags = [word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", value)]
    elif how == "environment":
        spine.environment |= {f"SPINE_{name.upper()}": value for name, value in said.items()}
    else:
        (folder / "spine.toml").write_text('drain_s = 0.2\nlog_format = "json"\nlog_level = "debug"\n')
    process = spine.start("run", "slow", *flags)
    told = spine.until(process, '"message":"running slow')

    for who in ("quick", "slow"):
        spine("publish", "-m", "slow", "Asked", f'{{"who": "{who}"}}')
        assert process.stdout is not None
        assert process.stdout.readline() == "in hand\n"
    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 0
    assert process.stderr is not None
    lines = [json.loads(line) for line in (told + process.stderr.read()).splitlines()]
    assert any("after 0.2s will be handled again" in line["message"] for line in lines)
    assert any(line["level"] == "debug" for line in lines)


RETAINED = """
from datetime import timedelta

from eventspine import Service

shop = Service("shop", publishes=["orders", "returns", "audit", "visits"], retention={"returns": timedelta(days=7), "audit": None})
"""


@pytest.mark.parametrize("how", ["environment", "file"])
def test_retention_comes_before_what_services_say_and_a_star_only_where_they_say_nothing(spine, folder: Path, how):
    (folder / "retained.py").write_text(RETAINED)
    if how == "environment":
        spine.environment["SPINE_RETENTION"] = "orders=30d, *=90d"
    else:
        (folder / "spine.toml").write_text('[retention]\norders = "30d"\n"*" = "90d"\n')

    spine.until(spine.start("run", "retained"), "running shop")

    day = 86_400
    listed = json.loads(spine("retention", "--json").stdout)
    kept = {row["channel"]: row["kept_s"] for row in listed}
    assert kept == {"orders": 30 * day, "returns": 7 * day, "visits": 90 * day}, (
        "audit is kept for ever, as the code says"
    )


def test_a_star_does_not_shorten_what_the_code_keeps(spine, folder: Path):
    (folder / "retained.py").write_text(RETAINED)
    spine.environment["SPINE_RETENTION"] = "*=1h, returns=keep"

    spine.until(spine.start("run", "retained"), "running shop")

    kept = {row["channel"]: row["kept_s"] for row in json.loads(spine("retention", "--json").stdout)}
    assert kept == {"orders": 3600, "visits": 3600}


@pytest.mark.parametrize("how", ["environment", "file"])
def test_processes_reach_run(spine, folder: Path, how):
    if how == "environment":
        spine.environment |= {"SPINE_PROCESSES": "2", "SPINE_MODULES": "bookshop:stock"}
    else:
        (folder / "spine.toml").write_text('modules = ["bookshop:stock"]\nprocesses = 2\n')
    spine.start("run")

    pids: set[int] = set()
    while len(pids) < 2:
        top = spine("top", "--json", "--every", "0.1")
        services = json.loads(top.stdout)["services"] if top.returncode == 0 else []
        pids = {process["pid"] for service in services for process in service["processes"] if process["alive"]}

    assert len(pids) == 2


@pytest.mark.parametrize("how", ["environment", "file"])
def test_the_health_address_reaches_run(spine, folder: Path, how):
    if how == "environment":
        spine.environment["SPINE_HEALTH"] = "0"
    else:
        (folder / "spine.toml").write_text("health = 0\n")

    told = spine.until(spine.start("run", "bookshop"), "/healthz")

    port = re.search(r"http://127\.0\.0\.1:(\d+)/healthz", told)
    assert port, told
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/healthz", timeout=30) as answer:
        assert answer.status == 200
