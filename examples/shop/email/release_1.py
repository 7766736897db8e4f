"""The first release: writes to a customer about each order, and says which of theirs it is.

Order matters here: a customer whose letter can't be written waits (`on_dead="waits"`), so that no later letter counts
wrongly. And some can't be written: `,.d` is no way to format a number, which shows when the first square is reached.

    spine run examples.shop.email.release_1
"""

from __future__ import annotations

from math import isqrt

from eventspine import Dead, Delivery, Service

from ..events import StockRefused, StockReserved
from .mailbox import Mailbox, letter, mailbox

email = Service("email", tables="release_1.sql", lifespan=mailbox)

EARLIER = "select count(*) as letters from email_letters where customer_id = :customer_id"
REMEMBER = """
    insert into email_letters (number, order_id, customer_id, nth, reserved)
    select coalesce(max(number), 0) + 1, :order_id, :customer_id, :nth, :reserved from email_letters
"""


@email.on(StockReserved, StockRefused, on_dead="waits", errors={ValueError: Dead})
async def write_letter(answer: StockReserved | StockRefused, delivery: Delivery[Mailbox]) -> None:
    customer_id, order_id, reserved = answer.customer_id, answer.order_id, isinstance(answer, StockReserved)
    [earlier] = await delivery.query(EARLIER, customer_id=customer_id)
    nth, key = earlier["letters"] + 1, delivery.idempotency_key
    text = letter(customer_id, order_id, nth=nth, reserved=reserved, extra=voucher(order_id), key=key)
    delivery.resources.send(text, day=answer.day, key=key)
    delivery.execute(REMEMBER, order_id=order_id, customer_id=customer_id, nth=nth, reserved=reserved)


def voucher(order_id: int) -> str:
    return f"{order_id:,.d} is a square: you win a voucher!" if isqrt(order_id) ** 2 == order_id else ""
