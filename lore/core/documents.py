"""Entity → text: one document of an issue or merge request with all its notes, one of each thread worth finding.

The layout is stable: the same source gives the same bytes, and what only moves (`updated_at`, votes) is not in the
text, so that its hash spares what did not change. System notes are left out. What is cut is said in the document.

A thread has a document of its own when it is a conversation (two notes of people or more) or stands in the diff; a
single comment is found by the document of its entity.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Final

from lore.core.plan import MERGE_REQUEST

DISCUSSION: Final = "discussion"

# Together below what PostgreSQL takes as the terms of one row, and some hundred chunks to embed.
MAX_TITLE: Final = 1_000
MAX_DESCRIPTION: Final = 100_000
MAX_NOTE: Final = 20_000
MAX_NOTES: Final = 200_000
MAX_PATHS: Final = 50_000


@dataclass(frozen=True)
class Note:
    """One note; `length` is the whole body's in characters where `body` is only its beginning.

    A note in the diff has paths, and the line in the new or else the old file.
    """

    body: str
    author: str | None = None
    created_at: int | None = None
    updated_at: int | None = None
    is_system: bool = False
    is_resolved: bool | None = None
    old_path: str | None = None
    new_path: str | None = None
    line: int | None = None
    length: int | None = None

    @property
    def is_in_diff(self) -> bool:
        """Whether the note stands in the diff."""
        return bool(self.old_path or self.new_path)


@dataclass(frozen=True)
class Thread:
    """A discussion with its notes in order; `id` is its local row's."""

    id: int
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class File:
    """A file of a merge request's diff."""

    old_path: str | None
    new_path: str | None
    is_new: bool = False
    is_deleted: bool = False


@dataclass(frozen=True)
class Source:
    """All of an entity that goes into text; `entity_id` and `project_id` are local rows', times are in ms UTC.

    Attributes:
        description_length: The whole description's length in characters where `description` is only its beginning.
        labels: None where GitLab said nothing of labels.
    """

    entity_type: str
    entity_id: int
    project_id: int
    iid: int
    title: str
    state: str
    updated_at: int
    created_at: int | None = None
    closed_at: int | None = None
    merged_at: int | None = None
    author: str | None = None
    assignees: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None
    milestone: str | None = None
    source_branch: str | None = None
    target_branch: str | None = None
    description: str = ""
    description_length: int | None = None
    threads: tuple[Thread, ...] = ()
    files: tuple[File, ...] = ()


@dataclass(frozen=True)
class Document:
    """A text to be found; `source_id` is the local row of the issue, merge request or discussion it was made of."""

    source_type: str
    source_id: int
    title: str
    author: str | None
    state: str | None
    labels: tuple[str, ...] | None
    updated_at: int
    content: str
    content_hash: str


def build(source: Source) -> list[Document]:
    """Return the entity's document, then one for each of its threads that is worth finding by itself."""
    title = _one_line(source.title, MAX_TITLE)
    found = [_entity(source, title)]
    for thread in source.threads:
        notes = [note for note in thread.notes if not note.is_system]
        if len(notes) > 1 or any(note.is_in_diff for note in notes):
            found.append(_thread(source, title, thread.id, notes))
    return found


def _entity(source: Source, title: str) -> Document:
    blocks = ["\n".join(_header(source, title))]
    description = _clean(source.description, MAX_DESCRIPTION, source.description_length, "the description")
    if description:
        blocks.append(description)
    blocks += _notes(note for thread in source.threads for note in thread.notes if not note.is_system)
    if source.files:
        blocks.append(_files(source.files))
    key = (source.entity_type, source.entity_id)
    return _document(source, key, title, blocks, author=source.author, updated_at=source.updated_at)


def _thread(source: Source, title: str, thread_id: int, notes: Sequence[Note]) -> Document:
    first = notes[0]
    header = [f"Discussion of {_name(source)}: {title}"]
    if first.is_in_diff:
        header.append(f"File: {_place(first)}")
    answers = [note.is_resolved for note in notes if note.is_resolved is not None]
    if answers:
        header.append("Resolved: yes" if all(answers) else "Resolved: no")
    blocks = ["\n".join(header), *_notes(notes, names_place=False)]
    moments = [at for note in notes for at in (note.updated_at, note.created_at) if at is not None]
    updated_at = max(moments, default=source.updated_at)
    return _document(source, (DISCUSSION, thread_id), title, blocks, author=first.author, updated_at=updated_at)


