"""Numbers as people type them: what is none, or is out of bounds, is refused with what it may be."""

from __future__ import annotations

from typing import Any

import click


class Whole(click.IntRange):
    def __init__(self, min: int | None = None, max: int | None = None, *, of: str = "") -> None:
        """`of`: what is counted, and where its numbers are found."""
        super().__init__(min, max)
        self._of = of

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(_refusal(value, f"a whole number{_bounds(self)}{self._of}"), param, ctx)


class Number(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(_refusal(value, f"a number{_bounds(self)}"), param, ctx)


def _refusal(value: object, wanted: str) -> str:
    return f"{str(value)!r} can't be used; it is to be {wanted}."


def _bounds(of: click.IntRange | click.FloatRange) -> str:
    if of.min is not None and of.max is not None:
        return f" from {of.min:,} to {of.max:,}"
    return "" if of.min is None else f" above {of.min:,}" if of.min_open else f" from {of.min:,} up"


DELIVERY = Whole(1, of=", as `spine dead list` and `spine parked list` say them")
