"""`python -m runqy_sdk run main.py --payload '{"name": "Ada"}'` runs a handler without server, worker or Redis."""

from __future__ import annotations

import argparse
import json
import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from runqy_sdk.context import TaskLogHandler
from runqy_sdk.handlers import Handler, Loader, get_handler, get_loader
from runqy_sdk.runner import call_instead
from runqy_sdk.testing import run_once


def main() -> None:
    """Run one task in this process; exit with 0 if it succeeds, else with 1."""
    options = _parse_arguments()
    program: Path = options.program
    is_done = False

    def run(handler: Handler, loader: Loader | None) -> None:
        nonlocal is_done
        is_done = True
        if len(options.payload) > 1 and handler.batch is None:
            sys.exit("Only a function that is marked with @batch takes more than one --payload.")
        members = {"attempt": options.attempt, "max_retry": options.max_retry}
        outcomes = run_once(handler, loader, options.payload or [None], members, on_line=_print_line)
        results = [outcome.result for outcome in outcomes]
        if not all(outcome.error for outcome in outcomes):
            print(json.dumps(results if len(results) > 1 else results[0], indent=2))  # noqa: T201
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        for outcome in failed:
            ending = (
                "it would be retried" if outcome.will_retry and options.attempt <= options.max_retry else "archived"
            )
            print(f"{(outcome.error or '').rstrip()}\n\nThe task failed: {ending}.", file=sys.stderr)  # noqa: T201
        if failed:
            sys.exit(1)

    call_instead(run)
    logging.getLogger().addHandler(TaskLogHandler())
    sys.argv = [str(program)]
    sys.path.insert(0, str(program.resolve().parent))
    os.chdir(program.resolve().parent)  # as a worker does
    runpy.run_path(program.name, run_name="__main__")
    if not is_done:  # the program does not call run()
        run(get_handler(), get_loader())


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m runqy_sdk", description="Run handlers without a server.")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="run a program's handler on one payload, and print the result")
    command.add_argument("program", type=_existing_file, help="the file with the handler, such as main.py")
    command.add_argument(
        "--payload",
        type=_json,
        action="append",
        default=[],
        help='JSON, or @FILE: \'{"name": "Ada"}\'; several for a batch',
    )
    command.add_argument("--attempt", type=int, default=1, help="the number of the attempt (default: 1)")
    command.add_argument("--max-retry", type=int, default=3, help="how often it may be retried (default: 3)")
    return parser.parse_args()


def _existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def _json(text: str) -> Any:
    try:
        return json.loads(_existing_file(text[1:]).read_text("utf-8") if text.startswith("@") else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error


def _print_line(line: dict[str, Any]) -> None:
    if "progress" in line:
        report = line["progress"]
        of_total = f" of {report['total']}" if "total" in report else ""
        text = f"progress: {report['current']}{of_total} {report.get('message', '')}".rstrip() + "\n"
    elif "chunk" in line:
        text = line["chunk"] if isinstance(line["chunk"], str) else json.dumps(line["chunk"]) + "\n"
    else:
        return
    print(text, end="", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