def _document(
    source: Source, key: tuple[str, int], title: str, blocks: Sequence[str], *, author: str | None, updated_at: int
) -> Document:
    content = "\n\n".join(blocks) + "\n"
    content_hash = hashlib.sha256(content.encode()).hexdigest()
    return Document(*key, title, author, source.state, source.labels, updated_at, content, content_hash)


def _header(source: Source, title: str) -> list[str]:
    name = _name(source)
    lines = [f"{name[0].upper()}{name[1:]}: {title}", f"State: {source.state}"]
    if source.labels:
        lines.append("Labels: " + _one_line(", ".join(source.labels), MAX_TITLE))
    if source.author:
        lines.append(f"Author: {source.author}")
    if source.assignees:
        lines.append("Assignees: " + _one_line(", ".join(source.assignees), MAX_TITLE))
    if source.milestone:
        lines.append("Milestone: " + _one_line(source.milestone, MAX_TITLE))
    if source.source_branch:
        lines.append(_one_line(f"Branch: {source.source_branch} into {source.target_branch}", MAX_TITLE))
    for said, at in (("Created", source.created_at), ("Closed", source.closed_at), ("Merged", source.merged_at)):
        if at is not None:
            lines.append(f"{said}: {_date(at)}")
    return lines


def _notes(notes: Iterable[Note], *, names_place: bool = True) -> list[str]:
    """Return a block for each note until there is no room, then one that says how many are missing."""
    blocks = []
    room = MAX_NOTES
    missing = 0
    for note in notes:
        if room <= 0:
            missing += 1
            continue
        who = note.author or "someone"
        when = f", {_date(note.created_at)}" if note.created_at is not None else ""
        where = f" on {_place(note)}" if names_place and note.is_in_diff else ""
        block = f"{who}{when}{where}:\n{_clean(note.body, min(MAX_NOTE, room), note.length, 'this note')}"
        blocks.append(block)
        room -= len(block)
    if missing:
        blocks.append(f"[cut: {missing} more notes are not in this document]")
    return blocks


def _files(files: Sequence[File]) -> str:
    lines = ["Files:"]
    room = MAX_PATHS
    for index, file in enumerate(files):
        line = _one_line(_path(file), MAX_TITLE)
        room -= len(line)
        if room < 0:
            lines.append(f"[cut: {len(files) - index} more files are not in this document]")
            break
        lines.append(line)
    return "\n".join(lines)


def _path(file: File) -> str:
    name = file.new_path or file.old_path or ""
    if file.is_new:
        return f"{name} (new)"
    if file.is_deleted:
        return f"{name} (deleted)"
    return f"{name} (was {file.old_path})" if file.old_path and file.old_path != name else name


def _place(note: Note) -> str:
    line = f":{note.line}" if note.line is not None else ""
    name = note.new_path or note.old_path or ""
    was = f" (was {note.old_path})" if note.old_path and note.old_path != name else ""
    return _one_line(f"{name}{line}{was}", MAX_TITLE)


def _name(source: Source) -> str:
    return f"merge request !{source.iid}" if source.entity_type == MERGE_REQUEST else f"issue #{source.iid}"


def _date(at_ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(" ")[:16]


def _clean(text: str, limit: int, length: int | None, what: str) -> str:
    """Return text with plain line ends and no control characters, cut to `limit` characters, which it then says."""
    whole = max(length or 0, len(text))
    kept = _controls().sub("", text[:limit].replace("\r\n", "\n").replace("\r", "\n")).strip()
    return kept if whole <= limit else f"{kept}\n[cut: {what} goes on for {whole - limit} characters]"


def _one_line(text: str, limit: int) -> str:
    line = " ".join(_controls().sub(" ", text[: limit + 1]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@cache  # milliseconds to compile, and a search only needs to know what a document is
def _controls() -> re.Pattern[str]:
    """Return a terminal's colours, every control but tab and line end, and what turns the direction of writing."""
    return re.compile(
        "\\x1b\\[[0-9;?]*[A-Za-z]|[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ufeff\\ud800-\\udfff]"
    )
