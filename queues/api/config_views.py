"""The configuration of queues over HTTP. Only administrators get here."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from runqy.api.answers import json_answer
from runqy.api.bodies import read_members
from runqy.api.parameters import read_flag

from queues.api import config_examples as examples
from queues.api import config_outputs as outputs
from queues.api.config_inputs import parse_stated
from queues.configurations import get_configuration, list_configurations
from queues.configuring import state_queue
from queues.loading import LoadReport, load_queue_files
from queues.operations import spec_version
from queues.removal import remove_queue
from queues.statistics import find_unserved
from runqy import clock
from runqy.api.permissions import identity_of
from runqy.api.preconditions import if_match, is_known, not_modified, tagged
from runqy.api.schema import IF_MATCH, IF_NONE_MATCH, problems
from runqy.api.views import KeyedView
from runqy.connection import get_broker
from runqy.errors import BrokerUnavailable


class ConfigsView(KeyedView):
    """A view of configuration; values of environment variables are in it, which some take for a place for secrets."""

    no_store = True


class ConfigListView(ConfigsView):
    """All queue configurations."""

    is_of_queues = True

    @extend_schema(
        operation_id="list_configs",
        tags=["configs"],
        responses={200: outputs.ConfigList, **problems(401, 403, 503)},
        examples=[examples.CONFIG_LIST],
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """List all queue configurations."""
        views = list_configurations(allowed_queues=identity_of(request).queues)
        return json_answer({"queues": [outputs.config_answer(view) for view in views], "count": len(views)})

    @extend_schema(
        operation_id="create_config",
        tags=["configs"],
        parameters=[OpenApiParameter("force", bool, description="Update the queue if it exists"), IF_MATCH],
        request=outputs.ConfigBody,
        responses={
            200: outputs.ConfigSaved,
            201: outputs.ConfigSaved,
            **problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        },
        examples=[examples.CONFIG_BODY, examples.CONFIG_CREATED, examples.CONFIG_UPDATED],
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Create a new queue configuration, or with force=true update one."""
        view, is_new = state_queue(
            stated=parse_stated(read_members(request)),
            force=read_flag(request, "force"),
            allowed_queues=identity_of(request).queues,
            check=if_match(request),
        )
        message = f"Queue {'created' if is_new else 'updated'} successfully"
        answer = json_answer({"queue": outputs.config_answer(view), "message": message}, status=201 if is_new else 200)
        return tagged(answer, spec_version(view.spec))


class ConfigView(ConfigsView):
    """One queue configuration."""

    is_of_queues = True

    @extend_schema(
        operation_id="get_config",
        tags=["configs"],
        parameters=[IF_NONE_MATCH],
        responses={200: outputs.ConfigOutput, 304: None, **problems(401, 403, 404, 503)},
        examples=[examples.CONFIG],
    )
    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show a queue configuration; its ETag is for If-Match."""
        view = get_configuration(name, allowed_queues=identity_of(request).queues)
        version = spec_version(view.spec)
        if is_known(request, version):
            return not_modified(version)
        return tagged(json_answer(outputs.config_answer(view)), version)

    @extend_schema(
        operation_id="replace_config",
        tags=["configs"],
        parameters=[
            OpenApiParameter(
                "If-Match",
                str,
                OpenApiParameter.HEADER,
                required=True,
                description="The ETag of what is to be replaced",
            )
        ],
        request=outputs.ConfigBody,
        responses={200: outputs.ConfigSaved, **problems(400, 401, 403, 404, 409, 412, 413, 415, 428, 503)},
        examples=[examples.CONFIG_BODY, examples.CONFIG_UPDATED],
    )
    def put(self, request: HttpRequest, name: str) -> HttpResponse:
        """Replace a queue configuration as a whole; If-Match with its ETag is required."""
        check = if_match(request, is_required=True)
        allowed_queues = identity_of(request).queues
        queue = get_configuration(name, allowed_queues=allowed_queues).spec.name
        stated = parse_stated(read_members(request), name=queue)
        view, _ = state_queue(stated=stated, force=True, allowed_queues=allowed_queues, check=check)
        answer = json_answer({"queue": outputs.config_answer(view), "message": "Queue updated successfully"})
        return tagged(answer, spec_version(view.spec))

    @extend_schema(
        operation_id="delete_config",
        tags=["configs"],
        parameters=[
            OpenApiParameter("force", bool, description="Remove tasks that wait or run, too"),
            IF_MATCH,
        ],
        responses={200: outputs.ConfigRemoved, **problems(400, 401, 403, 404, 409, 412, 503)},
        examples=[examples.CONFIG_REMOVED],
    )
    def delete(self, request: HttpRequest, name: str) -> HttpResponse:
        """Delete a queue configuration, and all that Redis holds of the queue."""
        removed = remove_queue(
            get_broker(),
            name=name,
            force=read_flag(request, "force"),
            allowed_queues=identity_of(request).queues,
            check=if_match(request),
        )
        return json_answer(outputs.removed_answer(removed))


class ReloadView(ConfigsView):
    """The queue files."""

    @extend_schema(
        operation_id="reload_configs",
        tags=["configs"],
        parameters=[
            OpenApiParameter("prune", bool, description="Remove queues that vanished from the files"),
            OpenApiParameter("force", bool, description="With `prune`: also queues whose tasks wait or run"),
        ],
        request=None,
        responses={200: outputs.ReloadOutput, **problems(400, 401, 403, 503)},
        examples=[examples.CONFIG_RELOADED],
    )
    def post(self, request: HttpRequest, **_: str) -> HttpResponse:
        """Reload configurations from YAML; a file with an error changes nothing, the others are loaded."""
        asked = {name: read_flag(request, name) for name in ("prune", "force")}
        report = load_queue_files(directory=settings.QUEUE_WORKERS_DIR, **asked)
        return json_answer(outputs.reload_answer(report, unserved=_unserved(report), now_s=clock.now_ns() // 10**9))


def _unserved(report: LoadReport) -> list[str] | None:
    """Return what no worker serves of what the files define; None while Redis is away, where it will be published."""
    try:
        return find_unserved(get_broker(), [*report.added, *report.updated, *report.unchanged])
    except BrokerUnavailable:
        return None


_HIDDEN = extend_schema(exclude=True)


@extend_schema_view(get=_HIDDEN, put=_HIDDEN, delete=_HIDDEN)
class ReloadOrConfigView(ConfigView):
    """The queue files, at a path that is also the one of a queue called `reload`: only the former takes a POST."""

    post = ReloadView.post

    @property
    def is_of_queues(self) -> bool:  # type: ignore[override]
        """Tell what a request is about."""
        return self.request.method != "POST"
