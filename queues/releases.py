"""Releases of a queue's code: numbered commits, who made them, which one is live, and what workers are told of them.

Pages that show a commit get its subject, author and time from them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
from django.core.exceptions import ValidationError
from django.db.models import Exists, Max, OuterRef
from django.utils import timezone

from queues.catalog import AllowedQueues
from queues.definitions import CODE_COLUMNS, PublishedRelease, PublishedReleases, QueueSpec
from queues.models import Queue, Release, ReleaseSource, ReleaseState
from queues.queries import get_fresh_catalog
from queues.validators import validate_branch
from queues.vault_grants import LIMITED_KEY, NO_VAULT_PERMISSION, refuse_added_grants
from runqy.audit.actors import current_actor
from runqy.audit.operations import Changes, record
from runqy.configuration.documents import DocumentKind
from runqy.configuration.operations import Change, configuration_change
from runqy.errors import QueueNotFound, ReleaseMissing, RequestInvalid

RELEASES_KEPT = 50
"""Of each queue, with the live one."""
REPEATED_WITHIN = timedelta(seconds=10)
"""How long a request for the same code goes on with its release, although another one has superseded it."""
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def redeploy_queue(*, name: str, commit: str = "", allowed_queues: AllowedQueues = None) -> Release:
    """Have the workers of a queue, given by any of its names, run the newest commit, or a given commit or tag.

    Return the release that is rolling out if it is the same: clients repeat requests. Among requests of one moment for
    several commits the last one counts, and each commit has one release. Raise QueueNotFound, RequestInvalid.
    """
    _refuse_invalid(commit)
    queue = get_fresh_catalog(max_age_s=0).get_queue(name, allowed_queues=allowed_queues).name
    with configuration_change() as change:
        row = get_queue(queue)
        code = code_of(row)
        if commit and not COMMIT.fullmatch(commit):
            code, commit = code | {"branch": commit}, ""
        candidate = find_release(row, ReleaseState.ROLLING_OUT)
        if candidate and _is_requested(candidate, code, commit):
            return candidate
        live = find_release(row, ReleaseState.LIVE)
        release = _find_superseded(row, code, commit)
        if release:
            _resume(change, release)
        else:
            release = create_release(change, row, code, commit=commit, source=ReleaseSource.MANUAL)
        changes = release_changes(live, release)
        record(action="queue.redeployed", object_kind="queue", object_name=queue, changes=changes)
    return release


def roll_back(*, name: str, allowed_queues: AllowedQueues = None, may_grant_vaults: bool = True) -> Release:
    """Have the workers of a queue run the release before the live one, or the live one if another is rolling out.

    Return the rollback that is rolling out, if there is one: clients repeat requests.
    Raise QueueNotFound, ReleaseMissing, and KeyInsufficient for a key that is limited to queues, or without
    `may_grant_vaults`, if code from another host would get the vaults of the queue.
    """
    queue = get_fresh_catalog(max_age_s=0).get_queue(name, allowed_queues=allowed_queues).name
    with configuration_change() as change:
        row = get_queue(queue)
        candidate, live = find_release(row, ReleaseState.ROLLING_OUT), find_release(row, ReleaseState.LIVE)
        if candidate and candidate.source == ReleaseSource.ROLLBACK:
            return candidate
        target = live if candidate and live else _release_before(row, live)
        if allowed_queues is not None or not may_grant_vaults:
            before = replace(row.as_spec().deployment, git_token="")  # which is sent to no other host
            reason = NO_VAULT_PERMISSION if allowed_queues is None else LIMITED_KEY
            refuse_added_grants(before, replace(before, git_url=target.git_url), reason=reason)
        code = {column: getattr(target, column) for column in CODE_COLUMNS}
        release = create_release(change, row, code, commit=target.commit, source=ReleaseSource.ROLLBACK, like=target)
        changes = {"like": (None, target.number), **release_changes(candidate or live, release)}
        record(action="queue.rolled_back", object_kind="queue", object_name=queue, changes=changes)
    return release


def release_definition(change: Change, row: Queue, before: QueueSpec) -> None:
    """Make a release if a saved definition differs from the one before in what a release fixes.

    It has the commit of the one that is rolling out, which proves itself anew, or else of the live one.
    Without a release that is live, or the first one rolling out, workers follow the definition.
    """
    code = code_of(row)
    live, candidate = find_release(row, ReleaseState.LIVE), find_release(row, ReleaseState.ROLLING_OUT)
    is_released = live is not None or candidate is not None
    if not is_released or code == {column: getattr(before.deployment, column) for column in CODE_COLUMNS}:
        return
    is_same = (row.git_url, row.branch) == (before.deployment.git_url, before.deployment.branch)
    # That of a rollback may be in another repository than the definition names.
    alike = [each for each in (candidate, live) if is_same and each and each.git_url == row.git_url]
    if alike and not alike[0].commit:
        code["branch"] = alike[0].branch  # or a tag, whose commit no worker has found yet
    like = alike[0] if alike and alike[0].commit else None
    create_release(change, row, code, commit=like.commit if like else "", source=ReleaseSource.DEFINITION, like=like)


def create_release(  # noqa: PLR0913 (what a release has)
    change: Change,
    row: Queue,
    code: Mapping[str, str],
    *,
    commit: str,
    source: ReleaseSource,
    like: Release | None = None,
    state: ReleaseState = ReleaseState.ROLLING_OUT,
) -> Release:
    """Store and publish a release. It supersedes one that is rolling out. `like` has the same commit."""
    now = timezone.now()
    number = 1 + (row.releases.aggregate(newest=Max("number"))["newest"] or 0)
    _supersede(row, number, is_rollback=source == ReleaseSource.ROLLBACK)
    # There is nothing better, or what runs is to stop.
    is_whole = source == ReleaseSource.ROLLBACK or find_release(row, ReleaseState.LIVE) is None
    about = {name: getattr(like, name) for name in ("subject", "author", "committed_at")} if like else {}
    release = Release.objects.create(
        queue=row,
        number=number,
        commit=commit,
        source=source,
        actor=current_actor().name[:200],
        state=state,
        created_at=now,
        live_at=now if state is ReleaseState.LIVE else None,
        like=like.number if like else None,
        is_whole=is_whole,
        is_baked=is_whole,
        **code,
        **about,
    )
    oldest = row.releases.exclude(state=ReleaseState.LIVE).order_by("-number")[RELEASES_KEPT - 1 :]
    row.releases.filter(pk__in=list(oldest.values_list("pk", flat=True))).delete()
    publish_releases(change, row)
    return release


def end_release(release: Release, state: ReleaseState, *, reason: str = "", output: str = "") -> None:
    release.state, release.reason, release.output, release.ended_at = state, reason, output, timezone.now()
    release.save(update_fields=["state", "reason", "output", "ended_at"])


def release_changes(before: Release | None, after: Release) -> Changes:
    """Return, for the audit, what is known of the release and commit that workers change to, and of those before."""
    columns = {"release": "number"} | {name: name for name in ("commit", "subject", "author", "committed_at")}
    known = {field: getattr(after, column) for field, column in columns.items() if getattr(after, column)}
    return {field: ((getattr(before, columns[field]) or None) if before else None, new) for field, new in known.items()}


def find_release(row: Queue, state: ReleaseState) -> Release | None:
    return row.releases.filter(state=state).first()


def list_releases(*, name: str, allowed_queues: AllowedQueues = None) -> tuple[str, Sequence[Release]]:
    """Return the name of a queue, given by any of its names, and its releases, the newest first.

    Raise QueueNotFound.
    """
    queue = get_fresh_catalog().get_queue(name, allowed_queues=allowed_queues).name
    return queue, list(Release.objects.filter(queue__name=queue))


def list_reverted() -> list[Release]:
    """Return the newest release of each queue where that was reverted or has failed."""
    newer = Release.objects.filter(queue=OuterRef("queue"), number__gt=OuterRef("number"))
    failed = Release.objects.filter(state__in=(ReleaseState.REVERTED, ReleaseState.FAILED))
    return list(failed.filter(~Exists(newer)).select_related("queue").order_by("queue__name"))


def get_queue(name: str) -> Queue:
    row = Queue.objects.filter(name=name).first()
    if row is None:
        raise QueueNotFound(f"No queue {name[:128]!r}.")
    return row


def code_of(row: Queue) -> dict[str, str]:
    return {column: getattr(row, column) for column in CODE_COLUMNS}


def publish_releases(change: Change, row: Queue) -> None:
    rows = {each.state: each for each in row.releases.filter(state__in=(ReleaseState.LIVE, ReleaseState.ROLLING_OUT))}
    candidate = rows.get(ReleaseState.ROLLING_OUT)
    published = PublishedReleases(
        live=_to_published(rows.get(ReleaseState.LIVE)),
        candidate=_to_published(candidate),
        workers=frozenset(candidate.workers if candidate else ()),
        is_whole=bool(candidate and candidate.is_whole),
        replacements=row.replacements,
    )
    change.put(DocumentKind.RELEASES, row.name, msgspec.json.encode(published, order="deterministic"))


def _to_published(release: Release | None) -> PublishedRelease | None:
    if release is None:
        return None
    members: dict[str, Any] = {name: getattr(release, name) for name in ("number", "commit", *CODE_COLUMNS)}
    is_named = bool(release.commit) and (release.source == ReleaseSource.MANUAL or _continues_unproven(release))
    is_rolling_out = release.state == ReleaseState.ROLLING_OUT
    is_rollback = release.source == ReleaseSource.ROLLBACK
    return PublishedRelease(
        **members,
        requires_ref=is_named and is_rolling_out,
        is_proving=is_rolling_out and not release.is_baked,
        goes_back_to=(release.like or 0) if is_rollback else 0,
    )


def _is_requested(candidate: Release, code: Mapping[str, str], commit: str) -> bool:
    """Return whether a release that is rolling out is what a request asks for. Of a branch, a commit may be older."""
    is_same = all(getattr(candidate, column) == value for column, value in code.items())
    return is_same and candidate.commit == commit and (bool(commit) or not (candidate.workers or candidate.is_whole))


def _find_superseded(row: Queue, code: Mapping[str, str], commit: str) -> Release | None:
    """Return the release of the last moment that is what a request asks for, if only such requests came after it."""
    since = timezone.now() - REPEATED_WITHIN
    for release in row.releases.filter(created_at__gt=since):
        is_open = release.state in (ReleaseState.ROLLING_OUT, ReleaseState.SUPERSEDED) and release.live_at is None
        if release.source != ReleaseSource.MANUAL or not is_open:
            return None
        if release.state == ReleaseState.SUPERSEDED and _is_requested(release, code, commit):
            return release
    return None


def _resume(change: Change, release: Release) -> None:
    """Let a superseded release roll out again, in place of the one that superseded it."""
    _supersede(release.queue, release.number)
    release.state, release.reason, release.ended_at, release.ready_at = ReleaseState.ROLLING_OUT, "", None, None
    release.save(update_fields=["state", "reason", "ended_at", "ready_at"])
    publish_releases(change, release.queue)


def _supersede(row: Queue, number: int, *, is_rollback: bool = False) -> None:
    """End the release that is rolling out, if there is one, because of another one."""
    if rolling_out := find_release(row, ReleaseState.ROLLING_OUT):
        stopped = f"stopped by {current_actor().name}: rolled back by release {number}"
        reason = stopped if is_rollback else f"release {number} came before it was live"
        end_release(rolling_out, ReleaseState.SUPERSEDED, reason=reason)


def _continues_unproven(release: Release) -> bool:
    """Return whether a changed definition goes on with a commit that was never live."""
    if release.source != ReleaseSource.DEFINITION or release.like is None:
        return False
    return release.queue.releases.filter(number=release.like, live_at=None).exists()


def _refuse_invalid(commit: str) -> None:
    """Raise RequestInvalid for a text that is neither a commit nor the name of a tag."""
    if re.fullmatch(r"[0-9a-f]{7,39}", commit):
        raise RequestInvalid("commit: A shortened commit may mean several: give all of its digits, or a tag.")
    try:
        validate_branch(commit or "main")
    except ValidationError as error:
        raise RequestInvalid(f"commit: {' '.join(error.messages)}") from error


def _release_before(row: Queue, live: Release | None) -> Release:
    # Rolling back twice goes two releases back, not back to where it began.
    base = live
    while base is not None and base.source == ReleaseSource.ROLLBACK and base.like is not None:
        base = row.releases.filter(number=base.like).first()
    target = row.releases.filter(live_at__lt=base.live_at).order_by("-live_at").first() if base else None
    if target is None:
        raise ReleaseMissing(f"No release of the queue {row.name} was live before the present one.")
    return target


def find_commits(located: Iterable[tuple[str, str]]) -> Mapping[str, Release]:
    """Return, by commit, a release that has its subject. `located` are queues and commits. One query."""
    # Workers can write any text into their records, and PostgreSQL refuses NUL.
    wanted = {(queue, commit) for queue, commit in located if COMMIT.fullmatch(commit) and "\0" not in queue}
    if not wanted:
        return {}
    queues, commits = ({pair[place] for pair in wanted} for place in range(2))
    known = Release.objects.filter(queue__name__in=queues, commit__in=commits).exclude(subject="")
    return {release.commit: release for release in known.only("commit", "subject", "author", "committed_at")}
