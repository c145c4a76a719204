"""Owns what can go wrong: every error a user may see, with its stable code and HTTP status."""

from collections.abc import Sequence


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


class BrokerUnavailable(RunqyError):
    """Redis cannot be reached."""

    code, status = "broker_unavailable", 503


class BrokerFull(BrokerUnavailable):
    """Redis has reached its memory limit and takes no new tasks."""

    code = "broker_full"


class BrokerRefused(BrokerUnavailable):
    """Redis refuses these credentials."""

    code = "broker_refused"


class TaskAlreadyExists(RunqyError):
    """A task with this id exists already."""

    code, status = "task_exists", 409


class TaskNotFound(RunqyError):
    """No such task."""

    code, status = "task_not_found", 404


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


class PayloadInvalid(RunqyError):
    """The payload does not fit the queue's schema."""

    code, status = "payload_invalid", 400


class ConfigurationUnavailable(RunqyError):
    """The configuration can be read neither from Redis nor from the database."""

    code, status = "configuration_unavailable", 503


class VaultLocked(RunqyError):
    """Vaults are locked: the server has no master key (RUNQY_VAULT_MASTER_KEY)."""

    code, status = "vaults_locked", 503


class VaultUnavailable(RunqyError):
    """A vault cannot be opened."""

    code, status = "vault_unavailable", 503


class VaultNotFound(RunqyError):
    """No such vault."""

    code, status = "vault_not_found", 404


class VaultEntryNotFound(RunqyError):
    """No such entry in the vault."""

    code, status = "vault_entry_not_found", 404


class VaultAlreadyExists(RunqyError):
    """A vault with this name exists already."""

    code, status = "vault_exists", 409


class VaultInvalid(RunqyError):
    """The name or value is not allowed in a vault."""

    code, status = "vault_invalid", 400


class ApiKeyInvalid(RunqyError):
    """The description of the key is not valid."""

    code, status = "api_key_invalid", 400


class ApiKeyNotFound(RunqyError):
    """No such key."""

    code, status = "api_key_not_found", 404


class ApiKeyAlreadyRevoked(RunqyError):
    """The key was revoked before."""

    code, status = "api_key_revoked", 409
