"""Lets clients wait for the end of a task: what they ask for, and what the answer says about it."""

import re
from typing import Any
from urllib.parse import quote

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter

from runqy import durations
from runqy.api.answers import json_answer
from runqy.broker.records import TaskRecord
from runqy.errors import RequestInvalid

MAX_WAIT_S = 300

WAIT_PARAMETERS = [
    OpenApiParameter(
        "wait",
        str,
        description=f"Seconds, or a duration such as `1m`, to wait for the task's end, at most {MAX_WAIT_S} s",
    ),
    OpenApiParameter("Prefer", str, OpenApiParameter.HEADER, description="`wait=<seconds>`, RFC 7240"),
]

_PREFERRED = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)", re.IGNORECASE)


class Wait(msgspec.Struct, frozen=True):
    """For how long a client wants to wait."""

    seconds: float
    """0: not at all."""
    is_preference: bool = False
    """It was asked for by `Prefer: wait=`, RFC 7240."""


def read_wait(request: HttpRequest) -> Wait:
    """Return for how long a client wants to wait, by `?wait=` or by the header `Prefer: wait=`.

    Raises RequestInvalid for what is no span of time; a longer one than is offered becomes the longest.
    """
    meta = request.META
    query = request.GET.get("wait") if meta.get("QUERY_STRING") else None
    if query is None:
        preferred = _PREFERRED.search(meta["HTTP_PREFER"]) if "HTTP_PREFER" in meta else None
        return Wait(min(float(preferred[1]), MAX_WAIT_S), is_preference=True) if preferred else Wait(0)
    try:
        seconds = float(query) if re.fullmatch(r"[0-9]*\.[0-9]+", query) else durations.parse_ns(query) / 1e9
    except ValueError as error:
        raise RequestInvalid(errors=[f"wait: {error}"]) from error
    return Wait(min(seconds, MAX_WAIT_S))


def waited_answer(content: Any, record: TaskRecord, wait: Wait) -> HttpResponse:
    """Return 200 for a task that is over, else 202 with where to look for it."""
    answer = json_answer(content, status=200 if record.state.is_final else 202)
    if not record.state.is_final:
        answer["Location"] = f"/queue/{quote(record.id, safe='')}"
    if wait.is_preference:
        answer["Preference-Applied"] = f"wait={wait.seconds:.0f}"
    return answer
