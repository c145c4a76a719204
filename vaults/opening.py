"""Opens the published vaults for workers and says what hinders it, without asking the database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runqy.errors import VaultLocked, VaultUnavailable
from runqy.git.hosts import is_https
from runqy.publication.derived import Snapshot
from runqy.publication.documents import Kind
from runqy.publication.snapshot import MAX_AGE_S, get_snapshot
from vaults.crypto import Keyring
from vaults.deliveries import Share, vault_state
from vaults.keyring import get_keyring
from vaults.names import parse_reference, problem_of_git_token
from vaults.published import PublishedEntry, PublishedVault, decode_vault

__all__ = ["Handout", "find_vault_problems", "open_vaults"]

_MOST_NAMED = 3
"""Entries of one vault that are named when more do not open: without its key, none of a large vault does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handout:
    """What a worker is handed out of vaults."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    git_token: str = field(default="", repr=False)
    shares: tuple[Share, ...] = ()
    """Which versions of which vaults' entries these are."""


def open_vaults(
    names: Sequence[str], *, git_token: str = "", git_url: str = "", max_age_s: float = MAX_AGE_S
) -> Handout:
    """Return the variables in some vaults, a later one overriding an earlier one, and the token for a repository.

    The token is the value of the entry that `git_token` refers to, if the entry is declared for the host of `git_url`;
    without an https URL there is none, because git sends it on no other way.
    Raises VaultLocked, or VaultUnavailable with a sentence for each thing that is missing or does not open, of many
    entries of a vault for the first: never a part.
    """
    if not names and not git_token:
        return Handout()
    keyring, snapshot = get_keyring(), get_snapshot(max_age_s)
    if problems := _problems(snapshot, keyring, names, git_token, git_url):
        raise VaultUnavailable(" ".join(problems), errors=problems)
    taken = _taken_entries(snapshot, names)
    values = {entry.key: _open(keyring, name, entry) for name, entry in taken}
    token = _token_entry(snapshot, git_token) if is_https(git_url) else None
    return Handout(
        values=values,
        git_token=_open(keyring, *token) if token else "",
        shares=_shares(snapshot, names, [*taken, *([token] if token else [])]),
    )


def find_vault_problems(
    names: Iterable[str], *, git_token: str = "", git_url: str = "", max_age_s: float = MAX_AGE_S
) -> list[str]:
    """Return what keeps workers from being handed this, a sentence each.

    Every vault is opened once for each state of the configuration, so that all queues can be looked at together.
    """
    names = list(names)
    if not names and not git_token:
        return []
    try:
        keyring = get_keyring()
    except VaultLocked as error:
        return [error.detail]
    return _problems(get_snapshot(max_age_s), keyring, names, git_token, git_url)


def _problems(snapshot: Snapshot, keyring: Keyring, names: Iterable[str], git_token: str, git_url: str) -> list[str]:
    """Return what hinders opening some vaults, and sending the entry that is the git token to the repository's host."""
    problems: list[str] = []
    for name in dict.fromkeys(names):
        hindrances = _hindrances(snapshot, keyring, name)
        if hindrances is None:
            problems.append(f"The vault {name} does not exist: create it, or take it off the queue.")
        else:
            problems += _shortened(name, [problem for problem in hindrances.values() if problem])
    if git_token:
        token_problem = _problem_of_token(snapshot, keyring, git_token) or _problem_of_host(
            snapshot, git_token, git_url
        )
        problems += [token_problem] if token_problem and token_problem not in problems else []
    return problems


def _shortened(vault: str, problems: list[str]) -> list[str]:
    """Return what hinders opening the first entries of a vault, and how many more there are."""
    more = len(problems) - _MOST_NAMED
    return problems if more <= 1 else [*problems[:_MOST_NAMED], f"{more} more entries of {vault} do not open."]


def _problem_of_token(snapshot: Snapshot, keyring: Keyring, git_token: str) -> str:
    """Return what hinders opening the entry that is the git token; empty: nothing."""
    place = parse_reference(git_token)
    if place is None:
        return "The git token is not spelled vault://<vault>/<key>."
    hindrances = _hindrances(snapshot, keyring, place.vault)
    if hindrances is None:
        return f"The vault {place.vault} with the git token does not exist: create it, or change git_token."
    missing = f"The vault {place.vault} has no entry {place.key}, the git token: set it, or change git_token."
    return hindrances.get(place.key, missing)


def _problem_of_host(snapshot: Snapshot, git_token: str, git_url: str) -> str:
    """Return why the entry that is the git token may not be sent to a repository's host; empty: it may."""
    reference, token = parse_reference(git_token), _token_entry(snapshot, git_token)
    if reference is None or token is None:
        return ""
    _, entry = token
    return problem_of_git_token(reference, usage=entry.usage, git_hosts=entry.git_hosts, git_url=git_url) or ""


def _hindrances(snapshot: Snapshot, keyring: Keyring, name: str) -> Mapping[str, str] | None:
    """Return for each entry of a vault why it does not open, empty where it does; None: there is no such vault."""

    def find(snapshot: Snapshot) -> Mapping[str, str] | None:
        vault = _published(snapshot, name)
        return {entry.key: _hindrance(keyring, name, entry) for entry in vault.entries} if vault else None

    return snapshot.derive(("vault_hindrances", keyring, name), find)


def _hindrance(keyring: Keyring, vault: str, entry: PublishedEntry) -> str:
    """Return why an entry does not open; empty: it does."""
    try:
        _open(keyring, vault, entry)
    except VaultUnavailable as error:
        return error.detail
    return ""


def _open(keyring: Keyring, vault: str, entry: PublishedEntry) -> str:
    """Return the value of an entry. Raises VaultUnavailable."""
    return keyring.open(entry.place(vault), entry.ciphertext)


def _taken_entries(snapshot: Snapshot, names: Iterable[str]) -> list[tuple[str, PublishedEntry]]:
    """Return the entries that make an environment, each with its vault, a later vault overriding an earlier one."""
    by_key = {
        entry.key: (name, entry) for name in names for entry in _entries(snapshot, name) if entry.usage.is_variable
    }
    return list(by_key.values())


def _token_entry(snapshot: Snapshot, git_token: str) -> tuple[str, PublishedEntry] | None:
    """Return the entry that a reference means, with its vault; None where there is none."""
    place = parse_reference(git_token)
    if place is None:
        return None
    return next(((place.vault, entry) for entry in _entries(snapshot, place.vault) if entry.key == place.key), None)


def _shares(
    snapshot: Snapshot, names: Iterable[str], entries: Iterable[tuple[str, PublishedEntry]]
) -> tuple[Share, ...]:
    """Return what was taken of each vault, which may be nothing of one that is empty or overridden."""
    versions: dict[str, dict[str, int]] = {name: {} for name in names}
    for vault, entry in entries:
        versions.setdefault(vault, {})[entry.key] = entry.version
    return tuple(
        Share(vault=vault, versions=taken, state=vault_state({e.key: e.version for e in _entries(snapshot, vault)}))
        for vault, taken in versions.items()
    )


def _entries(snapshot: Snapshot, name: str) -> tuple[PublishedEntry, ...]:
    """Return the entries of a vault, none if there is no such vault."""
    vault = _published(snapshot, name)
    return vault.entries if vault else ()


def _published(snapshot: Snapshot, name: str) -> PublishedVault | None:
    """Return what is published about a vault."""
    document = snapshot.find(Kind.VAULT, name)
    return decode_vault(document.body) if document is not None and document.body is not None else None
