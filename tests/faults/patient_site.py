"""The server's application, which waits for Redis however busy the machine is."""

from contextlib import ExitStack

from tests.support.patience import extended_limits

LIMITS = ExitStack()  # until the process ends
LIMITS.enter_context(extended_limits())

# isort: split

from tests.support.patient_asgi import application as application  # noqa: E402 (the limits are defaults of functions)
