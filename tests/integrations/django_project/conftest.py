"""A Django project in this process, with a database of its own for each test, in a file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections

SQLITE = "django.db.backends.sqlite3"
IMMEDIATE = {"transaction_mode": "IMMEDIATE"} if django.VERSION >= (5, 1) else {}
APP = "tests.integrations.django_project.desk"

if not settings.configured:
    settings.configure(
        INSTALLED_APPS=["eventspine.integrations.django", APP],
        DATABASES={
            "default": {"ENGINE": SQLITE, "NAME": "", "OPTIONS": {"timeout": 20, **IMMEDIATE}},
            "other": {"ENGINE": SQLITE, "NAME": ""},
            "memory": {"ENGINE": SQLITE, "NAME": ":memory:"},
            "elsewhere": {"ENGINE": "django.db.backends.dummy"},
        },
        EVENTSPINE={"SERVICE": f"{APP}.events:desk"},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        LOGGING_CONFIG=None,
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF="tests.integrations.django_project.urls",
        MIDDLEWARE=["eventspine.integrations.django.middleware.CorrelationMiddleware"],
    )
    django.setup()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """A database that nobody has migrated yet."""
    for alias in ("default", "other"):
        connections[alias].close()
        connections[alias].settings_dict["NAME"] = connections.settings[alias]["NAME"] = tmp_path / f"{alias}.sqlite3"
    yield tmp_path / "default.sqlite3"
    connections.close_all()


@pytest.fixture
def path(empty: Path) -> Path:
    for alias in ("default", "other"):
        call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
    return empty


def use(given: str) -> None:
    """In a process that a test starts: the database of that test, by its path or as JSON."""
    if hasattr(connections._connections, "default"):
        del connections["default"]
    connections.settings["default"].update(json.loads(given) if given.startswith("{") else {"NAME": given})


class Stored:
    """What anybody else sees in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self.given = str(path)  # to `use` in another process

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as own:
            return own.execute(sql).fetchall()

    @property
    def rows(self) -> list[object]:
        return [name for (name,) in self.ask("select name from desk_row order by id")]

    @property
    def done(self) -> list[object]:
        return [name for (name,) in self.ask("select name from desk_done order by id")]

    @property
    def keys(self) -> list[object]:
        return [key for (key,) in self.ask("select key from spine_events order by position")]


@pytest.fixture
def stored(path: Path) -> Stored:
    return Stored(path)
