"""API keys, users and groups in the admin."""

from runqy.accounts.admin.keys import ApiKeyAdmin
from runqy.accounts.admin.users import (
    AuditedGroupAdmin,
    AuditedUserAdmin,
    change_own_password,
    log_out_own_sessions,
)

__all__ = ["ApiKeyAdmin", "AuditedGroupAdmin", "AuditedUserAdmin", "change_own_password", "log_out_own_sessions"]
