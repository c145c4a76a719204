"""The command `runqy task enqueue-batch`: enqueue the lines of a file, chunk by chunk."""

import secrets
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from runqy.cli.commands import Session
from runqy.cli.completion import complete_queues
from runqy.cli.errors import CliError, ExitCode
from runqy.cli.progress import show_progress
from runqy.cli.values import read_number

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from runqy.cli.line_sending import TaskSender

EXAMPLES = """
    runqy task enqueue-batch -q mail tasks.ndjson
    generate-tasks | runqy task enqueue-batch -q mail -
    """


def enqueue_tasks(  # noqa: PLR0913 (each is an option of the command)
    session: Session,
    file: Annotated[
        Path, typer.Argument(help="File with a task on each line; - reads standard input.", metavar="FILE")
    ],
    *,
    queue: Annotated[
        str,
        typer.Option(
            "--queue", "-q", metavar="QUEUE", help="Name of the queue or a sub-queue.", autocompletion=complete_queues
        ),
    ],
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", metavar="DURATION", help="Time limit of one run, such as 5m.")
    ] = "",
    delay: Annotated[
        str, typer.Option("--delay", metavar="DURATION", help="Delay before the tasks are processed, such as 1h30m.")
    ] = "",
    max_retry: Annotated[
        int | None, typer.Option("--max-retry", metavar="NUMBER", min=0, help="How often a task is retried.")
    ] = None,
    chunk: Annotated[
        int, typer.Option("--chunk", metavar="TASKS", min=1, max=10_000, help="Tasks in one request.")
    ] = 1000,
    from_line: Annotated[int, typer.Option("--from-line", metavar="NUMBER", min=1, help="Continue at this line.")] = 1,
    batch_id: Annotated[
        str,
        typer.Option(
            "--batch-id", metavar="TEXT", help="Tells apart runs that enqueue the same file. Default: from the file."
        ),
    ] = "",
) -> None:
    """Enqueue a task for each line of a file.

    A line is the payload as JSON, or an object with the payload in "data" and options of the task beside it. Lines with
    an error are reported with their numbers, and the others are enqueued.

    If the command was interrupted, run it again within 24 hours: lines that were enqueued are not enqueued twice, as
    long as the file and the options are the same. --from-line skips them faster.
    """
    from runqy.cli.line_sending import TaskSender  # noqa: PLC0415 (the SDK is slow to import, and --help does not need it)

    members: dict[str, Any] = {
        name: read_number(text) for name, text in (("timeout", timeout), ("delay", delay)) if text
    }
    members |= {} if max_retry is None else {"max_retry": max_retry}
    with open_lines(file) as stream, show_progress("Enqueueing", total=_size(file)) as progress:
        batch_id = batch_id or _identify(file)
        sender = TaskSender(session, queue, str(file), progress, members=members, batch_id=batch_id)
        try:
            sender.send_all(sender.read(stream, after=from_line - 1), size=chunk)
        except (KeyboardInterrupt, CliError) as error:
            _explain_stop(session, sender, error, is_stdin=str(file) == "-")
    _print_report(session, sender)


def open_lines(file: Path) -> "AbstractContextManager[IO[bytes]]":
    """Open a file, or standard input. Raise CliError."""
    if str(file) == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return file.open("rb")
    except OSError as error:
        raise CliError(f"{file}: {error.strerror}.", ExitCode.USAGE) from error


def _identify(file: Path) -> str:
    """Return what tells the lines from others: a file as it is now, or this run of the command for other input."""
    if str(file) == "-" or not file.is_file():
        return secrets.token_hex(8)
    status = file.stat()
    return f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"


def _size(file: Path) -> int | None:
    return file.stat().st_size if str(file) != "-" and file.is_file() else None


def _explain_stop(session: Session, sender: "TaskSender", error: BaseException, *, is_stdin: bool) -> None:
    """Print how far the command came, and how to continue. Exit with the status of the error."""
    is_interrupted = isinstance(error, KeyboardInterrupt)
    through = sender.done_through
    count = sender.counts["enqueued"] + sender.counts["replayed"]
    if isinstance(error, CliError):
        if not through:
            raise error
        session.explain(error)
    else:
        session.out.note("Interrupted.")
    rest = f"--from-line {through + 1}" + (f" --batch-id {sender.batch_id}" if is_stdin else "")
    session.out.note(f"{count:,} tasks are enqueued, through line {through}. To continue, add {rest} to the command.")
    raise typer.Exit(ExitCode.INTERRUPTED if is_interrupted else getattr(error, "exit_code", ExitCode.FAILED))


def _print_report(session: Session, sender: "TaskSender") -> None:
    """Print what was enqueued. Exit with FAILED if a line was not."""
    counts = sender.counts
    found = {name: counts[name] for name in ("enqueued", "replayed", "existing", "failed")}
    if not session.out.is_name:
        session.out.result(found, f"{counts['enqueued']:,} enqueued, {counts['failed']:,} failed")
    if counts["replayed"]:
        session.out.note(
            f"{counts['replayed']:,} had been enqueued by this command before. Use --batch-id to enqueue them again."
        )
    if counts["existing"]:
        session.out.note(f"{counts['existing']:,} have the unique_key of a task that exists.")
    if counts["failed"]:
        raise typer.Exit(ExitCode.FAILED)
