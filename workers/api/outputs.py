"""Says how a registration looks in its answer, and in the schema."""

from typing import Any

from rest_framework import serializers

from queues.definitions import Limits, QueueDefinition
from runqy.broker.connection import RedisTarget
from workers.api.inputs import LONGEST_NAME, WORKER_ID
from workers.operations import Registration


def registration_answer(registration: Registration) -> dict[str, Any]:
    """Return the answer; `git_token` is there only where the queue has one."""
    queue = registration.queue
    answer = {
        "worker_id": registration.worker_id,
        "lease_secs": registration.lease_s,
        "redis": _redis(registration.redis),
        "queue": {
            "name": queue.name,
            "priority": registration.priority,
            "mode": queue.mode,
            "order": queue.order,
            "revision": registration.revision or None,
            "rollout": registration.rollout,
        },
        "sub_queues": [{"name": name, "priority": priority} for name, priority in registration.redis_queues],
        "deployment": _deployment(queue),
        "limits": _limits(queue.limits),
        "vaults": registration.vaults,
    }
    return answer | ({"git_token": registration.git_token} if registration.git_token else {})


def _redis(target: RedisTarget) -> dict[str, Any]:
    """Return where Redis is and how to enter it; `addr` and `password` are all that old workers read."""
    addresses = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in target.addresses]
    return {
        "addr": addresses[0],
        "password": target.password,
        "db": target.db,
        "use_tls": target.use_tls,
        "username": target.username,
        "mode": target.mode,
        "addresses": addresses,
        "master_name": target.master_name,
        "ca_certificate": target.ca_certificate,
        "sentinel_username": target.sentinel_username,
        "sentinel_password": target.sentinel_password,
    }


def _deployment(queue: QueueDefinition) -> dict[str, Any]:
    """Return what to deploy and to start."""
    deployment = queue.deployment
    return {
        "git_url": deployment.git_url,
        "branch": deployment.branch,
        "code_path": deployment.code_path,
        "startup_cmd": deployment.startup_cmd,
        "mode": queue.mode,
        "startup_timeout_secs": deployment.startup_timeout_s,
        "requirements_file": deployment.requirements_file,
        "env_vars": dict(deployment.env_vars),
        "redis_storage": deployment.redis_storage,
        "vaults": list(deployment.vaults),
    }


def _limits(limits: Limits) -> dict[str, int]:
    """Return what bounds the queue's tasks, in seconds."""
    return {
        "max_retry": limits.max_retry,
        "ttl_completed_secs": limits.ttl_completed_s,
        "ttl_archived_secs": limits.ttl_archived_s,
        "pending_timeout_secs": limits.pending_timeout_s,
        "active_timeout_secs": limits.active_timeout_s,
        "retry_delay_secs": limits.retry_delay_s,
        "retry_max_delay_secs": limits.retry_max_delay_s,
    }


class RegisterBody(serializers.Serializer[object]):
    """The body of `POST /worker/register`."""

    queue = serializers.CharField(
        min_length=1, max_length=LONGEST_NAME, help_text="A queue, to serve all its sub-queues, or one sub-queue"
    )
    worker_id = serializers.RegexField(
        f"^(?:{WORKER_ID})?$", required=False, help_text="Made up by the server where it is missing"
    )
    hostname = serializers.CharField(required=False, max_length=LONGEST_NAME)
    os = serializers.CharField(required=False, max_length=LONGEST_NAME)
    version = serializers.CharField(required=False, max_length=LONGEST_NAME)


class RedisPart(serializers.Serializer[object]):
    """Where Redis is and how to enter it."""

    addr = serializers.CharField(help_text="host:port as workers reach it")
    password = serializers.CharField(allow_blank=True)
    db = serializers.IntegerField()
    use_tls = serializers.BooleanField()
    username = serializers.CharField(allow_blank=True)
    mode = serializers.ChoiceField(choices=["single", "sentinel", "cluster"])
    addresses = serializers.ListField(child=serializers.CharField())
    master_name = serializers.CharField(allow_blank=True)
    ca_certificate = serializers.CharField(allow_blank=True)
    sentinel_username = serializers.CharField(allow_blank=True)
    sentinel_password = serializers.CharField(allow_blank=True)


class QueuePart(serializers.Serializer[object]):
    """The queue registered for."""

    name = serializers.CharField()
    priority = serializers.IntegerField(help_text="The highest of its sub-queues'")
    mode = serializers.ChoiceField(choices=["long_running", "one_shot"])
    order = serializers.ChoiceField(choices=["weighted", "strict"])
    revision = serializers.CharField(allow_null=True, help_text="Changes with the queue's configuration")
    rollout = serializers.CharField(
        allow_null=True, help_text="Changes when the newest commit is to run; null: nobody ever asked"
    )


class SubQueuePart(serializers.Serializer[object]):
    """One Redis queue to serve."""

    name = serializers.CharField()
    priority = serializers.IntegerField(min_value=1)


class RegistrationAnswer(serializers.Serializer[object]):
    """What a worker gets; `registration_answer` makes it."""

    worker_id = serializers.CharField()
    lease_secs = serializers.IntegerField()
    redis = RedisPart()
    queue = QueuePart()
    sub_queues = SubQueuePart(many=True)
    deployment = serializers.DictField()
    limits = serializers.DictField(child=serializers.IntegerField())
    vaults = serializers.DictField(child=serializers.CharField(), help_text="Decrypted values of the queue's vaults")
    git_token = serializers.CharField(required=False)
