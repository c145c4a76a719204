"""The errors that users see. Each has a stable code and an HTTP status. Its docstring is the default message."""

import errno
from collections.abc import Iterable, Mapping, Sequence


def choices_error(choices: Iterable[str]) -> str:
    """Return the message about a value that is not one of the choices."""
    return f"Must be one of {', '.join(choices)}."


class RunqyError(Exception):
    """An error occurred."""

    code, status = "error", 500

    def __init_subclass__(cls, *, code: str = "", status: int = 0, **kwargs: object) -> None:
        """Set the code and the HTTP status. By default they are those of the base class."""
        super().__init_subclass__(**kwargs)
        cls.code, cls.status = code or cls.code, status or cls.status

    def __init__(self, detail: str | None = None, errors: Sequence[str] = (), *, reason: str = "") -> None:
        """`detail` is shown to users. `reason` is only logged, and may name addresses.

        `errors` lists single messages. The attribute is never empty: by default it contains the detail.
        """
        joined = "; ".join([*(error.removesuffix(".") for error in errors[:-1]), *errors[-1:]])
        super().__init__(detail or joined or (type(self).__doc__ or "").strip())
        self.errors = tuple(errors) or (self.detail,)
        self.reason = reason
        # Further members of the response (RFC 9457, 3.2).
        self.extension: dict[str, object] = {}

    def __str__(self) -> str:
        return f"{self.detail.removesuffix('.')}: {self.reason}" if self.reason else self.detail

    @property
    def detail(self) -> str:
        return str(self.args[0])


class ClientDisconnected(Exception):
    """The client closed the connection before the response."""

    status = 499
    """For metrics. nginx has the same code."""


class StreamBroken(ConnectionResetError):
    """A response that has begun cannot be completed. Its connection is closed, so that the client notices."""

    # gunicorn closes a connection quietly after this error alone.
    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the stream cannot be completed")


class BrokerUnavailable(RunqyError, code="broker_unavailable", status=503):
    """Redis cannot be reached."""


class BrokerFull(BrokerUnavailable, code="broker_full"):
    """Redis has almost reached its memory limit (maxmemory) and accepts no new tasks."""


class BrokerRefused(BrokerUnavailable, code="broker_refused"):
    """Redis rejected the credentials."""


class BrokerBusy(BrokerUnavailable, code="broker_busy"):
    """The process has reached its limit of pending requests to Redis."""


class OutcomeUnknown(BrokerUnavailable, code="outcome_unknown"):
    """Redis did not confirm the change, which may have been made. Use an Idempotency-Key to repeat requests safely."""


class BrokerCommandRefused(RunqyError, code="broker_command_refused"):
    """Redis rejected a command: a key has the wrong type."""


class TaskAlreadyExists(RunqyError, code="task_exists", status=409):
    """A task with this id already exists."""


class TaskNotFound(RunqyError, code="task_not_found", status=404):
    """Task not found."""


class TaskNotUnique(RunqyError, code="task_not_unique", status=409):
    """A task with this unique_key is already waiting or running."""


class IdempotencyKeyReused(RunqyError, code="idempotency_key_reused", status=422):
    """This Idempotency-Key was already used with a different request."""


class IdempotencyRecordUnreadable(RunqyError, code="idempotency_record_unreadable", status=409):
    """The record of this Idempotency-Key cannot be read. Check whether its tasks exist; if not, use another key."""


class PayloadTooLarge(RunqyError, code="payload_too_large", status=413):
    """The payload exceeds max_payload_bytes of the queue."""


class BatchTooLarge(RunqyError, code="batch_too_large", status=413):
    """The batch exceeds the maximum number of tasks per request."""


class BatchRefused(RunqyError, code="batch_refused", status=400):
    """No task of the batch was queued."""


class BatchNotFound(RunqyError, code="batch_not_found", status=404):
    """Batch not found."""


class BatchClosed(RunqyError, code="batch_closed", status=409):
    """The batch is closed: nothing can be added."""


