"""All services and events that the project declares, as one module: where `manage.py spine publish` looks for classes."""

from __future__ import annotations

import django
from django.apps import apps

from .discovery import all_declared, modules

if not apps.ready:
    django.setup(set_prefix=False)
globals().update({f"service_{n}": one for n, one in enumerate(all_declared())})
globals().update(
    {
        f"event_{n}": value
        for n, value in enumerate(value for module in modules() for value in vars(module).values())
        if isinstance(value, type) and "__spine_event__" in vars(value)
    }
)
