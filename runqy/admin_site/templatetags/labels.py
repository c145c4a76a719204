"""Template tags for labels of states."""

from django import template

from runqy.admin_site.labels import LABEL_TEMPLATE, state_context

register = template.Library()
register.inclusion_tag(LABEL_TEMPLATE, name="state_label")(state_context)
