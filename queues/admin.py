"""Queues in the admin."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from queues.config import parse_spec
from queues.definitions import QueueSpec
from queues.definitions import SubQueue as SubQueueSpec
from queues.models import Queue, Source, SubQueue
from queues.operations import save_queue
from queues.removal import remove_queue
from runqy.connection import get_broker
from runqy.errors import QueueAlreadyExists, QueueInvalid, QueueNameTaken, RunqyError
from runqy.publication.saving import PublishedModelAdmin
from runqy.staff.pages import StaffModelForm, StaffTabularInline

_UNDER_DEPLOYMENT = ("git_url", "branch", "code_path", "startup_cmd", "requirements_file", "env_vars", "redis_storage")
_LIMITS = ("ttl_completed", "ttl_archived", "pending_timeout", "active_timeout", "retry_delay", "retry_max_delay")


class QueueForm(StaffModelForm):
    """A queue without its sub-queues, checked by the rules of queue files."""

    spec: QueueSpec

    class Meta:
        model = Queue
        exclude = ("source", "file_digest")

    def clean(self) -> dict[str, Any]:
        """Turn the fields into a specification."""
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            try:
                self.spec = parse_spec(cleaned.get("name") or cast("Queue", self.instance).name, _written(cleaned))
            except QueueInvalid as error:
                for sentence in error.errors:
                    self.add_error(None, sentence)
        return cleaned


class SubQueueInline(StaffTabularInline):
    """The sub-queues of a queue, in the order in which they stand."""

    model = SubQueue
    fields = ("name", "priority")


@admin.register(Queue)
class QueueAdmin(PublishedModelAdmin):
    """Queues: saving and deleting goes through the operations."""

    form = QueueForm
    refused_fields = {QueueAlreadyExists: "name", QueueNameTaken: "name"}
    inlines = (SubQueueInline,)
    list_display = ("name", "is_enabled", "mode", "priority", "git_url", "branch", "source", "updated_at")
    list_filter = ("is_enabled", "mode", "source")
    search_fields = ("name", "git_url")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Keep the name, by which tasks and workers know the queue."""
        return ("name",) if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Wait for the sub-queues."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save the queue and its sub-queues by one operation."""
        for formset in formsets:
            formset.save(commit=False)  # notes what changed, for the history
        subs = tuple(_sub_queues(formsets))
        spec = replace(
            cast("QueueSpec", form.spec),
            is_enabled=form.cleaned_data["is_enabled"],
            sub_queues=subs,
            priority=max((sub.priority for sub in subs), default=form.spec.priority),
        )
        form.instance.pk = save_queue(spec=spec, source=Source.ADMIN, is_new=not change).pk

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Delete a queue; in no transaction of Django's, for others have to see the steps."""
        show: Callable[..., HttpResponse] = self._delete_view  # type: ignore[attr-defined]
        try:
            return show(request, object_id, extra_context)
        except RunqyError as error:
            for sentence in error.errors:
                messages.error(request, sentence)
            return HttpResponseRedirect(request.get_full_path())

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete the queue, unless tasks wait."""
        remove_queue(get_broker(), name=obj.name)


def _sub_queues(formsets: Iterable[Any]) -> Iterable[SubQueueSpec]:
    """Give the sub-queues in the forms, without the deleted."""
    for formset in formsets:
        for cleaned in (form.cleaned_data for form in formset.forms):
            if cleaned and not cleaned.get("DELETE"):
                yield SubQueueSpec(name=cleaned["name"], priority=cleaned["priority"])


def _written(cleaned: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the form as a queue file spells them."""
    deployment = {name: cleaned[name] for name in (*_UNDER_DEPLOYMENT, "vaults", "git_token")}
    deployment["startup_timeout_secs"] = cleaned["startup_timeout_s"]
    deployment["limits"] = {name: cleaned[f"{name}_s"] for name in _LIMITS} | {"max_retry": cleaned["max_retry"]}
    written = {name: cleaned[name] for name in ("priority", "mode", "order", "input", "output")}
    return written | {"deployment": deployment}
