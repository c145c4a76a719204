"""A snapshot of the configuration, and what is derived from it once: decoded documents, catalogs.

Derived values are built before a new snapshot replaces the last one, by the thread that loads it, so that an event loop
only reads them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from runqy.publication.documents import Document, Kind, field
from runqy.publication.heads import Head

T = TypeVar("T")

_derived_values: "list[DerivedValue[Any]]" = []


class Snapshot:
    """The configuration at one moment. Immutable; what is derived from it is kept with it."""

    def __init__(self, documents: Mapping[str, Document], before: "Snapshot | None" = None) -> None:
        """Take the documents by their fields, and the last snapshot, whose decoded documents are used again."""
        self.documents = documents
        self.head = Head.of((place, document.revision) for place, document in documents.items())
        self._decoded: dict[object, dict[str, tuple[Document, Any]]] = dict(before._decoded) if before else {}  # noqa: SLF001 (the same class)
        self._built: dict[object, Any] = {}

    def of_kind(self, kind: Kind) -> dict[str, Document]:
        """Return the documents of a kind by name, without the deleted."""
        return {d.name: d for d in self.documents.values() if d.kind == kind and d.body is not None}

    def find(self, kind: Kind, name: str) -> Document | None:
        """Return a document unless there is none or it is deleted."""
        document = self.documents.get(field(kind, name))
        return document if document is not None and document.body is not None else None

    def effective_revision_of(self, place: str) -> int:
        """Return the revision of the last change of what stands in a field that workers notice, 0 if nothing does."""
        document = self.documents.get(place)
        return document.effective if document else 0

    def decode(self, kind: Kind, decode: Callable[[Document], T]) -> dict[str, T]:
        """Return the documents of a kind by name, decoded; those that the last snapshot had are not decoded again.

        `decode` is the same function each time.
        """
        known = self._decoded.get(decode, {})
        decoded = {}
        for name, document in self.of_kind(kind).items():
            before = known.get(name)
            decoded[name] = before if before and before[0] is document else (document, decode(document))
        self._decoded[decode] = decoded
        return {name: cast("T", value) for name, (_, value) in decoded.items()}

    def build_derived_values(self) -> None:
        """Build all derived values. One that fails is built where it is read, so that its error is raised there."""
        for value in _derived_values:
            try:
                value.of(self)
            except Exception:  # noqa: BLE001, S112 (an unreadable document must not delay revocations)
                continue

    def derive(self, key: object, build: "Callable[[Snapshot], T]") -> T:
        """Return what a function makes of the snapshot, made once for each key."""
        found = self._built.get(key)
        if found is None:
            found = self._built.setdefault(key, build(self))
        return cast("T", found)


class DerivedValue(Generic[T]):
    """What a function makes of each snapshot; made once, before the snapshot is used."""

    def __init__(self, build: Callable[[Snapshot], T]) -> None:
        self._build = build
        _derived_values.append(self)

    def of(self, snapshot: Snapshot) -> T:
        """Return what the function makes of a snapshot."""
        return snapshot.derive(self, self._build)
