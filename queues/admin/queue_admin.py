"""The list of queues, and the page of a queue.

The list is sorted by what Redis and the history have of queues. For users who may view but not change a queue, its page
has no values of environment variables.
"""

import json
from typing import Any, cast

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.views.main import ORDER_VAR
from django.db.models import Q, QuerySet
from django.forms import Script
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.views import ChangeList

from queues.admin import views
from queues.admin.actions import LIST_ACTIONS
from queues.admin.columns import COLUMNS, OPTIONAL_COLUMNS, PROBLEMS_FIRST, health, list_labels, sort_queues
from queues.admin.forms import (
    BASICS,
    FIELDSETS,
    FOLDED_WHEN_ADDED,
    FORM_FIELDS,
    QueueForm,
    SubQueueInline,
    read_sub_queues,
)
from queues.admin.undefined_queues import UndefinedQueuesView, adopted_fields
from queues.admin.views import add_list_status
from queues.definitions import format_limit
from queues.models import Queue, QueueSource, ReleaseState
from queues.operations import add_queue, edit_queue
from queues.queries import default_limits
from runqy.admin_site.base_admin import LIVE, StyledModelForm
from runqy.configuration.admin import PublishedModelAdmin
from runqy.errors import QueueAlreadyExists, QueueBeingDeleted, QueueNameTaken

_LISTED_FIELDS = ("name", "is_enabled", "priority", "mode", "source")


class QueueChangeList(ChangeList):  # type: ignore[misc]
    """Reads and sorts all queues, since the database has neither health nor counts, and shows a page of them."""

    ordering: tuple[str, ...]
    queryset: QuerySet[Any]

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:
        """Return any order for the database, and keep the one that was asked for."""
        chosen = super().get_ordering(request, queryset) if self.params.get(ORDER_VAR) else ()
        self.ordering = (*(field for field in chosen if field != "-pk"), *PROBLEMS_FIRST)
        return ["name"]

    def get_ordering_field_columns(self) -> dict[int, str]:
        if not self.params.get(ORDER_VAR):
            return {self.list_display.index(health): "asc"}
        columns: dict[int, str] = super().get_ordering_field_columns()
        return columns

    def get_results(self, request: HttpRequest) -> None:
        # Read first: of rows that are read, the paginator asks no number.
        self.queryset = self.queryset.prefetch_related(None).only(*_LISTED_FIELDS)
        queues = list(self.queryset)
        super().get_results(request)
        add_list_status(request, queues)
        self.result_list = sort_queues(queues, self.ordering)
        if self.multi_page and not (self.show_all and self.can_show_all):
            first = (self.page_num - 1) * self.list_per_page
            self.result_list = self.result_list[first : first + self.list_per_page]


class ReadOnlyForm(StyledModelForm):
    """The labels of the read-only page."""

    class Meta(QueueForm.Meta):
        help_texts = {"git_token": "The vault entry of the token; the token itself is never shown."}


def _lines(lines: list[str]) -> SafeString | str:
    return format_html_join(SafeString("<br>"), "{}", ((line,) for line in lines)) if lines else "-"


@admin.display(description="Vaults")
def vault_names(queue: Queue) -> str:
    return _lines([f"{position}. {name}" for position, name in enumerate(queue.vaults, start=1)])


@admin.display(description="Environment variables")
def env_var_names(queue: Queue) -> str:
    return _lines([f"{name}=****" for name in queue.env_vars])


@admin.display(description="Limits")
def effective_limits(queue: Queue) -> str:
    """Return each limit, and whether it is the server's default."""
    limits, defaults = queue.as_spec().limits, default_limits()
    lines = []
    for name in defaults.__dataclass_fields__:
        own = getattr(limits, name)
        value = getattr(defaults, name) if own is None else own
        text = format_limit(name, value)
        lines.append(f"{name.removesuffix('_s')}: {text}{' (default)' if own is None else ''}")
    return _lines(lines)


@admin.display(description="Input")
def input_schema(queue: Queue) -> str:
    return _schema(queue.input)


@admin.display(description="Output")
def output_schema(queue: Queue) -> str:
    return _schema(queue.output)


def _schema(fields: list[dict[str, Any]]) -> str:
    rendered = [
        field | {"default_json": json.dumps(field["default"], ensure_ascii=False)} if "default" in field else field
        for field in fields
    ]
    return render_to_string("queues/admin/schema.html", {"fields": rendered}) if rendered else "-"


