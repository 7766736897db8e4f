"""The services of the project, for `spine run`: what `manage.py spine run` runs, also in the processes that it starts.

Importing this sets Django up, if nobody has; DJANGO_SETTINGS_MODULE says with which settings. Each `def` handler is run as a
request is: with connections that are fresh. The services are copies; those of the project stay as they were declared.
"""

from __future__ import annotations

import django
from django.apps import apps

from .deliveries import prepared
from .discovery import to_run

if not apps.ready:
    django.setup(set_prefix=False)
globals().update({f"service_{n}": prepared(service) for n, service in enumerate(to_run())})
