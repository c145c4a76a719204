"""`make bench`: one run of all figures, or of the parts named on the command line."""

import argparse
import signal
import sys

from runqy.core.environment.process import raise_open_files_limit
from tools.benchmarks import baseline
from tools.benchmarks.admin import measure_admin
from tools.benchmarks.batches import measure_batches
from tools.benchmarks.calls import measure_calls
from tools.benchmarks.client import measure_client
from tools.benchmarks.dashboards import measure_dashboards
from tools.benchmarks.history import measure_history
from tools.benchmarks.http import measure_http
from tools.benchmarks.idle import measure_idle
from tools.benchmarks.memory import measure_memory
from tools.benchmarks.no_ops import measure_no_ops
from tools.benchmarks.queue_files import measure_queue_files
from tools.benchmarks.redis_paths import measure_redis
from tools.benchmarks.report import Report
from tools.benchmarks.run_search import measure_search
from tools.benchmarks.scale import measure_scale
from tools.benchmarks.scenarios import Sampling
from tools.benchmarks.schedules import measure_schedules
from tools.benchmarks.sdk import measure_sdk
from tools.benchmarks.slow_clients import measure_slow_clients
from tools.benchmarks.stack import running_stack
from tools.benchmarks.streams import measure_streams
from tools.benchmarks.waiters import measure_waiters
from tools.benchmarks.webhooks import measure_webhooks
from tools.benchmarks.workers import measure_workers

PARTS = {
    "redis": measure_redis,
    "http": measure_http,
    "waiters": measure_waiters,
    "streams": measure_streams,
    "slow_clients": measure_slow_clients,
    "memory": measure_memory,
    "idle": measure_idle,
    "workers": measure_workers,
    "no_ops": measure_no_ops,
    "sdk": measure_sdk,
    "client": measure_client,
    "admin": measure_admin,
    "dashboards": measure_dashboards,
    "history": measure_history,
    "search": measure_search,
    "schedules": measure_schedules,
    "batches": measure_batches,
    "webhooks": measure_webhooks,
    "queue_files": measure_queue_files,
    "calls": measure_calls,
    "scale": measure_scale,
}


def main() -> int:
    """Run the parts; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load in a round")
    parser.add_argument(
        "--against", default=baseline.COMMIT, metavar="COMMIT", help="what http and no_ops compare with"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    raise_open_files_limit()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # exits normally, so that all processes are stopped
    report = Report()
    sampling = Sampling(rounds=arguments.rounds, seconds=arguments.seconds, against=arguments.against)
    with running_stack() as stack:
        for name in arguments.parts or PARTS:
            PARTS[name](stack, report, sampling)
    if report.missed:
        report.note(f"missed: {'; '.join(report.missed)}")
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
