"""A notice, and no more, on publishing what nobody subscribes to: once per type and process, and never on the way."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from eventspine import Event, Service, Spine, sync
from eventspine.errors import EventRefused, JournalError
from eventspine.observe import unheard


class Placed(Event, context="orders", key="customer"):
    customer: str = "ann"


class Cancelled(Event, context="orders", key="customer"):
    customer: str = "ann"


class Mailed(Event, context="mail", key="customer"):
    customer: str = "ann"


SHOP: Service[Any] = Service("shop", publishes="orders")


def mail() -> Service[Any]:
    service = Service("mail")

    @service.on(Placed)
    async def confirm(event: Placed) -> Mailed:
        return Mailed(customer=event.customer)

    return service


def noticed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split()[0] for record in caplog.records if record.name == "eventspine.publishing"]


async def until_noticed(caplog: pytest.LogCaptureFixture, *types: str) -> None:
    async with asyncio.timeout(15):
        while set(noticed(caplog)) != set(types):
            await asyncio.sleep(0.005)


@pytest.fixture(params=["memory://", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.param if request.param == "memory://" else f"sqlite:///{tmp_path / 'spine.db'}"


async def test_what_nobody_subscribes_to_is_noticed_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Spine(url, service=SHOP) as spine, spine.running(mail()):
        for _ in range(3):
            await spine.publish(Placed(), Cancelled())
        await until_noticed(caplog, "orders.Cancelled", "mail.Mailed")
        await spine.publish(Cancelled())
    assert sorted(noticed(caplog)) == ["mail.Mailed", "orders.Cancelled"]
    (record,) = [record for record in caplog.records if "orders.Cancelled" in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "has no subscriber yet in this journal" in record.getMessage()
    (record,) = [record for record in caplog.records if "mail.Mailed" in record.getMessage()]
    assert record.levelno == logging.INFO, "what a handler publishes is mostly the end of it"


async def test_what_is_published_here_and_by_a_handler_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    both: Service[Any] = Service("both", publishes=("orders", "mail"))
    caplog.set_level(logging.INFO)
    async with Spine("memory://", service=both) as spine, spine.running(mail()):
        await spine.publish(Placed(), Mailed())
        await until_noticed(caplog, "mail.Mailed")
        await spine.publish(Mailed(), Cancelled())
        await until_noticed(caplog, "mail.Mailed", "orders.Cancelled")
    told = [record.levelname for record in caplog.records if record.name == "eventspine.publishing"]
    assert told == ["WARNING", "WARNING"]


def test_a_script_that_is_soon_over_hears_of_it_too(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with sync.Spine(url, service=SHOP) as spine:
        spine.publish(Placed())
    assert noticed(caplog) == ["orders.Placed"]


async def test_what_was_refused_is_not_noticed_since_nothing_of_it_is_stored(caplog: pytest.LogCaptureFixture) -> None:
    async with Spine("memory://", service=SHOP) as spine:
        for refused in (Placed(customer=""), Placed(customer=3)):  # type: ignore[arg-type]
            with pytest.raises(EventRefused):
                await spine.publish(refused)
            with pytest.raises(EventRefused):
                await spine.publish(refused, id=str(uuid4()))
        await spine.publish(Cancelled())
    assert noticed(caplog) == ["orders.Cancelled"]


async def test_a_subscriber_that_is_not_running_is_a_subscriber(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Spine(url, service=SHOP) as spine:
        async with spine.running(mail()):
            pass
        await spine.publish(Placed())
    assert noticed(caplog) == []


async def test_publishing_does_not_wait_for_the_look(caplog: pytest.LogCaptureFixture) -> None:
    spine = Spine("memory://", service=SHOP)
    looked = asyncio.Event()

    async def never(service: str | None = None) -> Any:
        looked.set()
        await asyncio.Event().wait()

    spine.journal.subscriptions = never  # type: ignore[method-assign]
    receipt = await spine.publish(Placed())
    assert receipt.durable
    await looked.wait()
    for task in spine._looks:
        task.cancel()


async def test_a_journal_in_trouble_is_not_made_worse(caplog: pytest.LogCaptureFixture) -> None:
    class InTrouble:
        async def subscriptions(self) -> Any:
            raise JournalError("no")

    some = unheard.Unheard(InTrouble())  # type: ignore[arg-type]
    some.published["orders.Placed"] = "orders"
    await some.look()
    assert some.to_look_at
    assert noticed(caplog) == []


@pytest.mark.parametrize("blocking", [True, False])
async def test_publishing_within_a_callers_transaction_is_looked_at_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, blocking: bool
) -> None:
    url = f"sqlite:///{tmp_path / 'spine.db'}"
    spine = sync.Spine(url, service=SHOP).open() if blocking else await Spine(url, service=SHOP).open()
    with closing(sqlite3.connect(tmp_path / "spine.db")) as connection:
        published = spine.publish(Placed(), within=connection)
        if not isinstance(spine, sync.Spine):
            await published
        await until_noticed(caplog, "orders.Placed")
        connection.rollback()
    closed = spine.close()
    if closed is not None:
        await closed


async def test_many_publish_and_one_looks(caplog: pytest.LogCaptureFixture) -> None:
    """A look that was asked for, and has not begun, sees what all of them have published; one that is cancelled is made up for."""
    async with Spine("memory://", service=SHOP) as spine:
        for _ in range(5):
            await spine.publish(Placed())
        (look,) = spine._looks
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        assert noticed(caplog) == []
        await spine.publish(Placed())
        await until_noticed(caplog, "orders.Placed")
