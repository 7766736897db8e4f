"""A process that keeps a view until it is killed: `python child.py URL`; with `building`, one that builds version 2 beside it, slowly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from eventspine import Batch, Service, Spine
from tests.state.material import counting

ROOT = Path(__file__).parent.parent.parent
EVENT_S = 0.001  # of building, so that a kill comes in the middle


def in_runs(service: Service[Any], events: int = 200) -> Service[Any]:
    """After a kill, events of the run that was in hand are handled one by one: one of them may have been to blame."""
    for name, handler in service.handlers.items():
        service.handlers[name] = replace(handler, batch=Batch(events))
    return service


def started(url: str, *arguments: str, module: str = "tests.state.child") -> subprocess.Popen[str]:
    """It is at work, or about to be, when this returns."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, url, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "running\n"
    return child


def ended(child: subprocess.Popen[str]) -> None:
    """By SIGKILL."""
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


async def main(url: str, *building: str) -> None:
    service = counting()
    if building:
        from tests.state.test_versions import both

        service = in_runs(both(lambda: bool(time.sleep(EVENT_S))))
    async with Spine(url, lease_s=1.0) as spine, spine.running(service) as running:
        print("running", flush=True)
        await running.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
