"""API keys, users and groups in the admin."""

from django.contrib import admin
from django.contrib.auth.models import Group, User

from runqy.accounts.admin.keys import ApiKeyAdmin
from runqy.accounts.admin.users import AuditedGroupAdmin, AuditedUserAdmin
from runqy.accounts.models import ApiKey

admin.site.register(ApiKey, ApiKeyAdmin)
# Django registers its own pages.
admin.site.unregister([User, Group])
admin.site.register(User, AuditedUserAdmin)
admin.site.register(Group, AuditedGroupAdmin)
