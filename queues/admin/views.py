"""Pages and endpoints of a queue beside its form: deletion, check, example, operations, publication, export."""

from typing import Any, cast

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse

from queues.admin.actions import OPERATIONS, apply_to_queues, export_response
from queues.admin.columns import QueueWithStatus
from queues.admin.forms import DeletionForm, QueueForm
from queues.deletion import delete_queue
from queues.models import Queue
from queues.operations import publish_again
from queues.repository_check import check_repository
from runqy.errors import RunqyError
from runqy.redis_connection import get_broker


def deletion_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, queue: QueueWithStatus) -> HttpResponse:
    """Show what is deleted with a queue, or delete it.

    There is no transaction, since other processes must see each step.
    """
    form = DeletionForm(request.POST or None, name=queue.name)
    if request.method == "POST" and form.is_valid() and _delete(request, queue):
        model_admin.log_deletions(request, [queue])  # type: ignore[arg-type]  # Django only iterates over it
        return HttpResponseRedirect(reverse("admin:queues_queue_changelist"))
    context = {
        **model_admin.admin_site.each_context(request),
        "title": f"Delete {queue.name}",
        "opts": model_admin.opts,
        "queue": queue,
        "original": queue,
        "form": form,
        "media": model_admin.media,
    }
    return TemplateResponse(request, "queues/admin/delete.html", context)


def check_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest) -> HttpResponse:
    """Return whether a repository and its branch can be reached."""
    if not model_admin.has_change_permission(request):
        raise PermissionDenied
    fields = {name: request.POST.get(name, "").strip() for name in ("git_url", "branch", "git_token", "queue")}
    result = check_repository(
        **fields | {"branch": fields["branch"] or "main"}, may_grant_vaults=may_grant_vaults(request)
    )
    return JsonResponse({"is_ready": result.is_ready, "message": result.message})


def example_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest) -> HttpResponse:
    """Return an example task for the submitted form."""
    if not (model_admin.has_change_permission(request) or model_admin.has_add_permission(request)):
        raise PermissionDenied
    form = QueueForm(request.POST)
    form.server_url = server_url(request)
    return JsonResponse(form.current_example())


def operation_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, object_id: str) -> HttpResponse:
    """Enable, disable, pause, resume or redeploy a queue."""
    verb = request.POST.get("verb", "")
    if verb not in OPERATIONS:
        raise Http404
    queue = get_permitted(model_admin, request, object_id, "pause" if verb in ("pause", "resume") else "change")
    apply_to_queues(request, verb, [queue.name])
    return _redirect_to(queue)


def publish_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, object_id: str) -> HttpResponse:
    """Publish what Redis lacks."""
    queue = get_permitted(model_admin, request, object_id, "change")
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


def export_view(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, object_id: str) -> HttpResponse:
    """Return a queue as a queue file."""
    queue = get_permitted(model_admin, request, object_id, "change")
    return export_response([queue], queue.name)


def redirect_to_named(model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, name: str) -> HttpResponse:
    """Redirect to the page of a queue by its name, for links from apps that know only that."""
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    return HttpResponseRedirect(reverse("admin:queues_queue_change", args=[get_object_or_404(Queue, name=name).pk]))


def get_permitted(
    model_admin: "admin.ModelAdmin[Any]", request: HttpRequest, object_id: str, permission: str
) -> QueueWithStatus:
    """Return a queue for which the user has a permission. Raise Http404, PermissionDenied."""
    queue = model_admin.get_object(request, object_id)
    if queue is None:
        raise Http404
    if not getattr(model_admin, f"has_{permission}_permission")(request, queue):
        raise PermissionDenied
    return cast("QueueWithStatus", queue)


def may_grant_vaults(request: HttpRequest) -> bool:
    """Return whether a user may let queues use vaults, and send their tokens to hosts."""
    return request.user.has_perm("vaults.change_vault")


def server_url(request: HttpRequest) -> str:
    return request.build_absolute_uri("/").rstrip("/")


def _delete(request: HttpRequest, queue: QueueWithStatus) -> bool:
    """Delete a queue with its tasks, and report the result."""
    try:
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
