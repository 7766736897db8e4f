from __future__ import annotations

from eventspine import Event, Service


class Said(Event, context="desk", key="name"):
    name: str = "ann"


class Heard(Event, context="ear", key="name"):
    name: str = "ann"


desk = Service("desk")
