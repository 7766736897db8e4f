"""A request's id is the correlation of what it causes, and stands in the response."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from django.conf import settings
from django.db import connections
from django.test import AsyncClient, Client, override_settings

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def correlations(stored):
    return [correlation for (correlation,) in stored.ask("select correlation from spine_events")]


@pytest.mark.parametrize("url", ["/say/", "/async/say/"])
def test_what_a_request_publishes_belongs_to_its_id(stored, url):
    response = Client().post(url, headers={"X-Request-ID": "r-1", "traceparent": TRACE})
    assert ("r-1", TRACE) == (response["X-Request-ID"], response["traceparent"])
    assert response.content == b"r-1"
    assert ["r-1"] == correlations(stored)
    ((meta,),) = stored.ask("select meta from spine_events")
    assert b"0af7651916cd43dd8448eb211c80319c" in meta


@pytest.mark.parametrize("url", ["/say/", "/async/say/"])
def test_the_same_under_asgi(stored, url):
    async def ask():
        response = await AsyncClient().post(url, headers={"X-Request-ID": "r-2"})
        from asgiref.sync import sync_to_async

        await sync_to_async(connections.close_all)()
        return response

    response = asyncio.run(ask())
    assert ("r-2", b"r-2") == (response["X-Request-ID"], response.content)
    assert ["r-2"] == correlations(stored)


def test_one_is_made_where_it_is_missing_malformed_or_not_trusted(stored):
    client = Client()
    with override_settings(EVENTSPINE={**settings.EVENTSPINE, "TRUST_REQUEST_ID": False}):
        answers = [client.post("/async/say/", headers={"X-Request-ID": "r-1", "traceparent": TRACE})]
    answers += [client.post("/async/say/", headers=headers) for headers in ({}, {"X-Request-ID": "a b\n"})]
    made = [response["X-Request-ID"] for response in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in made)
    assert len(set(made)) == 3
    assert TRACE not in [response["traceparent"] for response in answers]
    assert made == correlations(stored)


@pytest.mark.parametrize("url", ["/stream/", "/async/stream/"])
def test_a_body_that_is_made_while_it_is_sent_belongs_to_it_too(url):
    async def ask():
        response = await AsyncClient().get(url, headers={"X-Request-ID": "r-3"})
        return b"".join([part async for part in response])

    if url == "/async/stream/":
        assert asyncio.run(ask()) == b"r-3"
    else:
        response = Client().get(url, headers={"X-Request-ID": "r-3"})
        assert b"".join(response) == b"r-3r-3"


ACTOR = "tests.integrations.django_project.urls:actor_of"


@pytest.mark.parametrize("url", ["/say/", "/async/say/"])
@pytest.mark.parametrize("asgi", [False, True])
@pytest.mark.parametrize("user", ["user:42", None])
def test_who_has_it_done_is_asked_before_the_view(stored, url, asgi, user):
    headers = {} if user is None else {"Authorization": user}

    async def ask():
        response = await AsyncClient().post(url, headers=headers)
        from asgiref.sync import sync_to_async

        await sync_to_async(connections.close_all)()
        return response

    with override_settings(EVENTSPINE={**settings.EVENTSPINE, "ACTOR": ACTOR}):
        asyncio.run(ask()) if asgi else Client().post(url, headers=headers)
    found = [json.loads(meta).get("actor") for (meta,) in stored.ask("select meta from spine_events")]
    assert [user] == found


@pytest.mark.parametrize(
    ("place", "told"),
    [("urls", "write the module and the name in it: 'shop.auth:actor_of'"), ("json:nothing", "does not exist"),
     ("json:__name__", "is a str, no function")],
)  # fmt: skip
def test_a_function_for_it_that_is_none_is_refused_with_what_to_write(place, told):
    from eventspine.errors import SettingsError

    with (
        override_settings(EVENTSPINE={**settings.EVENTSPINE, "ACTOR": place}),
        pytest.raises(SettingsError, match=told),
    ):
        Client().post("/say/")
