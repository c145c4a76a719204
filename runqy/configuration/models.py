"""The published documents in the database, and the counter that orders changes."""

from django.db import models

from runqy.configuration.documents import Document, DocumentKind, field


class Revision(models.Model):
    """The single row that every change of the configuration locks and increments."""

    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"revision {self.value}"


class StoredDocument(models.Model):
    """A document to publish, written in the transaction of the change."""

    kind = models.CharField(max_length=16)
    """A `DocumentKind`."""
    name = models.CharField(max_length=160)
    revision = models.BigIntegerField()
    worker_revision = models.BigIntegerField()
    """The revision of the last change that workers should notice."""
    body = models.BinaryField(null=True)
    uses = models.JSONField(default=list)
    """Fields of documents that this one uses, such as a queue's vaults."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="one_document_for_each_thing")]
        indexes = [models.Index(fields=["revision"], name="document_revision")]  # processes read newer ones

    def __str__(self) -> str:
        return f"{self.field} at {self.revision}"

    @property
    def field(self) -> str:
        return field(DocumentKind(self.kind), self.name)

    def as_document(self) -> Document:
        body = None if self.body is None else bytes(self.body)
        return Document(
            kind=DocumentKind(self.kind),
            name=self.name,
            revision=self.revision,
            worker_revision=self.worker_revision,
            body=body,
        )
