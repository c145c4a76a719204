"""What is computed from a snapshot is computed before the snapshot is used, and only of what changed."""

import threading
from typing import Any

import pytest

from runqy.configuration import snapshot as snapshot_module
from runqy.configuration.documents import Document, DocumentKind
from runqy.configuration.snapshot import Snapshot, SnapshotCache, SnapshotValue


def document(name: str, revision: int = 1, body: bytes = b"{}") -> Document:
    return Document(kind=DocumentKind.QUEUE, name=name, revision=revision, worker_revision=revision, body=body)


@pytest.fixture(autouse=True)
def _registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the values of the product alone."""
    monkeypatch.setattr(snapshot_module, "_snapshot_values", [])


def test_values_are_computed_by_the_thread_that_loads_the_documents() -> None:
    makers: list[str] = []
    names = SnapshotValue(lambda snapshot: makers.append(threading.current_thread().name) or sorted(snapshot.documents))
    cache = SnapshotCache()

    thread = threading.Thread(target=cache.merge, args=([document("a")],), name="bringer")
    thread.start()
    thread.join()

    assert names.of(cache.current()) == ["queue:a"]
    assert makers == ["bringer"]


def test_documents_that_did_not_change_are_not_decoded_again() -> None:
    decoded: list[str] = []

    def decode(found: Document) -> int:
        decoded.append(found.name)
        return found.revision

    queues: SnapshotValue[dict[str, int]] = SnapshotValue(lambda snapshot: snapshot.decode(DocumentKind.QUEUE, decode))
    cache = SnapshotCache()
    cache.merge([document("a"), document("b")])
    cache.merge([document("b", 2), document("c", 2)])

    assert queues.of(cache.current()) == {"a": 1, "b": 2, "c": 2}
    assert decoded == ["a", "b", "b", "c"]


def test_a_document_that_cannot_be_read_delays_no_other() -> None:
    def fail(_: Snapshot) -> Any:
        raise ValueError("unreadable")

    broken: SnapshotValue[Any] = SnapshotValue(fail)
    cache = SnapshotCache()

    cache.merge([document("a")])

    assert cache.current().find(DocumentKind.QUEUE, "a") is not None
    with pytest.raises(ValueError, match="unreadable"):
        broken.of(cache.current())


def test_a_value_is_computed_once_for_each_snapshot() -> None:
    computed: list[int] = []
    cache = SnapshotCache()
    cache.merge([document("a")])

    def compute(snapshot: Snapshot) -> list[str]:
        computed.append(1)
        return sorted(snapshot.documents)

    first, second = (cache.current().compute("names", compute) for _ in range(2))

    assert first is second
    assert computed == [1]


def test_a_value_that_is_none_is_computed_once() -> None:
    calls: list[int] = []
    nothing = SnapshotValue(lambda _: calls.append(1))
    cache = SnapshotCache()
    cache.merge([document("a")])

    assert nothing.of(cache.current()) is None
    assert calls == [1]
