"""Panels between the fields of a form, which show something and are not sent."""

from typing import Any

from django import forms
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

__all__ = ["PanelField"]


class PanelWidget(forms.Widget):
    """Renders a template with what the form put into `context`."""

    def __init__(self, template: str) -> None:
        """Take the template."""
        super().__init__()
        self.template = template
        self.context: dict[str, Any] = {}

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        """Return the panel."""
        return render_to_string(self.template, self.context)

    def id_for_label(self, id_: str) -> str:
        """Leave the label without a field."""
        return ""


class PanelField(forms.Field):
    """A panel in the place of a field."""

    widget: PanelWidget

    def __init__(self, label: str, template: str) -> None:
        """Take what stands beside the panel, and its template."""
        super().__init__(label=label, required=False, disabled=True, widget=PanelWidget(template))
