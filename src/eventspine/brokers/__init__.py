"""Brokers: `open_broker(url)` gives the one that a URL names, not yet connected; `check_broker` says whether a user's own is
one."""

from __future__ import annotations

from importlib import import_module

from .. import adapters
from ..errors import MissingExtra, SettingsError
from ..journal import without_password
from ..policies import is_number, is_whole
from ..ports import missing
from .port import Broker, Features

_MODULES = {  # by scheme: our module, the extra, and the package that it needs
    "kafka": ("kafka", "kafka", "confluent_kafka"),
    "amqp": ("rabbitmq", "rabbitmq", "aiormq"),
    "amqps": ("rabbitmq", "rabbitmq", "aiormq"),
    "nats": ("nats", "nats", "nats"),
    "pulsar": ("pulsar", "pulsar", "pulsar"),
    "pulsar+ssl": ("pulsar", "pulsar", "pulsar"),
    "eventbridge": ("eventbridge", "eventbridge", "aiobotocore"),
    "memory": ("memory", "", ""),
}


def open_broker(url: str) -> Broker:
    """`kafka://…`, `amqp://…` (RabbitMQ), `nats://…`, `pulsar://…`, `eventbridge://…`; `memory://name` for tests; and what
    installed packages have. Raises SettingsError, and MissingExtra where the client library is not installed."""
    scheme = url.partition("://")[0]
    if scheme not in _MODULES:
        return _of_a_package(url, scheme)
    module, extra, package = _MODULES[scheme]
    try:
        adapter = import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if not package or (error.name or "").startswith("eventspine"):
            raise
        raise MissingExtra(f'A broker at {scheme}:// needs {package}: pip install "eventspine[{extra}]"') from error
    broker: Broker = adapter.from_url(url)
    return broker


def _of_a_package(url: str, scheme: str) -> Broker:
    broker = adapters.installed("broker", url)
    if broker is None:
        known = ", ".join(f"{name}://" for name in (*_MODULES, *adapters.schemes("broker")))
        raise SettingsError(
            f"{without_password(scheme)[:40]!r} names no broker.{_meant(scheme)} Known are {known}; e.g. kafka://localhost:9092. One of your own is given as "
            "an object, Spine(broker=LedgerBroker(…)), or has an entry point: see how-to/write-an-adapter.md."
        )
    check_broker(broker)
    return broker  # type: ignore[no-any-return]  # checked just now


def _meant(scheme: str) -> str:
    from difflib import get_close_matches  # of no use to whoever spells it right

    close = get_close_matches(scheme, _MODULES, n=1)
    return f" Did you mean {close[0]}://?" if close else ""


def check_carrying(lease_s: object, outbox_max: object, *, take_over: bool, carried: bool) -> None:
    """What a spine is told of how it shares and sends."""
    if not is_number(lease_s) or lease_s <= 0:  # type: ignore[operator]  # a number, by then
        raise SettingsError(f"lease_s={lease_s!r} is not a number of seconds above 0.")
    if not is_whole(outbox_max) or outbox_max < 1:  # type: ignore[operator]
        raise SettingsError(f"outbox_max={outbox_max!r} is not a whole number of events, 1 at least.")
    if take_over and not carried:
        raise SettingsError(
            "take_over=True takes a place at a broker, and none is named. Say broker=, on the command line --broker, or leave it out."
        )


def check_broker(given: object) -> None:
    """An adapter of a user's own: raises SettingsError for what isn't one."""
    if isinstance(given, type):
        raise SettingsError(f"broker={given.__name__} is a class. Give a broker that is made: {given.__name__}(…).")
    if lacks := missing(given, Broker):
        raise SettingsError(
            f"broker={given!r:.100} is neither a URL, such as kafka://localhost:9092, nor a broker: it has no "
            f"{', '.join(lacks)}. eventspine.brokers.port.Broker says what one has to have."
        )
    features = getattr(given, "features", None)
    if not isinstance(features, Features):
        raise SettingsError(
            f"The features of broker={given!r:.100} are {features!r:.100}. They have to be eventspine.brokers.port.Features."
        )
