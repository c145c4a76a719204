"""The stack of the parts about the history: its tasks do nothing, and no network can be disturbed."""

from collections.abc import Iterator
from contextlib import contextmanager

from tools.soak.options import Options
from tools.soak.processes import ROOT
from tools.soak.report import Report
from tools.soak.stack import DURABLE, Stack, StackParts, running_stack

EVERY_SECOND = ("--appendonly", "yes", "--appendfsync", "everysec")
"""As Redis is usually configured."""
QUEUE_FILE = """queues:
  orders: {{sub_queues: [{{name: high, priority: 6}}, {{name: low, priority: 2}}], deployment: {deployment}}}
  mail: {{priority: 4, deployment: {deployment}}}
  reports: {{priority: 4, deployment: {deployment}}}
  logged: {{priority: 4, deployment: {deployment}}}
  unlogged: {{priority: 4, deployment: {deployment}}}
"""
ENV = {"RUNQY_ARCHIVE_MAX_TASKS": "1000000"}  # failed tasks are kept, to be counted


@contextmanager
def history_stack(report: Report, options: Options, part: str, *, is_durable: bool = False) -> Iterator[Stack]:
    parts = StackParts(
        has_postgresql=bool(options.has_postgresql),
        has_networks=False,
        redis_options=DURABLE if is_durable else EVERY_SECOND,
        env=ENV,
    )
    with running_stack(report, options.rng(part), parts) as stack:
        if options.has_postgresql and stack.database is None:
            report.skip(part, "PostgreSQL's programs are not installed: the database is SQLite")
        stack.commit({"main.py": (ROOT / "tools/soak" / "attempt_handler.py").read_text()})
        stack.write_queue_file(QUEUE_FILE)
        client = stack.client(timeout_s=30)
        client.post("/api/cli/configs/reload?prune=true")
        client.close()
        yield stack
