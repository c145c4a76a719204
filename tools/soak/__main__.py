"""`make soak`: faults under load, all parts or those named. Exits with 1 when a promise was broken."""

import argparse
import os
import random
import signal
import sys
from collections.abc import Callable

from runqy.core.environment.process import raise_open_files_limit
from tools.soak.options import Options
from tools.soak.parts import (
    batches,
    blocking,
    bodies,
    clocks,
    deletion,
    disk,
    failing,
    failovers,
    freezes,
    history,
    logs,
    many,
    memory,
    nemesis,
    outages,
    queues,
    releases,
    results,
    rotations,
    schedules,
    silence,
    streams,
    waiting,
    webhooks,
)
from tools.soak.report import Report

PARTS: dict[str, Callable[[Options, Report], None]] = {
    "nemesis": nemesis.run,
    "history": history.run,
    "outages": outages.run,
    "silence": silence.run,
    "freezes": freezes.run,
    "waiting": waiting.run,
    "failing": failing.run,
    "blocking": blocking.run,
    "logs": logs.run,
    "results": results.run,
    "streams": streams.run,
    "many": many.run,
    "queues": queues.run,
    "disk": disk.run,
    "memory": memory.run,
    "bodies": bodies.run,
    "deletion": deletion.run,
    "clocks": clocks.run,
    "schedules": schedules.run,
    "batches": batches.run,
    "webhooks": webhooks.run,
    "releases": releases.run,
    "rotations": rotations.run,
    "cluster": failovers.run_cluster,
    "sentinel": failovers.run_sentinel,
}
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(2**32)))
    parser.add_argument(
        "--minutes",
        type=float,
        default=float(os.environ["MINUTES"]) if os.environ.get("MINUTES") else None,
        help=f"of nemesis ({nemesis.MINUTES:g}) and batches ({batches.MINUTES:g}), of the load of history "
        f"({history.MINUTES:g}), without a database in outages ({outages.MINUTES:g}) and webhooks "
        f"({webhooks.MINUTES:g})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        help=f"tasks a second, of history ({history.RATE:g}), outages ({outages.RATE:g}), webhooks ({webhooks.RATE:g})",
    )
    parser.add_argument(
        "--database",
        choices=("sqlite", "postgresql"),
        help="of the parts history and outages (sqlite), and batches (postgresql)",
    )
    parser.add_argument("--waiting-tasks", type=int, default=1_000_000, help="of the parts waiting and deletion")
    parser.add_argument(
        "--moments", type=int, default=20, help="at which the part freezes stops a worker, a server and a database each"
    )
    parser.add_argument("--failing-tasks", type=int, default=20_000, help="of the part failing")
    parser.add_argument("--told-tasks", type=int, default=100_000, help="of the part webhooks")
    parser.add_argument("--load-seconds", type=float, default=10, help="that a process loads, of the part rotations")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    raise_open_files_limit()
    for number in SIGNALS:
        signal.signal(number, _stop)
    options = Options(
        seed=arguments.seed,
        minutes=arguments.minutes,
        rate=arguments.rate,
        has_postgresql=arguments.database == "postgresql" if arguments.database else None,
        waiting_tasks=arguments.waiting_tasks,
        failing_tasks=arguments.failing_tasks,
        told_tasks=arguments.told_tasks,
        load_s=arguments.load_seconds,
        moments=arguments.moments,
    )
    report = Report()
    print(f"SEED={options.seed}", flush=True)
    for name in arguments.parts or PARTS:
        try:
            PARTS[name](options, report)
        except Exception as error:  # noqa: BLE001 (the other parts still run, and the table is printed)
            report.fail(name, f"{type(error).__name__}: {error}")
    return report.finish()


def _stop(*_: object) -> None:
    """End everything that was started. Further signals must not interrupt that."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
