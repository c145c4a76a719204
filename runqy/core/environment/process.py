"""What each process sets when it starts: limits, the umask, and when garbage is collected.

None is collected while Django starts: what is imported stays, and to look through it again and again takes a quarter of
the time in which a process starts.
"""

import gc
import os
import resource

COLLECTION_THRESHOLDS = (10_000, 20, 20)
"""Those of Python's collector, whose own are (700, 10, 10)."""


def restrict_new_files() -> None:
    """Make new files of this process accessible to its user only, with any umask that it inherited."""
    os.umask(0o077)


def raise_open_files_limit() -> None:
    """Raise the soft limit of open files, and so of connections, to the hard limit. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_rarely() -> None:
    """Collect garbage less often than Python does by itself, and not among what exists: imported code stays.

    For processes that make many objects and few cycles of them. Their objects are freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTION_THRESHOLDS)


_has_started = False


def pause_collection() -> None:
    """Collect no garbage until Django has started. Ignored if it has."""
    if not _has_started:
        gc.disable()


def resume_collection() -> None:
    """Collect garbage again, but not among what exists: the first collection would look through all of it."""
    global _has_started  # noqa: PLW0603 (a process starts once)
    _has_started = True
    gc.freeze()
    gc.enable()
