"""What Django does with the app: imports what the project declares, checks the settings, makes the tables with `migrate`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.db.models.signals import post_migrate

from . import discovery, journals, settings
from .store import in_tests


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


def make_tables(using: str, **said: Any) -> None:
    if using != settings.read().database:
        return
    wrapper = journals.wrapper()
    journals.make(wrapper, discovery.all_declared())
    if in_tests() and "plan" not in said:  # of `flush`, by which Django ends a test whose transactions commit
        journals.journal_of(wrapper).clear(wrapper)
