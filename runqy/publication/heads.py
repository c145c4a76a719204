"""The signed head of what is published: the highest revision, and a hash over the revisions of all documents.

In Redis it is `head <revision> <hash in hex> <nonce> <MAC in hex>`. The nonce makes every publication a new head, so
that a process that finds the head it has seen needs to read nothing else.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog
from django.conf import settings

from runqy.publication.documents import DocumentRefused, signing_key

log = structlog.get_logger()

RECOMPARE_S = 5.0
"""How long documents that do not fit the head in Redis are not read again, unless the head changes."""

_BARE_DIGEST = re.compile(rb"[0-9a-f]{32}")


class HeadProblem(StrEnum):
    """Why the head in Redis does not confirm what is known."""

    MISSING = "missing"
    UNSIGNED = "unsigned"  # a release without heads published last
    REFUSED = "refused"  # not signed by this server
    PUT_BACK = "put back"  # older than one that was seen in Redis before
    BEHIND = "behind"  # older than what is known: not published yet, or put back
    INCOMPLETE = "incomplete"  # it is that of other documents than there are
    AHEAD = "ahead"  # newer than the database: that was restored from a backup


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """All documents at one moment."""

    revision: int
    """The highest one; 0: there are no documents."""
    fingerprint: str

    @classmethod
    def of(cls, revisions: Iterable[tuple[str, int]]) -> "Head":
        """Return the head of documents, given their fields and revisions."""
        ordered = sorted(revisions)
        lines = "".join(f"{place} {revision}\n" for place, revision in ordered)
        highest = max((revision for _, revision in ordered), default=0)
        return cls(revision=highest, fingerprint=hashlib.sha256(lines.encode()).hexdigest())


class SeenHead:
    """The head as it was seen in Redis, and what is wrong with it. Reports each only once."""

    def __init__(self) -> None:
        self.problem: HeadProblem | None = None
        self._content: bytes | None = None
        self._head: Head | None = None
        self._highest = 0
        self._compared: bytes | None = None
        self._compare_at = float("-inf")

    def see(self, content: bytes | None) -> None:
        """Take what stands in Redis now."""
        if content is not None and content == self._content:
            return
        self._content, self._head, self.problem = content, None, None
        if content is None:
            self.problem = HeadProblem.MISSING
            return
        try:
            self._head = verify_head(content, signing_key(settings.SECRET_KEY))
        except DocumentRefused:
            self._report(HeadProblem.UNSIGNED if is_bare_digest(content) else HeadProblem.REFUSED)
            return
        if self._head.revision < self._highest:
            self._report(HeadProblem.PUT_BACK)
        self._highest = max(self._highest, self._head.revision)

    def confirms(self, known: Head) -> bool:
        """Return whether it is the head of what is known; note why not."""
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
        """Return whether the documents behind it are to be read: it is new, or did not fit them a while ago."""
        return self._content != self._compared or now_s >= self._compare_at

    def note_comparison(self, content: bytes, now_s: float) -> None:
        """Note that the documents behind a head were read."""
        self._compared, self._compare_at = content, now_s + RECOMPARE_S

    def _report(self, problem: HeadProblem) -> None:
        self.problem = problem
        report = log.warning if problem is HeadProblem.UNSIGNED else log.error
        report("published_head_refused", reason=problem.value)


def sign_head(head: Head, key: bytes) -> bytes:
    """Return a head as it stands in Redis, different each time."""
    signed = f"head {head.revision} {head.fingerprint} {secrets.token_hex(8)}".encode()
    return b"%b %b" % (signed, _mac(signed, key))


def verify_head(content: bytes, key: bytes) -> Head:
    """Return the head that stands in Redis. Raises DocumentRefused unless the server signed it."""
    signed, _, mac = content.rpartition(b" ")
    if not hmac.compare_digest(mac, _mac(signed, key)):
        raise DocumentRefused("head: wrong signature")
    _, revision, fingerprint, _ = signed.decode().split(" ")
    return Head(revision=int(revision), fingerprint=fingerprint)


def is_bare_digest(content: bytes) -> bool:
    """Return whether this is what releases without heads published in its place."""
    return _BARE_DIGEST.fullmatch(content) is not None


def _mac(signed: bytes, key: bytes) -> bytes:
    return hmac.new(key, b"runqy head\0" + signed, hashlib.sha256).hexdigest().encode()
