"""The history of an object in the admin: its records in the audit."""

from typing import Any, ClassVar

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote, unquote
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, reverse
from django.utils.http import urlencode

from runqy.admin_site.base_admin import RunqyModelAdmin
from runqy.audit.models import AuditRecord

KIND, OBJECT = "kind", "object"
"""Query parameters of the list of records."""

_admins: dict[str, "AuditedModelAdmin"] = {}
"""The admin of each kind of object. They register here, because the audit imports no app above it."""


class AuditedModelAdmin(RunqyModelAdmin):
    """An admin of audited objects; their history is in the audit rather than in Django's log."""

    audit_kind: ClassVar[str] = ""
    """The kind of object in audit records; empty if objects are not audited."""
    audit_field: ClassVar[str] = "name"
    """The model's field that is the object's name in audit records."""

    def __init__(self, model: type[Model], admin_site: AdminSite) -> None:
        super().__init__(model, admin_site)
        if self.audit_kind:
            _admins[self.audit_kind] = self

    def audit_names(self, obj: Any) -> tuple[str, ...]:
        return (str(obj),)

    def find_audited_object(self, name: str) -> Model | None:
        """Return the object that audit records call by this name; None if it does not exist."""
        return self.model._default_manager.filter(**{self.audit_field: name}).first()

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Redirect users who may read the audit to its records; show others Django's log."""
        obj = self.get_object(request, unquote(object_id))
        if not self.audit_kind or obj is None or not request.user.has_perm("audit.view_auditrecord"):
            response: HttpResponse = super().history_view(request, object_id, extra_context)
            return response
        return HttpResponseRedirect(records_url(self.audit_kind, *self.audit_names(obj)))


def records_url(kind: str, *names: str) -> str:
    """Return the path of the list of an object's records. A queue's records also have the names of its Redis queues."""
    query = urlencode([(KIND, kind), *((OBJECT, name) for name in names)])
    return f"{reverse('admin:audit_auditrecord_changelist')}?{query}"


def find_object_url(record: AuditRecord) -> str:
    """Return the path of the page of a record's object, or of the object it is a part of; empty without such a page."""
    kind, name = record.object_kind, record.object_name
    if kind not in _admins:  # a part: `vault_entry` `api-keys/TOKEN`
        kind, name = kind.partition("_")[0], name.partition("/")[0]
    admin = _admins.get(kind)
    found = admin.find_audited_object(name) if admin is not None else None
    if admin is None or found is None:
        return ""
    try:
        return reverse(f"admin:{admin.opts.app_label}_{admin.opts.model_name}_change", args=[quote(found.pk)])
    except NoReverseMatch:
        return ""
