"""moto's queues, when many call at once: each message is handed out once, and none is gone."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import botocore.session

from tests.servers import needed

SENDERS, RECEIVERS, EACH = 3, 6, 100
SWITCHING = "import sys; sys.setswitchinterval(1e-6)"  # from thread to thread, far more often than usual


def sqs(url: str) -> Any:
    return botocore.session.get_session().create_client(
        "sqs", "us-east-1", endpoint_url=url, aws_access_key_id="key", aws_secret_access_key="secret"
    )


def test_of_many_that_send_receive_and_delete_at_once_none_gets_in_anothers_way(tmp_path: Path) -> None:
    moto = needed("moto")
    (tmp_path / "sitecustomize.py").write_text(SWITCHING, encoding="utf-8")
    with moto(tmp_path / "moto", settings={"PYTHONPATH": f"{moto.installed()}:{tmp_path}"}) as server:
        queue = sqs(server.url).create_queue(QueueName="crowded")["QueueUrl"]
        came, quiet = Counter[str](), threading.Event()

        def send(name: int) -> None:
            client = sqs(server.url)
            for number in range(EACH):
                client.send_message(QueueUrl=queue, MessageBody=f"{name} {number}")

        def receive() -> None:
            client = sqs(server.url)
            while not quiet.is_set():
                answer = client.receive_message(
                    QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=600
                )
                for message in answer.get("Messages", []):
                    came[message["Body"]] += 1
                    client.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

        receivers = [threading.Thread(target=receive) for _ in range(RECEIVERS)]
        senders = [threading.Thread(target=send, args=(name,)) for name in range(SENDERS)]
        for one in (*receivers, *senders):
            one.start()
        for one in senders:
            one.join()
        while _left(server.url, queue):
            pass
        quiet.set()
        for one in receivers:
            one.join()
    assert {1: SENDERS * EACH} == Counter(came.values())


def _left(url: str, queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs(url).get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(map(int, found.values()))
