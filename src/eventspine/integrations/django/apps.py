"""What Django does with the app: imports what the project declares, checks the settings, makes the tables with `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.db.models.signals import post_migrate

from . import discovery, journals, settings


class EventspineConfig(AppConfig):
    name = "eventspine.integrations.django"
    label = "eventspine"
    verbose_name = "eventspine"

    def ready(self) -> None:
        from . import checks

        for check in checks.CHECKS:
            register(check)
        post_migrate.connect(make_tables, sender=self, dispatch_uid="eventspine.tables")
        discovery.discover()


def make_tables(using: str, **_: Any) -> None:
    if using == settings.read().database:
        journals.make(journals.wrapper(), discovery.all_declared())
