from __future__ import annotations

from eventspine import Event, Service


class Said(Event, context="desk", key="name"):
    name: str = "ann"


class Heard(Event, context="ear", key="name"):
    name: str = "ann"


def make(connection):
    connection.execute("create table kept_things (name text primary key)")


desk = Service("desk")
kept = Service("kept", publishes="desk", tables=make)
