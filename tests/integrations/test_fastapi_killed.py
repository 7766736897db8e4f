"""A real server, killed at each point between a row, its event and the handler's own rows: both or neither, once."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from .serving import serving, until

REQUEST = ["between the row and its event", "between the event and the commit", "after the commit"]
HANDLER = [
    "in a handler, between its row and join",
    "in a handler, between join and the commit",
    "in a handler, after the commit",
]
APP = "tests.integrations.dying_shop:app"
ORDER = {"sku": "teapot", "units": 1}


def counts(path: Path) -> tuple[int, int, int]:
    """(orders, events, units taken)"""
    with closing(sqlite3.connect(path)) as own:
        orders = own.execute("select count(*) from shop_orders").fetchone()[0]
        events = own.execute("select count(*) from spine_events").fetchone()[0]
        taken = own.execute("select coalesce(sum(taken), 0) from inventory_stock").fetchone()[0]
    return orders, events, taken


def subscription(client: httpx.Client) -> dict[str, int]:
    found: dict[str, int] = client.get("/health").json()["services"][0]["subscriptions"][0]
    return found


@pytest.mark.parametrize("point", REQUEST + HANDLER)
@pytest.mark.promise("process killed", "sqlite")
def test_rows_and_events_of_a_killed_application_are_both_there_or_neither(point: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    settings = {"SHOP_DATABASE": str(path), "DIE_AT": point}
    with serving(APP, tmp_path, **settings) as server, server.client() as client:
        try:
            answered = client.post("/orders", json=ORDER).status_code == 201
        except httpx.TransportError:
            answered = False
        assert server.process.wait(60) == -signal.SIGKILL, server.log
    assert answered is False or point in HANDLER
    orders, events, _ = counts(path)
    assert orders == events == (0 if point in REQUEST[:2] else 1)

    with serving(APP, tmp_path, **settings) as server, server.client() as client:
        assert client.post("/orders", json=ORDER).status_code == 201, server.log
        until(lambda: subscription(client)["position"] == events + 1, lambda: server.log)
        until(lambda: counts(path) == (orders + 1,) * 3, lambda: f"{counts(path)}\n{server.log}")
        assert subscription(client)["at_work"] == 0
        assert client.get("/stock/teapot").json() == {"taken": orders + 1}
        assert server.stop() in (0, -signal.SIGTERM), server.log
    assert counts(path) == (orders + 1,) * 3


def test_two_commits_instead_lose_the_event(tmp_path: Path) -> None:
    """Why within= is there: the same kill, with the row committed by itself."""
    path = tmp_path / "shop.db"
    settings = {"SHOP_DATABASE": str(path), "DIE_AT": "after the commit"}
    with serving(APP, tmp_path, **settings) as server, server.client() as client:
        with pytest.raises(httpx.TransportError):
            client.post("/careless", json=ORDER)
        assert server.process.wait(60) == -signal.SIGKILL, server.log
    assert counts(path)[:2] == (1, 0)
