"""Queues in the admin."""

from django.contrib import admin

from queues.admin.pages import QueueAdmin
from queues.models import Queue

admin.site.register(Queue, QueueAdmin)
