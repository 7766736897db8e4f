"""The connection: nats-py's client, with a short way for what comes and goes by the thousand.

The client makes a task's turn, an object and parsed headers of each message that comes, and checks and encodes each header
of each that goes: several times what all the rest of carrying an event takes. Here a subscription can be heard directly,
as bytes and in the reader's own turn, and frames that were made elsewhere are written as they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription

log = logging.getLogger("eventspine.broker")
PREFIX = "ce-"  # of headers that are CloudEvents attributes, which are percent-encoded
BEATS = 2.5  # heartbeats in the time after which a silent server is gone
Hear = Callable[[bytes, bytes, bytes, bytes], None]  # subject, reply, data, headers as on the wire


class Connection(Client):
    """Tells its password to nobody who does not encrypt, where that was asked for, and leaves no socket open that never got
    so far as to be a connection."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: dict[int, Hear] = {}

    # --- by the thousand --------------------------------------------------------------------------------------------

    async def hear(self, subject: str, hear: Hear) -> Subscription:
        """`hear` must not raise, nor wait."""
        subscription = await self.subscribe(subject, pending_msgs_limit=-1, pending_bytes_limit=-1)
        self._heard[subscription._id] = hear
        return subscription

    async def hear_no_more(self, subscription: Subscription) -> None:
        self._heard.pop(subscription._id, None)
        await subscription.unsubscribe()

    async def write(self, frames: bytes) -> None:
        """Frames of the protocol; they are on their way as soon as the loop has a turn for it."""
        if not self.is_connected:
            raise nats.errors.ConnectionClosedError
        await self._send_command(frames)
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        hear = self._heard.get(sid)
        if hear is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            hear(subject, reply, data, headers)

    # --- connecting -------------------------------------------------------------------------------------------------

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except BaseException:
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self.options.get("tls") and not info.get("tls_required"):
            raise nats.errors.Error("the server does not speak TLS, which the URL asks for")
        await super()._process_info(info, initial_connection)


async def quietly(closing: Any) -> None:
    """What is given up anyway."""
    try:
        async with asyncio.timeout(2.0):
            await closing
    except Exception as error:  # noqa: BLE001 -- its assertions too, where it was never connected
        log.debug("closing: %s", type(error).__name__)
