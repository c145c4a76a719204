"""Says where the admin shows the records of an object, for the pages of that object."""

from django.urls import reverse
from django.utils.http import urlencode

KIND, OBJECT = "kind", "object"
"""Parameters of the list of records."""


def records_url(kind: str, *names: str) -> str:
    """Return the path of the list with the records of an object of a kind, which may go by several names."""
    query = urlencode([(KIND, kind), *((OBJECT, name) for name in names)])
    return f"{reverse('admin:audit_auditrecord_changelist')}?{query}"
