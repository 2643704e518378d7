"""What the demo GitLab stores: plain rows, before they are rendered as JSON.

Times are microseconds (see `lore.demo.clock`). A row that is `hidden` exists and is counted by the pager, but the
reader's permissions filter it out after paging, which is why GitLab's pages can be short or even empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

Json = dict[str, Any]
Kind = Literal["issue", "merge_request"]


@dataclass(frozen=True, slots=True)
class User:
    """Who writes, closes and merges."""

    id: int
    username: str
    name: str
    state: str = "active"
    has_avatar: bool = True
    utc_offset_minutes: int = 0


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a project."""

    id: int
    name: str
    color: str
    description: str | None = None
    text_color: str = "#FFFFFF"


@dataclass(frozen=True, slots=True)
class Milestone:
    """A milestone of a project."""

    id: int
    iid: int
    title: str
    description: str
    state: str
    created_at: int
    due_date: str | None = None
    start_date: str | None = None
    expired: bool = False


@dataclass(slots=True)
class Note:
    """A comment or a system note."""

    id: int
    body: str
    author: User | None
    created_at: int
    updated_at: int
    type: str | None = None
    system: bool = False
    resolvable: bool = False
    resolved_by: User | None = None
    resolved_at: int | None = None
    position: Json | None = None
    commit_id: str | None = None
    internal: bool = False
    hidden: bool = False


@dataclass(slots=True)
class Discussion:
    """A thread: notes in order, the first of which gives its place."""

    id: str
    notes: list[Note]
    individual: bool = False

    @property
    def resolvable(self) -> bool:
        """Whether the thread can be resolved at all."""
        return any(note.resolvable for note in self.notes)

    @property
    def resolved(self) -> bool:
        """Whether all of it is resolved."""
        return self.resolvable and all(note.resolved_at is not None for note in self.notes if note.resolvable)


@dataclass(slots=True)
class StateEvent:
    """One change of state; opening is none."""

    id: int
    user: User | None
    created_at: int
    state: str
    source_commit: str | None = None
    source_merge_request_id: int | None = None
    hidden: bool = False


@dataclass(slots=True)
class LabelEvent:
    """One label added or removed; `label` is None once it was deleted."""

    id: int
    user: User | None
    created_at: int
    label: Label | None
    action: str
    hidden: bool = False


@dataclass(slots=True)
class MilestoneEvent:
    """One milestone added or removed."""

    id: int
    user: User | None
    created_at: int
    milestone: Milestone | None
    action: str
    state: str = "opened"
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class FileDiff:
    """What a merge request changes in one file."""

    old_path: str
    new_path: str
    diff: str = ""
    a_mode: str = "100644"
    b_mode: str = "100644"
    new_file: bool = False
    renamed_file: bool = False
    deleted_file: bool = False
    generated_file: bool | None = False
    collapsed: bool = False
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a merge request; committer and author are the same."""

    id: str
    parent: str
    title: str
    message: str
    author: User
    authored_at: int


@dataclass(frozen=True, slots=True)
class Version:
    """What one push made of a merge request."""

    id: int
    base_sha: str
    head_sha: str
    created_at: int
    commits: tuple[Commit, ...]
    diffs: tuple[FileDiff, ...]
    is_overflowing: bool = False


@dataclass(slots=True)
class Entity:
    """What issues and merge requests share.

    `overrides` replaces fields of the rendered body: the odd values that real servers send and no rule produces.
    """

    id: int
    iid: int
    title: str
    description: str | None
    author: User | None
    created_at: int
    updated_at: int
    state: str = "opened"
    closed_at: int | None = None
    closed_by: User | None = None
    labels: list[Label] = field(default_factory=list)
    milestone: Milestone | None = None
    assignees: list[User] = field(default_factory=list)
    discussions: list[Discussion] = field(default_factory=list)
    state_events: list[StateEvent] = field(default_factory=list)
    label_events: list[LabelEvent] = field(default_factory=list)
    milestone_events: list[MilestoneEvent] = field(default_factory=list)
    upvotes: int = 0
    downvotes: int = 0
    discussion_locked: bool | None = None
    overrides: Json = field(default_factory=dict)

    def notes(self) -> list[Note]:
        """Return the notes of all discussions by id, which is how GitLab's flat list is ordered."""
        return sorted((note for thread in self.discussions for note in thread.notes), key=lambda note: note.id)


