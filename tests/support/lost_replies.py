"""Lose Redis's replies to scripts, which have run although their caller gets an error."""

from collections.abc import Sequence
from typing import Any

import pytest

from runqy.broker.connection.async_node import AsyncNode
from runqy.broker.replies import ReplyLost
from runqy.broker.scripts import Command


def lose_reply(monkeypatch: pytest.MonkeyPatch, script: str, *, times: int = 1) -> list[str]:
    """Lose the replies to the next calls of a script. Return a list that gets an item for each lost reply."""
    execute, lost = AsyncNode.execute, list[str]()

    async def executing(self: AsyncNode, commands: Sequence[Command], *, is_bulky: bool) -> Any:
        replies = await execute(self, commands, is_bulky=is_bulky)
        if len(lost) < times and any(command.script and command.script.name == script for command in commands):
            lost.append(script)
            return [ReplyLost()] * len(commands)
        return replies

    monkeypatch.setattr(AsyncNode, "execute", executing)
    return lost
