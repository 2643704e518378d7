"""Writes an entity's life in the order it happened, so that ids and times grow together and the rows agree.

A story reads top to bottom: wait, comment, label, push, resolve, merge.
"""

from __future__ import annotations

from collections.abc import Sequence

from lore.demo.clock import MINUTE
from lore.demo.dice import Dice
from lore.demo.model import (
    Commit,
    Discussion,
    FileDiff,
    Issue,
    Json,
    Label,
    LabelEvent,
    MergeRequest,
    Milestone,
    MilestoneEvent,
    Note,
    StateEvent,
    User,
    Version,
)
from lore.demo.render import kind_of

NOTES_PER_ENTITY = 1_000
FIRST_NOTE_ID = 3_900_000_000
FIRST_EVENT_ID = 400_000_000


class Timeline:
    """The life of one issue or merge request; every event moves its `updated_at` to then.

    Args:
        space: Keeps the ids of different projects apart.
    """

    def __init__(self, row: Issue | MergeRequest, dice: Dice, *, space: int = 0) -> None:
        kind_number = 0 if isinstance(row, Issue) else 1
        number = ((space * 2 + kind_number) * 10_000 + row.iid) * NOTES_PER_ENTITY
        self._row = row
        self._dice = dice
        self._next_note = FIRST_NOTE_ID + number
        self._next_event = FIRST_EVENT_ID + number
        self._key = (kind_of(row), space, row.iid)
        self.now = row.created_at

    def wait(self, minutes: float) -> None:
        """Let time pass."""
        self.now += round(minutes * MINUTE)

    def comment(self, user: User | None, body: str) -> Discussion:
        """Add a plain comment, which is no thread until somebody replies."""
        return self._thread(self._note(user, body), individual=True)

    def system(self, user: User | None, body: str) -> Discussion:
        """Add a note GitLab wrote by itself."""
        note = self._note(user, body)
        note.system = True
        note.updated_at += 3_000  # GitLab's system notes are often some ms younger than they are old
        return self._thread(note, individual=True)

    def thread(self, user: User | None, body: str, *, position: Json | None = None, note_type: str = "") -> Discussion:
        """Open a thread that can be resolved: on a line if it has a position."""
        note = self._note(user, body)
        note.type = note_type or ("DiffNote" if position else "DiscussionNote")
        note.position = position
        note.resolvable = True
        return self._thread(note, individual=False)

    def reply(self, thread: Discussion, user: User | None, body: str) -> Note:
        """Answer in a thread; a reply repeats the position of the note it began with."""
        root = thread.notes[0]
        note = self._note(user, body)
        note.type = root.type = root.type or "DiscussionNote"
        note.position, note.resolvable = root.position, True
        root.resolvable = True
        thread.individual = False
        thread.notes.append(note)
        return note

    def resolve(self, thread: Discussion, user: User) -> None:
        """Resolve a thread, all its notes at once."""
        for note in thread.notes:
            note.resolved_at = note.updated_at = self.now
            note.resolved_by = user
        self._happened()

    def label(self, user: User | None, *, add: Sequence[Label] = (), remove: Sequence[Label] = ()) -> None:
        """Change labels in one action: its events have one `created_at`."""
        for action, labels in (("add", add), ("remove", remove)):
            for label in labels:
                self._row.label_events.append(LabelEvent(self._event_id(), user, self.now, label, action))
        gone = {label.id for label in remove}
        self._row.labels = [label for label in [*self._row.labels, *add] if label.id not in gone]
        self._happened()

    def milestone(self, user: User | None, milestone: Milestone | None) -> None:
        """Set a milestone, or none."""
        for action, which in (("remove", self._row.milestone), ("add", milestone)):
            if which is not None:
                event = MilestoneEvent(self._event_id(), user, self.now, which, action, self._row.state)
                self._row.milestone_events.append(event)
        self._row.milestone = milestone
        self._happened()

    def assign(self, by: User, *users: User) -> None:
        """Set who is to do it."""
        self._row.assignees = list(users)
        self.system(by, "assigned to " + ", ".join(f"@{user.username}" for user in users))

    def close(self, user: User | None, *, merge_request_id: int | None = None) -> None:
        """Close it."""
        self._row.state, self._row.closed_at, self._row.closed_by = "closed", self.now, user
        self._state("closed", user, merge_request_id)

    def reopen(self, user: User | None) -> None:
        """Open it again."""
        self._row.state, self._row.closed_at, self._row.closed_by = "opened", None, None
        self._state("reopened", user)

    def merge(self, user: User) -> None:
        """Merge it."""
        row = self._merge_request()
        row.state, row.merged_at, row.merged_by = "merged", self.now, user
        row.merge_commit_sha = self._dice.sha("merge", *self._key)
        self._state("merged", user)

    def push(self, user: User, diffs: Sequence[FileDiff], *titles: str) -> Version:
        """Push commits; `diffs` is what the merge request as a whole then changes."""
        row = self._merge_request()
        base = row.latest.base_sha if row.versions else self._dice.sha("base", *self._key)
        commits = list(row.latest.commits) if row.versions else []
        for title in titles:
            sha = self._dice.sha("commit", *self._key, len(row.versions), len(commits))
            parent = commits[-1].id if commits else base
            commits.append(Commit(sha, parent, title, title + "\n", user, self.now))
        version = Version(self._event_id(), base, commits[-1].id, self.now, tuple(commits), tuple(diffs))
        if row.versions:
            added = "\n".join(f"* {commit.id[:8]} - {commit.title}" for commit in commits[-len(titles) :])
            self.system(user, f"added {len(titles)} commit{'s' * (len(titles) > 1)}\n\n{added}")
        row.versions.append(version)
        self._happened()
        return version

    def line(self, diff: FileDiff, *, old: int | None = None, new: int | None = None) -> Json:
        """Return the position of a line of the latest version: added (`new`), removed (`old`), or context (both)."""
        side = "new" if old is None else "old" if new is None else None
        code = f"{self._dice.sha('path', diff.new_path)}_{old or 0}_{new or 0}"
        end = {"line_code": code, "type": side, "old_line": old, "new_line": new}
        return self.position(diff, "text") | {
            "old_line": old,
            "new_line": new,
            "line_range": {"start": dict(end), "end": end},
        }

    def position(self, diff: FileDiff, position_type: str) -> Json:
        """Return the place of a file, or of an image, in the latest version."""
        version = self._merge_request().latest
        return {
            "base_sha": version.base_sha,
            "start_sha": version.base_sha,
            "head_sha": version.head_sha,
            "old_path": diff.old_path,
            "new_path": diff.new_path,
            "position_type": position_type,
        }

    def _merge_request(self) -> MergeRequest:
        if not isinstance(self._row, MergeRequest):
            raise TypeError(f"#{self._row.iid} is an issue")
        return self._row

    def _note(self, user: User | None, body: str) -> Note:
        note = Note(self._next_note, body, user, self.now, self.now)
        self._next_note += 1
        self._happened()
        return note

    def _thread(self, note: Note, *, individual: bool) -> Discussion:
        thread = Discussion(self._dice.sha("discussion", *self._key, note.id), [note], individual)
        self._row.discussions.append(thread)
        return thread

    def _state(self, state: str, user: User | None, merge_request_id: int | None = None) -> None:
        event = StateEvent(self._event_id(), user, self.now, state, source_merge_request_id=merge_request_id)
        self._row.state_events.append(event)
        self._happened()

    def _event_id(self) -> int:
        self._next_event += 1
        return self._next_event

    def _happened(self) -> None:
        self._row.updated_at = self.now
