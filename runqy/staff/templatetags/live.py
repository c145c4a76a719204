"""Spells numbers in templates."""

from django import template

register = template.Library()


@register.filter
def grouped(number: int) -> str:
    """Return a number with commas between its thousands."""
    return f"{number:,}"
