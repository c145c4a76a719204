"""The command `runqy worker`."""

from runqy.cli.commands import Session, command, new_group

app = new_group("List workers.", examples="runqy worker list")

_COLUMNS = ("worker_id", "queue", "state", "commit", "disconnected_since", "reason")


@command(app, "list", examples="runqy worker list\nrunqy worker list -o wide")
def list_workers(session: Session) -> None:
    """List the workers that sent a heartbeat in the last minute."""
    session.out.rows(
        session.api.get("/api/cli/workers")["workers"],
        _COLUMNS,
        empty="No worker sent a heartbeat in the last minute.",
        wide=("host", "pid", "version", "concurrency", "last_take_at"),
        add_columns=lambda worker: {"commit": (worker["commit"] or "")[:12]},
    )
