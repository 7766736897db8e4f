from __future__ import annotations

from django.db import transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

from eventspine.integrations.django import apublish, publish
from eventspine.observe.correlation import current

from .desk.events import Said
from .desk.models import Row


@transaction.atomic
def say(request):
    Row.objects.create(name="ann")
    publish(Said())
    return HttpResponse(current.get().correlation)


async def say_async(request):
    await apublish(Said())
    return HttpResponse(current.get().correlation)


def stream(request):
    return StreamingHttpResponse(current.get().correlation for _ in range(2))


async def stream_async(request):
    async def parts():
        yield current.get().correlation

    return StreamingHttpResponse(parts())


def actor_of(request):
    return request.headers.get("Authorization")


urlpatterns = [
    path("say/", say),
    path("async/say/", say_async),
    path("stream/", stream),
    path("async/stream/", stream_async),
]
