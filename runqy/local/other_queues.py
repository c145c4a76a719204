"""Asks the server of a local stack which queues it knows beside those that the stack's worker serves."""

import http.client
import json
from collections.abc import Container

from runqy import settings
from runqy.home import kept_secret
from runqy.local.instance import Instance


def find_other_queues(instance: Instance, served: Container[str]) -> list[str]:
    """Return the enabled queues, by their own names, that are not among those served; none where it does not answer."""
    key = settings.RUNQY_API_KEY or kept_secret(instance.home, "api_key")
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=5)
    try:
        connection.request("GET", "/api/cli/queues", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        queues = json.load(answer)["queues"] if answer.status == http.client.OK else []
    except (OSError, http.client.HTTPException, ValueError):
        return []
    finally:
        connection.close()
    enabled = {queue["parent"] or queue["queue"] for queue in queues if queue["is_defined"] and queue["is_enabled"]}
    return sorted(name for name in enabled if name not in served)
