"""The actor of the current request or command, for the audit records of what it changes."""

import getpass
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, Self

import msgspec


class ActorKind(StrEnum):
    """The kind of an actor."""

    KEY = "key"
    USER = "user"
    COMMAND = "command"
    HOOK = "hook"
    """A git host that sends the pushes to a repository."""
    SERVER = "server"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """The user, key, command or server that made a change."""

    kind: ActorKind
    name: str
    id: str = ""
    """The id of a key or user, or the account that runs a command."""
    address: str = ""
    request_id: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        return cls(**{**stored, "kind": ActorKind(stored["kind"])})


SERVER = Actor(kind=ActorKind.SERVER, name="server")
_actor: ContextVar[Actor | Callable[[], Actor]] = ContextVar("actor", default=SERVER)


def current_actor() -> Actor:
    actor = _actor.get()
    return actor if isinstance(actor, Actor) else actor()


@contextmanager
def actor_context(actor: Actor | Callable[[], Actor]) -> Iterator[None]:
    """Set the actor of a `with` block. A function is called whenever the actor is needed."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def command_actor(name: str) -> Actor:
    """Return the actor of a management command: the account that runs it."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        account = ""
    return Actor(kind=ActorKind.COMMAND, name=name, id=account)
