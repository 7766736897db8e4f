"""A process that deletes or truncates a stream until it is killed: `python -m tests.state.deleting_child URL VERB ID`."""

from __future__ import annotations

import asyncio
import sys

from eventspine import Service, Spine
from eventspine.errors import StreamDeleted
from tests.state.bank import Account

EVENTS = 400


async def fill(spine: Spine, id: str) -> None:
    account = Account(id)
    for _ in range(EVENTS):
        account.deposit(1)
    account.begin()
    await spine.save(account)


async def checked(spine: Spine, verb: str, id: str) -> str:
    """What a kill has left, which has to be one of three; then it is brought to its end."""
    stream, journal = f"account-{id}", spine.journal
    versions = await journal.stream_version("bank", stream)
    last = await journal.stream("bank", stream, after=versions - 1, limit=1)
    assert 1 == len(last)
    if verb == "truncate":
        done = await journal.cut("bank", stream, before=EVENTS)
        assert done in ((0, EVENTS), (EVENTS - 1, EVENTS))
        assert EVENTS + 1 == versions
        return "whole" if done.events else "cut"
    over = versions == EVENTS + 2
    if over:
        try:
            await spine.load(Account, id)
        except StreamDeleted:
            pass
        else:
            raise AssertionError("it is over, and was loaded")
    else:
        assert EVENTS == (await spine.load(Account, id)).cents
    done = await spine.delete_stream(Account, id)
    assert done in ((0, EVENTS + 2), (EVENTS + 1, EVENTS + 2))
    return "whole" if not over else "over" if done.events else "cut"


async def main(url: str, verb: str, id: str) -> None:
    async with Spine(url, service=Service("bank", publishes="bank")) as spine:
        await spine.journal.stream_version("bank", "account-nobody")  # connected
        print("running", flush=True)
        if verb == "delete":
            await spine.delete_stream(Account, id)
        else:
            await spine.journal.cut("bank", f"account-{id}", before=EVENTS)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