READ_ONLY_FIELDS = (vault_names, env_var_names, effective_limits, input_schema, output_schema)

_REPLACED: dict[str, tuple[Any, ...]] = {
    "env_vars": (env_var_names,),
    "vaults": (vault_names,),
    "input": (input_schema,),
    "output": (output_schema,),
    "check": (),
    "example": (),
    "replaces_at_once": (),
}

READ_ONLY_FIELDSETS: tuple[tuple[str, dict[str, Any]], ...] = tuple(
    (title, {"fields": tuple(field for name in options["fields"] for field in _REPLACED.get(name, (name,)))})
    if title != "Limits"
    else (title, {"fields": (effective_limits,)})
    for title, options in FIELDSETS
)


_CHANGED_BY = {
    QueueSource.ADMIN: "in the admin",
    QueueSource.API: "over the API",
    QueueSource.APPLIED: "by runqy queue apply",
}


class EnabledFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "is_enabled"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "enabled"), ("0", "disabled")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(is_enabled=self.value() == "1") if self.value() in ("0", "1") else queryset


class QueueAdmin(PublishedModelAdmin):
    """Queues. All changes go through the operations."""

    form = QueueForm
    inlines = (SubQueueInline,)
    formfield_overrides = FORM_FIELDS  # type: ignore[assignment]
    audit_kind = "queue"
    refused_fields = {QueueAlreadyExists: "name", QueueNameTaken: "name", QueueBeingDeleted: "name"}
    list_display = COLUMNS  # type: ignore[assignment]
    list_display_links = ("name",)
    list_fullwidth = True
    list_filter = (EnabledFilter, "mode", "source")
    search_fields = ("name", "git_url", "branch")
    search_help_text = "Name, repository or branch"
    empty_text = (
        "A queue defines which code workers run and the limits of its tasks. Add one here, or put queue files into the "
        "folder QUEUE_WORKERS_DIR and run runqy manage load_queues."
    )
    list_before_template = "queues/admin/above_list.html"
    actions = LIST_ACTIONS  # type: ignore[assignment]
    warn_unsaved_form = True
    change_form_before_template = "admin_site/version.html"
    change_form_outer_before_template = "queues/admin/status.html"

    class Media:
        css = {"all": ("queues/queues.css", "admin_site/pages.css")}
        js = (*(Script(path, defer=True) for path in ("queues/rows.js", "queues/form.js", "admin_site/copy.js")), LIVE)

    def has_pause_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return not settings.ASYNQ_READ_ONLY and request.user.has_perm("queues.pause_queue")

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        # Redis queues are paused one by one, and the records have their names.
        redis_queues = [name for name, _ in obj.as_spec().redis_queues(settings.RUNQY_SUBQUEUE_SEPARATOR)]
        return tuple(dict.fromkeys([obj.name, *redis_queues]))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        # A queue is deleted on its own page, which asks for its name.
        found = super().get_actions(request)
        found.pop("delete_selected", None)
        return found

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("sub_queues")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[QueueChangeList]:
        return QueueChangeList

    def get_list_display(self, request: HttpRequest) -> Any:
        return (*COLUMNS, *(OPTIONAL_COLUMNS[name] for name in views.read_columns(request)))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        chosen = views.read_columns(request)
        columns = [(name, name.capitalize(), name in chosen) for name in OPTIONAL_COLUMNS]
        return super().changelist_view(request, {"optional_columns": columns} | (extra_context or {}))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = FIELDSETS if self._may_edit(request, obj) else READ_ONLY_FIELDSETS
        # The page of an existing queue shows its status and what is changed most.
        folded = {title for title, _ in fieldsets} - {BASICS} if obj else FOLDED_WHEN_ADDED
        return [
            (title, {**options, "classes": ("collapse",)} if title in folded else options)
            for title, options in fieldsets
        ]

    def get_inline_instances(self, request: HttpRequest, obj: Any = None) -> Any:
        inlines = super().get_inline_instances(request, obj)
        # Folded like the other sections.
        for inline in inlines:
            inline.classes = ("collapse",) if obj else ()
        return inlines

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return () if self._may_edit(request, obj) else READ_ONLY_FIELDS

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if not self._may_edit(request, obj):
            return super().get_form(request, obj, change, form=ReadOnlyForm, **kwargs)
        form = super().get_form(request, obj, change, **kwargs)
        form.server_url, form.may_check = views.server_url(request), self.has_change_permission(request)
        return form

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        if adopted := initial.pop("adopt", ""):
            return adopted_fields(adopted)[0]
        original = Queue.objects.filter(name=initial.pop("clone", "")).first()
        return {"clone": original, "name": f"{original.name}-copy"} if original else initial

    def get_formset_kwargs(self, request: HttpRequest, obj: Any, inline: Any, prefix: str) -> dict[str, Any]:
        options: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        if request.method == "GET" and obj.pk is None:
            original = Queue.objects.filter(name=request.GET.get("clone", "")).first()
            rows = list(original.sub_queues.values("name", "priority")) if original else []
            options["initial"] = rows or adopted_fields(request.GET.get("adopt", ""))[1]
        return options

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        queue = kwargs.get("obj")
        if queue is not None:
            views.add_status(request, [queue])
            context |= {"queue": queue, "labels": list_labels(queue), "can": self._permissions(request, queue)}
            context["server_url"], context["changed_by"] = views.server_url(request), _CHANGED_BY.get(queue.source)
            newest = Q(number=queue.releases.order_by("-number").values("number")[:1])
            releases = list(queue.releases.filter(Q(state=ReleaseState.LIVE) | newest))  # one query
            live = next((release for release in releases if release.state == ReleaseState.LIVE), None)
            context |= {"live_release": live, "newest_release": releases[0] if releases else None}
            context["commits"] = {live.commit: live} if live else {}
            if isinstance(form := context["adminform"].form, QueueForm):
                form.describe_processes([worker for worker in queue.status.workers if not worker.is_foreign])
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Do nothing: a queue and its sub-queues are one change, which `save_related` saves."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Save the queue with its sub-queues by one operation."""
        for formset in formsets:
            formset.save(commit=False)  # only sets what changed, for Django's history
        spec = form.instance.as_spec(read_sub_queues(formsets))
        may_grant_vaults = views.may_grant_vaults(request)
        if change:
            edit_queue(
                spec=spec,
                version=form.cleaned_data["version"],
                may_grant_vaults=may_grant_vaults,
                replaces_at_once=form.cleaned_data["replaces_at_once"],
            )
        else:
            form.instance.pk = add_queue(spec=spec, may_grant_vaults=may_grant_vaults).pk

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        # After "Save and continue editing" the page of the queue itself shows that no worker serves it.
        if "_continue" not in request.POST:
            views.add_status(request, [obj])
            if obj.status.counts is not None and not obj.status.workers:
                messages.info(request, f"No worker serves {obj.name} yet; its page shows how to start one.")
        return super().response_add(request, obj, post_url_continue)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return cast("HttpResponse", views.DeleteView.as_view(model_admin=self)(request, object_id=object_id))

    def get_urls(self) -> list[URLPattern]:
        pages = {
            "check": views.CheckView,
            "example": views.ExampleView,
            "undefined": UndefinedQueuesView,
            "columns": views.ColumnsView,
            "<path:object_id>/switch": views.SwitchView,
            "<path:object_id>/publish": views.PublishView,
            "<path:object_id>/export": views.ExportView,
            "<path:object_id>/webhook-secret": views.WebhookSecretView,
            "<path:object_id>/git-hook-secret": views.GitHookSecretView,
            "by-name/<str:name>": views.NamedQueueView,
        }
        own = [
            path(f"{route}/", self.page(view), name=f"queues_queue_{_url_name(route)}") for route, view in pages.items()
        ]
        return [*own, *super().get_urls()]

    def _may_edit(self, request: HttpRequest, obj: Any) -> bool:
        return self.has_change_permission(request, obj) if obj else self.has_add_permission(request)

    def _permissions(self, request: HttpRequest, queue: Any) -> dict[str, bool]:
        return {
            "change": self.has_change_permission(request, queue),
            "pause": self.has_pause_permission(request),
            "add": self.has_add_permission(request),
            "delete": self.has_delete_permission(request, queue),
        }


def _url_name(route: str) -> str:
    return "by_name" if route.startswith("by-name") else route.rpartition("/")[2].replace("-", "_")
