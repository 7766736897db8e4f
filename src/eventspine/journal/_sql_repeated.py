"""What a repetition is answered: the same as the first, identical unit was, as far as it is stored by now."""

from __future__ import annotations

import sqlite3

from ._sql_known import Known
from ._sql_plan import Plan
from .port import Append, Unit, Verdict


def first_result(cursor: sqlite3.Cursor, unit: Unit, known: Known, plan: Plan) -> Verdict:
    verdict = Verdict("repeated")
    plan.look_up(verdict, unit)
    for append in unit.appends:
        if append.stream is not None:
            verdict.versions.append(version_of(cursor, append, known, plan))
    return verdict


def version_of(cursor: sqlite3.Cursor, append: Append, known: Known, plan: Plan) -> int:
    """The version of the last of these events in its stream, else the stream's own."""
    head = known.head((append.service, append.stream or ""))
    if append.records:
        last = append.records[-1].id
        for stream, version, ids, _ in plan.stream_rows:
            if stream == head.number and last in ids:
                return version + ids.index(last)
        row = cursor.execute(
            "/*spine*/ select version from spine_stream_events where stream = ?"
            " and position = (select position from spine_events where id = ?)",
            (head.number, last),
        ).fetchone()
        if row:
            return int(row[0])
    return head.version
