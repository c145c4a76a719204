"""Build redis-py's client for other libraries, without Django."""

from typing import Any

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

from runqy.broker.replies import translate_errors
from runqy.core.environment.connection_urls import RedisTarget

CONNECT_TIMEOUT_S = 1.5
REPLY_TIMEOUT_S = 1.0
"""A Redis that is silent for this long is considered unresponsive, as on an event loop."""


def connect_client(target: RedisTarget) -> "Redis | RedisCluster":
    """Return a redis-py client that never repeats a command: a script whose reply was lost may have run."""
    options: dict[str, Any] = {
        "username": target.username or None,
        "password": target.password or None,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": REPLY_TIMEOUT_S,
        "socket_keepalive": True,
        "protocol": 2,
    }
    options |= _tls_options(target)
    host, port = target.addresses[0]
    no_retry = Retry(NoBackoff(), 0)
    if target.mode == "cluster":
        with translate_errors():
            return RedisCluster(
                startup_nodes=[ClusterNode(h, p) for h, p in target.addresses], retry=no_retry, **options
            )
    options["retry"] = no_retry
    if target.mode == "sentinel":
        sentinel_options = options | {
            "username": target.sentinel_username or None,
            "password": target.sentinel_password or None,
        }
        sentinel = Sentinel(list(target.addresses), sentinel_kwargs=sentinel_options, db=target.db, **options)
        master: Redis = sentinel.master_for(target.master_name)
        return master
    return Redis(host=host, port=port, db=target.db, **options)


def _tls_options(target: RedisTarget) -> dict[str, Any]:
    if not target.use_tls:
        return {}
    key = "ssl_ca_data" if target.ca_certificate.lstrip().startswith("-----BEGIN") else "ssl_ca_certs"
    return {"ssl": True, "ssl_cert_reqs": "required", key: target.ca_certificate or None}
