"""Decrypts the published vaults of a queue for its workers, without the database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runqy.configuration.documents import DocumentKind
from runqy.configuration.snapshot import MAX_AGE_S, Snapshot, get_snapshot
from runqy.core.git.sources import is_https
from runqy.errors import VaultLocked, VaultUnavailable
from vaults.access_log import VaultGrant, vault_state
from vaults.crypto import Keyring, get_keyring, read_key_id
from vaults.entry_rules import Reference, git_token_error, parse_reference
from vaults.models import PublishedEntry, PublishedVault

_ERRORS_MAX = 3
"""The errors listed of one vault at most: without its key, no entry of a large vault can be decrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSecrets:
    """The values that a worker receives from vaults."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    git_token: str = field(default="", repr=False)
    grants: tuple[VaultGrant, ...] = ()
    """The versions of the entries, by vault."""
    replacements: dict[str, int] = field(default_factory=dict)
    """How often a change was saved that replaces processes at once, by vault."""


def get_worker_secrets(
    names: Sequence[str], *, git_token: str = "", git_url: str = "", max_age_s: float = MAX_AGE_S
) -> WorkerSecrets:
    """Return the variables of some vaults and the git token for a repository. A later vault overrides an earlier one.

    The token is the value of the entry that `git_token` names, if that entry is declared for the host of `git_url`.
    Without an https URL there is no token, because git sends tokens only over https.

    Raise VaultLocked, or VaultUnavailable with the errors of all missing vaults and entries, and the first errors of
    each vault that cannot be decrypted. There is no partial result.
    """
    if not names and not git_token:
        return WorkerSecrets()
    keyring, snapshot = get_keyring(), get_snapshot(max_age_s)
    if errors := _errors(snapshot, keyring, names, git_token, git_url):
        raise VaultUnavailable(" ".join(errors), errors=errors)
    # By key: a later vault overrides an earlier one.
    variables = {
        entry.key: (name, entry) for name in names for entry in _entries(snapshot, name) if entry.usage.is_variable
    }
    delivered = [*variables.values()]
    token, reference = "", parse_reference(git_token)
    if reference and is_https(git_url) and (entry := _find_entry(snapshot, reference)):
        token = keyring.decrypt(entry.aad(reference.vault), entry.ciphertext)
        delivered.append((reference.vault, entry))
    return WorkerSecrets(
        values={key: keyring.decrypt(entry.aad(name), entry.ciphertext) for key, (name, entry) in variables.items()},
        git_token=token,
        grants=_grants(snapshot, names, delivered),
        replacements={name: vault.replacements for name in names if (vault := _published(snapshot, name))},
    )


def list_secret_errors(
    names: Iterable[str], *, git_token: str = "", git_url: str = "", max_age_s: float = MAX_AGE_S
) -> list[str]:
    """Return the errors that keep workers from receiving these secrets.

    Each vault is decrypted once for each state of the configuration, however many queues use it.
    """
    names = list(names)
    if not names and not git_token:
        return []
    try:
        keyring = get_keyring()
    except VaultLocked as error:
        return [error.detail]
    return _errors(get_snapshot(max_age_s), keyring, names, git_token, git_url)


def list_unreadable_vaults(names: Iterable[str], *, git_token: str = "") -> list[str]:
    """Return which of these vaults, and of that of a git token, have entries that cannot be decrypted.

    Raise VaultLocked, ConfigurationUnavailable.
    """
    keyring, snapshot, reference = get_keyring(), get_snapshot(MAX_AGE_S), parse_reference(git_token)
    used = dict.fromkeys([*names, *([reference.vault] if reference else [])])
    return [name for name in used if any((_decrypt_errors(snapshot, keyring, name) or {}).values())]


def has_all_master_keys(snapshot: Snapshot) -> bool:
    """Return whether the server has the master keys of all published entries. Raise VaultLocked."""
    keyring = get_keyring()

    def find(snapshot: Snapshot) -> bool:
        names = snapshot.of_kind(DocumentKind.VAULT)
        return all(read_key_id(entry.ciphertext) in keyring.ids for name in names for entry in _entries(snapshot, name))

    return snapshot.compute(("has_all_master_keys", keyring), find)


def _errors(snapshot: Snapshot, keyring: Keyring, names: Iterable[str], git_token: str, git_url: str) -> list[str]:
    """Return the errors of decrypting vaults, and of sending the git token to the repository's host."""
    errors: list[str] = []
    for name in dict.fromkeys(names):
        entry_errors = _decrypt_errors(snapshot, keyring, name)
        if entry_errors is None:
            errors.append(f"The vault {name} does not exist: create it, or remove it from the queue.")
        else:
            errors += _abbreviate(name, [error for error in entry_errors.values() if error])
    token_error = _token_error(snapshot, keyring, git_token, git_url) if git_token else ""
    return [*errors, token_error] if token_error and token_error not in errors else errors


def _abbreviate(vault: str, errors: list[str]) -> list[str]:
    more = len(errors) - _ERRORS_MAX
    return errors if more <= 1 else [*errors[:_ERRORS_MAX], f"{more} more entries of {vault} cannot be decrypted."]


def _token_error(snapshot: Snapshot, keyring: Keyring, git_token: str, git_url: str) -> str:
    """Return why the git token cannot be decrypted, or must not be sent to the repository's host."""
    reference = parse_reference(git_token)
    if reference is None:
        return "git_token must be vault://<vault>/<key>."
    errors = _decrypt_errors(snapshot, keyring, reference.vault)
    if errors is None:
        return f"The vault {reference.vault} with the git token does not exist: create it, or change git_token."
    entry = _find_entry(snapshot, reference)
    if entry is None:
        return f"The vault {reference.vault} has no entry {reference.key}, the git token: set it, or change git_token."
    host_error = git_token_error(reference, usage=entry.usage, git_hosts=entry.git_hosts, git_url=git_url)
    return errors[reference.key] or host_error or ""


def _decrypt_errors(snapshot: Snapshot, keyring: Keyring, name: str) -> Mapping[str, str] | None:
    """Return the decrypt error of each entry of a vault, empty if there is none; None if there is no such vault."""

    def find(snapshot: Snapshot) -> Mapping[str, str] | None:
        vault = _published(snapshot, name)
        if vault is None:
            return None
        return {entry.key: keyring.find_error(entry.aad(name), entry.ciphertext) for entry in vault.entries}

    return snapshot.compute(("vault_decrypt_errors", keyring, name), find)


def _find_entry(snapshot: Snapshot, reference: Reference) -> PublishedEntry | None:
    return next((entry for entry in _entries(snapshot, reference.vault) if entry.key == reference.key), None)


def _grants(
    snapshot: Snapshot, names: Iterable[str], entries: Iterable[tuple[str, PublishedEntry]]
) -> tuple[VaultGrant, ...]:
    """Return the grant of each vault. It has no versions if the vault is empty or overridden."""
    versions: dict[str, dict[str, int]] = {name: {} for name in names}
    for vault, entry in entries:
        versions.setdefault(vault, {})[entry.key] = entry.version
    return tuple(
        VaultGrant(
            vault=vault, versions=granted, state=vault_state({e.key: e.version for e in _entries(snapshot, vault)})
        )
        for vault, granted in versions.items()
    )


def _entries(snapshot: Snapshot, name: str) -> tuple[PublishedEntry, ...]:
    vault = _published(snapshot, name)
    return vault.entries if vault else ()


def _published(snapshot: Snapshot, name: str) -> PublishedVault | None:
    document = snapshot.find(DocumentKind.VAULT, name)
    return PublishedVault.decode(document.body) if document is not None and document.body is not None else None
