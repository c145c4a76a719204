"""The admin pages of webhooks."""

from django.contrib import admin

from webhooks.admin.endpoints import EndpointAdmin
from webhooks.models import Endpoint

admin.site.register(Endpoint, EndpointAdmin)
