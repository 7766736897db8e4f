"""How this process is doing: plain data for health checks, `spine doctor` and `top`. No secrets: what it says may be
read by whoever can reach the endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..journal import without_password
from ..journal.held import waits_for_lock
from ..journal.port import Journal
from ..wording import plural
from .readers import ROOM

if TYPE_CHECKING:
    from .carrying import Carrying
    from .host import Host
    from .runtime import Runtime
    from .subscription import Subscription

WAIT_MOST_S = 5.0  # for the write lock before it is worth a word


def health(journal: Journal, runtimes: Iterable[Runtime], carrying: Carrying | None = None) -> dict[str, Any]:
    runtimes = list(runtimes)
    services = [_host(host) for runtime in runtimes for host in runtime.hosts]
    problems = [problem for runtime in runtimes for problem in _problems(runtime)]
    problems += filter(None, [waits_for_lock(journal, WAIT_MOST_S)])
    problems += carrying.problems() if carrying else ()
    failed = any(runtime.failure is not None for runtime in runtimes)
    status = "failed" if failed else "degraded" if problems else "ok"
    return {
        "status": status,
        "journal": without_password(journal.url),
        "problems": [without_password(problem) for problem in problems],
        "draining": any(service["state"] == "draining" for service in services),
        "services": services,
        **({"broker": carrying.health()} if carrying else {}),
    }


def is_ready(health: dict[str, Any]) -> bool:
    """Whether all that runs here is registered, and leads or knowingly stands by."""
    return health["status"] not in ("failed", "closed") and all(
        one["state"] in ("leads", "stands by") for one in health["services"]
    )


def _problems(runtime: Runtime) -> Iterable[str]:
    if runtime.failure is not None:
        yield str(runtime.failure)
    if runtime.committer.trouble is not None:
        yield f"commits do not get through: {runtime.committer.trouble}"
    if runtime.stuck_threads:
        threads = plural(runtime.stuck_threads, "handler thread is", "handler threads are")
        yield f"{threads} stuck past the handler's timeout_s"
    for host in runtime.hosts:
        if host.trouble is not None:
            yield f"the leases of {host.service.name} can't be renewed: {host.trouble}"
        for one in host.subscriptions:
            if host.stalled(one):
                yield f"{one.name} makes no progress though there is work"
            if (problem := one.workers.faults.problem) is not None:
                yield problem
            if one.waiting.full and one.capacity < ROOM:
                yield (
                    f"{one.name} reads no further: {plural(one.waiting.count, 'delivery waits', 'deliveries wait')} behind keys that fail. Mend the "
                    f"handler, or give up the first of each such key: `spine parked list`, `spine parked skip`."
                )


def _host(host: Host) -> dict[str, Any]:
    return {
        "service": host.service.name,
        "state": _state(host),
        "generation": host.registered.generation if host.started else None,
        "leads": host.leads,
        "partitions": sorted(host.held),
        "fenced": host.fenced,
        "restarts": host.restarts,
        "subscriptions": [_subscription(one) for one in host.subscriptions],
    }


def _state(host: Host) -> str:
    if host.stopping:
        return "draining"
    if not host.started:
        return "starting"
    if host.trouble is not None and host.out_of_trust:
        return "cut off"  # from the journal, for so long that others may have taken over
    return "leads" if host.leads else "stands by"  # for a newer generation


def _subscription(one: Subscription) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state,
        "position": min((part.last for part in one.parts.values()), default=None),
        "in_memory": one.lanes.size,
        "in_memory_bytes": one.bytes,
        "at_work": one.at_work,
        "waiting_rows": one.waiting.count,
        "handled": one.handled,
        "failures": one.waiting.failures,
    }
