"""Queues in the admin."""

from django.contrib import admin

from queues.admin.queue_admin import QueueAdmin
from queues.models import Queue

admin.site.register(Queue, QueueAdmin)
