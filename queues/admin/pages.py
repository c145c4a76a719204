"""The list of queues and the page of each; saving, switching and deleting goes through the operations."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_POST

from queues.admin.actions import ACTIONS, SWITCHES, exported, switch
from queues.admin.columns import COLUMNS, SeenQueue, badges
from queues.admin.deleting import show_deletion
from queues.admin.fields import SECTIONS
from queues.admin.forms import QueueForm
from queues.admin.reading import READ_SECTIONS, SHOWN, ReadForm
from queues.configuring import add_queue, edit_queue
from queues.models import Queue, QueueRemoval
from queues.operations import publish_again
from queues.repository_check import check_repository
from queues.standing import look_at_queues
from runqy.connection import get_broker
from runqy.errors import QueueAlreadyExists, QueueBeingRemoved, QueueNameTaken, QueueNotEmpty, RunqyError
from runqy.publication.saving import PublishedModelAdmin, compared


class QueueAdmin(PublishedModelAdmin):
    """Queues."""

    form = QueueForm
    audit_kind = "queue"
    refused_fields = {
        QueueAlreadyExists: "name",
        QueueNameTaken: "name",
        QueueBeingRemoved: "name",
        QueueNotEmpty: "sub_queues",
    }
    list_display = COLUMNS  # type: ignore[assignment]
    list_filter = ("is_enabled", "mode", "source")
    search_fields = ("name", "git_url", "branch")
    search_help_text = "Name, repository or branch"
    empty_says = (
        "A queue says which code workers run and what bounds its tasks. Add one here, or put queue files into the "
        "folder QUEUE_WORKERS_DIR and run manage.py load_queues."
    )
    actions = ACTIONS  # type: ignore[assignment]
    warn_unsaved_form = True
    change_form_before_template = "queues/admin/version.html"
    change_form_outer_before_template = "queues/admin/standing.html"

    class Media:
        css = {"all": ("queues/queues.css",)}
        js = (Script("queues/rows.js", defer=True), Script("queues/form.js", defer=True))

    def has_pause_permission(self, request: HttpRequest) -> bool:
        """Tell whether somebody may pause queues and let them go on."""
        return not settings.ASYNQ_READ_ONLY and request.user.has_perm("queues.pause_queue")

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        """Return the names of a queue and of its Redis queues, which are paused one by one."""
        redis_queues = [name for name, _ in obj.as_spec().redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)]
        return tuple(dict.fromkeys([obj.name, *redis_queues]))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Offer no deletion of several queues at once: each asks for its name."""
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Read sub-queues with their queues."""
        return super().get_queryset(request).prefetch_related("sub_queues")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Return the page of the list, each queue with how it stands."""
        page = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        _see(request, page.result_list)
        return page

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the sections, for those who may only look without what is edited."""
        return SECTIONS if self._may_edit(request, obj) else READ_SECTIONS

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that only those see who may not edit."""
        return () if self._may_edit(request, obj) else SHOWN

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form, which knows where tasks are sent to."""
        if not self._may_edit(request, obj):
            return super().get_form(request, obj, change, form=ReadForm, **kwargs)
        form = super().get_form(request, obj, change, **kwargs)
        form.origin, form.may_check = _origin(request), self.has_change_permission(request)
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Begin a new queue as it is, or as a clone of another."""
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        original = Queue.objects.filter(name=initial.pop("clone", "")).first()
        return {"clone": original.as_spec(), "name": f"{original.name}-copy"} if original else initial

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show a queue with how it stands, above its form."""
        queue = kwargs.get("obj")
        if queue is not None:
            _see(request, [queue])
            context |= {"queue": queue, "badges": badges(queue), "can": self._rights(request, queue)}
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save the queue with its sub-queues by one operation."""
        may_grant_vaults = _may_grant_vaults(request)
        if change:
            edit_queue(spec=form.spec, version=form.cleaned_data["version"], may_grant_vaults=may_grant_vaults)
        else:
            obj.pk = add_queue(spec=form.spec, may_grant_vaults=may_grant_vaults).pk

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show what would be lost, or delete the queue."""
        queue = self._queue(request, object_id, self.has_delete_permission)
        _see(request, [queue])
        return show_deletion(self, request, queue)

    def get_urls(self) -> list[URLPattern]:
        """Add our own pages."""
        views: dict[str, Callable[..., HttpResponse]] = {
            "check": require_POST(self.check_view),
            "example": require_POST(self.example_view),
            "<path:object_id>/switch": require_POST(self.switch_view),
            "<path:object_id>/publish": require_POST(self.publish_view),
            "<path:object_id>/export": self.export_view,
        }
        own = [
            path(f"{route}/", self.admin_site.admin_view(view), name=f"queues_queue_{route.rpartition('/')[2]}")
            for route, view in views.items()
        ]
        return [*own, *super().get_urls()]

    def check_view(self, request: HttpRequest) -> HttpResponse:
        """Look at a repository, and tell in a sentence."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        asked = {name: request.POST.get(name, "").strip() for name in ("git_url", "branch", "git_token", "queue")}
        found = check_repository(
            **asked | {"branch": asked["branch"] or "main"}, may_grant_vaults=_may_grant_vaults(request)
        )
        return JsonResponse({"is_ready": found.is_ready, "sentence": found.sentence})

    def example_view(self, request: HttpRequest) -> HttpResponse:
        """Return the example of a task for what stands in the form."""
        if not (self.has_change_permission(request) or self.has_add_permission(request)):
            raise PermissionDenied
        form = QueueForm(request.POST)
        form.origin = _origin(request)
        return JsonResponse(form.current_example())

    def switch_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Enable, disable, pause or resume a queue."""
        verb = request.POST.get("verb", "")
        if verb not in SWITCHES:
            raise Http404
        is_change = verb in ("enable", "disable", "redeploy")
        may = self.has_change_permission if is_change else lambda request, _: self.has_pause_permission(request)
        queue = self._queue(request, object_id, may)
        switch(request, verb, [queue.name])
        return _back_to(queue)

    def publish_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Publish what Redis lacks."""
        queue = self._queue(request, object_id, self.has_change_permission)
        try:
            comparison = publish_again(name=queue.name)
        except RunqyError as error:
            messages.error(request, error.detail)
            return _back_to(queue)
        if comparison.ahead or comparison.unknown:
            messages.warning(request, "Redis holds newer configuration. See manage.py publish_configuration --replace.")
        else:
            messages.success(request, f"{queue.name} is published.")
        return _back_to(queue)

    def export_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return a queue as a queue file."""
        queue = self._queue(request, object_id, self.has_change_permission)
        return exported([queue], queue.name)

    def _queue(self, request: HttpRequest, object_id: str, may: Callable[[HttpRequest, Any], bool]) -> SeenQueue:
        """Return a queue to somebody who may do something to it."""
        queue = self.get_object(request, object_id)
        if queue is None:
            raise Http404
        if not may(request, queue):
            raise PermissionDenied
        return cast("SeenQueue", queue)

    def _may_edit(self, request: HttpRequest, obj: Any) -> bool:
        """Tell whether somebody gets the form to fill."""
        return self.has_change_permission(request, obj) if obj else self.has_add_permission(request)

    def _rights(self, request: HttpRequest, queue: Any) -> dict[str, bool]:
        """Return what somebody may do to a queue."""
        return {
            "change": self.has_change_permission(request, queue),
            "pause": self.has_pause_permission(request),
            "add": self.has_add_permission(request),
            "delete": self.has_delete_permission(request, queue),
        }


def _see(request: HttpRequest, queues: Iterable[SeenQueue]) -> None:
    """Note on each queue how it stands; what Redis and the database know is asked once for all."""
    queues = list(queues)
    standings = look_at_queues(get_broker(), [queue.as_spec() for queue in queues], compared(request))
    removed = set(QueueRemoval.objects.filter(is_whole=True).values_list("queue", flat=True))
    for queue in queues:
        queue.standing = standings[queue.name]
        queue.is_being_removed = queue.name in removed


def _may_grant_vaults(request: HttpRequest) -> bool:
    """Return whether a user may let queues use vaults, and send their tokens to hosts."""
    return request.user.has_perm("vaults.change_vault")


def _origin(request: HttpRequest) -> str:
    """Return where clients reach this server."""
    return request.build_absolute_uri("/").rstrip("/")


def _back_to(queue: Queue) -> HttpResponse:
    """Return to the page of a queue."""
    return HttpResponseRedirect(reverse("admin:queues_queue_change", args=[queue.pk]))
