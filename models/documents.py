"""What is made of the content: documents, their terms and their embeddings."""

from __future__ import annotations

import peewee

from models.base import NeverReusedId, Table
from models.ledger import Project


class Document(Table):
    """The text of one issue, merge request or discussion; `content_hash` spares what did not change.

    `source_id` is the local row it was made of, `(entity_type, entity_id)` the local row of the issue or merge request
    it belongs to, and `iid` that one's. `updated_at` is GitLab's; `labels` is a JSON list. The text comes last, so that
    the other columns are read without it.
    """

    id = NeverReusedId()
    project = peewee.ForeignKeyField(Project, lazy_load=False, on_delete="CASCADE")
    source_type = peewee.CharField(max_length=20)
    source_id = peewee.BigIntegerField()
    entity_type = peewee.CharField(max_length=20)
    entity_id = peewee.BigIntegerField()
    iid = peewee.BigIntegerField()
    author = peewee.TextField(null=True)
    state = peewee.TextField(null=True)
    labels = peewee.TextField(null=True)
    updated_at = peewee.BigIntegerField()
    content_hash = peewee.CharField(max_length=64)
    title = peewee.TextField()
    content = peewee.TextField()

    class Meta:
        table_name = "documents"
        indexes = ((("source_type", "source_id"), True), (("entity_type", "entity_id"), False))


class Embedding(Table):
    """The vector of one chunk; it is searched only while `content_hash` is its document's.

    `vector` is float32, little endian, of unit length; `code` holds the signs of its numbers, a bit each. The wide
    index lets every code of a model be read without the vectors.
    """

    id = NeverReusedId()
    document = peewee.ForeignKeyField(Document, lazy_load=False, on_delete="CASCADE", index=False)
    chunk_index = peewee.IntegerField()
    model = peewee.TextField()
    chunk_hash = peewee.CharField(max_length=64)
    content_hash = peewee.CharField(max_length=64)
    code = peewee.BlobField()
    vector = peewee.BlobField()

    class Meta:
        table_name = "embeddings"
        indexes = ((("document", "model", "chunk_index"), True), (("model", "id", "document", "code"), False))
