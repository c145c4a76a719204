"""The admin pages of batches."""

from django.contrib import admin

from batches.admin.batches import BatchAdmin
from batches.models import Batch

admin.site.register(Batch, BatchAdmin)
