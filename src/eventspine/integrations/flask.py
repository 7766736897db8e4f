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
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import MissingExtra, SettingsError
from ..journal import without_password
from ..service import Service
from ..state.token import Token
from ..sync import Spine
from .http import IDEMPOTENCY_KEY, RULES, TOKEN, answer_of, check_json, key_of, token_of
from .wsgi import Correlation

try:
    from flask import Flask, Response, current_app, has_app_context, jsonify, request
except ImportError as missing:
    raise MissingExtra("eventspine.integrations.flask needs Flask: pip install 'eventspine[flask]'.") from missing

if TYPE_CHECKING:
    from ..commands.declare import Command

T = TypeVar("T")
C = TypeVar("C")

__all__ = ["Events"]

KEY = "eventspine"  # of app.extensions


class Events:
    """`url`: of the journal, unless the application's config has EVENTSPINE_URL. `service`: whom it publishes for.
    `commands`: other services whose commands are handled here. `trust=False`: the request ids and traces that clients send
    are not taken. `actor`: who has it done, asked whenever a request publishes something:
    `actor=lambda environ: current_user.get_id()`. `answers=False`: what commands and views raise is left to the
    application's own error handlers."""

    def __init__(
        self,
        app: Flask | None = None,
        *,
        url: str | None = None,
        service: Service[Any] | None = None,
        commands: Sequence[Service[Any]] = (),
        trust: bool = True,
        actor: Callable[[Any], str | None] | None = None,
        answers: bool = True,
    ) -> None:
        self._url, self._service, self._commands = url, service, commands
        self._trust, self._actor, self._answers = trust, actor, answers
        if isinstance(app, str):
            raise SettingsError(
                f"Events() takes the application first, and this is text: Events(url={without_password(app)!r})."
            )
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
        app.extensions[KEY] = spine = Spine(url, service=self._service, commands=self._commands)
        app.before_request(_Opened(spine))
        for kind in RULES if self._answers else ():
            app.register_error_handler(kind, _answer)
        app.wsgi_app = Correlation(app.wsgi_app, trust=self._trust, actor=self._actor)  # type: ignore[method-assign]  # as Flask says to

    @property
    def spine(self) -> Spine:
        """The spine of the application that is current: in requests, commands and `with app.app_context()`."""
        if not has_app_context() or KEY not in current_app.extensions:
            raise SettingsError("There is no spine here: call events.init_app(app), and use it in the app's context.")
        spine: Spine = current_app.extensions[KEY]
        return spine

    # --- in requests ------------------------------------------------------------------------------------------------

    def command(self, kind: type[C]) -> C:
        """The command that the request's JSON is. Raises CommandRefused, which is answered with 422, and for what does
        not say that it is JSON ContentTypeRefused, answered with 415."""
        from ..commands.declare import describe_command

        check_json(request.headers.get("Content-Type"))
        known = describe_command(kind)
        known.check_size(request.content_length or 0)  # before so much is read
        found: C = known.asked(request.get_data())
        return found

    def send(self, command: Command[T]) -> T:
        """`spine.send`, with the client's Idempotency-Key as the command's id."""
        return self.spine.send(command, command_id=self.idempotency_key)

    @property
    def idempotency_key(self) -> str | None:
        """Raises HeaderRefused, which is answered with 400."""
        return key_of(request.headers.getlist(IDEMPOTENCY_KEY))

    @property
    def token(self) -> Token:
        """What the client has seen, to be waited for: `events.spine.view(Orders).wait(events.token)`."""
        return token_of(request.headers.getlist(TOKEN))

    def health(self) -> tuple[dict[str, Any], int]:
        """app.add_url_rule("/health", view_func=events.health)"""
        found = self.spine.health()
        return found, 503 if found["status"] == "failed" else 200


def _answer(error: Exception) -> Response:
    answer = answer_of(error)
    assert answer is not None
    response = jsonify(answer.body)
    response.status_code = answer.status
    response.headers.update(answer.headers)
    return response


class _Opened:
    """Before a request has begun a transaction: a journal can't be made inside one. Once in each process."""

    def __init__(self, spine: Spine) -> None:
        self._spine = spine
        self._pid = 0

    def __call__(self) -> None:
        if self._pid != os.getpid():
            self._spine.open()
            self._pid = os.getpid()
