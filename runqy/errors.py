"""Owns what can go wrong: every error a user may see, with its stable code and HTTP status."""

from collections.abc import Mapping, Sequence


class RunqyError(Exception):
    """Something went wrong."""

    code = "error"
    status = 500

    def __init__(self, detail: str | None = None, errors: Sequence[str] = ()) -> None:
        """Take a message for this occurrence, and what is wrong one by one where that is more than one thing.

        Without a message the class's docstring is the message; `errors` is never empty.
        """
        super().__init__(detail or "; ".join(errors) or (type(self).__doc__ or "").strip())
        self.errors = tuple(errors) or (self.detail,)

    @property
    def detail(self) -> str:
        """Return the message of this occurrence."""
        return str(self.args[0])

    @property
    def extension(self) -> dict[str, object]:
        """Return what programs are told besides (RFC 9457, 3.2)."""
        return {}


class BrokerUnavailable(RunqyError):
    """Redis cannot be reached."""

    code, status = "broker_unavailable", 503


class BrokerFull(BrokerUnavailable):
    """Redis has reached its memory limit and takes no new tasks."""

    code = "broker_full"


class BrokerRefused(BrokerUnavailable):
    """Redis refuses these credentials."""

    code = "broker_refused"


class BrokerBusy(BrokerUnavailable):
    """This process has as many requests to Redis in flight as it allows."""

    code = "broker_busy"


class BrokerCommandRefused(RunqyError):
    """Redis refuses a command: a key holds something else than it should."""

    code = "broker_command_refused"


class TaskAlreadyExists(RunqyError):
    """A task with this id exists already."""

    code, status = "task_exists", 409


class TaskNotFound(RunqyError):
    """No such task."""

    code, status = "task_not_found", 404


class TaskNotUnique(RunqyError):
    """A task with this unique_key waits or runs already."""

    code, status = "task_not_unique", 409


class IdempotencyKeyReused(RunqyError):
    """This Idempotency-Key came with another request before."""

    code, status = "idempotency_key_reused", 422


class BatchTooLarge(RunqyError):
    """The batch has more tasks than one request may create."""

    code, status = "batch_too_large", 413


class BatchRefused(RunqyError):
    """No task of the batch was queued."""

    code, status = "batch_refused", 400


class BatchConflict(RunqyError):
    """Each task of the batch has a unique_key that another task holds."""

    code, status = "batch_conflict", 409


class TaskRunning(RunqyError):
    """The task runs; cancel it first."""

    code, status = "task_running", 409


class TaskEnded(RunqyError):
    """The task is over."""

    code, status = "task_ended", 409


class TaskStateUnsuited(RunqyError):
    """This cannot be done to a task in its state."""

    code, status = "task_state_unsuited", 409


class TaskNotCancelable(RunqyError):
    """The task is being aggregated and cannot be cancelled now."""

    code, status = "task_not_cancelable", 409


class LeaseLost(RunqyError):
    """The task is no longer held by this worker."""

    code, status = "lease_lost", 409


class QueueNotFound(RunqyError):
    """No such queue."""

    code, status = "queue_not_found", 404


class QueueInvalid(RunqyError):
    """The definition of the queue is not valid."""

    code, status = "queue_invalid", 400


class QueueAlreadyExists(RunqyError):
    """A queue with this name exists already."""

    code, status = "queue_exists", 409


class QueueNameTaken(RunqyError):
    """Another queue answers to this name."""

    code, status = "queue_name_taken", 409


class QueueBeingRemoved(RunqyError):
    """What was removed under this name is not all gone yet; try again in a few seconds."""

    code, status = "queue_being_removed", 409


class QueueNotEmpty(RunqyError):
    """The queue still holds tasks that are not over; force=true removes it with them."""

    code, status = "queue_not_empty", 409


class PayloadInvalid(RunqyError):
    """The payload does not fit the queue's schema."""

    code, status = "payload_invalid", 400


class ConfigurationUnavailable(RunqyError):
    """The configuration can be read neither from Redis nor from the database."""

    code, status = "configuration_unavailable", 503


