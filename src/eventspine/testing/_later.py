"""Names of a package that are loaded when they are used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def later(package: str, modules: Mapping[str, Collection[str]]) -> Callable[[str], Any]:
    """A package's `__getattr__`, for the names that each of its modules has."""

    def load(name: str) -> Any:
        for module, names in modules.items():
            if name in names:
                found = getattr(import_module(f".{module}", package), name)
                setattr(sys.modules[package], name, found)
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
