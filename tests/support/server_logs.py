"""Show what the servers of a test that failed, or that was stuck, have logged in its folder."""

from collections.abc import Generator

import pytest

SHOWN_BYTES = 5000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in sorted(path for pattern in ("log", "log-*", "*.log") for path in folder.rglob(pattern)):
            if log.is_file():
                end = log.read_bytes()[-SHOWN_BYTES:].decode(errors="replace")
                report.sections.append((f"End of {log.relative_to(folder)}", end))
    return report
