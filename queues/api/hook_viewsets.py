"""The webhook of git hosts, and its secret.

Events of GitHub, GitLab and Gitea: how they are signed, and the pushes among them.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast
from urllib.parse import parse_qs

import msgspec
import structlog
from django.utils.decorators import method_decorator
from django.views.decorators.cache import cache_control
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from queues.api import release_serializers as s
from queues.pushes import Push, PushResult, receive_push
from queues.webhook_secrets import (
    QueueSecret,
    find_git_hook_secrets,
    generate_secret,
    rotate_queue_secret,
    show_queue_secret,
    sign,
)
from runqy import clock
from runqy.accounts.authentication import ApiClient
from runqy.api.parsers import RawJSONParser, refuse_members
from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.api.schema import operation
from runqy.api.throttling import failure_limiter
from runqy.api.viewsets import ApiViewSet
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.core.formats.json_decoding import read_json
from runqy.core.git.sources import repository_name
from runqy.core.telemetry.tracing import current_request_id
from runqy.errors import PushUnsigned, RequestInvalid
from runqy.redis_connection import get_broker

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


log = structlog.get_logger(__name__)


class PushAuthentication(BaseAuthentication):
    """Authenticate an event of a git host by its signature or token, which the queue's secret makes.

    An unknown queue, one without a secret, and a wrong signature are the same to the sender.
    """

    def authenticate(self, request: Request) -> tuple[ApiClient, None]:
        """Raise MethodNotAllowed, PushUnsigned, TooManyFailures, VaultLocked, and as `_body`."""
        if request.method != "POST":  # DRF authenticates before it looks at the method
            raise MethodNotAllowed(str(request.method))
        body, queue = _body(request), (request.parser_context or {})["kwargs"]["queue"]
        refusal = find_refusal(request.headers, body, find_git_hook_secrets(queue), now_s=clock.now_ns() // 10**9)
        if not refusal:
            return ApiClient("git hook"), None
        limiter = failure_limiter(request.META.get("REMOTE_ADDR", ""))
        try:
            get_broker().run(limiter.count(get_broker()))
        finally:
            if limiter.headers:
                cast(AuthenticatedRequest, request).rate_limit = RateLimitReport(limiter.headers)
        # After the limit: forgeries do not fill the log. The sender does not learn the reason.
        log.warning("push_refused", queue=queue, reason=refusal, address=request.META.get("REMOTE_ADDR", ""))
        raise PushUnsigned


class PushScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The security scheme in the OpenAPI schema."""

    target_class = PushAuthentication
    name = "PushSignature"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "X-Hub-Signature-256",
            "description": "Of GitHub and Gitea; X-Gitea-Signature, X-Gitlab-Token or webhook-signature instead",
        }


class GitHookViewSet(ApiViewSet):
    """The webhook that git hosts send pushes to."""

    tag: ClassVar = "queues"
    authentication_classes = [PushAuthentication]
    permission_classes = [IsAuthenticated]
    throttle_classes = []
    parser_classes = [RawJSONParser]  # the bytes are signed, also of a form

    @operation(
        "receive_push",
        s.PushReceivedSerializer,
        request={"application/json": s.PushSerializer, "application/x-www-form-urlencoded": s.PushFormSerializer},
    )
    def receive(self, request: Request, queue: str) -> Response:
        """Release the newest commit of a queue's branch: for the webhooks of GitHub, GitLab and Gitea.

        The queue has `release: push`, and the event is signed with its secret. The commit is read from the repository,
        not from the event. Another event, a push to another branch or repository, and a push that was received before
        release nothing.
        """
        if not is_push(request.headers):
            result = PushResult(queue=queue, message="Only pushes release something.")
        else:
            push, pusher = parse_push(_body(request))
            actor = Actor(
                kind=ActorKind.HOOK,
                name=pusher or "git host",
                address=request.META.get("REMOTE_ADDR", ""),
                request_id=current_request_id(),
            )
            with actor_context(actor):
                result = receive_push(push, queue=queue)
        return Response(s.PushReceivedSerializer(result).data)


@method_decorator(cache_control(no_store=True), name="dispatch")
class GitHookSecretViewSet(ApiViewSet):
    """The secret that signs the pushes to a queue's repository."""

    tag: ClassVar = "queues"
    allows_queue_scoped_keys: ClassVar = True

    @operation("show_git_hook_secret", s.GitHookSecretSerializer, errors=(400, 409), request=None)
    def show(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Return the secret for the webhook of the queue's git host, this once; then it is 409."""
        refuse_members(request)
        secret = show_queue_secret(queue, which=QueueSecret.GIT_HOOK, allowed_queues=request.auth.queues)
        return Response(s.GitHookSecretSerializer({"secret": secret}).data)

    @operation("rotate_git_hook_secret", s.GitHookSecretSerializer, errors=(400,), request=None)
    def rotate(self, request: AuthenticatedRequest, queue: str) -> Response:
        """Give a queue a new secret for the webhook of its git host; for 24 hours the old one is valid too."""
        refuse_members(request)
        secret = rotate_queue_secret(queue, which=QueueSecret.GIT_HOOK, allowed_queues=request.auth.queues)
        return Response(s.GitHookSecretSerializer({"secret": secret}).data)


def _body(request: Request) -> bytes:
    """Return the bytes of an event. Raise RequestInvalid, RequestTooLarge, EncodingUnsupported."""
    if not isinstance(request.data, bytes):  # DRF calls no parser for an empty body
        raise RequestInvalid("The body is empty; it must be an event of a git host.")
    return request.data
