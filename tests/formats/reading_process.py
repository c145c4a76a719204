"""Reads new structs of many fields on several threads at once, as a process does that has just started."""

import sys
import threading

from msgspec import Struct, defstruct

from runqy.core.formats.json_decoding import convert, read_json

DEPTH, FIELDS, READERS, ROUNDS = 8, 15, 6, 60


def nested() -> type[Struct]:
    """Return nested structs that were not read before."""
    kind: type[Struct] | None = None
    for level in range(DEPTH):
        first = ("inner", int if kind is None else kind | None, 0 if kind is None else None)
        kind = defstruct(f"Level{level}", [first, *((f"field{n}", int, 0) for n in range(FIELDS))])
    assert kind is not None
    return kind


def read_at_once(kind: type[Struct]) -> None:
    """Let all readers read the same struct."""
    gate = threading.Barrier(READERS)
    found = []

    def read(number: int) -> None:
        gate.wait()
        found.append(read_json(b'{"inner":{}}', kind) if number % 2 else convert({"inner": {}}, kind))

    readers = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(found) == READERS
    assert all(value == found[0] for value in found)


sys.setswitchinterval(1e-6)
for _ in range(ROUNDS):
    read_at_once(nested())
