"""The server's application, which waits for a task, for git and for the lock of SQLite however busy the machine is."""

from tests.support.patient_asgi import application as application  # sets Django up

# isort: split

from django.db import connection

from queues import repository_check
from tasks.admin import enqueue_forms
from tests.support.waiting import PATIENCE_S

enqueue_forms.WAIT_S = repository_check.CHECK_TIMEOUT_S = PATIENCE_S
if connection.vendor == "sqlite":
    connection.settings_dict["OPTIONS"]["timeout"] = PATIENCE_S
