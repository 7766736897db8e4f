from __future__ import annotations

from uuid import UUID, uuid4

from eventspine import Aggregate, Command, Event, Reject, Service, View, applies


class Said(Event, context="desk", key="name"):
    name: str = "ann"


class Heard(Event, context="ear", key="name"):
    name: str = "ann"


def make(connection):
    connection.execute("create table kept_things (name text primary key)")


desk = Service("desk")
kept = Service("kept", publishes="desk", tables=make)


# --- commands, an aggregate, a view ---------------------------------------------------------------------------------------


class Counted(Event, context="desk", key="name"):
    name: str
    n: int


class Counter(Aggregate):
    n: int = 0

    def count(self, n: int) -> None:
        if self.n + n > 100:
            raise Reject(f"{self.id} has {self.n}")
        self.record(Counted(name=self.id, n=n))

    @applies(Counted)
    def _counted(self, event: Counted) -> None:
        self.n += event.n


class Say(Command[UUID], context="desk", key="name"):
    name: str = "ann"
    n: int = 1


class Ask(Command[None], context="desk"):
    pass


called: list[Say] = []


@desk.command(Say)
def say(command, delivery):
    from eventspine.integrations.django import publish

    from .models import Row

    called.append(command)
    Row.objects.create(name=command.name)
    counter = delivery.load_or_new(Counter, command.name)
    counter.count(command.n)
    delivery.save(counter)
    if command.n == 13:
        raise Reject("not thirteen")
    publish(Said(name=command.name))
    return uuid4()


class Counts(View, key="name"):
    name: str
    n: int = 0


def tally() -> Service:
    """Not discovered: a test runs it."""
    made = Service("tally", publishes=())

    @made.projection(Counts, Counted)
    def keep(view: View[Counts], event: Counted) -> None:
        view.row(event.name).n += event.n

    return made


class Bills(View, key="who", tenant="shop"):
    shop: str
    who: str
    items: int = 0
