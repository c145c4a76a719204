"""What the releases of queues say about commits: subject, author and time, for pages that show a commit."""

from collections.abc import Iterable, Mapping

from queues.models import Release
from queues.releases import COMMIT


def find_commits(located: Iterable[tuple[str, str]]) -> Mapping[str, Release]:
    """Return, by commit, a release that has its subject. `located` are queues and commits. One query."""
    # Workers can write any text into their records, and PostgreSQL refuses NUL.
    wanted = {(queue, commit) for queue, commit in located if COMMIT.fullmatch(commit) and "\0" not in queue}
    if not wanted:
        return {}
    queues, commits = ({pair[place] for pair in wanted} for place in range(2))
    known = Release.objects.filter(queue__name__in=queues, commit__in=commits).exclude(subject="")
    return {release.commit: release for release in known.only("commit", "subject", "author", "committed_at")}
