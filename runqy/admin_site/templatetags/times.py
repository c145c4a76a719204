"""Template filters for times."""

from django import template

from runqy.admin_site.times import show_time

register = template.Library()
register.filter(show_time)
