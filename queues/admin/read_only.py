"""The page of a queue for users who may view but not change it. It has no values of environment variables."""

import json
from typing import Any

from django.contrib import admin
from django.template.loader import render_to_string
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from queues.admin.forms import FIELDSETS, QueueForm
from queues.definitions import format_limit
from queues.models import Queue
from queues.queries import default_limits
from runqy.admin_site.base_admin import StyledModelForm


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
