"""What speaks to AWS: one session with its clients, their names for things, and what their errors mean."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

from ..errors import BrokerError
from . import urls

log = logging.getLogger("eventspine.broker.eventbridge")
FAILURES = (BotoCoreError, ClientError, aiohttp.ClientError, OSError, TimeoutError)
ATTEMPTS = 3  # of the client, for what is throttled, broken or timed out
NO_QUEUE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
QUEUE_IS_THERE = frozenset({"QueueAlreadyExists", "QueueNameExists"})
NOT_FOUND = "ResourceNotFoundException"
EXISTS = "ResourceAlreadyExistsException"
SOON_S = 0.5  # a queue that was just made may not be known everywhere yet
_PLAIN = re.compile(r"[A-Za-z0-9.]+(/[A-Za-z0-9.]+)?")


@dataclass(frozen=True)
class Settings:
    url: urls.BrokerUrl
    region: str
    bus: str
    prefix: str  # of all names that we give
    endpoint: str
    profile: str
    partitions: int
    entry_bytes_max: int
    archive: bool
    archive_days: int  # 0: for ever
    archive_delay_s: float  # that an archive may be behind its bus
    visibility_s: int
    poll_s: int
    timeout_s: float
    login: dict[str, str] = field(repr=False)


class Aws:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.account = ""
        self.arns = "aws"  # the first part of all names: aws, aws-cn, aws-us-gov
        self._stack: AsyncExitStack | None = None
        self._clients: dict[str, Any] = {}

    # --- connection -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._stack is not None:
            return
        stack = AsyncExitStack()
        try:
            session = AioSession(profile=self.settings.profile or None)
            session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
            for name, service, patience_s in (("events", "events", 0), ("sqs", "sqs", 0), ("polls", "sqs", 1)):
                self._clients[name] = await stack.enter_async_context(self._client(session, service, patience_s))
            await self._who_we_are()
        except FAILURES as error:
            self._clients.clear()
            await stack.aclose()
            raise self.error("can't be reached", error) from error
        self._stack = stack

    def _client(self, session: AioSession, service: str, polls: int) -> Any:
        wait_s = self.settings.timeout_s + polls * self.settings.poll_s
        config = AioConfig(
            connect_timeout=min(self.settings.timeout_s, 5.0),
            read_timeout=wait_s,
            retries={"mode": "standard", "total_max_attempts": 1 if polls else ATTEMPTS},
            max_pool_connections=100,
            tcp_keepalive=True,
            user_agent_extra="eventspine",
        )
        return session.create_client(
            service,
            region_name=self.settings.region,
            endpoint_url=self.settings.endpoint or None,
            config=config,
            **self.settings.login,
        )

    async def _who_we_are(self) -> None:
        """The account is in the name of every bus; the default one is always there."""
        events = self._clients["events"]
        try:
            bus = await events.describe_event_bus(Name=self.settings.bus)
        except ClientError as error:
            if code_of(error) != NOT_FOUND:
                raise
            bus = await events.describe_event_bus(Name="default")
        _, self.arns, _, _, self.account, _ = str(bus["Arn"]).split(":", 5)

    async def close(self) -> None:
        stack, self._stack = self._stack, None
        self._clients.clear()
        if stack is not None:
            await stack.aclose()

    def client(self, name: str) -> Any:
        """`events`, `sqs`, or `polls`: SQS, with time for a long poll."""
        if name not in self._clients:
            raise BrokerError(f"{self.settings.url.shown} is not connected.")
        return self._clients[name]

    @property
    def events(self) -> Any:
        return self.client("events")

    @property
    def sqs(self) -> Any:
        return self.client("sqs")

    def error(self, what: str, error: BaseException) -> BrokerError:
        said = self.settings.url.masked(str(error) or type(error).__name__)
        return BrokerError(f"{self.settings.url.shown} {what}: {said}")

    async def asked(self, what: str, call: Awaitable[Any]) -> Any:
        """Its answer; BrokerError when there is none."""
        try:
            return await call
        except FAILURES as error:
            raise self.error(what, error) from error

    # --- names ------------------------------------------------------------------------------------------------------

    def arn(self, service: str, rest: str) -> str:
        return f"arn:{self.arns}:{service}:{self.settings.region}:{self.account}:{rest}"

    @property
    def bus_arn(self) -> str:
        return self.arn("events", f"event-bus/{self.settings.bus}")

    def rule_arn(self, rule: str) -> str:
        bus = "" if self.settings.bus == "default" else f"{self.settings.bus}/"
        return self.arn("events", f"rule/{bus}{rule}")

    def source(self, channel: str) -> str:
        return f"{self.settings.prefix}{channel}"

    def rule(self, consumer: str, kind: str) -> str:
        return f"{fitting(f'{self.settings.prefix}{consumer}', 58)}.{kind}"

    def queue(self, consumer: str, kind: str) -> str:
        """Queues of all buses have their names in one place; they hold 80 letters, digits, - and _ at most."""
        return f"{fitting(f'{self.settings.bus}/{self.settings.prefix}{consumer}', 70)}-{kind}"

    def archive(self, channel: str) -> str:
        return fitting(f"{self.settings.bus}/{self.settings.prefix}{channel}", 48)

    def replay(self, consumer: str) -> str:
        return fitting(f"{self.settings.bus}/{self.settings.prefix}{consumer}", 40)

    # --- queues -----------------------------------------------------------------------------------------------------

    async def queue_url(self, name: str, *, tries: int = 1) -> str | None:
        """None: there is no such queue, after that many looks."""
        for left in range(tries - 1, -1, -1):
            try:
                return str((await self.sqs.get_queue_url(QueueName=name))["QueueUrl"])
            except FAILURES as error:
                if code_of(error) not in NO_QUEUE:
                    raise self.error(f"could not be asked for the queue {name}", error) from error
                if left:
                    await asyncio.sleep(SOON_S)
        return None


@cache
def _loader(paths: str | None) -> Any:
    """What AWS's services look like is read once in a process: it takes longer than all else at the start."""
    return create_loader(paths)


def code_of(error: BaseException) -> str:
    """AWS's own name of this error, or ""."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def fitting(text: str, most: int) -> str:
    """A name of these characters and this length, the same for the same text and for no other."""
    cleaned = "".join(char if char.isascii() and char.isalnum() else "-" if char in "/-" else "_" for char in text)
    if _PLAIN.fullmatch(text) and len(text) <= most:
        return cleaned
    return f"{cleaned[: most - 9]}-{blake2b(text.encode(), digest_size=4).hexdigest()}"


def in_tens(items: Sequence[Any]) -> list[Sequence[Any]]:
    """No call of these services takes more than ten."""
    return [items[at : at + 10] for at in range(0, len(items), 10)]
