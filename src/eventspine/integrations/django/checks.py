"""`manage.py check`: what would not work, or promise less than it seems. Nothing here connects to a database.

eventspine.E001  the settings can't be read, or name what does not exist
eventspine.E002  the database is neither SQLite nor PostgreSQL by psycopg 3
eventspine.E003  the database is in memory
eventspine.E004  the database's AUTOCOMMIT is off, so that transaction.atomic() never commits
eventspine.E005  its init_command turns the write-ahead log off
eventspine.E006  `@atomic_delivery` stands above `on`, where the service never sees it
eventspine.E007  `@atomic_delivery` on a handler of runs, which can't be joined
eventspine.E008  the handler of a command is `async def`, where Django has no transactions
eventspine.E009  two services handle one command
eventspine.W001  transactions don't begin with the write lock
eventspine.W002  its init_command has it acknowledge commits that a loss of power takes back
eventspine.W003  commands are handled, and MIDDLEWARE lacks what answers refusals and says Spine-Token
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import django
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning as Advice
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from ...errors import SettingsError, SpineError
from ...service import check_commands
from . import discovery, journals, settings
from .deliveries import MARK
from .store import in_tests
from .within import check_supported

_NO_WAL = re.compile(r"journal_mode\s*=\s*['\"]?(?!wal\b)(\w+)", re.IGNORECASE)
_NOT_SYNCED = re.compile(r"synchronous\s*=\s*['\"]?(off|normal|0|1)\b", re.IGNORECASE)


def check_settings(**_: Any) -> list[CheckMessage]:
    try:
        alias = settings.read().database
        if settings.read().service:
            settings.service()
        settings.actor()
        if settings.read().run:
            _check_run()
        if alias not in connections:
            known = ", ".join(connections)
            return [Error(f"EVENTSPINE['DATABASE'] is {alias!r}; DATABASES has {known}.", id="eventspine.E001")]
    except SpineError as error:
        return [Error(str(error), id="eventspine.E001")]
    return []


def _check_run() -> None:
    """That `RUN` names services, in the words of `spine run`, which reads it."""
    from click import ClickException

    try:
        discovery.to_run()
    except ClickException as error:
        raise SettingsError(f"EVENTSPINE['RUN']: {error.message}") from error


def check_database(**_: Any) -> list[CheckMessage]:
    if check_settings():
        return []
    try:
        wrapper = connections[settings.read().database]
        try:
            check_supported(wrapper)
        except SettingsError as error:
            return [Error(str(error), hint="Name another in EVENTSPINE['DATABASE'].", id="eventspine.E002")]
        try:
            journals.kind_of(wrapper).check(wrapper)
        except SettingsError as error:
            return [Error(str(error), id="eventspine.E001")]
        found = list(_check_autocommit(wrapper))
        return [*found, *_check_sqlite(wrapper)] if wrapper.vendor == "sqlite" else found
    except ImproperlyConfigured:
        return []  # Django's own checks say it


def _check_autocommit(wrapper: Any) -> Iterator[CheckMessage]:
    about = f"DATABASES[{wrapper.alias!r}]"
    if not wrapper.settings_dict["AUTOCOMMIT"]:
        yield Error(
            f"{about}['AUTOCOMMIT'] is off, so transaction.atomic() commits nothing, and no delivery is ever done.",
            hint="Leave it on.",
            id="eventspine.E004",
        )


def _check_sqlite(wrapper: Any) -> Iterator[CheckMessage]:
    about = f"DATABASES[{wrapper.alias!r}]"
    options = wrapper.settings_dict["OPTIONS"]
    if wrapper.is_in_memory_db() and not in_tests():
        yield Error(
            f"{about} is in memory, where no other thread or process finds the journal.",
            hint="Give it a file: 'NAME': BASE_DIR / 'db.sqlite3'.",
            id="eventspine.E003",
        )
    if found := _NO_WAL.search(options.get("init_command", "")):
        yield Error(
            f"{about}['OPTIONS']['init_command'] sets journal_mode={found[1]}; the journal needs WAL, and sets it itself.",
            hint="Leave journal_mode out, or say WAL.",
            id="eventspine.E005",
        )
    if str(options.get("transaction_mode") or "").upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        yield _deferred(about)
    if found := _NOT_SYNCED.search(options.get("init_command", "")):
        yield Advice(
            f"{about}['OPTIONS']['init_command'] sets synchronous={found[1]}: a loss of power takes back commits that were "
            "acknowledged, and with them events.",
            hint="Leave it out: FULL is SQLite's default. Or silence this, if that is what you want.",
            id="eventspine.W002",
        )


def _deferred(about: str) -> CheckMessage:
    if django.VERSION >= (5, 1):
        hint = f'{about}["OPTIONS"] = {{"transaction_mode": "IMMEDIATE"}}'
    else:
        hint = "Django 5.1 has OPTIONS['transaction_mode'] for it. Until then publish before the first read."
    return Advice(
        f"Transactions on {about} begin without the write lock. One that reads first and then publishes or writes fails "
        "(database is locked) whenever somebody else has written in between.",
        hint=hint,
        id="eventspine.W001",
    )


def check_decorators(**_: Any) -> list[CheckMessage]:
    return [] if check_settings() else [*_upside_down(), *_on_runs(), *_commands()]


def _upside_down() -> Iterator[CheckMessage]:
    """A decorator above `on` decorates what nobody calls: `on` has kept the function beneath."""
    handled = {handler.function for service in discovery.declared() for handler in service.handlers.values()}
    for module in discovery.modules():
        for name, value in vars(module).items():
            if hasattr(value, MARK) and value.__wrapped__ in handled:
                yield Error(
                    f"{module.__name__}.{name}: @atomic_delivery stands above `on`, so the service calls the function "
                    "without it.",
                    hint="Write `on` first, and @atomic_delivery beneath it.",
                    id="eventspine.E006",
                )


def _on_runs() -> Iterator[CheckMessage]:
    for service in discovery.declared():
        for handler in service.handlers.values():
            if handler.batch is not None and hasattr(handler.function, MARK):
                yield Error(
                    f"{service.name}.{handler.name} handles runs of events, which no transaction of Django's can carry.",
                    hint="Leave out batch=, or leave out @atomic_delivery and use delivery.execute(...).",
                    id="eventspine.E007",
                )


def _commands() -> Iterator[CheckMessage]:
    services = discovery.all_declared()
    for service in services:
        for command in service.commands.values():
            if command.is_async:
                yield Error(
                    f"{command.where} is `async def`, and Django has no transactions there.",
                    hint="Make it `def`: it is called where the command is sent, in its transaction.",
                    id="eventspine.E008",
                )
    try:
        check_commands(services)
    except SettingsError as error:
        yield Error(str(error), id="eventspine.E009")
    if any(service.commands for service in services) and not any(map(_is_ours, django_settings.MIDDLEWARE)):
        yield Advice(
            "Commands are handled here, and MIDDLEWARE lacks CorrelationMiddleware: what is refused would be answered with 500, and no "
            "answer says Spine-Token.",
            hint='Put "eventspine.integrations.django.middleware.CorrelationMiddleware" first in MIDDLEWARE.',
            id="eventspine.W003",
        )


def _is_ours(middleware: str) -> bool:
    from .middleware import CorrelationMiddleware

    try:
        found = import_string(middleware)
    except ImportError:
        return False  # Django's own checks say it
    return isinstance(found, type) and issubclass(found, CorrelationMiddleware)


CHECKS: tuple[Callable[..., list[CheckMessage]], ...] = (check_settings, check_database, check_decorators)
