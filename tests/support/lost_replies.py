"""Lose Redis's replies to scripts, which have run although their caller gets an error."""

from collections.abc import Sequence
from typing import Any

import pytest

from runqy.broker.connection.blocking import StandaloneConnection
from runqy.broker.scripts import Command
from runqy.errors import BrokerUnavailable


def lose_reply(monkeypatch: pytest.MonkeyPatch, script: str, *, times: int = 1) -> list[str]:
    """Lose the replies to the next calls of a script. Return a list that gets an item for each lost reply."""
    execute, lost = StandaloneConnection.execute, list[str]()

    def executing(self: StandaloneConnection, commands: Sequence[Command]) -> Any:
        replies = execute(self, commands)
        if len(lost) < times and any(command.script and command.script.name == script for command in commands):
            lost.append(script)
            raise BrokerUnavailable
        return replies

    monkeypatch.setattr(StandaloneConnection, "execute", executing)
    return lost
