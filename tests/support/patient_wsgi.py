"""Django alone as an application that waits for the configuration that a test has just saved, like `patient_asgi`."""

from runqy.wsgi import application as application  # sets Django up

# isort: split

from runqy.configuration import snapshot
from tests.support.waiting import PATIENCE_S

snapshot.UNKNOWN_WAIT_S = PATIENCE_S
