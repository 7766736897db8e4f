"""Routing keys by slot, and patterns of a topic exchange by partition: N bindings say for good which slots are whose."""

from __future__ import annotations

from ..journal.port import SLOTS


def key_of(slot: int) -> str:
    """Its remainders by 64, as binary digits from the lowest, by 3 and by 5: together they are the slot."""
    return ".".join([*(str(slot >> bit & 1) for bit in range(6)), str(slot % 3), str(slot % 5)])


def pattern_of(partition: int, count: int) -> str:
    """Matches the keys of all slots with slot mod count = partition, for a count that divides 960."""
    digits = key_of(partition).split(".")
    known = [count % 2 ** (bit + 1) == 0 for bit in range(6)] + [count % 3 == 0, count % 5 == 0]
    return ".".join(digit if matters else "*" for digit, matters in zip(digits, known, strict=True))


KEYS = [key_of(slot) for slot in range(SLOTS)]
