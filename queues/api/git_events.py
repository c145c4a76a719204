"""Events of GitHub, GitLab and Gitea: how they are signed, and the pushes among them."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

import msgspec

from queues.pushes import Push
from queues.webhook_secrets import generate_secret, sign
from runqy.core.formats.json_decoding import read_json
from runqy.core.git.sources import repository_name
from runqy.errors import RequestInvalid

_MAX_AGE_S = 300
"""Of a signature with a time, as the Standard Webhooks specification recommends."""
_EVENT_HEADERS = ("X-GitHub-Event", "X-Gitea-Event", "X-Gitlab-Event")
_SIGNATURE_HEADERS = ("X-Hub-Signature-256", "X-Gitea-Signature", "X-Gitlab-Token", "webhook-signature")
_PUSHES = frozenset({"push", "Push Hook", "Tag Push Hook"})
_PUSHER_LENGTH = 100
_TIME_DIGITS = 12
_NOBODY = generate_secret()
"""Compared if a queue has no secret, so that this takes as long."""


class _Repository(msgspec.Struct, frozen=True):
    """The URLs of a repository: of GitHub and Gitea the first three, of GitLab the others."""

    clone_url: str | None = None
    ssh_url: str | None = None
    html_url: str | None = None
    git_http_url: str | None = None
    git_ssh_url: str | None = None
    web_url: str | None = None


class _Pusher(msgspec.Struct, frozen=True):
    name: str | None = None
    login: str | None = None


class _Event(msgspec.Struct, frozen=True):
    ref: str
    after: str
    repository: _Repository = _Repository()
    project: _Repository = _Repository()
    pusher: _Pusher = _Pusher()
    user_username: str | None = None


def find_refusal(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], *, now_s: int) -> str:
    """Return why an event has no valid signature or token of one of the secrets; empty if it has. In constant time."""
    matches = [_is_signed_by(secret, headers, body, now_s) for secret in secrets or (_NOBODY,)]
    if secrets and any(matches):
        return ""
    if not secrets:
        return "No queue of this name has a secret for pushes."
    if not any(headers.get(name) for name in _SIGNATURE_HEADERS):
        return "It has no signature and no token."
    sent = headers.get("webhook-timestamp", "")
    if sent.isdecimal() and not _is_current(sent, now_s):
        return f"Its webhook-timestamp is more than {_MAX_AGE_S} s from the time of this server."
    return "Its signature or token was not made with the queue's secret."


def is_push(headers: Mapping[str, str]) -> bool:
    return any(headers.get(name) in _PUSHES for name in _EVENT_HEADERS)


def parse_push(body: bytes) -> tuple[Push, str]:
    """Return a push, and who pushed if the event says it. Raise RequestInvalid."""
    try:
        # GitHub and Gitea can send the JSON as a field of a form.
        is_form = body.startswith(b"payload=")
        content = parse_qs(body.decode(), strict_parsing=True)["payload"][0].encode() if is_form else body
        event = read_json(content, _Event)
        urls = [*msgspec.structs.astuple(event.repository), *msgspec.structs.astuple(event.project)]
        repositories = frozenset(repository_name(url) for url in urls if url)
    except (KeyError, ValueError, RecursionError) as error:
        raise RequestInvalid(f"The body is not a push of GitHub, GitLab or Gitea: {error}") from error
    pusher = event.pusher.login or event.pusher.name or event.user_username or ""
    push = Push(ref=event.ref, after=event.after, repositories=repositories, digest=hashlib.sha256(body).hexdigest())
    return push, "".join(filter(str.isprintable, pusher))[:_PUSHER_LENGTH]


def _is_signed_by(secret: str, headers: Mapping[str, str], body: bytes, now_s: int) -> bool:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    matches = [
        _is_equal(headers.get("X-Hub-Signature-256", ""), f"sha256={digest}"),
        _is_equal(headers.get("X-Gitea-Signature", ""), digest),
        _is_equal(headers.get("X-Gitlab-Token", ""), secret),
        *_match_standard(secret, headers, body, now_s),
    ]
    return any(matches)


def _match_standard(secret: str, headers: Mapping[str, str], body: bytes, now_s: int) -> list[bool]:
    """Compare each signature of the Standard Webhooks specification, which GitLab can be told to send."""
    time, message_id = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
    if not time.isdecimal() or not _is_current(time, now_s):
        return []
    expected = sign(body, message_id=message_id, timestamp_s=int(time), secrets=[secret])
    return [_is_equal(given, expected) for given in headers.get("webhook-signature", "").split()]


def _is_current(time: str, now_s: int) -> bool:
    return abs(now_s - int(time[:_TIME_DIGITS])) <= _MAX_AGE_S


def _is_equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
