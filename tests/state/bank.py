"""Accounts: the aggregate that most tests here are about."""

from __future__ import annotations

from eventspine import Aggregate, Event, Service, applies


class Opened(Event, context="bank", key="account"):
    account: str


class Deposited(Event, context="bank", key="account"):
    account: str
    cents: int


class Withdrawn(Event, context="bank", key="account"):
    account: str
    cents: int


class Overdrawn(Exception):
    """There is not that much in it."""


class Account(Aggregate):
    cents: int = 0
    open: bool = False

    def begin(self) -> None:
        if not self.open:
            self.record(Opened(account=self.id))

    def deposit(self, cents: int) -> None:
        self.record(Deposited(account=self.id, cents=cents))

    def withdraw(self, cents: int) -> None:
        if cents > self.cents:
            raise Overdrawn(f"{self.id} has {self.cents}, and not {cents}")
        self.record(Withdrawn(account=self.id, cents=cents))

    @applies(Opened)
    def _opened(self, event: Opened) -> None:
        self.open = True

    @applies(Deposited)
    def _deposited(self, event: Deposited) -> None:
        self.cents += event.cents

    @applies(Withdrawn)
    def _withdrawn(self, event: Withdrawn) -> None:
        self.cents -= event.cents


def bank() -> Service[None]:
    return Service("bank")
