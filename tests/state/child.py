"""A process that keeps a view until it is killed: `python child.py URL`."""

from __future__ import annotations

import asyncio
import sys

from eventspine import Spine
from tests.state.material import counting


async def main(url: str) -> None:
    service = counting()
    async with Spine(url, lease_s=1.0) as spine, spine.running(service) as running:
        print("running", flush=True)
        await running.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
