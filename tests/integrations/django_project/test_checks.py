"""`manage.py check` says what would not work, before it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import django
import pytest
from django.conf import settings
from django.core.checks import run_checks
from django.db import connections
from django.test import override_settings

from eventspine import Batch, Service
from eventspine.integrations.django import atomic_delivery, discovery

from .conftest import APP
from .desk.events import Said


def found() -> dict[str, str]:
    messages = {message.id: message.msg for message in run_checks() if str(message.id).startswith("eventspine.")}
    if django.VERSION < (5, 1):
        messages.pop("eventspine.W001", None)  # there is no setting yet that would prevent it
    return messages


def test_commands_without_the_middleware_are_told(path):
    with override_settings(MIDDLEWARE=[]):
        assert "MIDDLEWARE lacks CorrelationMiddleware" in found()["eventspine.W003"]


@pytest.fixture
def options(path):
    """Of the default database, put back afterwards."""
    database = connections["default"].settings_dict
    before = dict(database), dict(database["OPTIONS"])
    yield database
    database.update(before[0])
    database["OPTIONS"] = before[1]


def test_a_project_that_is_set_up_as_the_page_says_has_nothing_to_hear(path):
    assert found() == {}


@pytest.mark.parametrize(
    ("given", "id", "word"),
    [
        ({"SERVICE": "nobody.knows:it"}, "E001", "no module 'nobody'"),
        ({"RUN": ["nobody.knows"]}, "E001", "no module 'nobody'"),
        ({"RUN": ["os:path"]}, "E001", "os:path is no Service"),
        ({"DATABASES": "default"}, "E001", "Did you mean 'DATABASE'"),
        ({"RUN": "nobody.knows"}, "E001", "no module 'nobody'"),
        ({"RUN": 7}, "E001", "or one of them; not 7"),
        ({"DATABASE": "nowhere"}, "E001", "nowhere"),
        ({"TRUST_REQUEST_ID": "yes"}, "E001", "True or False"),
        ({"DATABASE": "elsewhere"}, "E002", "in SQLite or PostgreSQL"),
        ({"DATABASE": "memory"}, "E003", "in memory"),
    ],
)
def test_settings_that_cannot_work_are_errors(path, given, id, word):
    with override_settings(EVENTSPINE=given):
        assert word in found()[f"eventspine.{id}"]


def test_a_database_that_never_commits_is_an_error(options):
    options["AUTOCOMMIT"] = False
    assert "AUTOCOMMIT" in found()["eventspine.E004"]


@pytest.mark.parametrize("mode", ["PRAGMA journal_mode=DELETE", "pragma journal_mode = 'truncate';"])
def test_a_connection_that_turns_the_log_off_is_an_error(options, mode):
    options["OPTIONS"]["init_command"] = mode
    assert "needs WAL" in found()["eventspine.E005"]


def test_the_log_turned_on_is_none(options):
    options["OPTIONS"]["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
    assert found() == {}


@pytest.mark.skipif(django.VERSION < (5, 1), reason="has no transaction_mode")
@pytest.mark.parametrize("mode", [None, "DEFERRED"])
def test_transactions_that_begin_without_the_write_lock_are_advised_against(options, mode):
    options["OPTIONS"]["transaction_mode"] = mode
    assert list(found()) == ["eventspine.W001"]


@pytest.mark.parametrize("how", ["PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON; pragma synchronous = 0"])
def test_commits_that_a_loss_of_power_takes_back_are_advised_against(options, how):
    options["OPTIONS"]["init_command"] = how
    assert list(found()) == ["eventspine.W002"]


def test_the_decorator_on_the_wrong_side_of_on_is_an_error(path, monkeypatch):
    """`on` gives the function back unchanged and has kept what stands beneath it."""
    wrong = Service("wrong")

    @atomic_delivery
    @wrong.on(Said)
    def upside_down(event: Said) -> None: ...

    @wrong.on(Said, name="right")
    @atomic_delivery
    def right_way(event: Said) -> None: ...

    module = ModuleType(f"{APP}.handlers")
    vars(module).update(wrong=wrong, upside_down=upside_down, right_way=right_way)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(discovery, "modules", lambda: iter([module]))
    message = found()["eventspine.E006"]
    assert "upside_down" in message
    assert "right_way" not in message


def test_what_an_app_s_service_has_included_is_no_service_beside_it(path, monkeypatch):
    part, whole = Service("mail"), Service("mail")
    part.on(Said, name="hear")(lambda event: None)
    whole.include(part)
    module = ModuleType(f"{APP}.handlers")
    vars(module).update(part=part, whole=whole)
    monkeypatch.setattr(discovery, "modules", lambda: iter([module]))
    assert [whole] == discovery.to_run()


def test_the_decorator_on_a_handler_of_runs_is_an_error(path, monkeypatch):
    runs = Service("runs")

    @runs.on(Said, batch=Batch(10))
    @atomic_delivery
    def hear(events: list[Said]) -> None: ...

    monkeypatch.setattr(discovery, "declared", lambda: [runs])
    assert "runs.hear" in found()["eventspine.E007"]


def test_checks_touch_no_database(path):
    connections.close_all()
    found()
    assert connections["default"].connection is None
    assert settings.DATABASES["default"]["NAME"] == path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SERVICES": "desk"}, "EVENTSPINE has no 'SERVICES'. Did you mean 'SERVICE'"),
        ({"RUN": 7}, "is a list of names"),
    ],
)
def test_settings_that_cannot_be_read_are_no_traceback_of_manage_py_check(tmp_path, given, said):
    (tmp_path / "wrong_settings.py").write_text(
        f"INSTALLED_APPS = ['eventspine.integrations.django', {APP!r}]\nEVENTSPINE = {given!r}\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'wrong.sqlite3'}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "django", "check", "--settings=wrong_settings", f"--pythonpath={tmp_path}"],
        cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60,
    )  # fmt: skip
    assert "(eventspine.E001) EVENTSPINE" in done.stdout
    assert said in done.stdout
    assert "Traceback" not in done.stdout