class BatchConflict(RunqyError, code="batch_conflict", status=409):
    """Each task of the batch has a unique_key that another task holds."""


class TaskRunning(RunqyError, code="task_running", status=409):
    """The task is running; cancel it first."""


class TaskEnded(RunqyError, code="task_ended", status=409):
    """The task has already finished."""


class TaskStateUnsuited(RunqyError, code="task_state_unsuited", status=409):
    """The action is not allowed in the task's current state."""


class StreamIncomplete(RunqyError, code="stream_incomplete", status=409):
    """The run whose stream was requested has ended without success, or its stream has a gap."""


class TaskNotCancelable(RunqyError, code="task_not_cancelable", status=409):
    """The task is being aggregated and cannot be cancelled now."""


class LeaseLost(RunqyError, code="lease_lost", status=409):
    """The worker no longer holds the task's lease."""


class QueueNotFound(RunqyError, code="queue_not_found", status=404):
    """Queue not found."""


class QueueInvalid(RunqyError, code="queue_invalid", status=400):
    """The queue definition is invalid."""


class QueueAlreadyExists(RunqyError, code="queue_exists", status=409):
    """A queue with this name already exists."""


class QueueNameTaken(RunqyError, code="queue_name_taken", status=409):
    """The name is already used by another queue or one of its sub-queues."""


class QueueBeingDeleted(RunqyError, code="queue_being_removed", status=409):
    """A queue with this name is still being deleted; try again in a few seconds."""


class QueueNotEmpty(RunqyError, code="queue_not_empty", status=409):
    """The queue has unfinished tasks; use force=true to delete it with them."""


class ReleaseMissing(RunqyError, code="no_release", status=409):
    """There is no release to roll back to."""


class PayloadInvalid(RunqyError, code="payload_invalid", status=400):
    """The payload does not match the queue's schema."""


class ConfigurationUnavailable(RunqyError, code="configuration_unavailable", status=503):
    """The configuration cannot be read from Redis or from the database."""


class ConfigurationUnconfirmed(RunqyError, code="configuration_unconfirmed", status=503):
    """The configuration has not been confirmed by Redis or the database for a minute."""


class VaultLocked(RunqyError, code="vaults_locked", status=503):
    """Vaults are locked: the server has no master key (RUNQY_VAULT_MASTER_KEY)."""


class VaultUnavailable(RunqyError, code="vault_unavailable", status=503):
    """A vault cannot be decrypted."""


class DeliveryNotRecorded(RunqyError, code="delivery_not_recorded", status=503):
    """Secrets cannot be delivered: too many deliveries are not yet recorded; check maintenance and the database."""


class AuditNotRecorded(RunqyError, code="audit_not_recorded", status=503):
    """Nothing was changed: too many audit records are not yet in the database; check maintenance and the database."""


class VaultNotFound(RunqyError, code="vault_not_found", status=404):
    """Vault not found."""


class VaultEntryNotFound(RunqyError, code="vault_entry_not_found", status=404):
    """Vault entry not found."""


class VaultEntryChanged(RunqyError, code="vault_entry_changed", status=412):
    """The entry's version does not match expected_version."""

    def __init__(self, name: str, *, expected: int, present: int) -> None:
        """A version of 0 means that the entry does not exist."""
        expectation = f"version {expected} was expected" if expected else "it was expected not to exist"
        found = f"is at version {present}" if present else "does not exist"
        super().__init__(f"The entry {name} {found}; {expectation}.")
        self.present = present
        self.extension = {"present_version": present}


class VaultAlreadyExists(RunqyError, code="vault_exists", status=409):
    """A vault with this name already exists."""


class VaultInvalid(RunqyError, code="vault_invalid", status=400):
    """The name of the vault, or the key or value of an entry, is invalid."""


class ApiKeyInvalid(RunqyError, code="api_key_invalid", status=400):
    """The attributes of the API key are invalid."""


class ApiKeyNotFound(RunqyError, code="api_key_not_found", status=404):
    """API key not found."""


class ApiKeyAlreadyRevoked(RunqyError, code="api_key_revoked", status=409):
    """The API key is already revoked."""