class ConfigurationUnconfirmed(RunqyError):
    """Neither Redis nor the database has confirmed the configuration for too long (RUNQY_CONFIG_MAX_AGE)."""

    code, status = "configuration_unconfirmed", 503


class VaultLocked(RunqyError):
    """Vaults are locked: the server has no master key (RUNQY_VAULT_MASTER_KEY)."""

    code, status = "vaults_locked", 503


class VaultUnavailable(RunqyError):
    """A vault cannot be opened."""

    code, status = "vault_unavailable", 503


class DeliveryNotRecorded(RunqyError):
    """Secrets are not handed out: too many deliveries wait to be recorded, so maintenance or the database is away."""

    code, status = "delivery_not_recorded", 503


class VaultNotFound(RunqyError):
    """No such vault."""

    code, status = "vault_not_found", 404


class VaultEntryNotFound(RunqyError):
    """No such entry in the vault."""

    code, status = "vault_entry_not_found", 404


class VaultEntryChanged(RunqyError):
    """The entry is at another version than the change was meant for (expected_version)."""

    code, status = "vault_entry_changed", 412

    def __init__(self, name: str, *, expected: int, present: int) -> None:
        """Take the entry's name and both versions; 0: it does not exist."""
        meant = f"version {expected} was expected" if expected else "it was expected not to exist"
        super().__init__(f"The entry {name} {f'is at version {present}' if present else 'does not exist'}; {meant}.")
        self.present = present

    @property
    def extension(self) -> dict[str, object]:
        """Return the version that there is."""
        return {"present_version": self.present}


class VaultAlreadyExists(RunqyError):
    """A vault with this name exists already."""

    code, status = "vault_exists", 409


class VaultInvalid(RunqyError):
    """The name or value is not allowed in a vault."""

    code, status = "vault_invalid", 400


class PassphraseRefused(RunqyError):
    """A passphrase has 12 to 1024 characters."""

    code, status = "passphrase_refused", 400


class ExportUnreadable(RunqyError):
    """This is no export of a vault."""

    code, status = "export_unreadable", 400


class ExportNotOpened(RunqyError):
    """The export does not open: the passphrase is wrong, or the export was altered."""

    code, status = "export_not_opened", 400


class ApiKeyInvalid(RunqyError):
    """The description of the key is not valid."""

    code, status = "api_key_invalid", 400


class ApiKeyNotFound(RunqyError):
    """No such key."""

    code, status = "api_key_not_found", 404


class ApiKeyAlreadyRevoked(RunqyError):
    """The key was revoked before."""

    code, status = "api_key_revoked", 409


class RequestInvalid(RunqyError):
    """The request cannot be understood."""

    code, status = "invalid_request", 400


class RequestTooLarge(RunqyError):
    """The body is larger than this server takes (RUNQY_MAX_BODY_SIZE)."""

    code, status = "too_large", 413


class RequestTimeout(RunqyError):
    """The request did not arrive in time."""

    code, status = "request_timeout", 408


class LengthRequired(RunqyError):
    """The body has no Content-Length; this server does not read chunked bodies."""

    code, status = "length_required", 411


class EncodingUnsupported(RunqyError):
    """The body is compressed; send it as it is."""

    code, status = "unsupported_encoding", 415


class KeyRequired(RunqyError):
    """A valid API key is needed: Authorization: Bearer <key>."""

    code, status = "unauthorized", 401


class KeyInsufficient(RunqyError):
    """This API key may not do that."""

    code, status = "forbidden", 403


class WorkerIdTaken(RunqyError):
    """A worker with this id is alive, and registered with another API key."""

    code, status = "worker_id_taken", 409


class PathNotFound(RunqyError):
    """Nothing is here."""

    code, status = "not_found", 404


class MethodRefused(RunqyError):
    """This path does not take the method."""

    code, status = "method_not_allowed", 405


class MediaTypeUnsupported(RunqyError):
    """The body has to be JSON: Content-Type: application/json."""

    code, status = "unsupported_media_type", 415


