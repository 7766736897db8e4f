"""Questions about claims where nobody answers. Without a server."""

from __future__ import annotations

import asyncio
import threading
from time import monotonic

from eventspine.brokers._kafka_claims import asked_as
from eventspine.brokers._kafka_client import Cluster
from eventspine.brokers._kafka_url import settings_of
from eventspine.testing.servers import free_ports


def asking() -> bool:
    return any(thread.name == "eventspine-kafka-claim" for thread in threading.enumerate())


async def test_who_is_not_waited_for_any_more_asks_no_longer():
    port = free_ports()
    cluster = Cluster(settings_of(f"kafka://127.0.0.1:{port}/?timeout_s=120"))
    try:
        question = asyncio.create_task(asked_as(cluster, "nobody", lambda member: member.read("orders")))
        async with asyncio.timeout(30):
            while not asking():
                await asyncio.sleep(0.01)
        question.cancel()
        await asyncio.gather(question, return_exceptions=True)
        left = monotonic()
        while asking() and monotonic() - left < 60:
            await asyncio.sleep(0.01)
        assert not asking(), "it would go on for two minutes"
    finally:
        cluster.close()
