"""What those see of a queue who may look at it but not change it. Values of variables are not for them."""

import json
from typing import Any

from django.contrib import admin
from django.template.loader import render_to_string
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from queues.definitions import COUNTED_LIMITS
from queues.models import Queue
from queues.queries import default_limits
from runqy import durations
from runqy.staff.pages import StaffModelForm

__all__ = ["READ_SECTIONS", "SHOWN", "ReadForm"]


class ReadForm(StaffModelForm):
    """The names of what is read, as in the form that is filled."""

    class Meta:
        model = Queue
        fields = ()
        labels = {
            "is_enabled": "Enabled",
            "git_url": "Repository",
            "code_path": "Folder",
            "startup_cmd": "Start command",
            "startup_timeout_s": "Start timeout (s)",
            "redis_storage": "Keep results",
        }
        help_texts = {"git_token": "Where the token is; the token itself is never shown."}


def _lines(lines: list[str]) -> SafeString | str:
    """Return texts one below the other."""
    return format_html_join(SafeString("<br>"), "{}", ((line,) for line in lines)) if lines else "-"


@admin.display(description="Sub-queues")
def shown_sub_queues(queue: Queue) -> str:
    """Return sub-queues with their priorities."""
    return _lines([f"{sub.name}: {sub.priority}" for sub in queue.sub_queues.all()])


@admin.display(description="Vaults")
def shown_vaults(queue: Queue) -> str:
    """Return the vaults in their order."""
    return _lines([f"{place}. {name}" for place, name in enumerate(queue.vaults, start=1)])


@admin.display(description="Environment variables")
def shown_variables(queue: Queue) -> str:
    """Return the names of variables."""
    return _lines([f"{name}=****" for name in queue.env_vars])


@admin.display(description="Limits")
def shown_limits(queue: Queue) -> str:
    """Return each limit that counts, and whether it is the server's."""
    stated, defaults = queue.as_spec().limits, default_limits()
    lines = []
    for name in defaults.__dataclass_fields__:
        own = getattr(stated, name)
        value = getattr(defaults, name) if own is None else own
        written = str(value) if name in COUNTED_LIMITS else durations.write_s(value)
        lines.append(f"{name.removesuffix('_s')}: {written}{' (default)' if own is None else ''}")
    return _lines(lines)


@admin.display(description="Input")
def shown_input(queue: Queue) -> str:
    """Return the fields of payloads."""
    return _schema(queue.input)


@admin.display(description="Output")
def shown_output(queue: Queue) -> str:
    """Return the fields of results."""
    return _schema(queue.output)


def _schema(fields: list[dict[str, Any]]) -> str:
    """Return a payload schema as a table."""
    shown = [
        field | {"default_json": json.dumps(field["default"], ensure_ascii=False)} if "default" in field else field
        for field in fields
    ]
    return render_to_string("queues/admin/schema.html", {"fields": shown}) if shown else "-"


SHOWN = (shown_sub_queues, shown_vaults, shown_variables, shown_limits, shown_input, shown_output)

READ_SECTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Basics", {"fields": ("name", "is_enabled", "mode", "priority")}),
    ("Sub-queues", {"fields": (shown_sub_queues, "order")}),
    (
        "Deployment",
        {
            "fields": (
                *("git_url", "branch", "git_token", "code_path", "startup_cmd", "startup_timeout_s"),
                *("requirements_file", shown_variables, "redis_storage"),
            )
        },
    ),
    ("Vaults", {"fields": (shown_vaults,)}),
    ("Limits", {"fields": (shown_limits,)}),
    ("Payload", {"fields": (shown_input, shown_output)}),
)
