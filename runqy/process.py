"""What each process sets for itself when it starts."""

import os
import resource


def restrict_new_files() -> None:
    """Make files that this process creates accessible to its user only, whatever the umask was."""
    os.umask(0o077)


def raise_open_files_limit() -> None:
    """Raise the soft limit of this process and its children, which bounds their connections, to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
