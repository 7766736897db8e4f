"""Finding services and event classes in the modules that were named. Importing them is all that is done to them."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ..errors import DeclarationError, SpineError
from ..events import EventType, describe
from ..service import Service, wholes
from ..settings import Settings
from .exits import Failed, Misused
from .inside import called
from .tail import meant, named

if TYPE_CHECKING:
    from ..state.aggregate import Aggregate


def load(name: str, folder: Path | None = None) -> ModuleType:
    """The module, looked for in this folder first, then in the current one, as `python -m` does."""
    if name.endswith(".py") or "/" in name or os.sep in name:
        meant = name.removesuffix(".py").replace(os.sep, ".").replace("/", ".").strip(".")
        raise Misused(f"{name!r} is a file. Name the module, as in an import: {meant}.")
    here = str(folder or Path.cwd())
    for place in (os.getcwd(), here):
        if place not in sys.path:
            sys.path.insert(0, place)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(name, error) from error
        raise Misused(
            f"There is no module {error.name!r}, neither in {here} nor installed. "
            "Run this in the folder that holds your package, or check the spelling."
        ) from error
    except (SpineError, click.ClickException):
        raise
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> Failed:
    """The module's own fault: say where, without our frames."""
    if isinstance(error, SyntaxError) and error.filename:  # no frame is in a file that does not even begin to run
        kind, place = type(error).__name__, f"{error.filename}, line {error.lineno}"
        return Failed(f"{name} can't be imported: {kind}: {error.msg} ({place})")
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if "importlib" not in frame.filename and frame.filename != __file__]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return Failed(f"{name} can't be imported: {type(error).__name__}: {error}{where}")


def services_to_run(settings: Settings) -> list[Service[Any]]:
    """Those that were named, on the command line or in the settings."""
    if not settings.modules:
        raise Misused(
            f"Name the module of your services: {click.get_current_context().command_path} MODULE. "
            f'Or write modules = ["MODULE"] into {settings.file or settings.folder / "spine.toml"}.'
        )
    return services_of(settings.modules, settings.modules_folder)


def services_of(places: Sequence[str], folder: Path | None = None) -> list[Service[Any]]:
    """The services of `module` or `module:name`, in the order in which they were named, none twice."""
    found: dict[int, Service[Any]] = {}
    for place in places:
        name, separator, attribute = place.partition(":")
        module = load(name, folder)
        for service in [_named(module, attribute)] if separator else _all(module):
            found[id(service)] = service
    services = wholes(list(found.values()))
    _refuse_twins(services)
    return services


def _named(module: ModuleType, attribute: str) -> Service[Any]:
    service = getattr(module, attribute, None)
    if isinstance(service, Service):
        _refuse_part(f"{module.__name__}:{attribute}", service)
        return service
    names = [name for name, value in vars(module).items() if isinstance(value, Service)]
    others = f" It has {', '.join(names)}." if names else " It has no service at all."
    told = "is no Service" if hasattr(module, attribute) else "does not exist"
    raise Misused(f"{module.__name__}:{attribute} {told}.{others}")


def named_aggregate(place: str) -> type[Aggregate]:
    """MODULE:CLASS"""
    from ..state.aggregate import Aggregate

    name, _, attribute = place.partition(":")
    module = load(name)
    found = getattr(module, attribute, None)
    if isinstance(found, type) and issubclass(found, Aggregate):
        return found
    names = [name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, Aggregate)]
    told = ", ".join(name for name in names if name != "Aggregate") or "none"
    raise Misused(f"{place!r} is no aggregate. Say MODULE:CLASS; the aggregates of {name}: {told}.")


def _all(module: ModuleType) -> list[Service[Any]]:
    services = [value for value in vars(module).values() if isinstance(value, Service)]
    if not services:
        raise Misused(
            f'{module.__name__} has no Service. Make one at the top level of the module: inventory = Service("inventory").'
        )
    return services


