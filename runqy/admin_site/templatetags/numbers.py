"""Template filters for numbers."""

from django import template

register = template.Library()


@register.filter
def grouped(number: int) -> str:
    """Return a number with thousands separators."""
    return f"{number:,}"
