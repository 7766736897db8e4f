"""A program of its own, run with moto in its path: moto's server, whose queues serve one call after another.

moto answers each call in a thread, and its queues know nothing of that. Of two that receive, both may find a message visible
before either has marked it: it comes twice. One that deletes puts a list in place that it made before another added a
message: that message is gone. AWS does the first, seldom, and never the second.

A queue's own condition is its lock, so a long poll lets go of it while it waits."""

from collections.abc import Callable
from functools import wraps
from typing import Any


def in_turn(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def turn(backend: Any, queue_name: str, *given: Any, **named: Any) -> Any:
        with backend.get_queue(queue_name)._messages_lock:
            return call(backend, queue_name, *given, **named)

    return turn


if __name__ == "__main__":
    from moto.server import main  # type: ignore[import-not-found,unused-ignore]
    from moto.sqs.models import SQSBackend  # type: ignore[import-not-found,unused-ignore]

    for name in ("receive_message", "delete_message", "change_message_visibility", "purge_queue"):
        setattr(SQSBackend, name, in_turn(getattr(SQSBackend, name)))
    main()
