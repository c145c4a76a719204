"""The webhook of git hosts, and its secret."""

from typing import Any, ClassVar, cast

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
from queues.api.git_events import find_refusal, is_push, parse_push
from queues.pushes import PushResult, receive_push
from queues.webhook_secrets import QueueSecret, find_git_hook_secrets, rotate_queue_secret, show_queue_secret
from runqy import clock
from runqy.accounts.authentication import ApiClient
from runqy.api.parsers import RawJSONParser, refuse_members
from runqy.api.requests import AuthenticatedRequest, RateLimitReport
from runqy.api.schema import operation
from runqy.api.throttling import failure_limiter
from runqy.api.viewsets import ApiViewSet
from runqy.audit.actors import Actor, ActorKind, actor_context
from runqy.core.telemetry.request_ids import current_request_id
from runqy.errors import PushUnsigned, RequestInvalid
from runqy.redis_connection import get_broker

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
