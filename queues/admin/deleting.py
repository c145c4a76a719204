"""The page that deletes a queue: it shows what would be lost, and asks for the queue's name."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from queues.admin.columns import SeenQueue
from queues.removal import remove_queue
from runqy.connection import get_broker
from runqy.errors import RunqyError
from runqy.staff.pages import StaffForm

__all__ = ["show_deletion"]


class DeletionForm(StaffForm):
    """The queue's name, entered by whoever means it."""

    confirmation = forms.CharField(
        label="Name of the queue",
        strip=True,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, name: str, **kwargs: Any) -> None:
        """Take the right name."""
        super().__init__(*args, **kwargs)
        self._name = name

    def clean_confirmation(self) -> str:
        """Refuse any other name."""
        entered: str = self.cleaned_data["confirmation"]
        if entered != self._name:
            raise forms.ValidationError(f"This is not its name. Enter {self._name} to delete it.")
        return entered


def show_deletion(model_admin: Any, request: HttpRequest, queue: SeenQueue) -> HttpResponse:
    """Show what would be lost, or delete the queue; in no transaction, for other processes have to see the steps."""
    form = DeletionForm(request.POST or None, name=queue.name)
    if request.method == "POST" and form.is_valid() and _is_removed(request, queue):
        model_admin.log_deletions(request, [queue])
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


def _is_removed(request: HttpRequest, queue: SeenQueue) -> bool:
    """Remove a queue with its tasks, and tell what became of it."""
    try:
        removed = remove_queue(get_broker(), name=queue.name, force=True)
    except RunqyError as error:
        messages.error(request, error.detail)
        return False
    count = sum(removed.tasks.values())
    messages.success(request, f"The queue {queue.name} is deleted, with {count:,} {'task' if count == 1 else 'tasks'}.")
    return True
