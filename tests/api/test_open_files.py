"""The limit of open files."""

import subprocess
import sys

PROGRAM = """
import resource
from runqy.core.environment.process import raise_open_files_limit
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
raise_open_files_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    assert subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True).stdout == "True\n"
