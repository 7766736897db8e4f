"""`spine topology replay` on an emulator of AWS: what was lost on the way to a consumer is sent to it once more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import botocore.session
import pytest

from eventspine.testing.servers import Server
from tests.servers import needed

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with needed("ministack")(tmp_path_factory.mktemp("ministack")) as running:
        yield running


@pytest.fixture
def url(server: Server) -> str:
    return f"eventbridge://key:secret@us-east-1/b{uuid4().hex[:8]}?endpoint={server.url}&archive=yes&poll_s=1"


class Queue:
    """Of the service that subscribes, as another program sees it."""

    def __init__(self, server: Server, url: str) -> None:
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        session = botocore.session.get_session()
        self.sqs = session.create_client("sqs", region_name="us-east-1", endpoint_url=server.url, **keys)
        bus = url.partition("us-east-1/")[2].partition("?")[0]
        self.url = self.sqs.get_queue_url(QueueName=f"{bus}-stock_orders-p0")["QueueUrl"]

    def take(self, count: int) -> set[str]:
        """Their customers; the messages are deleted."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            messages = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            assert messages.get("Messages"), f"{len(found)} of {count} have come"
            for one in messages["Messages"]:
                found.append(json.loads(one["Body"])["detail"]["data"])
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=one["ReceiptHandle"])
        return {one["customer"] for one in found}


def test_what_was_lost_on_the_way_is_sent_again(spine, server, url):
    made = spine("topology", "apply", "bookshop:stock", "--broker", url)
    assert 0 == made.returncode, made.stdout + made.stderr
    queue = Queue(server, url)
    ordered = spine("publish", "orders.BookOrdered", '{"customer": "ann", "title": "Emma"}', "--module", "bookshop")
    assert 0 == ordered.returncode, ordered.stderr
    process = spine.run_shop("--broker", url)
    assert {"ann"} == queue.take(1), "lost: nobody else reads this queue"
    process.terminate()
    process.wait(60)

    later = spine("topology", "replay", "bookshop:stock", "--broker", url, "--since", "2h", "--until", "1h", "--json")
    again = spine("topology", "replay", "bookshop:stock", "--broker", url, "--since", "1h", "--channel", "orders")
    assert 0 == again.returncode, again.stderr
    assert "orders is sent to stock.orders again: replay " in again.stdout
    assert ["orders"] == [one["channel"] for one in json.loads(later.stdout)]
    assert {"ann"} == queue.take(1)


def test_what_can_not_be_sent_again_says_why(spine, server, url):
    def replay(module: str, *more: str, at: str = url) -> tuple[int, str]:
        done = spine("topology", "replay", module, "--broker", at, *more)
        return done.returncode, done.stderr

    code, said = replay("bookshop:stock", "--since", "1h")
    assert (1, True) == (code, "see archive=yes" in said)
    code, said = replay("bookshop:stock", "--since", "1h", "--channel", "mail")
    assert (2, True) == (code, "subscribes to 'mail'" in said)
    code, said = replay("bookshop:shopfront", "--since", "1h")
    assert (2, True) == (code, "MODULE:NAME" in said)
    code, said = replay("bookshop:stock", "--since", "yesterday")
    assert (2, True) == (code, "2026-03-01T12:00:00Z" in said)
    code, said = replay("bookshop:stock", "--since", "1h", at="memory://here")
    assert (1, True) == (code, "spine subscriptions rewind" in said)
