"""Pages and endpoints of a queue besides its form: deletion, check, example, operations, publication, export."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.http import urlencode
from django.views.generic import FormView, View

from queues.admin.actions import QUEUE_ACTIONS, QueueAction, export_response
from queues.admin.columns import OPTIONAL_COLUMNS, QueueWithStatus
from queues.admin.forms import DeletionForm, QueueForm
from queues.definitions import QueueBase
from queues.deletion import delete_queue
from queues.models import Queue, QueueDeletion
from queues.operations import publish_again
from queues.queries import get_fresh_catalog
from queues.repository_check import check_repository
from queues.status import get_queue_statuses
from queues.webhook_secrets import QueueSecret, rotate_queue_secret, show_queue_secret
from runqy.admin_site.views import AdminViewMixin, render_rotation, render_webhook_secret
from runqy.configuration.admin import compared
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker
from vaults.models import SealedSecret

_SECRET_VERBS = {"show": show_queue_secret, "rotate": rotate_queue_secret}
_PERMISSIONS = {"tasks": "tasks.view_task", "workers": "workers.view_worker", "alerts": "alerts.view_alert"}
COLUMNS_COOKIE = "runqy_queue_columns"
_COLUMNS_KEPT_S = 365 * 86_400


class QueueView(AdminViewMixin, View):
    """A page of a queue, or an action on it."""

    permission = "change"

    def get_queue(self) -> QueueWithStatus:
        queue = self.model_admin.get_object(self.request, self.kwargs["object_id"])
        if queue is None:
            raise Http404
        return cast("QueueWithStatus", queue)


class DeleteView(QueueView, FormView):  # type: ignore[type-arg]
    """The page that lists what is deleted with a queue. A POST deletes the queue."""

    permission = "delete"
    template_name = "queues/admin/delete.html"
    form_class = DeletionForm

    @cached_property
    def queue(self) -> QueueWithStatus:
        queue = self.get_queue()
        add_status(self.request, [queue])
        return queue

    def get_form_kwargs(self) -> dict[str, Any]:
        return super().get_form_kwargs() | {"name": self.queue.name}

    def form_valid(self, form: DeletionForm) -> HttpResponse:
        if not _delete(self.request, self.queue):
            return self.form_invalid(form)
        self.model_admin.log_deletions(self.request, [self.queue])  # type: ignore[arg-type]  # Django only iterates over it
        return HttpResponseRedirect(reverse("admin:queues_queue_changelist"))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | {
            "title": f"Delete {self.queue.name}",
            "opts": self.model_admin.opts,
            "queue": self.queue,
            "original": self.queue,
            "media": self.model_admin.media,
        }


class CheckView(AdminViewMixin, View):
    """Whether a repository and its branch can be reached."""

    permission = "change"

    def post(self, request: HttpRequest) -> JsonResponse:
        fields = {name: request.POST.get(name, "").strip() for name in ("git_url", "branch", "git_token", "queue")}
        result = check_repository(
            **fields | {"branch": fields["branch"] or "main"}, may_grant_vaults=may_grant_vaults(request)
        )
        return JsonResponse({"is_ready": result.is_ready, "message": result.message})


class ExampleView(AdminViewMixin, View):
    """An example task for the submitted form."""

    def has_permission(self) -> bool:
        ours = self.model_admin
        return ours.has_change_permission(self.request) or ours.has_add_permission(self.request)

    def post(self, request: HttpRequest) -> JsonResponse:
        form = QueueForm(request.POST)
        form.server_url = server_url(request)
        return JsonResponse(form.current_example())


class SwitchView(QueueView):
    """Enables, disables, pauses, resumes, redeploys or rolls back a queue."""

    @cached_property
    def chosen(self) -> QueueAction | None:
        return QUEUE_ACTIONS.get(self.request.POST.get("verb", ""))

    @property
    def permission(self) -> str:  # type: ignore[override]
        return self.chosen.permission if self.chosen else "change"

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        queue = self.get_queue()
        if self.chosen is None:
            raise Http404
        self.chosen.apply(request, [queue.name])
        if request.POST.get("next") == "releases":
            return HttpResponseRedirect(f"{reverse('admin:tasks_task_releases')}?{urlencode({'queue': queue.name})}")
        return _redirect_to(queue)


class PublishView(QueueView):
    """Publishes the part of the configuration that Redis lacks."""

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        queue = self.get_queue()
        try:
            comparison = publish_again(name=queue.name)
        except RunqyError as error:
            messages.error(request, error.detail)
            return _redirect_to(queue)
        if comparison.ahead:
            messages.warning(request, comparison.detail)
        else:
            messages.success(request, f"{queue.name} is published.")
        return _redirect_to(queue)


class WebhookSecretView(QueueView):
    """Shows a secret of a queue, which happens once, or rotates it."""

    which = QueueSecret.WEBHOOK

    def post(self, request: HttpRequest, object_id: str) -> HttpResponse:
        queue, verb = self.get_queue(), request.POST.get("verb", "")
        if verb not in _SECRET_VERBS:
            raise Http404
        is_git_hook, page_url = (
            self.which is QueueSecret.GIT_HOOK,
            reverse("admin:queues_queue_change", args=[queue.pk]),
        )
        signed_by = f"{'Pushes to the repository' if is_git_hook else 'Webhooks of tasks'} of {queue.name}"
        stored: SealedSecret | None = getattr(queue, self.which)
        if verb == "rotate" and stored and "confirmed" not in request.POST:
            until = stored.find_previous_until(timezone.now())
            return render_rotation(
                self.model_admin, request, signed_by=signed_by, page_url=page_url, previous_until=until
            )
        return render_webhook_secret(
            self.model_admin,
            request,
            secret=_SECRET_VERBS[verb](queue.name, which=self.which),
            signed_by=signed_by,
            page_url=page_url,
            page_label="To the queue",
            is_rotated=verb == "rotate",
            hook_url=f"{server_url(request)}{reverse('git-hook', args=[queue.name])}" if is_git_hook else "",
        )


class GitHookSecretView(WebhookSecretView):
    which = QueueSecret.GIT_HOOK


class ExportView(QueueView):
    """A queue as a queue file."""

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        queue = self.get_queue()
        return export_response([queue], queue.name)


class ColumnsView(AdminViewMixin, View):
    """Keeps in the browser which columns its user adds to the list."""

    def post(self, request: HttpRequest) -> HttpResponse:
        response = HttpResponseRedirect(f"{reverse('admin:queues_queue_changelist')}?{request.POST.get('query', '')}")
        chosen = [name for name in OPTIONAL_COLUMNS if name in request.POST.getlist("column")]
        response.set_cookie(
            COLUMNS_COOKIE,
            ".".join(chosen),
            max_age=_COLUMNS_KEPT_S,
            path=reverse("admin:queues_queue_changelist"),
            secure=settings.SESSION_COOKIE_SECURE,
            httponly=True,
            samesite="Lax",
        )
        return response


def read_columns(request: HttpRequest) -> list[str]:
    """Return the columns that the user has added to the list."""
    chosen = request.COOKIES.get(COLUMNS_COOKIE, "").split(".")
    return [name for name in OPTIONAL_COLUMNS if name in chosen]


class NamedQueueView(AdminViewMixin, View):
    """Redirects to the page of a queue, by its name: other apps know no more."""

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:queues_queue_change", args=[get_object_or_404(Queue, name=name).pk]))


def add_status(request: HttpRequest, queues: Iterable[QueueWithStatus]) -> None:
    """Set the status of queues, which have all their columns."""
    queues = list(queues)
    _set_statuses(request, queues, [queue.as_spec() for queue in queues])


def add_list_status(request: HttpRequest, queues: Sequence[QueueWithStatus]) -> None:
    """Set the status of many queues, which need only the columns of the list, by their published definitions.

    The number of queries does not depend on the number of queues.
    """
    catalog = get_fresh_catalog(max_age_s=0)
    found: dict[str, QueueBase | None] = {queue.name: catalog.find_queue(queue.name) for queue in queues}
    unpublished = Queue.objects.filter(name__in=[name for name, published in found.items() if published is None])
    found |= {queue.name: queue.as_spec() for queue in unpublished.prefetch_related("sub_queues")}
    _set_statuses(request, queues, [spec for spec in found.values() if spec is not None])


def _set_statuses(request: HttpRequest, queues: Iterable[QueueWithStatus], specs: Sequence[QueueBase]) -> None:
    statuses = get_queue_statuses(get_broker(), specs, compared(request))
    deletions = set(QueueDeletion.objects.filter(is_whole=True).values_list("queue", flat=True))
    may = {f"may_view_{name}": request.user.has_perm(permission) for name, permission in _PERMISSIONS.items()}
    for queue in queues:
        queue.status = statuses[queue.name]
        queue.is_being_deleted = queue.name in deletions
        for name, is_allowed in may.items():
            setattr(queue, name, is_allowed)


def may_grant_vaults(request: HttpRequest) -> bool:
    """Return whether a user may let queues use vaults, and send tokens from vaults to git hosts."""
    return request.user.has_perm("vaults.change_vault")


def server_url(request: HttpRequest) -> str:
    return request.build_absolute_uri("/").rstrip("/")


def _delete(request: HttpRequest, queue: QueueWithStatus) -> bool:
    try:
        # Not in a transaction, unlike Django's deletion: other processes must see each step.
        deleted = delete_queue(get_broker(), name=queue.name, force=True)
    except RunqyError as error:
        messages.error(request, error.detail)
        return False
    count = sum(deleted.tasks.values())
    tasks = f"{count:,} {'task' if count == 1 else 'tasks'}"
    if deleted.is_finished:
        messages.success(request, f"The queue {queue.name} was deleted with {tasks}.")
    else:
        messages.success(request, f"The queue {queue.name} was deleted. Its {tasks} are being deleted.")
    return True


def _redirect_to(queue: Queue) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:queues_queue_change", args=[queue.pk]))
