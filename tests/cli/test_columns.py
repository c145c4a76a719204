"""The columns of lists are those of docs/reference/cli.md."""

import re
from pathlib import Path

import pytest
import typer.main

from queues.models import QueueSource
from queues.operations import save_queue
from runqy.cli.main import app
from runqy.cli.output import Listing, Printer
from tests.queues.samples import spec
from tests.support.environment import ADMIN_KEY

PAGE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()
ROWS = dict(re.findall(r"^\| `([^`]+)` \| (`.+`.*) \|$", PAGE.partition("The columns in a pipe:")[2], re.MULTILINE))
VALUES = {"QUEUE": "mail", "VAULT": "tokens", "KEY": "A"}
INPUTS = {"vault import VAULT": "A=1\n"}
QUEUES = "queues: {mail: {priority: 1, deployment: {git_url: https://example.com/m.git, startup_cmd: main}}}\n"
OPTIONS = {"queue apply": ["--file", "queues.yaml"]}


@pytest.mark.parametrize("command", ROWS)
@pytest.mark.usefixtures("application")
def test_a_list_has_the_columns_of_the_page(command, run, monkeypatch):
    save_queue(spec=spec("mail"), source=QueueSource.API)
    monkeypatch.setenv("RUNQY_API_KEY", ADMIN_KEY)
    run("vault", "create", "tokens")
    run("vault", "set", "tokens", "A", "--plain", input="1\n")
    Path("queues.yaml").write_text(QUEUES)
    printed: list[Listing] = []
    monkeypatch.setattr(Printer, "listing", lambda self, listing, items: printed.append(listing))

    result = run(
        *[VALUES.get(word, word) for word in command.split()], *OPTIONS.get(command, ()), input=INPUTS.get(command)
    )

    assert [each.columns for each in printed] == [columns_of(ROWS[command])], result.output


def columns_of(cell: str) -> tuple[str, ...]:
    """Return the names of a cell, without the remarks in parentheses."""
    return tuple(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cell)))


def test_the_page_has_every_list():
    def names(group, path=()):
        for name, command in group.commands.items():
            yield from names(command, (*path, name)) if hasattr(command, "commands") else [" ".join((*path, name))]

    lists = {name for name in names(typer.main.get_command(app)) if name.endswith(" list")}

    assert {command.partition(" QUEUE")[0] for command in ROWS} >= lists | {"runs", "alerts", "errors"}
