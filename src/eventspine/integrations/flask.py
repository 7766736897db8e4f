"""A spine in a Flask application, as an extension:

    events = Events(service=storefront)

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config["EVENTSPINE_URL"] = "sqlite:////srv/shop/shop.db"
        events.init_app(app)
        return app

Each application has a spine of its own, opened by the first request, in whatever process that is: with pre-forked
workers every worker opens its own. It may be used by any number of threads. Requests are given their correlation, as by
`eventspine.integrations.wsgi`. Services run beside it, in processes of their own (`spine run`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..errors import MissingExtra, SettingsError
from ..service import Service
from ..sync import Spine
from .wsgi import Correlation

try:
    from flask import Flask, current_app, has_app_context
except ImportError as missing:
    raise MissingExtra("eventspine.integrations.flask needs Flask: pip install 'eventspine[flask]'.") from missing

__all__ = ["Events"]

KEY = "eventspine"  # of app.extensions


class Events:
    """`url`: of the journal, unless the application's config has EVENTSPINE_URL. `service`: whom it publishes for.
    `trust=False`: the request ids and traces that clients send are not taken. `actor`: who has it done, asked whenever a
    request publishes something: `actor=lambda environ: current_user.get_id()`."""

    def __init__(
        self,
        app: Flask | None = None,
        *,
        url: str | None = None,
        service: Service[Any] | None = None,
        trust: bool = True,
        actor: Callable[[Any], str | None] | None = None,
    ) -> None:
        self._url, self._service, self._trust, self._actor = url, service, trust, actor
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        if KEY in app.extensions:
            raise SettingsError("This application has its Events already; one init_app is enough.")
        url = app.config.get("EVENTSPINE_URL") or self._url
        if not url:
            raise SettingsError(
                'No journal is named. Set app.config["EVENTSPINE_URL"] = "sqlite:////srv/shop/shop.db", or Events(url=...).'
            )
        app.extensions[KEY] = spine = Spine(url, service=self._service)
        app.before_request(_Opened(spine))
        app.wsgi_app = Correlation(app.wsgi_app, trust=self._trust, actor=self._actor)  # type: ignore[method-assign]  # as Flask says to

    @property
    def spine(self) -> Spine:
        """The spine of the application that is current: in requests, commands and `with app.app_context()`."""
        if not has_app_context() or KEY not in current_app.extensions:
            raise SettingsError("There is no spine here: call events.init_app(app), and use it in the app's context.")
        spine: Spine = current_app.extensions[KEY]
        return spine

    def health(self) -> tuple[dict[str, Any], int]:
        """app.add_url_rule("/health", view_func=events.health)"""
        found = self.spine.health()
        return found, 503 if found["status"] == "failed" else 200


class _Opened:
    """Before a request has begun a transaction: a journal can't be made inside one. Once in each process."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._pid = 0

    def __call__(self) -> None:
        if self._pid != os.getpid():
            self._spine.open()
            self._pid = os.getpid()
