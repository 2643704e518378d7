"""What is made of the content: documents and their embeddings."""

from __future__ import annotations

import peewee

from models.base import NeverReusedId, Table


class Document(Table):
    """The text of one issue, merge request or discussion; `content_hash` spares what did not change."""

    id = NeverReusedId()
    source_type = peewee.CharField(max_length=20)
    source_id = peewee.BigIntegerField()
    content = peewee.TextField()
    content_hash = peewee.CharField(max_length=64)
    updated_at = peewee.BigIntegerField()

    class Meta:
        table_name = "documents"
        indexes = ((("source_type", "source_id"), True),)


class Embedding(Table):
    """The vector of one chunk; it is searched only while `content_hash` is its document's."""

    document = peewee.ForeignKeyField(Document, lazy_load=False, on_delete="CASCADE", index=False)
    chunk_index = peewee.IntegerField()
    model = peewee.TextField()
    chunk_hash = peewee.CharField(max_length=64)
    content_hash = peewee.CharField(max_length=64)
    vector = peewee.BlobField()

    class Meta:
        table_name = "embeddings"
        primary_key = peewee.CompositeKey("document", "chunk_index", "model")
