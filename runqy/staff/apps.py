"""Registers what all admin pages share with Django."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps  # not the class, which would be a second default here


class StaffConfig(AppConfig):
    """The admin as staff see it."""

    name = "runqy.staff"
    label = "staff"


class StaffAdminConfig(admin_apps.AdminConfig):
    """Django's admin, on our site."""

    default = False
    default_site = "runqy.staff.site.StaffSite"
