"""What suppresses the linter's rule about private members has its reason on its line."""

import re
from pathlib import Path

from tests.lint.test_layers import PACKAGES, ROOT

FOLDERS = (*PACKAGES, "tests", "tools")
SUPPRESSION = re.compile(r"noqa:.*SLF001")
WITH_REASON = re.compile(r"noqa: [A-Z0-9, ]+ \(.{8,}\)$")


def test_each_use_of_a_private_member_has_its_reason() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if file != Path(__file__)]

    lines = [line for file in files for line in file.read_text().splitlines() if SUPPRESSION.search(line)]

    assert lines
    assert [line for line in lines if not WITH_REASON.search(line)] == []
