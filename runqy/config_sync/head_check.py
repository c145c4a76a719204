"""Compare the head of the published configuration in Redis with the known one, and detect an older one put back."""

from enum import StrEnum

import structlog
from django.conf import settings

from runqy.config_sync.documents import Head, InvalidSignature, is_bare_digest, signing_key, verify_head

log = structlog.get_logger()

RECOMPARE_S = 5.0
"""How often documents that do not match the head in Redis are read again, unless the head changes."""


class HeadProblem(StrEnum):
    """Why the head in Redis does not confirm the known configuration."""

    MISSING = "missing"
    UNSIGNED = "unsigned"  # a release without heads published last
    REFUSED = "refused"  # not signed by this server
    PUT_BACK = "put back"  # older than one seen in Redis before
    BEHIND = "behind"  # older than the known one: not published yet, or put back
    INCOMPLETE = "incomplete"  # does not match the documents
    AHEAD = "ahead"  # newer than the database: that was restored from a backup


class HeadCheck:
    """The head last seen in Redis, and its problem, which is logged once."""

    def __init__(self) -> None:
        self.problem: HeadProblem | None = None
        self._content: bytes | None = None
        self._head: Head | None = None
        self._highest = 0
        self._compared: bytes | None = None
        self._compare_at = float("-inf")

    def update(self, content: bytes | None) -> None:
        """Set the current head of Redis."""
        if content is not None and content == self._content:
            return
        self._content, self._head, self.problem = content, None, None
        if content is None:
            self.problem = HeadProblem.MISSING
            return
        try:
            self._head = verify_head(content, signing_key(settings.SECRET_KEY))
        except InvalidSignature:
            self._report(HeadProblem.UNSIGNED if is_bare_digest(content) else HeadProblem.REFUSED)
            return
        if self._head.revision < self._highest:
            self._report(HeadProblem.PUT_BACK)
        self._highest = max(self._highest, self._head.revision)

    def confirms(self, known: Head) -> bool:
        """Return whether it equals the known head; set `problem` if not."""
        if self._head is None:
            return False
        if self._head == known:
            self.problem = None
            return True
        if self.problem is not HeadProblem.PUT_BACK:
            is_behind = self._head.revision < known.revision
            self.problem = HeadProblem.BEHIND if is_behind else HeadProblem.INCOMPLETE
        return False

    def is_due(self, now_s: float) -> bool:
        """Return whether its documents should be read: it is new, or they did not match some time ago."""
        return self._content != self._compared or now_s >= self._compare_at

    def record_comparison(self, content: bytes, now_s: float) -> None:
        """Record that the documents of a head were read."""
        self._compared, self._compare_at = content, now_s + RECOMPARE_S

    def _report(self, problem: HeadProblem) -> None:
        self.problem = problem
        report = log.warning if problem is HeadProblem.UNSIGNED else log.error
        report("published_head_refused", reason=problem.value)
