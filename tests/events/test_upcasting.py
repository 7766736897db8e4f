"""Events of earlier versions and names are read as the class of now; the chain is whole, or refused at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventspine import Event, Service, Spine, testing, upcast
from eventspine.errors import DeclarationError, Undecodable
from eventspine.events import check_chain, describe
from eventspine.journal.port import Append, Unit
from eventspine.testing.conformance.journals.material import event as record


class Placed(Event, context="orders", key="customer", version=3, renamed_from=("orders.Ordered", "shop.Order")):
    customer: str
    amount: int
    currency: str


@upcast(Placed, from_version=1)
def cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"customer": data["customer"], "amount": data["euros"] * 100}


@upcast(Placed, from_version=2)
def euros(data: dict[str, Any]) -> dict[str, Any]:
    data["currency"] = "EUR"
    return data


KIND = describe(Placed)


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (1, b'{"customer":"ann","euros":5}'),
        (2, b'{"customer":"ann","amount":500}'),
        (3, b'{"customer":"ann","amount":500,"currency":"EUR"}'),
        (4, b'{"customer":"ann","amount":500,"currency":"EUR","added":"later"}'),
    ],
)
def test_each_version_is_brought_up_link_by_link(version: int, data: bytes) -> None:
    assert Placed(customer="ann", amount=500, currency="EUR") == KIND.read(data, version)


def test_an_upcaster_is_a_function_like_any_other() -> None:
    assert {"customer": "ann", "amount": 500} == cents({"customer": "ann", "euros": 5})


@pytest.mark.parametrize("data", [b"", b"[", b"7", b'{"euros":5}', b'{"customer":"ann","euros":null}', b"\xff"])
def test_what_an_upcaster_can_not_read_is_undecodable_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Undecodable, match="version 1"):
        KIND.read(data, 1)


def test_what_it_gives_must_be_data_of_the_event() -> None:
    class Sent(Event, context="orders", version=2):
        to: str

    @upcast(Sent, from_version=1)
    def nothing(data: dict[str, Any]) -> dict[str, Any]:
        return None  # type: ignore[return-value]

    with pytest.raises(Undecodable, match="gave NoneType"):
        describe(Sent).read(b"{}", 1)


@pytest.mark.parametrize("version", [0, 3, 4, True, "1", None])
def test_an_upcaster_leads_from_a_version_below_the_class_s_own(version: Any) -> None:
    with pytest.raises(DeclarationError, match="upcasters from 1 to 2"):
        upcast(Placed, from_version=version)


def test_there_is_one_from_each_version() -> None:
    with pytest.raises(DeclarationError, match="has an upcaster from version 1 already"):
        upcast(Placed, from_version=1)


def test_a_missing_link_is_told_by_name() -> None:
    class Moved(Event, context="orders", version=4):
        to: str

    check_chain(describe(Moved))  # without any, readers are tolerant
    upcast(Moved, from_version=2)(dict)
    with pytest.raises(DeclarationError, match="none from version 1, 3") as caught:
        check_chain(describe(Moved))
    assert [1, 3] == caught.value.details["missing"]
    with pytest.raises(Undecodable, match="there is no upcaster from version 1"):
        describe(Moved).read(b"{}", 1)


async def test_a_missing_link_is_an_error_at_the_start(tmp_path: Path) -> None:
    class Moved(Event, context="orders", version=3):
        to: str

    service = Service("stock")

    @service.on(Moved)
    async def follow(event: Moved) -> None: ...

    upcast(Moved, from_version=2)(dict)
    async with Spine(f"sqlite:///{tmp_path}/spine.db") as spine:
        with pytest.raises(DeclarationError, match="none from version 1"):
            async with spine.running(service):
                pass


@pytest.mark.parametrize("wrong", ["orders.Placed", "", "a b", ("orders.Old", "orders.Old"), 7])
def test_former_names_are_names_that_it_does_not_have(wrong: Any) -> None:
    with pytest.raises((DeclarationError, TypeError)):
        type(Event)("Placed", (Event,), {}, context="orders", renamed_from=wrong)


def test_two_classes_of_one_handler_may_not_share_a_name() -> None:
    class Ordered(Event, context="orders"):
        customer: str

    with pytest.raises(DeclarationError, match="stand for one event type"):

        @Service("stock").on(Placed, Ordered)
        async def both(event: Placed | Ordered) -> None: ...


# --- in handlers --------------------------------------------------------------------------------------------------------


async def test_a_handler_is_given_old_events_as_the_class_of_now() -> None:
    service, seen = Service("stock"), []

    @service.on(Placed)
    async def count(event: Placed) -> None:
        seen.append(event)

    stored = [
        record(type="orders.Placed", version=1, key="ann", data=b'{"customer":"ann","euros":5}'),
        record(type="orders.Ordered", version=2, key="ann", data=b'{"customer":"ann","amount":600}'),
        record(type="shop.Order", version=3, key="ann", data=b'{"customer":"ann","amount":700,"currency":"EUR"}'),
    ]
    async with testing.spine(service) as spine:
        await spine.journal.commit([Unit([Append(stored)])])
        await spine.publish(Placed(customer="ann", amount=800, currency="EUR"))
        await spine.idle()
        assert [500, 600, 700, 800] == [event.amount for event in seen]
        assert seen == spine.published(Placed)
        assert ["orders.Placed", "orders.Ordered", "shop.Order", "orders.Placed"] == [
            envelope.type for envelope in spine.envelopes(Placed)
        ]


async def test_what_is_stored_stays_as_it_was_written() -> None:
    """Positions, ids and idempotency keys are those of the stored event, whatever it is read as."""
    service, keys = Service("stock"), []

    @service.on(Placed)
    async def count(event: Placed, delivery: Any) -> None:
        keys.append((delivery.event_id, delivery.record.version, delivery.record.data))

    old = record(type="orders.Placed", version=1, key="ann", data=b'{"customer":"ann","euros":5}')
    async with testing.spine(service) as spine:
        await spine.journal.commit([Unit([Append([old])])])
        await spine.idle()
        assert [(spine.envelopes()[0].id, 1, old.data)] == keys


async def test_an_event_whose_upcaster_fails_is_dead_and_can_be_replayed_when_it_is_mended() -> None:
    class Sent(Event, context="orders", version=2):
        to: str

    service, seen = Service("stock"), []

    @upcast(Sent, from_version=1)
    def wrong(data: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("to")

    @service.on(Sent)
    async def follow(event: Sent) -> None:
        seen.append(event)

    async with testing.spine(service, failures="retry") as spine:
        await spine.journal.commit([Unit([Append([record(type="orders.Sent", version=1, data=b'{"whom":"ann"}')])])])
        await spine.idle()
        assert ["undecodable"] == [dead.reason for dead in spine.dead()]
        describe(Sent).upcasters[1] = lambda data: {"to": data["whom"]}
        await spine.replay()
        await spine.idle()
    assert [Sent(to="ann")] == seen
