"""An enumeration that keeps the values it doesn't know, so that a producer may add one before its readers (R23)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self


class OpenEnum(StrEnum):
    """A str-valued enum which keeps an unknown value when it reads one, and writes it back unchanged.

        class Carrier(OpenEnum):
            DHL = "dhl"
            UPS = "ups"

        carrier = Carrier("drone")      # no ValueError
        carrier.known                   # False
        carrier == "drone"              # True

    Compare with `==`: an unknown value is a new object every time, since a cache of them could be filled from outside.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = str.__str__(value)
        return unknown

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return type(self), (self._value_,)  # by value: an early Python 3.11 copies by name, which an unknown one lacks

    @property
    def known(self) -> bool:
        """Whether the value is one of the members."""
        return self._value_ in type(self)._value2member_map_
