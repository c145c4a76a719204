"""The server's application, which waits for the configuration that a test has just saved, however busy the machine is.

In production a request with an unknown key or queue waits for a fifth of a second.
"""

import os

from runqy.asgi import application as application  # sets Django up

# isort: split

from runqy.configuration import snapshot
from runqy.server.dataplane import background_tasks
from tests.support.waiting import PATIENCE_S

snapshot.UNKNOWN_WAIT_S = background_tasks.EXTRA_REFRESH_WAIT_S = PATIENCE_S
# A server without a database that serves several tests knows what earlier ones published. Redis, emptied since, does
# not confirm that.
snapshot.CONFIRMED_FOR_S = int(os.environ.get("TESTS_CONFIRMED_FOR_S", "3600"))
