"""Rolling deploys (R8): the newest generation with a live process does the work; an older one steps back, and may return."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from eventspine import Service
from eventspine.engine import host as hosts
from eventspine.errors import RegistrationRefused

from .material import SHORT_LEASE_S, Cancelled, Placed, Store, host, subscription, until


class Release:
    """One release of a service: what it handled."""

    def __init__(self, *types: type[Any], **options: Any) -> None:
        self.handled: list[tuple[str, int]] = []
        self.service: Service[Any] = Service("mail")
        self.service.on(*types, **{"name": "note", **options})(self.note)

    async def note(self, event: Any) -> None:
        self.handled.append((type(event).__name__, event.number))


async def test_r8_the_older_release_steps_back_and_passes_nothing_that_it_does_not_know(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with one.running(v1.service):
            await one.publish(Placed(number=1))
            await until(lambda: v1.handled == [("Placed", 1)])
            await until(lambda: not subscription(one).at_work)  # else the newer one handles it as well
            async with other.running(v2.service):
                await until(lambda: not host(one).held and len(host(other).held) == 16)
                assert (host(one).leads, host(other).leads) == (False, True)
                await one.publish(Cancelled(number=2), Placed(number=3))
                await until(lambda: v2.handled == [("Cancelled", 2), ("Placed", 3)])
    assert v1.handled == [("Placed", 1)]


async def both_lead(store: Store) -> bool:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with other.running(v2.service), one.running(v1.service):
            return bool(await until(lambda: host(one).held and host(other).held))


async def test_r8_without_generations_both_would_work(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(hosts, "leaders", lambda processes: sorted(processes, key=lambda process: process.id))
    monkeypatch.setattr(hosts.Host, "_newer_seen", -1e9, raising=False)
    wanted = hosts.Host._wanted

    def at_once(one: hosts.Host, view: Any) -> Any:
        one._newer_seen = -1e9
        return wanted(one, view)

    monkeypatch.setattr(hosts.Host, "_wanted", at_once)
    assert await both_lead(store)


async def test_an_older_release_that_starts_beside_a_newer_one_does_no_work(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with one.running(v1.service):
            pass
        async with other.running(v2.service):
            async with one.running(v1.service):
                await one.publish(Placed(number=1))
                await until(lambda: v2.handled == [("Placed", 1)])
                assert not host(one).held
                assert not host(one).leads
    assert v1.handled == []


async def test_an_older_release_leads_again_when_no_newer_one_has_lived_for_two_leases(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    loop = asyncio.get_running_loop()
    async with store.spine(lease_s=SHORT_LEASE_S) as one, store.spine(lease_s=SHORT_LEASE_S) as other:
        async with one.running(v1.service):
            async with other.running(v2.service):
                await until(lambda: not host(one).held and len(host(other).held) == 16)
                last_seen = loop.time()
            await one.publish(Placed(number=1))
            await until(lambda: v1.handled == [("Placed", 1)])
            assert loop.time() - last_seen >= 1.6 * SHORT_LEASE_S


async def test_rolling_back_leads_at_once(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, Cancelled)
    async with store.spine() as spine:
        for release in (v1, v2):
            async with spine.running(release.service):
                pass
        async with spine.running(v1.service, roll_back=True):
            assert host(spine).leads
            await spine.publish(Placed(number=1))
            await until(lambda: v1.handled == [("Placed", 1)])


async def test_the_same_release_in_two_processes_is_one_generation(store: Store) -> None:
    v1 = Release(Placed)
    async with store.spine() as one, store.spine() as other:
        async with one.running(v1.service), other.running(v1.service):
            assert host(one).registered.generation == host(other).registered.generation == 1


# --- how subscriptions start --------------------------------------------------------------------------------------------


async def test_a_services_first_handlers_begin_with_the_first_event(store: Store) -> None:
    v1 = Release(Placed)
    async with store.spine() as spine:
        await spine.publish(Placed(number=1))
        async with spine.running(v1.service):
            await until(lambda: v1.handled == [("Placed", 1)])


@pytest.mark.parametrize(("start", "expected"), [(None, [2]), ("now", [2]), ("earliest", [1, 2])])
async def test_a_handler_added_later_begins_now_unless_it_says_otherwise(
    store: Store, start: Any, expected: list[int]
) -> None:
    v1, v2 = Release(Placed), Release(Placed)
    added: list[int] = []

    async def added_later(event: Placed) -> None:
        added.append(event.number)

    v2.service.on(Placed, **({"start": start} if start else {}))(added_later)
    async with store.spine() as spine:
        await spine.publish(Placed(number=1))
        async with spine.running(v1.service):
            await until(lambda: v1.handled)
        async with spine.running(v2.service):
            await spine.publish(Placed(number=2))
            await until(lambda: added[-1:] == [2])
            await until(lambda: v2.handled == [("Placed", 2)])
    assert added == expected


async def test_a_start_can_be_a_time(store: Store) -> None:
    from datetime import UTC, datetime

    v1 = Release(Placed)
    async with store.spine() as spine:
        await spine.publish(Placed(number=1))
        (record,) = (await spine.journal.feed(0, limit=10)).records
        between = datetime.fromtimestamp((record.recorded_us + 1) / 1e6, UTC)
        await until(lambda: spine.clock.now_us() > record.recorded_us + 2)
        await spine.publish(Placed(number=2))
        late = Release(Placed, start=between)
        async with spine.running(late.service):
            await until(lambda: late.handled == [("Placed", 2)])
    assert v1.handled == []


async def test_a_start_that_might_lose_a_backlog_is_refused_with_the_ways_on(store: Store) -> None:
    v1, v2 = Release(Placed), Release(Placed, name="confirm")
    async with store.spine() as spine:
        async with spine.running(v1.service):
            pass
        await spine.publish(Placed(number=1))
        with pytest.raises(RegistrationRefused, match=r"renamed_from=.*--retire") as refused:
            async with spine.running(v2.service):
                pass
        assert "(1 event not finished)" in str(refused.value)
        assert "name='confirm', renamed_from='note'" in str(refused.value)
        async with spine.running(v2.service, retire=["note"]):
            await spine.publish(Placed(number=2))
            await until(lambda: v2.handled == [("Placed", 2)])


async def test_a_name_to_retire_that_nobody_ever_had_is_told(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """And is no reason not to start: the command line may be kept, and one was retired by it before, or is new here."""
    nothing = "nothing was retired for"
    async with store.spine() as spine:
        for release, retire in ((Release(Placed), []), (Release(Placed, name="confirm"), ["note"])):
            async with spine.running(release.service, retire=retire):
                pass
        async with spine.running(Release(Placed, name="confirm").service, retire=["note", "mail.note"]):
            assert nothing not in caplog.text
        async with spine.running(Release(Placed, name="confirm").service, retire=["blah"]):
            assert f"{nothing} 'blah': no service that runs here has ever had such a subscription" in caplog.text


async def test_a_misspelled_name_to_retire_is_told_with_what_was_meant(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.spine() as spine:
        async with spine.running(Release(Placed).service):
            pass
        nobody: Service[None] = Service("mail")
        async with spine.running(nobody, retire=["mail.noet"]):
            assert "did you mean 'mail.note'?" in caplog.text


async def test_what_the_refusal_says_to_write_is_accepted(store: Store) -> None:
    suggested = re.compile(r"name='(.+?)', renamed_from='(.+?)'")
    async with store.spine() as spine:
        async with spine.running(Release(Placed).service):
            pass
        await spine.publish(Placed(number=1))
        with pytest.raises(RegistrationRefused) as refused:
            async with spine.running(Release(Placed, name="confirm").service):
                pass
        found = suggested.search(str(refused.value))
        assert found is not None
        renamed = Release(Placed, name=found[1], renamed_from=found[2])
        async with spine.running(renamed.service):
            await until(lambda: renamed.handled == [("Placed", 1)])
        assert [row.name for row in await spine.journal.subscriptions()] == ["mail.confirm"]


async def test_what_nobody_subscribed_to_is_passed(store: Store) -> None:
    v1 = Release(Placed)
    async with store.spine() as spine:
        await spine.publish(Cancelled(number=1), Placed(number=2), Cancelled(number=3))
        async with spine.running(v1.service):
            await until(lambda: v1.handled == [("Placed", 2)])