def _refuse_part(place: str, service: Service[Any]) -> None:
    """Of the same name it would run as the whole, and suspend all that it lacks."""
    whole = service.part_of
    if whole is not None and whole.name == service.name:
        raise Misused(
            f"{place} is a part of the service {service.name!r}, which includes it, and would run without the rest. Name the "
            "one that includes it."
        )


def _refuse_twins(services: Sequence[Service[Any]]) -> None:
    names = [service.name for service in services]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misused(
            f"Several Service objects are named {twice[0]!r}. Say which to run as MODULE:NAME, "
            "or join them with service.include(other) in one of these modules."
        )


def reachable(module: ModuleType) -> Iterator[ModuleType]:
    """The module, and modules of its own package that it has imported by name."""
    package = module.__name__.partition(".")[0]
    seen = {module.__name__}
    waiting = [module]
    while waiting:
        yield (current := waiting.pop(0))
        for value in vars(current).values():
            if (
                isinstance(value, ModuleType)
                and value.__name__.partition(".")[0] == package
                and value.__name__ not in seen
            ):
                seen.add(value.__name__)
                waiting.append(value)


def event_types(module: ModuleType) -> list[EventType]:
    """Every event class that the module can name, and those that its services handle."""
    found: dict[type, EventType] = {}
    for part in reachable(module):
        for value in vars(part).values():
            if isinstance(value, type) and "__spine_event__" in vars(value):
                found.setdefault(value, describe(value))
            elif isinstance(value, Service):
                kinds = (kind for handler in value.handlers.values() for kind in handler.types)
                found.update({kind.cls: kind for kind in kinds if isinstance(kind, EventType)})
    return list(found.values())


def event_type(modules: Sequence[ModuleType], asked: str) -> EventType:
    """The class that is meant. Modules of one project know each other's classes: one and the same is no ambiguity."""
    known = {kind.cls: kind for module in modules for kind in event_types(module)}
    found = [kind for kind in known.values() if named(kind.name, asked)]
    if not found:
        names = sorted({kind.name for kind in known.values()})
        raise Misused(
            f"{_together(modules)} {_form(modules, 'knows', 'know')} no event {asked!r}.{meant(asked, names)} "
            f"{_form(modules, 'It knows', 'They know')}: {', '.join(names) or 'none'}."
        )
    own = [kind for kind in found if kind.cls.__module__ in {module.__name__ for module in modules}]
    found = own if len(own) == 1 else found
    if len(found) > 1:
        told = ", ".join(sorted(f"{kind.name} in {kind.cls.__module__}" for kind in found))
        raise Misused(
            f"{asked!r} may be any of several classes: {told}. Name the module that declares the one: --module MODULE."
        )
    return found[0]


def _together(modules: Sequence[ModuleType]) -> str:
    return ", ".join(called(module.__name__) for module in modules)


def _form(modules: Sequence[ModuleType], one: str, several: str) -> str:
    return one if len(modules) == 1 else several


def publisher(modules: Sequence[ModuleType], context: str, asked: str | None) -> Service[Any]:
    """The service that speaks: the one that was asked for, else the only one that may publish this context."""
    services: dict[int, Service[Any]] = {}
    for part in chain.from_iterable(map(reachable, modules)):
        services.update({id(value): value for value in vars(part).values() if isinstance(value, Service)})
    found = [
        service
        for service in wholes(list(services.values()))
        if (context in service.publishes if asked is None else service.name == asked)
    ]
    if len(found) == 1:
        return found[0]
    if asked is not None:
        raise Misused(
            f"{_together(modules)} {_form(modules, 'has', 'have')} {'no service' if not found else 'several services'} "
            f"named {asked!r}."
        )
    if found:
        raise Misused(
            f"Several services publish {context!r}: {', '.join(sorted(service.name for service in found))}. "
            "Say which with --service."
        )
    raise DeclarationError(
        f"{_together(modules)} {_form(modules, 'has', 'have')} no service that publishes the context {context!r}. "
        f"Name the module of the service that owns it, or declare Service(..., publishes={context!r})."
    )
