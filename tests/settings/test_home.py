"""A folder that cannot be used ends the start with one sentence."""

import os
from pathlib import Path

import pytest

from runqy.core.environment.home import HomeUnusable, get_or_create_secret, make_home
from runqy.errors import StackFailed
from runqy.stack.locks import FileLock

OTHER_USER = 65534


@pytest.fixture
def locked(tmp_path):
    """Return a folder with a secret. This process cannot open either: root becomes another user for it."""
    secret = tmp_path / "secret_key"
    secret.write_text("hush\n")
    secret.chmod(0)
    tmp_path.chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(OTHER_USER)
    yield tmp_path
    if is_root:
        os.seteuid(0)
    tmp_path.chmod(0o700)
    secret.chmod(0o600)  # all that tests leave is looked through in the end


def test_folder_that_cannot_be_created_is_an_error():
    with pytest.raises(HomeUnusable, match=r"^RUNQY_HOME: /dev/null/home cannot be used: Not a directory\.$"):
        make_home(Path("/dev/null/home"))


@pytest.mark.parametrize("name", ["secret_key", "another"])
def test_folder_of_another_user_is_an_error(locked, name):
    with pytest.raises(HomeUnusable, match=r"^RUNQY_HOME: .* cannot be used: Permission denied\.$"):
        get_or_create_secret(locked, name)


def test_lock_of_another_user_is_an_error(locked):
    with pytest.raises(StackFailed, match=r"/run cannot be used: Permission denied\.$"):
        FileLock(locked / "run" / "stack.lock")
