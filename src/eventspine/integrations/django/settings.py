"""`EVENTSPINE` in the settings of the project: one dict, every key of it known.

    EVENTSPINE = {
        "SERVICE": "shop.events:shop",    # whom publish() speaks for
        "DATABASE": "default",            # the database that has the journal
        "SCHEMA": "spine",                # PostgreSQL: where in it; else the first of the connection's search path
        "RUN": ["shop.handlers"],         # what `manage.py spine run` runs, or one such text; else all that is discovered
        "DISCOVER": ["events", "handlers"],  # modules of installed apps that are imported at start
        "TRUST_REQUEST_ID": True,         # whether the middleware takes what clients send
        "TOKEN": True,                    # whether the middleware's answers say what was published (Spine-Token)
        "ANSWERS": True,                  # whether it answers what commands and views raise
        "ACTOR": "shop.auth:actor_of",    # a function of the request: who has it done, as a text or None
    }

Read anew each time, so that `override_settings` works; nothing here touches a database.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any, cast

from django.conf import settings as project
from django.db import DEFAULT_DB_ALIAS

from ...errors import SettingsError, UnknownPublisher
from ...service import Service

NAME = "EVENTSPINE"


@dataclass(frozen=True, slots=True)
class Settings:
    service: str = ""
    database: str = DEFAULT_DB_ALIAS
    schema: str = ""
    run: tuple[str, ...] = ()
    discover: tuple[str, ...] = ("events", "handlers")
    trust_request_id: bool = True
    actor: str = ""
    token: bool = True
    answers: bool = True


_DEFAULTS = Settings()
_KEYS = {field.name.upper(): field.name for field in fields(Settings)}


def read() -> Settings:
    given = getattr(project, NAME, {})
    if not isinstance(given, dict):
        raise SettingsError(f"{NAME} is a dict, such as {NAME} = {{'SERVICE': 'shop.events:shop'}}; not {given!r}.")
    return Settings(**{_known(key): _value(key, value) for key, value in given.items()})


def _known(key: Any) -> str:
    if key in _KEYS:
        return _KEYS[key]
    close = get_close_matches(str(key).upper(), _KEYS, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else f" There is {', '.join(_KEYS)}."
    raise SettingsError(f"{NAME} has no {key!r}.{meant}")


def _value(key: str, value: Any) -> Any:
    kind = type(getattr(_DEFAULTS, _KEYS[key]))
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise SettingsError(f"{NAME}[{key!r}] is True or False; not {value!r}.")
    if kind is tuple:
        if isinstance(value, str) and value:
            return (value,)
        if isinstance(value, (list, tuple)) and all(isinstance(one, str) and one for one in value):
            return tuple(value)
        raise SettingsError(
            f"{NAME}[{key!r}] is a list of names, such as ['shop.handlers'], or one of them; not {value!r}."
        )
    if isinstance(value, str) and value:
        return value
    raise SettingsError(f"{NAME}[{key!r}] is a text; not {value!r}.")


def service() -> Service[Any]:
    """Whom this project publishes for."""
    place = read().service
    if not place:
        raise UnknownPublisher(
            f"publish() speaks for a service, and the settings name none. Write "
            f'{NAME} = {{"SERVICE": "shop.events:shop"}}: the module, and in it shop = Service("shop").'
        )
    return service_at(place)


def service_at(place: str) -> Service[Any]:
    found = _at("SERVICE", place, "shop.events:shop")
    if not isinstance(found, Service):
        raise SettingsError(f"{NAME}['SERVICE'] is {place!r}, and that {_is(found)}, no Service.")
    return found


def actor() -> Callable[[Any], str | None] | None:
    """Of a request: who has it done."""
    place = read().actor
    found = _at("ACTOR", place, "shop.auth:actor_of") if place else None
    if found is not None and not callable(found):
        raise SettingsError(f"{NAME}['ACTOR'] is {place!r}, and that {_is(found)}, no function.")
    return cast("Callable[[Any], str | None] | None", found)


def _at(key: str, place: str, example: str) -> Any:
    module, _, name = place.partition(":")
    if not name:
        raise SettingsError(f"{NAME}[{key!r}] is {place!r}; write the module and the name in it: {example!r}.")
    try:
        found = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # what the module itself imports is missing: its own traceback says where
        raise SettingsError(f"{NAME}[{key!r}] is {place!r}, and there is no module {error.name!r}.") from error
    if found is None:
        raise SettingsError(f"{NAME}[{key!r}] is {place!r}, and {name!r} in {module} does not exist.")
    return found


def _is(found: object) -> str:
    return f"is a {type(found).__name__}"
