"""`runqy manage run_maintenance`"""

import gc
import signal
import socket
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand

from runqy.core.telemetry.tracing import start_tracing
from runqy.maintenance.base import make_duties
from runqy.maintenance.loops import run_duties
from runqy.redis_connection import get_broker


class Command(BaseCommand):
    """Run maintenance until SIGTERM or SIGINT."""

    help = "Run the maintenance duties until SIGTERM or SIGINT. Several processes may run at once."

    def handle(self, *args: Any, **options: Any) -> None:
        # Not an Event: the kernel may give the signal to another thread, and nothing would end the wait of this one.
        stop, arrived = socket.socketpair()
        arrived.setblocking(False)
        signal.set_wakeup_fd(arrived.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)  # what is written to the descriptor ends `recv`
        start_tracing("runqy-maintenance")
        duties = make_duties()
        self.stdout.write(f"Running duties: {', '.join(duty.name for duty in duties)}.")
        self.stdout.flush()
        gc.collect()
        gc.freeze()  # a full collection that traverses Django's objects takes 100 ms, in which no duty runs
        run_duties(duties, get_broker, partial(stop.recv, 1))
