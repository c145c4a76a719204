"""Pages and endpoints of a queue besides its form: deletion, check, example, operations, publication, export."""

from collections.abc import Iterable
from typing import Any, cast

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.functional import cached_property
from django.views.generic import FormView, View

from queues.admin.actions import QUEUE_ACTIONS, QueueAction, export_response
from queues.admin.columns import QueueWithStatus
from queues.admin.forms import DeletionForm, QueueForm
from queues.deletion import delete_queue
from queues.models import Queue, QueueDeletion
from queues.operations import publish_again
from queues.repository_check import check_repository
from queues.status import get_queue_statuses
from runqy.admin_site.views import AdminViewMixin
from runqy.config_sync.admin import compared
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker


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
    """Enables, disables, pauses, resumes or redeploys a queue."""

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


class ExportView(QueueView):
    """A queue as a queue file."""

    def get(self, request: HttpRequest, object_id: str) -> HttpResponse:
        queue = self.get_queue()
        return export_response([queue], queue.name)


class NamedQueueView(AdminViewMixin, View):
    """Redirects to the page of a queue, by its name: other apps know no more."""

    def get(self, request: HttpRequest, name: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:queues_queue_change", args=[get_object_or_404(Queue, name=name).pk]))


def add_status(request: HttpRequest, queues: Iterable[QueueWithStatus]) -> None:
    """Set the status of queues. The number of queries does not depend on the number of queues."""
    queues = list(queues)
    statuses = get_queue_statuses(get_broker(), [queue.as_spec() for queue in queues], compared(request))
    deletions = set(QueueDeletion.objects.filter(is_whole=True).values_list("queue", flat=True))
    for queue in queues:
        queue.status = statuses[queue.name]
        queue.may_view_tasks = request.user.has_perm("tasks.view_task")
        queue.may_view_workers = request.user.has_perm("workers.view_worker")
        queue.is_being_deleted = queue.name in deletions


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
