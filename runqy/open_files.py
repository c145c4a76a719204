"""Raises the limit of open files, of which each connection is one."""

import resource


def raise_open_files_limit() -> None:
    """Raise this process's soft limit to the hard one; processes that it starts inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
