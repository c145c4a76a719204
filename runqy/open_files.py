"""The limit of open files, which bounds the number of connections."""

import resource


def raise_open_files_limit() -> None:
    """Raise the soft limit of this process and its children to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
