"""Runs maintenance until it is stopped."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand

from runqy.connection import get_broker
from tasks.maintenance.duties import all_duties
from tasks.maintenance.loops import run_duties


class Command(BaseCommand):
    """`manage.py run_maintenance`"""

    help = "Forward due tasks, recover lost ones, delete what was kept long enough; ends at SIGTERM or SIGINT."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run all duties; more than one process may."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        duties = all_duties()
        self.stdout.write(f"Maintenance runs: {', '.join(duty.name for duty in duties)}.")
        self.stdout.flush()
        run_duties(duties, get_broker, stop)
