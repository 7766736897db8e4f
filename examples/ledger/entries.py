"""Double entry: what leaves one account arrives at others, so the debits of an entry are its credits.

A debit takes from an account and a credit gives to it: a balance is credits less debits. So a customer who owes is below zero,
and `sales` is above it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta

from eventspine import Reject

SALES, CASH = "sales", "cash"
HOUSE = (SALES, CASH)  # accounts of the house: no rule to keep, so no aggregate, and orders don't wait for each other

Cents = Annotated[int, Meta(ge=0)]  # whoever sends less is refused
What = Literal["order", "payment", "transfer"]


class Unbalanced(Reject):
    """It is no entry: its debits are not its credits, or one of its postings is both, or nothing."""


@dataclass(frozen=True)
class Posting:
    account: str
    debit: Cents = 0
    credit: Cents = 0

    @property
    def cents(self) -> int:
        """What it adds to the account's balance."""
        return self.credit - self.debit


@dataclass(frozen=True)
class Entry:
    id: str
    day: date
    what: What
    postings: tuple[Posting, ...]

    def check(self) -> None:
        debit, credit = sum(p.debit for p in self.postings), sum(p.credit for p in self.postings)
        if debit != credit:
            raise Unbalanced(f"entry {self.id} takes {debit} cents and gives {credit}; make them one sum")
        if len({p.account for p in self.postings}) != len(self.postings) or len(self.postings) < 2:
            raise Unbalanced(f"entry {self.id} needs two accounts or more, each of them once")
        for posting in self.postings:
            if posting.debit and posting.credit:
                raise Unbalanced(
                    f"entry {self.id} both takes from {posting.account} and gives to it; make it one of them"
                )
            if not posting.debit and not posting.credit and self.what != "order":  # some orders of the file were free
                raise Unbalanced(f"entry {self.id} moves nothing on {posting.account}; leave that out")


def transfer(id: str, day: date, cents: int, *, source: str, target: str, what: What = "transfer") -> Entry:
    return Entry(id, day, what, (Posting(source, debit=cents), Posting(target, credit=cents)))


def order(id: str, day: date, cents: int, customer: str) -> Entry:
    return transfer(id, day, cents, source=customer, target=SALES, what="order")


def payment(id: str, day: date, cents: int, customer: str) -> Entry:
    return transfer(id, day, cents, source=CASH, target=customer, what="payment")
