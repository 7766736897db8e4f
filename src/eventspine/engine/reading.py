"""Reading what came: as the CloudEvent that it is, by the service's decoder, or not at all. What can't be read is kept with
all that it has, and read again when it is replayed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..brokers.binding import Incoming, NotAnEvent, incoming, received_us
from ..brokers.port import KEPT_BYTES_MAX, Features, Fetched
from ..clock import Clock
from ..foreign import Decoder, Undecodable, fetched_again, kept_beside
from ..ids import IdSource
from ..journal.port import Append, Change, Delivery, Fence, Put, Record, Unit
from ..keys import slot_of_id
from ..observe.printable import printable
from ..wording import plural, storable
from .failures import trace_of

log = logging.getLogger("eventspine.broker")
Unreadable = (NotAnEvent, Undecodable)
SHOWN_MAX = 100  # of a key that may be anything
ERROR_MAX = 10_000  # of what a decoder has raised
COUNT_BITS = 20  # of an id, which counts in them within a millisecond
POSITION_MAX = 2**62 - 1


class Reading:
    def __init__(self, channel: str, features: Features, clock: Clock, ids: IdSource) -> None:
        self.channel = channel
        self.decoder: Decoder | None = None
        self._prefix, self._positions = features.prefix, features.positions
        self._clock = clock
        self._ids = ids

    def read(self, fetched: Fetched, feed: str, now_us: int) -> Incoming | None:
        """None: it is not wanted. Raises one of Unreadable."""
        if size := self._not_kept(fetched):
            raise NotAnEvent(
                f"it has {size:,} bytes; of a message with more than {KEPT_BYTES_MAX:,} only the broker has the data"
            )
        try:
            return incoming(fetched, self.channel, self._prefix, now_us)
        except NotAnEvent:
            if self.decoder is None:
                raise
        place = f"{feed}/{fetched.partition}/{fetched.position}" if self._positions else ""
        if fetched.beyond:
            place += f"/{fetched.beyond}"
        record = self.decoder.decode(fetched, place, self._ids.one(), now_us)
        return None if record is None else Incoming(record, None, False)

    def _not_kept(self, fetched: Fetched) -> int:
        """How many bytes, or 0. A queue has nothing any more once it is settled, so its messages are kept whole."""
        size = fetched.left_out or len(fetched.data)
        return size if self._positions and size > KEPT_BYTES_MAX else 0

    def dead(self, subscription: int, fetched: Fetched, why: Exception, feed: str) -> Put:
        """The delivery that an unreadable message becomes."""
        reason = "undecodable" if isinstance(why, Undecodable) else "not-an-event"
        record = self._kept(fetched)
        return Put(
            subscription,
            fetched.partition,
            record,
            "dead",
            1,
            None,
            reason,
            storable(str(why))[:ERROR_MAX],
            trace_of(why),
            feed=feed,
        )

    def tell(self, consumer: str, dead: Sequence[Put]) -> None:
        """Once they are stored; one line, since there may be thousands."""
        unreadable = self.decoder is None or dead[0].reason == "not-an-event"
        way = (
            f"Declare how it is read, @SERVICE.decoder({self.channel!r}), or mend its producer"
            if unreadable
            else "Mend the decoder"
        )
        log.error(
            "%s: %s of %s can't be read and %s, the first because: %s. %s; then have them read again: spine dead replay --handler %s",
            consumer, plural(len(dead), "message"), self.channel,
            "is a dead delivery" if len(dead) == 1 else "are dead deliveries", printable(dead[0].error), way, consumer,
        )  # fmt: skip

    def _kept(self, fetched: Fetched) -> Record:
        id, now_us = self._ids.one(), self._clock.now_us()
        if size := self._not_kept(fetched):
            fetched = fetched._replace(data=b"", left_out=size)
        key = storable(fetched.key.decode("utf-8", "replace"))[:SHOWN_MAX] if fetched.key else None
        return Record(
            _position(fetched, id), id, self.channel, slot_of_id(id), key, "?", 1, received_us(fetched, now_us), now_us, "?", None, None, 0,
            kept_beside(fetched), fetched.data,
        )  # fmt: skip

    def again(self, row: Delivery, fence: Fence) -> Unit:
        """What becomes of one that is replayed."""
        assert row.record is not None
        try:
            arrived = self.read(fetched_again(row.record, row.partition), row.feed, self._clock.now_us())
        except Unreadable as error:
            return Unit(
                fences=[fence],
                changes=[
                    Change(
                        row.number,
                        "dead",
                        row.attempts + 1,
                        error=storable(str(error))[:ERROR_MAX],
                        traceback=trace_of(error),
                    )
                ],
            )
        appends = [Append([arrived.record])] if arrived is not None else []
        return Unit(fences=[fence], appends=appends, changes=[Change(row.number, "settled", reason="decoded")])


def _position(fetched: Fetched, id: bytes) -> int:
    """Its own. What has none, as in a queue, or shares one, is not to take another's place: the time and the count of its id
    tell it apart from all that died with it."""
    if fetched.position and not fetched.beyond:
        return fetched.position
    return (
        int.from_bytes(id[:6], "big") << COUNT_BITS | int.from_bytes(id[8:], "big") & (1 << COUNT_BITS) - 1
    ) & POSITION_MAX
