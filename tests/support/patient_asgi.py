"""The server's application, which waits for the configuration that a test has just saved, however busy the machine is.

In production a request with an unknown key or queue waits for a fifth of a second.
"""

from runqy.asgi import application as application  # sets Django up

# isort: split

from runqy.configuration import snapshot
from tests.support.waiting import PATIENCE_S

snapshot.UNKNOWN_WAIT_S = PATIENCE_S
