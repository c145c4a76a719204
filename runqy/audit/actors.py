"""Who acts in this thread, from whoever let them in down to the record of what they change."""

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
    """Whoever is answerable for a change."""

    kind: ActorKind
    name: str
    id: str = ""
    """Of the key's or user's row; of a command, the account of the machine that it runs under."""
    address: str = ""
    request_id: str = ""


_SERVER = Actor(kind=ActorKind.SERVER, name="server")
_actor: ContextVar[Actor] = ContextVar("actor", default=_SERVER)


def current_actor() -> Actor:
    """Return who acts; the server itself where nobody was named."""
    return _actor.get()


def act_as(actor: Actor) -> None:
    """Name who acts from here on, until `act_as_server`."""
    _actor.set(actor)


def act_as_server() -> None:
    """Forget who acted: the thread serves others next."""
    _actor.set(_SERVER)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Name who acts inside of a block."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def command(name: str) -> Actor:
    """Return whoever runs a management command here."""
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        account = ""
    return Actor(kind=ActorKind.COMMAND, name=name, id=account)
