"""A snapshot of the configuration, and values derived from it once: decoded documents, catalogs.

Derived values are built before a new snapshot replaces the last one, by the thread that loads it, so that an event loop
only reads them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from runqy.config_sync.documents import Document, DocumentKind, Head, field

T = TypeVar("T")

_derived_values: "list[DerivedValue[Any]]" = []


class Snapshot:
    """The configuration at one time. Immutable; caches the values derived from it."""

    def __init__(self, documents: Mapping[str, Document], before: "Snapshot | None" = None) -> None:
        """`documents` are by field; decoded documents of the snapshot `before` are reused."""
        self.documents = documents
        self.head = Head.of((field, document.revision) for field, document in documents.items())
        decoded = before._decoded if before else {}  # noqa: SLF001 (of the same class)
        self._decoded: dict[object, dict[str, tuple[Document, Any]]] = dict(decoded)
        self._built: dict[object, Any] = {}

    def of_kind(self, kind: DocumentKind) -> dict[str, Document]:
        """Return the documents of a kind by name, without deleted ones."""
        return {d.name: d for d in self.documents.values() if d.kind == kind and d.body is not None}

    def find(self, kind: DocumentKind, name: str) -> Document | None:
        """Return a document; None if it does not exist or is deleted."""
        document = self.documents.get(field(kind, name))
        return document if document is not None and document.body is not None else None

    def effective_revision_of(self, field: str) -> int:
        """Return the revision of a document's last change that workers notice; 0 without a document."""
        document = self.documents.get(field)
        return document.effective if document else 0

    def decode(self, kind: DocumentKind, decode: Callable[[Document], T]) -> dict[str, T]:
        """Return the decoded documents of a kind by name; those of the previous snapshot are not decoded again.

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
        """Build all derived values. One that fails is built again when it is read, which raises its error."""
        for value in _derived_values:
            try:
                value.of(self)
            except Exception:  # noqa: BLE001, S112 (an unreadable document must not delay revocations)
                continue

    def derive(self, key: object, build: "Callable[[Snapshot], T]") -> T:
        """Return the function's result for this snapshot, cached by key."""
        found = self._built.get(key)
        if found is None:
            found = self._built.setdefault(key, build(self))
        return cast("T", found)


class DerivedValue(Generic[T]):
    """A value that a function derives from each snapshot, once, before the snapshot is used."""

    def __init__(self, build: Callable[[Snapshot], T]) -> None:
        self._build = build
        _derived_values.append(self)

    def of(self, snapshot: Snapshot) -> T:
        """Return the value for a snapshot."""
        return snapshot.derive(self, self._build)
