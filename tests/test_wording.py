"""One event, two events: what is told of a number agrees with it, in every message and line of the log.

Only what tests say to their authors, in eventspine.testing, is left out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import eventspine
from eventspine.wording import plural

SOURCES = Path(eventspine.__file__).parent
COUNTED = (
    "attempts|batches|commits|copies|days|deliveries|entries|events|files|handlers|hours|keys|messages|minutes|partitions|"
    "processes|queues|replicas|rows|rules|services|streams|subscriptions|threads|timers|times|versions|views"
)
AFTER_A_VALUE = re.compile(rf" (older |more |other |open |quorum |handler )?({COUNTED})\b")
IN_A_FORMAT = re.compile(rf"%[ds] (older |more |other |open |quorum |handler )?({COUNTED})\b")

# What can't be one, with why.
NEVER_ONE = {
    "the process died {alone} times while this ran alone": "DEATHS_MAX of them",
    "{alive} processes drain": "one has words of its own",
    "{name}: when one of its {running} processes dies, another goes on at once.": "two at least",
    "{name} comes {len(values)} times; send it once.": "two at least",
    "{self} events": "more than that",
    "{len(results)} answers for {len(chunk)} entries": "the service's answer does not fit what was sent: a bug there",
    "acknowledged with {acks} of {copies} copies on disk: the loss of one disk can lose what was acknowledged.": "of all",
    "min.insync.replicas={least} of {replicas} replicas: publishing stops while any broker is away.": "two at least",
    "Just now a partition has {insync} of its {replicas} replicas in sync.": "two at least",
    "%s: handlers are %d events behind; no more is taken from the broker meanwhile": "more than it takes to rest",
}


def texts(tree: ast.AST) -> Iterator[str]:
    """Those that tell a number with a word behind it that is always in the plural."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and IN_A_FORMAT.search(node.value):
            yield node.value
        elif isinstance(node, ast.JoinedStr) and any(map(counts, node.values, node.values[1:])):
            yield ast.unparse(node)[2:-1]


def counts(value: ast.expr, text: ast.expr) -> bool:
    if not isinstance(value, ast.FormattedValue):
        return False
    name = ast.unparse(value.value)
    if name.startswith("plural(") or name.rpartition(".")[2].isupper():
        return False  # it agrees; or is a constant, which everybody can read
    return isinstance(text, ast.Constant) and AFTER_A_VALUE.match(text.value) is not None


def told(source: str) -> list[str]:
    return [text for text in texts(ast.parse(source)) if text not in NEVER_ONE]


def test_no_message_speaks_of_1_events():
    paths = [path for path in SOURCES.rglob("*.py") if path.relative_to(SOURCES).parts[0] != "testing"]
    found = {path.name: told(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_one_that_does_is_found():
    assert told('log.info("%d events of %s", 1, name)') == ["%d events of %s"]
    assert told("say(f'{done:,} older events')") == ["{done:,} older events"]
    assert told("say(f'{LIMIT:,} events at most, and {plural(done, \"event\")}')") == []


def test_the_word_agrees_with_the_number():
    assert [plural(number, "event") for number in (0, 1, 1000)] == ["0 events", "1 event", "1,000 events"]
    assert plural(1, "entry is", "entries are") == "1 entry is"
