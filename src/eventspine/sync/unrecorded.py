"""Sending straight to a broker, without a journal, for programs without an event loop.

    with WithoutJournal("nats://localhost:4222", service=storefront) as sender:
        sender.send(OrderPlaced(...))

What is promised, and what is not, says `eventspine.unrecorded`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, Self
from uuid import UUID

from .. import unrecorded as _unrecorded
from ..brokers.port import Broker
from ..service import Middleware, Service
from .loop import Loop


class WithoutJournal:
    """See `eventspine.unrecorded.WithoutJournal`; every name is the same, and blocks. From any thread; a forked child
    connects anew where the broker was given as a URL."""

    def __init__(self, broker: str | Broker, *, service: Service[Any], middleware: Sequence[Middleware] = ()) -> None:
        self._make = partial(_unrecorded.WithoutJournal, broker, service=service, middleware=middleware)
        self._sender, self._pid = self._make(), os.getpid()
        self._loop = Loop()

    @property
    def _now(self) -> _unrecorded.WithoutJournal:
        if self._pid != os.getpid():
            self._sender, self._pid = self._make(), os.getpid()
        return self._sender

    @property
    def broker(self) -> Broker:
        return self._now.broker

    @property
    def service(self) -> Service[Any]:
        return self._sender.service

    def open(self) -> Self:
        self._loop.run(self._now.open(), again=True)
        return self

    def close(self) -> None:
        self._loop.run(self._now.close(), again=True)
        self._loop.stop()

    def __enter__(self) -> Self:
        try:
            return self.open()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *events: Any, time: datetime | None = None, id: str | UUID | None = None) -> list[str]:
        return self._loop.run(self._now.send(*events, time=time, id=id))
