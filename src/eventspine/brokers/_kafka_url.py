"""What a kafka:// URL says, as librdkafka has it. A word that means nothing is refused, and a secret is never shown.

    kafka://user:password@host1:9092,host2:9092/?sasl=SCRAM-SHA-512&tls=yes&prefix=shop.

docs/how-to/kafka.md lists the options. What librdkafka can be told beyond them is passed on as `librdkafka.client.rack=a`,
except where it would take back a promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, unquote

from ..errors import SettingsError
from ..settings_values import parse_duration

PARTITIONS = 12  # of a topic that is made: divides the 960 slots evenly
MESSAGE_BYTES_MAX = 1_000_000  # Kafka takes 1,048,588 with what surrounds a batch, unless told otherwise
SECRETS = (
    "sasl.password",
    "sasl.oauthbearer.client.secret",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
)
_PASSED_ON = "librdkafka."
_OWN_PARTITIONS = "partitions."
_KEPT = (  # what the promise rests on, with what it is
    "acks", "request.required.acks", "enable.idempotence", "enable.auto.commit", "enable.auto.offset.store",
    "auto.offset.reset", "isolation.level", "group.id", "group.instance.id", "bootstrap.servers", "metadata.broker.list",
    "partition.assignment.strategy", "transactional.id", "message.timeout.ms", "delivery.timeout.ms",
    "delivery.report.only.error", "enable.partition.eof", "enable.gapless.guarantee", "max.in.flight",
    "max.in.flight.requests.per.connection", "partitioner", "allow.auto.create.topics", "retries",
    "message.send.max.retries",
)  # fmt: skip
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True)
class Settings:
    shown: str  # the URL, for people
    client: Mapping[str, Any] = field(repr=False)  # of every client: where, and as whom
    prefix: str = ""  # of the names of topics and groups
    partitions: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({"": PARTITIONS})
    )  # "": of all others
    replication: int | None = None
    min_insync: int | None = None
    retention_ms: int | None = None
    group_protocol: str = "classic"
    session_s: float = 10.0
    timeout_s: float = 10.0
    message_bytes_max: int = MESSAGE_BYTES_MAX
    compression: str = "lz4"
    claims: bool = True

    @property
    def secrets(self) -> list[str]:
        return [str(self.client[name]) for name in SECRETS if self.client.get(name)]

    def masked(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def topic(self, channel: str) -> str:
        return self.prefix + channel

    def group(self, consumer: str) -> str:
        return self.prefix + consumer

    def partitions_of(self, channel: str) -> int:
        return self.partitions.get(channel, self.partitions[""])


def settings_of(url: str) -> Settings:
    user, password, hosts, query = _parts(url)
    pairs = parse_qsl(query, keep_blank_values=True)
    shown = _shown(user, hosts, pairs)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SettingsError(f"An option is there twice in {shown}.", url=shown)
    read = _Options(options, shown)
    client = {"bootstrap.servers": ",".join(_address(host, shown) for host in hosts.split(","))}
    client |= _security(read, user, password)
    made = Settings(
        shown,
        MappingProxyType(client | _passed_on(read)),
        prefix=read.text("prefix", "") or "",
        partitions=MappingProxyType(_partitions(read)),
        replication=read.number("replication", None),
        min_insync=read.number("min_insync", None),
        retention_ms=_retention_ms(read),
        group_protocol=read.one_of("group_protocol", ("classic", "consumer"), "classic") or "",
        session_s=read.seconds("session_s", 10.0),
        timeout_s=read.seconds("timeout_s", 10.0),
        message_bytes_max=read.number("message_bytes_max", MESSAGE_BYTES_MAX) or MESSAGE_BYTES_MAX,
        compression=read.one_of("compression", _CODECS, "lz4") or "",
        claims=read.yes("claims", default=True),
    )
    read.refuse_the_rest()
    return made


# --- the URL --------------------------------------------------------------------------------------------------------


def _parts(url: str) -> tuple[str, str, str, str]:
    scheme, _, rest = url.partition("://")
    # The last @ before the options: a password that should have been percent-encoded may hold @ and /.
    before, _, query = rest.partition("?")
    credentials, at, place = before.rpartition("@")
    hosts, _, path = place.partition("/")
    user, _, password = credentials.partition(":")
    if scheme != "kafka" or path or not hosts or (at and not user):
        raise SettingsError(
            f"{_shown(user, hosts or place, [])!r} names no Kafka: write kafka://host1:9092,host2:9092 or "
            "kafka://user:password@host:9092/?sasl=SCRAM-SHA-512&tls=yes."
        )
    return unquote(user), unquote(password), hosts, query


def _shown(user: str, hosts: str, pairs: list[tuple[str, str]]) -> str:
    as_whom = f"{user}:***@" if user else ""
    options = "&".join(f"{name}={'***' if _is_secret(name) else value}" for name, value in pairs)
    return f"kafka://{as_whom}{hosts}" + (f"/?{options}" if options else "")


def _is_secret(name: str) -> bool:
    return name.removeprefix(_PASSED_ON) in SECRETS or any(
        word in name for word in ("password", "secret", "pem", "jaas")
    )


def _address(host: str, shown: str) -> str:
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, port = host, "9092"
    if not name or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"{host!r} in {shown} is no host and port such as localhost:9092.", url=shown)
    return f"{name}:{port}"


# --- options --------------------------------------------------------------------------------------------------------


class _Options:
    """Taken one by one; what is left is a mistake."""

    def __init__(self, given: dict[str, str], shown: str) -> None:
        self.given = given
        self.shown = shown
        self.known: list[str] = []

    def text(self, name: str, otherwise: str | None) -> str | None:
        self.known.append(name)
        return self.given.pop(name, otherwise)

    def starting_with(self, start: str) -> dict[str, str]:
        return {name.removeprefix(start): self.given.pop(name) for name in list(self.given) if name.startswith(start)}

    def one_of(self, name: str, words: tuple[str, ...], otherwise: str | None) -> str | None:
        value = self.text(name, None)
        if value is None:
            return otherwise
        found = {word.lower(): word for word in words}.get(value.lower())
        return found if found is not None else self.refuse(name, value, f"one of {', '.join(words)}")

    def yes(self, name: str, *, default: bool) -> bool:
        value = self.one_of(name, ("yes", "no"), None)
        return default if value is None else value == "yes"

    def number(self, name: str, otherwise: int | None) -> int | None:
        value = self.text(name, None)
        if value is None:
            return otherwise
        return self._counted(name, value)

    def _counted(self, name: str, value: str) -> int:
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**31):
            self.refuse(name, value, "a whole number from 1")
        return int(value)

    def seconds(self, name: str, otherwise: float) -> float:
        value = self.text(name, None)
        if value is None:
            return otherwise
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 1 <= number <= 3600:
            self.refuse(name, value, "a number of seconds from 1 to 3600")
        return number

    def refuse(self, name: str, value: str, expected: str) -> Any:
        value = "***" if _is_secret(name) else repr(value)
        raise SettingsError(f"{name}={value} in {self.shown} is not {expected}.", url=self.shown, option=name)

    def refuse_the_rest(self) -> None:
        for name in self.given:
            close = get_close_matches(name, self.known, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"There are {', '.join(sorted(self.known))}."
            raise SettingsError(
                f"{name!r} in {self.shown} is no option of a Kafka URL. {meant} librdkafka's own settings go as "
                f"{_PASSED_ON}<name>=<value>.",
                url=self.shown,
                option=name,
            )


def _partitions(read: _Options) -> dict[str, int]:
    own = read.starting_with(_OWN_PARTITIONS)
    most = {channel: read._counted(f"{_OWN_PARTITIONS}{channel}", value) for channel, value in own.items()}
    return {"": read.number("partitions", PARTITIONS) or PARTITIONS, **most}


def _retention_ms(read: _Options) -> int | None:
    value = read.text("retention", None)
    if value is None or value == "keep":
        return None if value is None else -1
    duration = parse_duration(value)
    if not duration:
        read.refuse("retention", value, '"keep" or a duration such as 30d')
    return round(duration.total_seconds() * 1000) if duration else None


def _passed_on(read: _Options) -> dict[str, str]:
    given = read.starting_with(_PASSED_ON)
    for name in given:
        if name in _KEPT:
            raise SettingsError(
                f"{_PASSED_ON}{name} in {read.shown} can't be set: what eventspine promises rests on it.",
                url=read.shown,
                option=name,
            )
    return given


# --- security -------------------------------------------------------------------------------------------------------


def _security(read: _Options, user: str, password: str) -> dict[str, Any]:
    sasl = read.one_of("sasl", _MECHANISMS, None)
    tls = _tls(read)
    oidc, scope = read.text("oidc", None), read.text("scope", None)
    if user and not sasl:
        raise SettingsError(
            f"{read.shown} names a user and no way to log in: add sasl=SCRAM-SHA-512 (or {', '.join(_MECHANISMS)}).",
            url=read.shown,
        )
    if sasl and not user:
        raise SettingsError(f"{read.shown} has sasl={sasl} and no user: kafka://user:password@host.", url=read.shown)
    protocol = {"security.protocol": ("sasl_" if sasl else "") + ("ssl" if tls else "plaintext")}
    return protocol | tls | _login(read, sasl, user, password, oidc, scope)


def _tls(read: _Options) -> dict[str, Any]:
    files: list[tuple[str, str, Callable[..., str | None]]] = [
        ("tls_ca", "ssl.ca.location", read.text),
        ("tls_cert", "ssl.certificate.location", read.text),
        ("tls_key", "ssl.key.location", read.text),
        ("tls_key_password", "ssl.key.password", read.text),
    ]
    found = {theirs: value for ours, theirs, text in files if (value := text(ours, None)) is not None}
    if not read.yes("tls", default=bool(found)):
        if found:
            raise SettingsError(f"{read.shown} says tls=no and names its files.", url=read.shown)
        return {}
    return {"ssl.endpoint.identification.algorithm": "https", **found}


def _login(
    read: _Options, sasl: str | None, user: str, password: str, oidc: str | None, scope: str | None
) -> dict[str, Any]:
    if sasl != "OAUTHBEARER":
        if oidc is not None or scope is not None:
            raise SettingsError(f"{read.shown}: oidc and scope belong to sasl=OAUTHBEARER.", url=read.shown)
        return {"sasl.mechanism": sasl, "sasl.username": user, "sasl.password": password} if sasl else {}
    if oidc is None:
        raise SettingsError(
            f"{read.shown}: sasl=OAUTHBEARER needs oidc=https://…, the address that gives tokens to the client named as "
            "user, for the secret given as password.",
            url=read.shown,
        )
    return {
        "sasl.mechanism": sasl,
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": oidc,
        "sasl.oauthbearer.client.id": user,
        "sasl.oauthbearer.client.secret": password,
    } | ({"sasl.oauthbearer.scope": scope} if scope else {})
