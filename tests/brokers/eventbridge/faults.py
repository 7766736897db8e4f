"""A way to AWS on which things happen that no emulator does by itself: entries that fail, answers that get lost.

It stands between a client and an emulator and passes calls on. Between a call and its answer it asks `faults`, in order:
the first that gives something but None has the say."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Pass = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]  # to the emulator, with this body
Fault = Callable[[str, dict[str, Any], Pass], "tuple[int, dict[str, Any]] | None"]  # status 0: no answer, ever


class FaultyWay:
    """`calls` are the names of the operations that passed, with their bodies."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, answer = way.handle(self.path, dict(self.headers), json.loads(body or b"{}"))
                if not status:
                    self.close_connection = True
                    return
                written = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(written)))
                self.end_headers()
                self.wfile.write(written)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def handle(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
        self.calls.append((operation, body))

        def passed(changed: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
            kept = {name: value for name, value in headers.items() if name.lower() not in ("content-length", "host")}
            connection.request("POST", path, json.dumps(changed).encode(), kept)
            answer = connection.getresponse()
            found = json.loads(answer.read() or b"{}")
            connection.close()
            return answer.status, found

        for fault in self.faults:
            if (said := fault(operation, body, passed)) is not None:
                return said
        return passed(body)

    def of(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body in self.calls if name == operation]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def failing_entries(says: Callable[[dict[str, Any]], str]) -> Fault:
    """PutEvents takes all but those entries of which `says` gives a code, as AWS does that takes only some of a call."""

    def fault(operation: str, body: dict[str, Any], passed: Pass) -> tuple[int, dict[str, Any]] | None:
        if operation != "PutEvents":
            return None
        codes = [says(entry) for entry in body["Entries"]]
        taken = [entry for entry, code in zip(body["Entries"], codes, strict=True) if not code]
        answers = iter(passed({**body, "Entries": taken})[1]["Entries"]) if taken else iter([])
        entries = [{"ErrorCode": code, "ErrorMessage": "as told"} if code else next(answers) for code in codes]
        return 200, {"FailedEntryCount": len(codes) - len(taken), "Entries": entries}

    return fault


def failing_batches(operation: str, code: str, times: int) -> Fault:
    """The first entry of so many batches fails with this code, and is not passed on."""
    left = [times]

    def fault(found: str, body: dict[str, Any], passed: Pass) -> tuple[int, dict[str, Any]] | None:
        if found != operation or not left[0]:
            return None
        left[0] -= 1
        first, *rest = body["Entries"]
        answer = passed({**body, "Entries": rest})[1] if rest else {"Successful": []}
        failed = {"Id": first["Id"], "SenderFault": False, "Code": code, "Message": "as told"}
        return 200, {**answer, "Failed": [failed, *answer.get("Failed", [])]}

    return fault


def refusing_calls(operation: str, code: str, when: Callable[[Sequence[dict[str, Any]]], bool]) -> Fault:
    """The call as a whole is refused."""

    def fault(found: str, body: dict[str, Any], passed: Pass) -> tuple[int, dict[str, Any]] | None:
        if found != operation or not when(body["Entries"]):
            return None
        return 400, {"__type": code, "message": "as told"}

    return fault


def losing_answers(operation: str) -> Fault:
    """What is asked is done, and nobody hears of it."""

    def fault(found: str, body: dict[str, Any], passed: Pass) -> tuple[int, dict[str, Any]] | None:
        if found != operation:
            return None
        passed(body)
        return 0, {}

    return fault
