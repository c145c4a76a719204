"""Links from vaults to the pages of queues."""

from dataclasses import dataclass

from django.apps import apps
from django.http import HttpRequest
from django.urls import reverse


@dataclass(frozen=True, slots=True)
class Link:
    """A name, and where it leads; nowhere for those who may not go there."""

    name: str
    url: str


def queue_links(request: HttpRequest, names: list[str]) -> list[Link]:
    """Return links to queues, whose app is named, not imported: it is above this one. One query."""
    if not names or not request.user.has_perm("queues.view_queue"):
        return [Link(name, "") for name in names]
    found = apps.get_model("queues", "Queue")._default_manager.filter(name__in=names).values_list("name", "pk")
    urls = {name: reverse("admin:queues_queue_change", args=[pk]) for name, pk in found}
    return [Link(name, urls.get(name, "")) for name in names]
