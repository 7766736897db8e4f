"""What spine doctor says of RabbitMQ: as much as its management tells of the queues, where the URL names it."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from ..errors import BrokerError
from ..wording import plural
from ._rabbitmq_link import Settings
from .port import Finding

REPLICAS = 3
DROPS = ("max-length", "max-length-bytes", "message-ttl", "expires")

_SURVIVED = Finding(
    "ok",
    "durability",
    "A confirmed message is on the disks of the majority of its queue's replicas, which sync before they confirm.",
)
_UNSEEN = Finding(
    "warning",
    "queues",
    "AMQP shows neither replicas nor policies, which may drop messages (max-length, message-ttl, expires): name the "
    "server's management in the URL, management=http://host:15672, and they are read.",
)


async def read(settings: Settings, queues: Mapping[str, Sequence[str]]) -> list[Finding]:
    """`queues` by consumer."""
    found = [_SURVIVED]
    if not settings.management:
        found.append(_UNSEEN)
    for consumer, names in queues.items():
        if not names:
            found.append(Finding("danger", f"queues of {consumer}", "are not there; make them: spine topology apply."))
        elif settings.management:
            told = [await asyncio.to_thread(_ask, settings, name) for name in names]
            found += _of_queues(consumer, told)
    return found


def _ask(settings: Settings, queue: str) -> dict[str, Any]:
    url = f"{settings.management}/api/queues/{quote(settings.vhost, safe='')}/{quote(queue, safe='')}"
    request = urllib.request.Request(url)  # noqa: S310 -- http or https, looked at with the URL
    who = f"{settings.url.user or 'guest'}:{settings.url.password or 'guest'}"
    request.add_header("Authorization", f"Basic {base64.b64encode(who.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=settings.timeout_s, context=settings.tls) as answer:  # noqa: S310
            told: dict[str, Any] = json.load(answer)
    except (OSError, HTTPException, ValueError) as error:
        raise BrokerError(
            f"The management at {settings.management} does not say how {queue!r} is: {settings.url.masked(str(error))}"
        ) from error
    return told


def _of_queues(consumer: str, queues: Sequence[Mapping[str, Any]]) -> Iterable[Finding]:
    what = f"queues of {consumer}"
    found = [
        Finding(level, what, says) for level, says in dict.fromkeys(one for queue in queues for one in _of_queue(queue))
    ]
    return found or [Finding("ok", what, f"{plural(len(queues), 'quorum queue')}, replicated, without limits.")]


def _of_queue(queue: Mapping[str, Any]) -> Iterable[tuple[Any, str]]:
    policy = queue.get("effective_policy_definition") or {}
    arguments = queue.get("arguments") or {}
    by = f"policy {queue.get('policy') or queue.get('operator_policy')!r}"
    if queue.get("type") != "quorum":
        yield "danger", f"of the type {queue.get('type')}: not replicated, and without order of what comes again."
    elif (replicas := len(queue.get("members") or [])) < REPLICAS:
        yield "warning", f"{plural(replicas, 'replica')}: the loss of {_disks(replicas)} loses messages."
    elif len(queue.get("online") or []) < replicas:
        yield "warning", f"{plural(replicas - len(queue['online']), 'replica is', 'replicas are')} away, of {replicas}."
    for name in DROPS:
        limit = policy.get(name, arguments.get(f"x-{name}"))
        if limit is not None and name.startswith("max-length") and _refuses(policy, arguments):
            yield (
                "warning",
                f"{name}={limit} by {by}: it takes nothing more when it is full: events wait in the journal meanwhile.",
            )
        elif limit is not None:
            yield "danger", f"{name}={limit} by {by} drops messages, read or not; a gap is reported."
    if (limit := policy.get("delivery-limit")) is not None and limit >= 0:
        yield (
            "danger",
            f"delivery-limit={limit} by {by} drops a message that processes died on, instead of the journal.",
        )


def _refuses(policy: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    return bool(policy.get("overflow", arguments.get("x-overflow")) == "reject-publish")


def _disks(replicas: int) -> str:
    return "its disk" if replicas == 1 else "two disks"
