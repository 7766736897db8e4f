"""Events: immutable facts, as typed classes, each owned by one context."""

from .declare import Event, describe, describe_event, event
from .open_enum import OpenEnum
from .types import EventType
from .upcasting import check_chain, upcast

__all__ = ["Event", "EventType", "OpenEnum", "check_chain", "describe", "describe_event", "event", "upcast"]
