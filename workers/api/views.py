"""What workers ask the server over HTTP."""

from typing import ClassVar

import structlog
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from runqy.api.answers import json_answer
from runqy.api.bodies import read_members

from runqy.accounts.identity import Role
from runqy.api.permissions import identity_of
from runqy.api.schema import problems
from runqy.api.views import KeyedView
from workers.api.examples import ANSWER, REQUEST
from workers.api.inputs import parse_registration
from workers.api.outputs import RegisterBody, RegistrationAnswer, registration_answer
from workers.operations import register_worker

log = structlog.get_logger(__name__)


class RegisterView(KeyedView):
    """Registration of workers."""

    roles: ClassVar = frozenset({Role.WORKER})
    no_store = True

    @extend_schema(
        operation_id="register_worker",
        tags=["workers"],
        request=RegisterBody,
        responses={200: RegistrationAnswer, **problems(400, 401, 403, 404, 409, 413, 415, 503)},
        examples=[REQUEST, ANSWER],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Register a worker: it gets Redis credentials, what to deploy, and decrypted secrets."""
        asked = parse_registration(read_members(request))
        allowed_queues = identity_of(request).queues
        registration = register_worker(queue=asked.queue, worker_id=asked.worker_id, allowed_queues=allowed_queues)
        log.info(
            "worker_registered",
            worker_id=registration.worker_id,
            queue=registration.queue.name,
            hostname=asked.hostname,
            version=asked.version,
        )
        return json_answer(registration_answer(registration))