@dataclass(slots=True)
class Issue(Entity):
    """An issue, or another work item the issues API serves."""

    confidential: bool = False
    due_date: str | None = None
    issue_type: str = "issue"
    moved_to_id: int | None = None


@dataclass(slots=True)
class MergeRequest(Entity):
    """A merge request; `source_project_id` None means the project itself."""

    source_branch: str = "topic"
    target_branch: str = "main"
    reviewers: list[User] = field(default_factory=list)
    draft: bool = False
    squash: bool = False
    merged_at: int | None = None
    merged_by: User | None = None
    merge_commit_sha: str | None = None
    versions: list[Version] = field(default_factory=list)
    source_project_id: int | None = None

    @property
    def latest(self) -> Version:
        """The version of the last push."""
        return self.versions[-1]


@dataclass(slots=True)
class IssueLink:
    """A link between two issues of the project, shown on both."""

    id: int
    source_iid: int
    target_iid: int
    type: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ExternalIssue:
    """An issue of another tracker, as `closes_issues` shows it: its id is a string."""

    id: str
    title: str


AnyEntity = TypeVar("AnyEntity", bound=Entity)


class Shelf(Generic[AnyEntity]):
    """All entities of one kind in a project, each made when it is first asked for.

    Args:
        iids: Those that exist at the start; the numbers left out are holes.
        build: A pure function of the iid.
    """

    def __init__(self, iids: Sequence[int], build: Callable[[int], AnyEntity]) -> None:
        self._build = build
        self._rows: dict[int, AnyEntity | None] = dict.fromkeys(iids)
        self._last_iid = max(iids, default=0)
        self.deleted: list[int] = []

    def __contains__(self, iid: int) -> bool:
        return iid in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[AnyEntity]:
        return iter([self[iid] for iid in self.iids()])

    def __getitem__(self, iid: int) -> AnyEntity:
        row = self._rows[iid]
        if row is None:
            row = self._rows[iid] = self._build(iid)
        return row

    def get(self, iid: int) -> AnyEntity | None:
        """Return the row of that iid, or None."""
        return self[iid] if iid in self._rows else None

    def iids(self) -> list[int]:
        """Return the numbers that exist now, in order."""
        return sorted(self._rows)

    def next_iid(self) -> int:
        """Return a number never used before, also not by a row that was deleted."""
        return self._last_iid + 1

    def add(self, row: AnyEntity) -> None:
        """Put a new row on the shelf."""
        self._rows[row.iid] = row
        self._last_iid = max(self._last_iid, row.iid)

    def delete(self, iid: int) -> None:
        """Take a row away for good."""
        del self._rows[iid]
        self.deleted.append(iid)


@dataclass(slots=True)
class Project:
    """A project and everything in it; `closes` is by merge request."""

    id: int
    path: str
    description: str
    created_at: int
    creator: User
    issues: Shelf[Issue]
    merge_requests: Shelf[MergeRequest]
    labels: list[Label]
    milestones: list[Milestone]
    users: list[User]
    default_branch: str = "main"
    is_private: bool = False
    namespace_id: int = 900
    former_paths: list[str] = field(default_factory=list)
    links: list[IssueLink] = field(default_factory=list)
    closes: dict[int, list[int]] = field(default_factory=dict)
    closes_external: dict[int, list[ExternalIssue]] = field(default_factory=dict)

    def shelf(self, kind: Kind) -> Shelf[Issue] | Shelf[MergeRequest]:
        """Return all rows of a kind."""
        return self.issues if kind == "issue" else self.merge_requests

    def entity(self, kind: Kind, iid: int) -> Issue | MergeRequest | None:
        """Return one row, or None."""
        return self.issues.get(iid) if kind == "issue" else self.merge_requests.get(iid)
