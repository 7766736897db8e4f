"""What a kafka:// URL says, as librdkafka has it. A word that means nothing is refused, and a secret is never shown.

    kafka://user:password@host1:9092,host2:9092/?sasl=SCRAM-SHA-512&tls=yes&prefix=shop.

docs/how-to/brokers.md lists the options. What librdkafka can be told beyond them is passed on as `librdkafka.client.rack=a`,
except where it would take back a promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..durations import parse_duration
from ..errors import SettingsError
from . import urls

EXAMPLE = "kafka://localhost:9092 or kafka://user:password@host1:9092,host2:9092/?sasl=SCRAM-SHA-512&tls=yes"
PARTITIONS = 12  # of a topic that is made: divides the 960 slots evenly
MESSAGE_BYTES_MAX = 1_000_000  # Kafka takes 1,048,588 with what surrounds a batch, unless told otherwise
_PASSED_ON = "librdkafka."
_OWN_PARTITIONS = "partitions."
_KEPT = frozenset(  # what the promise rests on, under all its names
    {"acks", "request.required.acks", "enable.idempotence", "enable.auto.commit", "enable.auto.offset.store",
     "auto.offset.reset", "isolation.level", "group.id", "group.instance.id", "group.protocol", "bootstrap.servers",
     "metadata.broker.list", "partition.assignment.strategy", "transactional.id", "message.timeout.ms",
     "delivery.timeout.ms", "delivery.report.only.error", "enable.partition.eof", "enable.gapless.guarantee",
     "max.in.flight", "max.in.flight.requests.per.connection", "partitioner", "allow.auto.create.topics", "retries",
     "message.send.max.retries"}
)  # fmt: skip
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
TLS_FILES = {"tls_ca": "ssl.ca.location", "tls_cert": "ssl.certificate.location", "tls_key": "ssl.key.location"}


@dataclass(frozen=True)
class Settings:
    url: urls.BrokerUrl
    client: Mapping[str, Any] = field(repr=False)  # of every client: where, as whom, and what is passed on
    prefix: str  # of the names of topics and groups
    partitions: Mapping[str, int]  # by channel; "": of all others
    replication: int | None
    min_insync: int | None
    retention_ms: int | None
    group_protocol: str
    session_s: float
    timeout_s: float
    message_bytes_max: int
    compression: str
    claims: bool

    @property
    def shown(self) -> str:
        """The URL, for people."""
        return self.url.shown

    def masked(self, text: str) -> str:
        return self.url.masked(text)

    def topic(self, channel: str) -> str:
        return self.prefix + channel

    def group(self, consumer: str) -> str:
        return self.prefix + consumer

    def partitions_of(self, channel: str) -> int:
        return self.partitions.get(channel, self.partitions[""])


def settings_of(url: str) -> Settings:
    read = urls.parse(url, port=9092, example=EXAMPLE)
    if read.path:
        raise SettingsError(f"{read.shown} names a path, and Kafka has none. Write {EXAMPLE}", url=read.shown)
    made = Settings(
        read,
        {"bootstrap.servers": ",".join(read.hosts)} | _security(read) | _passed_on(read),
        prefix=read.prefix(r"[A-Za-z0-9._-]+", "of letters, digits, . - and _"),
        partitions=_partitions(read),
        replication=read.number("replication", 0, least=0, most=100) or None,
        min_insync=read.number("min_insync", 0, least=0, most=100) or None,
        retention_ms=_retention_ms(read),
        group_protocol=read.one_of("group_protocol", ("classic", "consumer"), "classic"),
        session_s=read.seconds("session_s", 10.0),
        timeout_s=read.seconds("timeout_s", 10.0),
        message_bytes_max=read.number("message_bytes_max", MESSAGE_BYTES_MAX),
        compression=read.one_of("compression", _CODECS, "lz4"),
        claims=read.yes("claims", default=True),
    )
    read.refuse_the_rest()
    return made


def _partitions(read: urls.BrokerUrl) -> dict[str, int]:
    counts = {"": read.number("partitions", PARTITIONS, most=10_000)}
    for name in read.starting_with(_OWN_PARTITIONS):
        counts[name.removeprefix(_OWN_PARTITIONS)] = read.number(name, PARTITIONS, most=10_000)
    return counts


def _retention_ms(read: urls.BrokerUrl) -> int | None:
    value = read.text("retention")
    if value in ("", "keep"):
        return -1 if value else None
    duration = parse_duration(value)
    if not duration:
        read.refuse("retention", value, '"keep" or a duration such as 30d')
    return round(duration.total_seconds() * 1000)


def _passed_on(read: urls.BrokerUrl) -> dict[str, str]:
    given = {name.removeprefix(_PASSED_ON): read.text(name) for name in read.starting_with(_PASSED_ON)}
    if kept := sorted(_KEPT & given.keys()):
        raise SettingsError(
            f"{_PASSED_ON}{kept[0]} in {read.shown} can't be set: what eventspine promises rests on it.",
            url=read.shown,
            option=kept[0],
        )
    return given


# --- security -------------------------------------------------------------------------------------------------------


def _security(read: urls.BrokerUrl) -> dict[str, Any]:
    sasl, tls = read.one_of("sasl", _MECHANISMS, ""), _tls(read)
    oidc, scope = read.text("oidc"), read.text("scope")
    if read.user and not sasl:
        raise SettingsError(
            f"{read.shown} names a user and no way to log in: add sasl=SCRAM-SHA-512 (or {', '.join(_MECHANISMS)}).",
            url=read.shown,
        )
    if sasl and not read.user:
        raise SettingsError(f"{read.shown} has sasl={sasl} and no user: kafka://user:password@host.", url=read.shown)
    if (oidc or scope) and sasl != "OAUTHBEARER":
        raise SettingsError(f"{read.shown}: oidc and scope belong to sasl=OAUTHBEARER.", url=read.shown)
    protocol = {"security.protocol": ("sasl_" if sasl else "") + ("ssl" if tls else "plaintext")}
    login = _tokens(read, oidc, scope) if sasl == "OAUTHBEARER" else _password(read, sasl) if sasl else {}
    return protocol | tls | login


def _tls(read: urls.BrokerUrl) -> dict[str, Any]:
    found = {theirs: value for ours, theirs in TLS_FILES.items() if (value := read.text(ours))}
    if secret := read.text("tls_key_password"):
        found["ssl.key.password"] = secret
    if read.yes("tls", default=bool(found)):
        return {"ssl.endpoint.identification.algorithm": "https", **found}
    if found:
        raise SettingsError(f"{read.shown} says tls=no and names its files.", url=read.shown)
    return {}


def _password(read: urls.BrokerUrl, sasl: str) -> dict[str, Any]:
    return {"sasl.mechanism": sasl, "sasl.username": read.user, "sasl.password": read.password}


def _tokens(read: urls.BrokerUrl, oidc: str, scope: str) -> dict[str, Any]:
    if not oidc:
        raise SettingsError(
            f"{read.shown}: sasl=OAUTHBEARER needs oidc=https://…, the address that gives tokens to the client named as "
            "user, for the secret given as password.",
            url=read.shown,
        )
    return {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": oidc,
        "sasl.oauthbearer.client.id": read.user,
        "sasl.oauthbearer.client.secret": read.password,
    } | ({"sasl.oauthbearer.scope": scope} if scope else {})
