"""`make bench`: one run of all figures, or of the parts named on the command line."""

import sys

from benchmarks.admin import measure_admin
from benchmarks.http import measure_http
from benchmarks.redis_paths import measure_redis
from benchmarks.report import Report
from benchmarks.stack import running_stack
from benchmarks.workers import measure_workers

PARTS = {"redis": measure_redis, "http": measure_http, "workers": measure_workers, "admin": measure_admin}


def main() -> int:
    """Run the parts and return 1 if a goal was missed."""
    names = sys.argv[1:] or list(PARTS)
    if unknown := set(names) - PARTS.keys():
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    report = Report()
    with running_stack() as stack:
        for name in names:
            PARTS[name](stack, report)
    if report.missed:
        report.note(f"missed: {'; '.join(report.missed)}")
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
