"""A small shop, copied into a test's folder and run there."""

from __future__ import annotations

import os
from pathlib import Path

from eventspine import Dead, Event, Service

mended = Path(__file__).with_name("mended")  # while this file is missing, some confirmations fail


class BookOrdered(Event, context="orders", key="customer"):
    customer: str
    title: str
    copies: int = 1


class BookReserved(Event, context="stock", key="customer"):
    customer: str
    title: str


shopfront = Service("shopfront", publishes="orders")
stock = Service("stock")
email = Service("email")


@stock.on(BookOrdered)
async def reserve(event: BookOrdered) -> BookReserved:
    return BookReserved(customer=event.customer, title=event.title)


@email.on(BookReserved, errors={ValueError: Dead})
async def confirm(event: BookReserved) -> None:
    if event.customer == "unlucky" and not mended.exists():
        raise ValueError("no address \x1b[31m for unlucky")
    with Path(__file__).with_name("sent").open("a") as sent:
        sent.write(f"{event.customer} {os.getpid()}\n")
