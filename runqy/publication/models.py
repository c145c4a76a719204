"""The database's side of the publication: what is to stand in Redis, and the counter that orders changes."""

from django.db import models

from runqy.publication.documents import Document, Kind, field


class Revision(models.Model):
    """The one row that every change of the configuration locks and counts up."""

    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        """Name the row in a shell."""
        return f"revision {self.value}"


class StoredDocument(models.Model):
    """What is published, written in the transaction that changes what it describes."""

    kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in Kind])
    name = models.CharField(max_length=160)
    revision = models.BigIntegerField()
    effective = models.BigIntegerField()
    """The revision of the last change that workers are to notice."""
    body = models.BinaryField(null=True)
    uses = models.JSONField(default=list)
    """Fields of the documents that belong to this one: a queue's vaults."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="one_document_for_each_thing")]
        indexes = [models.Index(fields=["revision"], name="document_revision")]  # processes ask for newer ones

    def __str__(self) -> str:
        """Name the row in a shell."""
        return f"{self.field} at {self.revision}"

    @property
    def field(self) -> str:
        """Return what the document is found by."""
        return field(Kind(self.kind), self.name)

    def as_document(self) -> Document:
        """Return the row as what is signed and published."""
        body = None if self.body is None else bytes(self.body)
        return Document(
            kind=Kind(self.kind), name=self.name, revision=self.revision, body=body, effective=self.effective
        )
