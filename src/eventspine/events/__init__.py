"""Events: immutable facts, as typed classes, each owned by one context."""

from .declare import Event, describe, event
from .open_enum import OpenEnum
from .types import EventType

__all__ = ["Event", "EventType", "OpenEnum", "describe", "event"]
