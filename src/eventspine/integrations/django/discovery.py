"""What the project declares: services in modules named `events` and `handlers` of its apps, or as `RUN` says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from django.apps import apps
from django.utils.module_loading import autodiscover_modules, module_has_submodule

from ...errors import SettingsError
from ...service import Service, wholes
from . import settings

NAMED = "EVENTSPINE_DJANGO_RUN"  # `module` or `module:name`, by blanks: of `manage.py spine run`, and the processes it starts


def discover() -> None:
    """Import them, once all models are there, as the admin does with modules named `admin`."""
    try:
        names = settings.read().discover
    except SettingsError:
        return  # `manage.py check` says it, which begins by setting Django up; and so does whatever reads them next
    autodiscover_modules(*names)


def modules() -> Iterator[ModuleType]:
    for app in apps.get_app_configs():
        for name in settings.read().discover:
            if module_has_submodule(app.module, name):
                yield import_module(f"{app.name}.{name}")


def declared() -> list[Service[Any]]:
    """Every service that these modules hold, and the one that publishes."""
    found = {id(value): value for module in modules() for value in vars(module).values() if isinstance(value, Service)}
    if settings.read().service:
        service = settings.service()
        found.setdefault(id(service), service)
    return wholes(list(found.values()))


def to_run() -> list[Service[Any]]:
    """Those that the command line named, else `RUN`, else all that are declared and have handlers."""
    wanted = os.environ.get(NAMED, "").split() or settings.read().run
    if wanted:
        from ...cli.modules import services_of

        return services_of(wanted)
    found = [service for service in declared() if service.handlers]
    if not found:
        names = " or ".join(f"{name}.py" for name in settings.read().discover) or "modules (DISCOVER is empty)"
        raise SettingsError(
            f"No installed app declares a service with handlers. Write them into {names} of an app, or name the module: "
            f"EVENTSPINE = {{'RUN': ['shop.handlers']}}."
        )
    return found


def all_declared() -> list[Service[Any]]:
    """These, and what `RUN` names elsewhere."""
    found = {id(service): service for service in declared()}
    if settings.read().run:
        found.update({id(service): service for service in to_run()})
    return list(found.values())
