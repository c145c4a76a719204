"""The actor of the current request or command, for the audit records of what it changes."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum

import msgspec


class ActorKind(StrEnum):
    """What an actor's name is the name of."""

    KEY = "key"
    USER = "user"
    COMMAND = "command"
    SERVER = "server"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who is responsible for a change."""

    kind: ActorKind
    name: str
    id: str = ""
    """Of the key's or user's row; of a command, the account of the machine that it runs under."""
    address: str = ""
    request_id: str = ""


SERVER = Actor(kind=ActorKind.SERVER, name="server")
_actor: ContextVar[Actor] = ContextVar("actor", default=SERVER)


def current_actor() -> Actor:
    """Return the actor; the server itself where none was set."""
    return _actor.get()


def set_actor(actor: Actor) -> None:
    """Set the actor until the end of the enclosing `actor_context`."""
    _actor.set(actor)


@contextmanager
def actor_context(actor: Actor) -> Iterator[None]:
    """Set the actor of a block."""
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
