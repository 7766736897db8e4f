from __future__ import annotations

from django.db import transaction
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from eventspine.integrations.django import (
    apublish,
    asend,
    command_of,
    idempotency_key,
    publish,
    send,
    token_of,
    view,
)
from eventspine.observe.correlation import current

from .desk.events import Bills, Counts, Said, Say
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


def command(request):
    return JsonResponse({"id": send(command_of(request, Say), command_id=idempotency_key(request))}, status=201)


async def command_async(request):
    return JsonResponse({"id": await asend(command_of(request, Say), command_id=idempotency_key(request))}, status=201)


def counts(request, name):
    reading = view(Counts)
    reading.wait(token_of(request), timeout_s=float(request.GET.get("wait", 10)))
    row = reading.get(name)
    return JsonResponse({"n": row.n if row else 0})


def bills(request, shop):
    return JsonResponse({"n": len(view(Bills, tenant=shop).all())})


urlpatterns = [
    path("bills/<shop>/", bills),
    path("command/", command),
    path("async/command/", command_async),
    path("counts/<name>/", counts),
    path("say/", say),
    path("async/say/", say_async),
    path("stream/", stream),
    path("async/stream/", stream_async),
]
