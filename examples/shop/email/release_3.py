"""The third release: the bug in `voucher` is mended. What died of it is handled again by one command:

spine run examples.shop.email.release_3
spine dead replay --service email
"""

from __future__ import annotations

from math import isqrt

from eventspine import Dead, Delivery, Service

from ..events import StockRefused, StockReserved
from .mailbox import Mailbox, letter, mailbox

email = Service("email", tables="release_2.sql", lifespan=mailbox)

EARLIER = "select count(*) as letters from email_letters where customer_id = :customer_id"
REMEMBER = """
    insert into email_letters (number, order_id, customer_id, nth, reserved)
    select coalesce(max(number), 0) + 1, :order_id, :customer_id, :nth, :reserved from email_letters
"""
COUNT = """
    insert into email_counts (answer, orders) values (:answer, 1)
    on conflict (answer) do update set orders = email_counts.orders + 1
"""


@email.on(StockReserved, StockRefused, renamed_from="write_letter", on_dead="waits", errors={ValueError: Dead})
async def answer_customer(answer: StockReserved | StockRefused, delivery: Delivery[Mailbox]) -> None:
    customer_id, order_id, reserved = answer.customer_id, answer.order_id, isinstance(answer, StockReserved)
    [earlier] = await delivery.query(EARLIER, customer_id=customer_id)
    nth, key = earlier["letters"] + 1, delivery.idempotency_key
    text = letter(customer_id, order_id, nth=nth, reserved=reserved, extra=voucher(order_id), key=key)
    delivery.resources.send(text, day=answer.day, key=key)
    delivery.execute(REMEMBER, order_id=order_id, customer_id=customer_id, nth=nth, reserved=reserved)


@email.on(StockReserved, StockRefused, start="earliest")
async def count_answers(answer: StockReserved | StockRefused, delivery: Delivery[Mailbox]) -> None:
    delivery.execute(COUNT, answer="reserved" if isinstance(answer, StockReserved) else "refused")


def voucher(order_id: int) -> str:
    return f"{order_id:,d} is a square: you win a voucher!" if isqrt(order_id) ** 2 == order_id else ""