class WebhookNotFound(RunqyError, code="webhook_not_found", status=404):
    """Webhook endpoint not found."""


class WebhookInvalid(RunqyError, code="webhook_invalid", status=400):
    """The attributes of the webhook endpoint are invalid."""


class WebhookDisabled(RunqyError, code="webhook_disabled", status=409):
    """The webhook endpoint is disabled, so nothing is sent to it; enable it first."""


class WebhookSecretShown(RunqyError, code="webhook_secret_shown", status=409):
    """The secret was shown before, and is not shown again; rotate it to get a new one."""


class DeliveryNotFound(RunqyError, code="delivery_not_found", status=404):
    """The webhook endpoint has no such delivery."""


class AlertNotFound(RunqyError, code="alert_not_found", status=404):
    """Alert not found."""


class AlertResolved(RunqyError, code="alert_resolved", status=409):
    """The alert is resolved, so there is nothing to acknowledge or snooze."""


class RequestInvalid(RunqyError, code="invalid_request", status=400):
    """The request is invalid."""


class RequestTooLarge(RunqyError, code="too_large", status=413):
    """The request body exceeds the server's limit (RUNQY_MAX_BODY_SIZE)."""


class RequestTimeout(RunqyError, code="request_timeout", status=408):
    """The request did not arrive in time."""


class LengthRequired(RunqyError, code="length_required", status=411):
    """Content-Length is required; chunked request bodies are not supported."""


class EncodingUnsupported(RunqyError, code="unsupported_encoding", status=415):
    """Compressed request bodies are not supported."""


class KeyRequired(RunqyError, code="unauthorized", status=401):
    """A valid API key is required: Authorization: Bearer <key>."""

    challenge = 'Bearer realm="runqy"'
    """The value of WWW-Authenticate."""


class PushUnsigned(KeyRequired, code="push_unsigned", status=401):
    """The queue takes no push with this signature or token."""

    challenge = 'Signature realm="runqy"'


class KeyInsufficient(RunqyError, code="forbidden", status=403):
    """The API key does not have permission to perform this action."""


class WorkerIdTaken(RunqyError, code="worker_id_taken", status=409):
    """A running worker with this id is registered with another API key."""


class PathNotFound(RunqyError, code="not_found", status=404):
    """Not found."""


class MethodRefused(RunqyError, code="method_not_allowed", status=405):
    """Method not allowed."""


class MediaTypeUnsupported(RunqyError, code="unsupported_media_type", status=415):
    """The request body must be JSON (Content-Type: application/json)."""


class HeadersTooLarge(RunqyError, code="headers_too_large", status=431):
    """The request headers exceed the server's limit."""


class InternalError(RunqyError, code="internal", status=500):
    """Internal server error; the server's log has details under this request id."""


class PreconditionFailed(RunqyError, code="precondition_failed", status=412):
    """The resource has changed since it was read (If-Match)."""


class PreconditionRequired(RunqyError, code="precondition_required", status=428):
    """If-Match with the current ETag is required for this change."""


class TooManyRequests(RunqyError, code="rate_limited", status=429):
    """The API key has reached its rate limit (RUNQY_RATE_LIMIT)."""

    def __init__(self, detail: str | None = None, errors: Sequence[str] = (), *, retry_after_s: int = 1) -> None:
        super().__init__(detail, errors)
        self.retry_after_s = retry_after_s


class TooManyFailures(TooManyRequests, code="too_many_failures"):
    """Too many failed authentications from this address (RUNQY_AUTH_FAILURE_LIMIT)."""


class QueueFull(TooManyRequests, code="queue_full"):
    """The queue has reached max_waiting_tasks; try again later."""


class BatchesFull(TooManyRequests, code="batches_full"):
    """Too many members of batches wait to be enqueued; try again later."""

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail, retry_after_s=10)


class QueueMemoryExceeded(QueueFull, code="queue_memory"):
    """Redis is over 80 % full, and the queue holds more than its share (max_memory_share); try again later."""


