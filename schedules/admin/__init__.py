"""The admin pages of schedules."""

from django.contrib import admin

from schedules.admin.schedules import ScheduleAdmin
from schedules.models import Schedule

admin.site.register(Schedule, ScheduleAdmin)
