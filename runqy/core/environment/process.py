"""The limits and the umask that each process sets when it starts."""

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
