"""eventspine in Django: `"eventspine.integrations.django"` in INSTALLED_APPS.

The journal is in one of the project's own databases, in SQLite or PostgreSQL. `publish()` writes on Django's connection, so an
event and the rows beside it are one commit, whatever `transaction.atomic()` makes of it. `@atomic_delivery` does the same
for a handler: its rows, its events and "this event is handled" are one commit, also when the process is killed.
A web process needs no thread and no connection of ours for that, so it may fork, reload and thread as it likes.
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import MissingExtra

if find_spec("django") is None:
    raise MissingExtra('This needs Django: pip install "eventspine[django]".', extra="django")

from .deliveries import atomic_delivery
from .publishing import apublish, cancel, publish
from .requests import command_of, idempotency_key, token_of
from .state import asend, change, load, load_or_new, save, send, view

__all__ = [
    "apublish",
    "asend",
    "atomic_delivery",
    "cancel",
    "change",
    "command_of",
    "idempotency_key",
    "load",
    "load_or_new",
    "publish",
    "save",
    "send",
    "token_of",
    "view",
]
