"""Django alone as an application that waits for the configuration that a test has just saved, like `patient_asgi`."""

import os

from runqy.wsgi import application as application  # sets Django up

# isort: split

from runqy.configuration import snapshot
from tests.support.waiting import PATIENCE_S

snapshot.UNKNOWN_WAIT_S = PATIENCE_S
# A server without a database that serves several tests knows what earlier ones published. Redis, emptied since, does
# not confirm that.
snapshot.CONFIRMED_FOR_S = int(os.environ.get("TESTS_CONFIRMED_FOR_S", "3600"))