class HeadersTooLarge(RunqyError):
    """The headers of the request are larger than this server takes."""

    code, status = "headers_too_large", 431


class InternalError(RunqyError):
    """Something went wrong in the server; its log says what, under this request's id."""

    code, status = "internal", 500


class PreconditionFailed(RunqyError):
    """It has changed since it was read (If-Match)."""

    code, status = "precondition_failed", 412


class PreconditionRequired(RunqyError):
    """This change needs If-Match with the ETag of what is to be changed."""

    code, status = "precondition_required", 428


class TooManyRequests(RunqyError):
    """This key has sent as many requests as it may (RUNQY_RATE_LIMIT)."""

    code, status = "rate_limited", 429

    def __init__(self, detail: str | None = None, errors: Sequence[str] = (), *, retry_after_s: int = 1) -> None:
        """Take also when to try again."""
        super().__init__(detail, errors)
        self.retry_after_s = retry_after_s


class TooManyFailures(TooManyRequests):
    """Too many requests with a wrong key came from this address (RUNQY_AUTH_FAILURE_LIMIT)."""

    code = "too_many_failures"


class QueueFull(TooManyRequests):
    """The queue has as many waiting tasks as it may (max_waiting_tasks); try again later."""

    code = "queue_full"


class DatabaseUnavailable(RunqyError):
    """The database cannot be reached."""

    code, status = "database_unavailable", 503


class NotReady(RunqyError):
    """This process cannot take requests now; /readyz?verbose says why."""

    code, status = "not_ready", 503

    def __init__(self, checks: Sequence[Mapping[str, str]] = ()) -> None:
        """Take what the checks found, as it is to be told; none: only that it is so."""
        super().__init__(errors=[check["detail"] for check in checks if check["status"] == "failed"])
        self.checks = list(checks)

    @property
    def extension(self) -> dict[str, object]:
        """Return what the checks found."""
        return {"checks": self.checks} if self.checks else {}


class ServerBusy(RunqyError):
    """The server has more requests than it can take now; try again."""

    code, status = "server_busy", 503


class TooManyWaiters(RunqyError):
    """As many requests wait for results as this server allows (RUNQY_MAX_WAITERS); ask again without waiting."""

    code, status = "too_many_waiters", 503


class QueueDisabled(RunqyError):
    """The queue is disabled: it takes no tasks and no workers."""

    code, status = "queue_disabled", 409


class RedisUserRequired(RunqyError):
    """This server registers only workers that take a Redis user of their own: send "accepts": ["redis_acl"]."""

    code, status = "redis_acl_required", 403


class RedisUsersRefused(RunqyError):
    """Redis does not let this server create Redis users, and RUNQY_WORKER_ACL=required lets it give no other."""

    code, status = "redis_acl_unavailable", 503


class DeploymentRefused(RunqyError):
    """This deployment is not allowed."""

    code, status = "deployment_refused", 400


class DeploymentFailed(RunqyError):
    """The queue's code could not be brought onto this machine."""

    code, status = "deployment_failed", 502


class DeploymentStopped(RunqyError):
    """The deployment was told to stop."""

    code, status = "deployment_stopped", 503


class WorkerSettingsInvalid(RunqyError):
    """A setting of the worker is missing or makes no sense."""

    code, status = "worker_settings_invalid", 400


class WorkerNotFound(RunqyError):
    """No such worker."""

    code, status = "worker_not_found", 404


class RegistrationRefused(RunqyError):
    """The server does not let this worker register."""

    code, status = "registration_refused", 403


class ServerUnavailable(RunqyError):
    """The server cannot be reached."""

    code, status = "server_unavailable", 503


class ServerUnprepared(ServerUnavailable):
    """The server lacks configuration that the worker needs."""

    code = "server_unprepared"


class PayloadUnusable(RunqyError):
    """The payload cannot be handed to a child process."""

    code, status = "payload_unusable", 400


class StackFailed(RunqyError):
    """The processes of a stack cannot be started or kept running."""

    code = "stack_failed"
