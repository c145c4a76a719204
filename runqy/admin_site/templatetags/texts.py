"""Template filters for texts."""

import re

from django import template
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

register = template.Library()

_MAY_BREAK = SafeString("<wbr>")
_AFTER_SEPARATOR = re.compile(r"(?<=[_.:/-])")


@register.filter
def breakable(name: str) -> SafeString:
    """Return a name that breaks after separators, and not anywhere, in a narrow column."""
    return format_html_join(_MAY_BREAK, "{}", ((part,) for part in _AFTER_SEPARATOR.split(name)))
