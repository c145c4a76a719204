"""The limits and the umask that each process sets when it starts."""

import os
import resource


def restrict_new_files() -> None:
    """Make new files of this process accessible to its user only, with any umask that it inherited."""
    os.umask(0o077)


def raise_open_files_limit() -> None:
    """Raise the soft limit of open files, and so of connections, to the hard limit. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
