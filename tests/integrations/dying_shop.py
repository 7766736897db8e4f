"""The example shop, in which one process dies (SIGKILL) once, at the point that DIE_AT names."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from eventspine.integrations.fastapi import SpineDep
from examples.fastapi_shop import app as shop

app = shop.app


@app.post("/careless")
async def careless(new: shop.NewOrder, session: shop.SessionDep, spine: SpineDep) -> None:
    """What the example guards against: two commits."""
    order = shop.Order(sku=new.sku, units=new.units)
    session.add(order)
    await session.commit()
    await spine.publish(shop.OrderPlaced(order_id=order.id, sku=new.sku, units=new.units))


_MARK = Path(os.environ["SHOP_DATABASE"] + ".died")


def die() -> None:
    if not _MARK.exists():
        _MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def of_request(session: Session) -> bool:
    return any(isinstance(row, shop.Order) for row in session.identity_map.values())


def after_row(*_: Any) -> None:
    die()


def commit_of_request(session: Session) -> None:
    if of_request(session):
        die()


def commit_of_handler(session: Session) -> None:
    if not of_request(session) and session.info.get("eventspine_wrote", True):
        die()


POINTS: dict[str, tuple[Any, str, Any]] = {
    "between the row and its event": (shop.Order, "after_insert", after_row),
    "between the event and the commit": (Session, "before_commit", commit_of_request),
    "after the commit": (Session, "after_commit", commit_of_request),
    "in a handler, between its row and join": (shop.Stock, "after_insert", after_row),
    "in a handler, between join and the commit": (Session, "before_commit", commit_of_handler),
    "in a handler, after the commit": (Session, "after_commit", commit_of_handler),
}
event.listen(*POINTS[os.environ["DIE_AT"]])
