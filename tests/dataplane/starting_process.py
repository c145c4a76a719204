"""A program that starts the ASGI application's lifespan and prints the state of the process."""

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

from django.conf import settings

from runqy.asgi import application
from runqy.configuration.snapshot import get_cache


def open_database_files() -> list[str]:
    """Return which files of the SQLite database are open."""
    opened = [str(link.resolve()) for link in Path("/proc/self/fd").iterdir()]
    return [path for path in opened if path.startswith(str(settings.DATABASES["default"]["NAME"]))]


async def start() -> None:
    """Send the lifespan's events, and print the state in between."""
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    lifespan = asyncio.create_task(application({"type": "lifespan"}, incoming.get, outgoing.put))  # type: ignore[arg-type]
    incoming.put_nowait({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    found = {
        "has_urls": "runqy.urls" in sys.modules,
        "frozen": gc.get_freeze_count(),
        "tracked": len(gc.get_objects()),
        "has_snapshot": not get_cache().is_empty,
        "database_connections": open_database_files().count(str(settings.DATABASES["default"]["NAME"])),
    }
    incoming.put_nowait({"type": "lifespan.shutdown"})
    await lifespan
    sys.stdout.write(json.dumps(found) + "\n")


asyncio.run(start())