class EndsFull(QueueFull, code="ends_full", status=503):
    """Too many ends of the queue's tasks wait to be told to webhooks and batches; try again later."""


class DatabaseUnavailable(RunqyError, code="database_unavailable", status=503):
    """The database cannot be reached."""


class NotReady(RunqyError, code="not_ready", status=503):
    """The process is not ready to serve requests; see /readyz?verbose."""

    def __init__(self, checks: Sequence[Mapping[str, str]] = ()) -> None:
        """`checks` are members of the response."""
        super().__init__(errors=[check["detail"] for check in checks if check["status"] == "failed"])
        if checks:
            self.extension = {"checks": list(checks)}


class ServerBusy(RunqyError, code="server_busy", status=503):
    """The server is overloaded; try again."""


class TooManyWaiters(RunqyError, code="too_many_waiters", status=503):
    """The server has reached its limit of requests that wait for results (RUNQY_MAX_WAITERS); retry without waiting."""


class QueueDisabled(RunqyError, code="queue_disabled", status=409):
    """The queue is disabled and accepts no tasks or workers."""


class RedisUserRequired(RunqyError, code="redis_acl_required", status=403):
    """This server registers only workers that accept a Redis user: send "accepts": ["redis_acl"]."""


class RedisUsersRefused(RunqyError, code="redis_acl_unavailable", status=503):
    """The server is not allowed to create Redis users, which RUNQY_WORKER_ACL=required needs."""


class SharedRedisRefused(RunqyError, code="shared_redis_refused", status=403):
    """This key is limited to queues and gets no shared Redis credentials: create one with allow_shared_redis."""


class DeploymentRefused(RunqyError, code="deployment_refused", status=400):
    """The deployment is not allowed."""


class DeploymentFailed(RunqyError, code="deployment_failed", status=502):
    """The queue's code could not be deployed."""


class DeploymentStopped(RunqyError, code="deployment_stopped", status=503):
    """The deployment was stopped."""


class ResourcesExhausted(RunqyError, code="resources_exhausted", status=503):
    """The machine is out of file descriptors, memory or processes; try again."""


class WorkerSettingsInvalid(RunqyError, code="worker_settings_invalid", status=400):
    """A worker setting is missing or invalid."""


class WorkerNotFound(RunqyError, code="worker_not_found", status=404):
    """Worker not found."""


class WorkerUnreachable(RunqyError, code="worker_unreachable", status=409):
    """The worker cannot be asked for anything: it is lost, or it is a program that reads no requests."""


class RegistrationRefused(RunqyError, code="registration_refused", status=403):
    """The server refused the worker's registration."""


class ServerUnavailable(RunqyError, code="server_unavailable", status=503):
    """The server cannot be reached."""


class ServerUnprepared(ServerUnavailable, code="server_unprepared"):
    """The server is missing configuration that the worker needs."""


class PayloadUnusable(RunqyError, code="payload_unusable", status=400):
    """The payload cannot be passed to a child process."""


class PayloadNotKept(RunqyError, code="payload_not_kept", status=409):
    """The payload was not kept in full, so the task cannot run again."""


class SearchTooSlow(RunqyError, code="search_too_slow", status=400):
    """The search takes too long. Narrow the period, or add a queue, a worker or a commit."""


class BulkActionNotFound(RunqyError, code="bulk_action_not_found", status=404):
    """Bulk action not found."""


class ScheduleNotFound(RunqyError, code="schedule_not_found", status=404):
    """Schedule not found."""


class ScheduleAlreadyExists(RunqyError, code="schedule_exists", status=409):
    """A schedule of this name exists; replace it with PUT."""


class ScheduleNameTaken(RunqyError, code="schedule_name_taken", status=409):
    """This name cannot be used; choose another one."""


class ObjectLimitReached(RunqyError, code="object_limit_reached", status=409):
    """An API key or a queue has as many of these objects as it may have; delete some first."""


class StackFailed(RunqyError, code="stack_failed"):
    """The processes of a stack cannot be started or kept running."""
