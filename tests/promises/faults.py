"""The rows and columns of the promise table: which faults there are, what is promised against each, and in which set-ups.

A test says with a marker what it shows, and every test that says so stands on the page:

    @pytest.mark.promise("process killed", "sqlite processes")           this fault does no harm in this set-up
    @pytest.mark.promise("disk lost", "sqlite", lost="back to the ...")   it does, and this test shows how far

Without a set-up the marker speaks of those that the test runs in: by `pytest.mark.setup("sqlite")` on the test, its class, its
module or a parameter of a fixture. A class of a conformance suite has it too; tests/promises/suites.py says what faults the tests of
the suites are about. So another journal or broker is one more `Setup` here, and the marker on the class that runs its suite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """A column. `journal`, `broker` and `processes` are what `spine doctor` knows a running set-up by."""

    name: str
    title: str
    journal: str
    broker: str | None = (
        None  # the scheme of its URL; none but the journal's own feed. What it doesn't change is its journals'
    )
    has: frozenset[str] = frozenset()  # of NEEDED

    @property
    def processes(self) -> bool:
        """Several, of which each may die alone."""
        return "processes" in self.has


@dataclass(frozen=True)
class Fault:
    """A row: what is promised, in the words of the page."""

    name: str
    title: str
    accepted: str
    effects: str = ""
    outside: str = ""
    needs: str = ""  # of NEEDED: without it, this doesn't arise


NEEDED = {
    "processes": "there is one process",
    "disk": "there is no disk",
    "file": "there is no file",
    "sql": "there is no SQL",
    "server": "there is no server",
    "standby": "there is no standby",
    "broker": "there is no broker",
}
MEMORY, SQLITE, PROCESSES = "memory", "sqlite", "sqlite processes"
CARRIED, NATS = "memory broker", "nats"  # between two journals

SETUPS = [
    Setup(MEMORY, "memory", journal="memory"),
    Setup(SQLITE, "SQLite, one process", journal="sqlite", has=frozenset({"disk", "file", "sql"})),
    Setup(
        PROCESSES,
        "SQLite, several processes",
        journal="sqlite",
        has=frozenset({"disk", "file", "sql", "processes"}),
    ),
    Setup("postgres", "PostgreSQL, one process", journal="postgres", has=frozenset({"sql", "server", "standby"})),
    Setup(
        "postgres processes",
        "PostgreSQL, several processes",
        journal="postgres",
        has=frozenset({"sql", "server", "standby", "processes"}),
    ),
    Setup(CARRIED, "a broker in memory (simulated)", journal="", broker="memory", has=frozenset(NEEDED)),
    Setup(NATS, "NATS JetStream", journal="", broker="nats", has=frozenset(NEEDED)),
    Setup("rabbitmq", "RabbitMQ", journal="", broker="amqp", has=frozenset(NEEDED)),
    Setup("kafka", "Kafka", journal="", broker="kafka", has=frozenset(NEEDED)),
    Setup("pulsar", "Pulsar", journal="", broker="pulsar", has=frozenset(NEEDED)),
    # What an emulator shows: it keeps nothing after its end, so that nothing is said of a server that is killed.
    Setup("eventbridge", "EventBridge (an emulator)", journal="", broker="eventbridge", has=frozenset(NEEDED)),
]

FAULTS = [
    Fault("process killed", "a process is killed at any moment", "kept", "exactly once", "at least once"),
    Fault(
        "all killed", "all processes are killed at once", "kept", "exactly once", "at least once",
        needs="processes",
    ),
    Fault(
        "process stopped", "a process is stopped (SIGSTOP) past its lease, then goes on", "kept",
        "exactly once: what it commits late is fenced", "at least once",
    ),
    Fault(
        "stopped in a commit", "a process is stopped inside a commit", "kept",
        "exactly once, but nobody can write until it goes on or dies; the message names its pid, and "
        "[`spine run --processes`](../how-to/deploying.md#several-processes) kills it",
        "at least once", needs="processes",
    ),
    Fault(
        "power fails", "the operating system crashes, the power fails",
        "kept, if the disk keeps what it reported as synced", "exactly once", "at least once",
    ),
    Fault(
        "disk full", "the disk is full", "those accepted are kept; new ones are refused with an error",
        "exactly once; it goes on when there is space", "at least once", needs="disk",
    ),
    Fault(
        "disk errors", "the disk fails a read, a write, or a sync of the log", "those accepted are kept; new ones are refused with an error",
        "exactly once; it goes on when the disk does", "at least once", needs="disk",
    ),
    Fault(
        "commit unknown", "nobody can tell whether a commit has happened", "kept; asked again under the same ids, until it is known",
        "exactly once", "at least once",
    ),
    Fault(
        "published twice", "an event is published again under the same id", "stored once", "exactly once", "at least once",
    ),
    Fault(
        "release replaced",
        "a release is [replaced](../how-to/deploying.md#deploy-a-new-version) under load by a newer or an older one",
        "kept; what only the newer one wanted is passed by the older, which says how much", "exactly once",
        "at least once: what is at work when its handler is renamed, or its filter widened, runs again",
        needs="disk",
    ),
    Fault(
        "handler fails", "a handler raises, times out, or its SQL fails", "kept", "nothing of a failed attempt",
        "may have happened in any attempt",
    ),
    Fault(
        "handler's SQL", "a handler's SQL commits or rolls back by itself", "kept", "refused; other handlers' units are not harmed",
        needs="sql",
    ),
    Fault(
        "unreadable", "an event can't be decoded", "kept, dead at once; others go on", "none", "none",
    ),
    Fault(
        "poison", "an event kills every process that handles it", "kept, dead after three deaths alone", "none",
        "may have happened each time",
    ),
    Fault(
        "clock set", "the clock is set",
        "kept, unless a service [keeps events for a time](../how-to/growth-and-backup.md): their age is measured by it",
        "durations don't depend on it; scheduled events compare with the new time",
    ),
    Fault(
        "lock held", "another program holds the write lock for longer than a lease", "publishing waits, then is refused",
        "exactly once, when it goes on", "at least once", needs="file",
    ),
    Fault(
        "file damaged", "the file is cut, overwritten, or bits turn in it",
        "told in words, by `spine doctor --deep`, and by `--against` a backup what became of [a letter](../how-to/recovery.md); what can be read is kept, or your backup", needs="file",
    ),
    Fault(
        "sync lost", "the disk fails a sync of the file itself, and then the power fails",
        "**not covered** where a reader had let SQLite copy only a part of its log before; make a "
        "[backup](../how-to/recovery.md#the-disk-reported-errors) at once", needs="disk",
    ),
    Fault("disk lost", "the disk is lost", "**lost**, back to your backup", needs="disk"),
    Fault("foreign hand", "the file is changed or copied by something else than SQLite", "**not covered**", needs="file"),
    Fault(
        "server killed", "the server of a broker or journal is killed, and started again", "kept, if its disk keeps them",
        "exactly once", "at least once", needs="server",
    ),
    Fault(
        "cut off", "nothing passes between a process and its server", "publishing is refused, or unknown and asked again",
        "exactly once, when it passes again", "at least once", needs="server",
    ),
    Fault(
        "broker full", "a broker is slow, or has no room",
        "kept in the journal, up to a bound (`outbox_max`); beyond it publishing is refused with an error",
        "exactly once, when it goes on", "at least once", needs="broker",
    ),
    Fault(
        "failover", "a synchronous standby takes the place of the journal's server", "kept", "exactly once", "at least once",
        needs="standby",
    ),
]  # fmt: skip
