"""The template tag that writes a commit, for the pages of all apps."""

from collections.abc import Mapping
from typing import Any

from django import template

from queues.models import Release
from runqy import clock
from runqy.admin_site.times import RelativeTime

register = template.Library()
_SHORT = 12


@register.inclusion_tag("queues/commit.html")
def commit(  # noqa: PLR0913 (what templates choose)
    commit_id: str,
    known: Mapping[str, Release],
    *,
    url: str = "",
    title: str = "",
    has_subject: bool = True,
    is_whole: bool = False,
) -> dict[str, Any]:
    """Write a commit with subject, author and age, as far as `known`, the result of `find_commits`, has them."""
    release = known.get(commit_id)
    committed_at = release.committed_at if release else None
    return {
        "id": commit_id,
        "shown": commit_id if is_whole else commit_id[:_SHORT],
        "url": url,
        "title": title or commit_id,
        "subject": release.subject if release and has_subject else "",
        "author": release.author if release else "",
        "committed": RelativeTime.of_datetime(committed_at, clock.now_ns()) if committed_at else None,
    }
