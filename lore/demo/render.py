"""Rows as the JSON bodies of GitLab 18.9 CE, self-managed, in UTC: one function for each kind of row.

The key sets are those of recorded answers, less what only the enterprise edition sends.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from lore.demo.clock import commit_date, iso, iso_or_none
from lore.demo.flavour import Flavour
from lore.demo.model import (
    Commit,
    Discussion,
    Entity,
    ExternalIssue,
    FileDiff,
    Issue,
    IssueLink,
    Json,
    Kind,
    Label,
    LabelEvent,
    MergeRequest,
    Milestone,
    MilestoneEvent,
    Note,
    Project,
    StateEvent,
    User,
    Version,
)

NOTEABLE: dict[Kind, str] = {"issue": "Issue", "merge_request": "MergeRequest"}
_TASK = re.compile(r"^\s*[-*] \[([ xX])\]", re.MULTILINE)


def kind_of(row: Entity) -> Kind:
    """Return what a row is."""
    return "issue" if isinstance(row, Issue) else "merge_request"


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders the rows of one project as one server, reached at `url`, would."""

    url: str
    project: Project
    flavour: Flavour

    def user(self, user: User | None) -> Json | None:
        """Return a user as every other body shows one."""
        if user is None:
            return None
        avatar = hashlib.sha256(user.username.encode()).hexdigest()
        return {
            "id": user.id,
            "username": user.username,
            "public_email": None,
            "name": user.name,
            "state": user.state,
            "locked": False,
            "avatar_url": f"{self.url}/uploads/-/system/user/avatar/{avatar}.png" if user.has_avatar else None,
            "web_url": f"{self.url}/{user.username}",
        }

    def label(self, label: Label) -> Json:
        """Return a label in full."""
        return {
            "id": label.id,
            "name": label.name,
            "description": label.description,
            "description_html": label.description or "",
            "text_color": label.text_color,
            "color": label.color,
        }

    def milestone(self, milestone: Milestone | None) -> Json | None:
        """Return a milestone in full."""
        if milestone is None:
            return None
        return {
            "id": milestone.id,
            "iid": milestone.iid,
            "project_id": self.project.id,
            "title": milestone.title,
            "description": milestone.description,
            "state": milestone.state,
            "created_at": iso(milestone.created_at),
            "updated_at": iso(milestone.created_at),
            "due_date": milestone.due_date,
            "start_date": milestone.start_date,
            "expired": milestone.expired,
            "web_url": f"{self.url}/{self.project.path}/-/milestones/{milestone.iid}",
        }

    def issue_basic(self, issue: Issue, *, label_details: bool = False) -> Json:
        """Return an issue as `closes_issues` shows it: without references and links."""
        body = self._entity(issue, label_details=label_details)
        body |= {
            "type": issue.issue_type.upper(),
            "merge_requests_count": self._closing_count(issue.iid),
            "due_date": issue.due_date,
            "start_date": None,
            "confidential": issue.confidential,
            "issue_type": issue.issue_type,
            "web_url": f"{self.url}/{self.project.path}/-/{self.flavour.issue_path}/{issue.iid}",
        }
        return body | {key: value for key, value in issue.overrides.items() if key in body}

    def issue(self, issue: Issue, *, label_details: bool = False) -> Json:
        """Return an issue as a list shows it."""
        api = f"{self.url}/api/v4/projects/{self.project.id}"
        body = self.issue_basic(issue, label_details=label_details)
        body |= {
            "has_tasks": bool(_TASK.search(issue.description or "")),
            "task_status": _task_status(issue.description),
            "_links": {
                "self": f"{api}/issues/{issue.iid}",
                "notes": f"{api}/issues/{issue.iid}/notes",
                "award_emoji": f"{api}/issues/{issue.iid}/award_emoji",
                "project": api,
                "closed_as_duplicate_of": None,
            },
            "references": self._references(f"#{issue.iid}"),
            "severity": "UNKNOWN",
            "moved_to_id": issue.moved_to_id,
            "imported": False,
            "imported_from": "none",
            "service_desk_reply_to": None,
        }
        return body | issue.overrides

    def issue_single(self, issue: Issue) -> Json:
        """Return an issue as its own route shows it."""
        return {**self.issue(issue), "subscribed": False, **issue.overrides}

    def linked_issue(self, issue: Issue, link: IssueLink) -> Json:
        """Return an issue as another one's links show it."""
        return self.issue(issue) | {
            "issue_link_id": link.id,
            "link_type": link.type,
            "link_created_at": iso(link.created_at),
            "link_updated_at": iso(link.created_at),
        }

    def external_issue(self, issue: ExternalIssue) -> Json:
        """Return an issue of another tracker."""
        return {"title": issue.title, "id": issue.id}

    def merge_request_simple(self, row: MergeRequest) -> Json:
        """Return what `view=simple` shows."""
        keys = ("id", "iid", "project_id", "title", "description", "state", "created_at", "updated_at", "web_url")
        body = self.merge_request(row)
        return {key: body[key] for key in keys}

    def merge_request(self, row: MergeRequest, *, label_details: bool = False) -> Json:
        """Return a merge request as a list shows it."""
        short = f"!{row.iid}"
        is_open = row.state == "opened"
        merged_by = self.user(row.merged_by)
        body = self._entity(row, label_details=label_details)
        body |= {
            "merged_by": merged_by,
            "merge_user": merged_by,
            "merged_at": iso_or_none(row.merged_at),
            "target_branch": row.target_branch,
            "source_branch": row.source_branch,
            "reviewers": [self.user(user) for user in row.reviewers],
            "source_project_id": row.source_project_id or self.project.id,
            "target_project_id": self.project.id,
            "draft": row.draft,
            "work_in_progress": row.draft,
            "imported": False,
            "imported_from": "none",
            "merge_when_pipeline_succeeds": False,
            "merge_status": "can_be_merged",
            "detailed_merge_status": _merge_status(row) if is_open else "not_open",
            "merge_after": None,
            "sha": row.latest.head_sha,
            "merge_commit_sha": row.merge_commit_sha,
            "squash_commit_sha": None,
            "should_remove_source_branch": None,
            "force_remove_source_branch": True,
            "prepared_at": iso(row.created_at + 2_000_000),
            "reference": short,
            "references": self._references(short),
            "web_url": f"{self.url}/{self.project.path}/-/merge_requests/{row.iid}",
            "squash": row.squash,
            "squash_on_merge": row.squash,
            "has_conflicts": False,
            "blocking_discussions_resolved": _all_resolved(row),
        }
        return body | {key: value for key, value in row.overrides.items() if key in body}

    def merge_request_single(self, row: MergeRequest) -> Json:
        """Return a merge request as its own route shows it."""
        version = row.latest
        return {
            **self.merge_request(row),
            "subscribed": False,
            "changes_count": _changes_count(version),
            "latest_build_started_at": None,
            "latest_build_finished_at": None,
            "first_deployed_to_production_at": None,
            "pipeline": None,
            "head_pipeline": None,
            "diff_refs": {
                "base_sha": version.base_sha,
                "head_sha": version.head_sha,
                "start_sha": version.base_sha,
            },
            "merge_error": None,
            "first_contribution": False,
            "user": {"can_merge": False},
            **row.overrides,
        }

    def merge_request_changes(self, row: MergeRequest) -> Json:
        """Return a merge request with its diffs."""
        return self.merge_request_single(row) | {
            "changes": [self.diff(diff) for diff in row.latest.diffs],
            "overflow": row.latest.is_overflowing,
        }

    def note(self, note: Note, row: Entity) -> Json:
        """Return a note; only a resolvable one says whether it is resolved."""
        body: Json = {
            "id": note.id,
            "type": note.type,
            "body": note.body,
            "author": self.user(note.author),
            "created_at": iso(note.created_at),
            "updated_at": iso(note.updated_at),
            "system": note.system,
            "noteable_id": row.id,
            "noteable_type": NOTEABLE[kind_of(row)],
            "project_id": self.project.id,
        }
        if note.type == "DiffNote":
            body |= {"commit_id": note.commit_id, "position": note.position}
        body["resolvable"] = note.resolvable
        if note.resolvable:
            body |= {
                "resolved": note.resolved_at is not None,
                "resolved_by": self.user(note.resolved_by),
                "resolved_at": iso_or_none(note.resolved_at),
            }
        return body | {
            "confidential": note.internal,
            "internal": note.internal,
            "imported": False,
            "imported_from": "none",
            "noteable_iid": row.iid,
            "commands_changes": {},
        }

    def discussion(self, thread: Discussion, notes: list[Note], row: Entity) -> Json:
        """Return a thread with those of its notes that are to be seen."""
        body: Json = {
            "id": thread.id,
            "individual_note": thread.individual,
            "notes": [self.note(note, row) for note in notes],
        }
        if self.flavour.has_thread_state:
            body["resolvable"] = thread.resolvable
            if thread.resolvable:
                body["resolved"] = thread.resolved
        return body

    def state_event(self, event: StateEvent, row: Entity) -> Json:
        """Return a state event."""
        return self._event(event, row) | {
            "source_commit": event.source_commit,
            "source_merge_request_id": event.source_merge_request_id,
            "state": event.state,
        }

    def label_event(self, event: LabelEvent, row: Entity) -> Json:
        """Return a label event."""
        label = None if event.label is None else self.label(event.label)
        return self._event(event, row) | {"label": label, "action": event.action}

    def milestone_event(self, event: MilestoneEvent, row: Entity) -> Json:
        """Return a milestone event."""
        return self._event(event, row) | {
            "milestone": self.milestone(event.milestone),
            "action": event.action,
            "state": event.state,
        }

    def diff(self, diff: FileDiff) -> Json:
        """Return one file's diff."""
        return {
            "diff": diff.diff,
            "collapsed": diff.collapsed,
            "too_large": diff.too_large,
            "new_path": diff.new_path,
            "old_path": diff.old_path,
            "a_mode": diff.a_mode,
            "b_mode": diff.b_mode,
            "new_file": diff.new_file,
            "renamed_file": diff.renamed_file,
            "deleted_file": diff.deleted_file,
            "generated_file": diff.generated_file,
        }

    def commit(self, commit: Commit) -> Json:
        """Return a commit, dated in its author's own offset."""
        date = commit_date(commit.authored_at, commit.author.utc_offset_minutes)
        email = f"{commit.author.username}@example.invalid"
        return {
            "id": commit.id,
            "short_id": commit.id[:8],
            "created_at": date,
            "parent_ids": [commit.parent],
            "title": commit.title,
            "message": commit.message,
            "author_name": commit.author.name,
            "author_email": email,
            "authored_date": date,
            "committer_name": commit.author.name,
            "committer_email": email,
            "committed_date": date,
            "trailers": {},
            "extended_trailers": {},
            "web_url": f"{self.url}/{self.project.path}/-/commit/{commit.id}",
        }

    def version(self, version: Version, row: MergeRequest) -> Json:
        """Return a version as the list shows it."""
        return {
            "id": version.id,
            "head_commit_sha": version.head_sha,
            "base_commit_sha": version.base_sha,
            "start_commit_sha": version.base_sha,
            "created_at": iso(version.created_at),
            "merge_request_id": row.id,
            "state": "overflow" if version.is_overflowing else "collected",
            "real_size": _changes_count(version),
            "patch_id_sha": hashlib.sha1(version.head_sha.encode(), usedforsecurity=False).hexdigest(),
        }

    def version_single(self, version: Version, row: MergeRequest) -> Json:
        """Return a version with commits and diffs."""
        return self.version(version, row) | {
            "commits": [self.commit(commit) for commit in version.commits],
            "diffs": [self.diff(diff) for diff in version.diffs],
        }

    def _entity(self, row: Entity, *, label_details: bool) -> Json:
        labels = sorted(row.labels, key=lambda label: label.name)
        done, total = _tasks(row.description)
        assignees = [self.user(user) for user in row.assignees]
        return {
            "id": row.id,
            "iid": row.iid,
            "project_id": self.project.id,
            "title": row.title,
            "description": row.description,
            "state": row.state,
            "created_at": iso(row.created_at),
            "updated_at": iso(row.updated_at),
            "closed_at": iso_or_none(row.closed_at),
            "closed_by": self.user(row.closed_by),
            "labels": [self.label(label) if label_details else label.name for label in labels],
            "milestone": self.milestone(row.milestone),
            "author": self.user(row.author),
            "assignees": assignees,
            "assignee": assignees[0] if assignees else None,
            "user_notes_count": sum(not note.system for thread in row.discussions for note in thread.notes),
            "upvotes": row.upvotes,
            "downvotes": row.downvotes,
            "discussion_locked": row.discussion_locked,
            "time_stats": {
                "time_estimate": 0,
                "total_time_spent": 0,
                "human_time_estimate": None,
                "human_total_time_spent": None,
            },
            "task_completion_status": {"count": total, "completed_count": done},
        }

    def _event(self, event: StateEvent | LabelEvent | MilestoneEvent, row: Entity) -> Json:
        return {
            "id": event.id,
            "user": self.user(event.user),
            "created_at": iso(event.created_at),
            "resource_type": NOTEABLE[kind_of(row)],
            "resource_id": row.id,
        }

    def _references(self, short: str) -> Json:
        return {"short": short, "relative": short, "full": f"{self.project.path}{short}"}

    def _closing_count(self, iid: int) -> int:
        return sum(iid in closed for closed in self.project.closes.values())


def _tasks(description: str | None) -> tuple[int, int]:
    marks = _TASK.findall(description or "")
    return sum(mark != " " for mark in marks), len(marks)


def _task_status(description: str | None) -> str:
    done, total = _tasks(description)
    return f"{done} of {total} checklist items completed" if total else ""


def _all_resolved(row: MergeRequest) -> bool:
    return all(thread.resolved for thread in row.discussions if thread.resolvable)


def _merge_status(row: MergeRequest) -> str:
    if row.draft:
        return "draft_status"
    return "mergeable" if _all_resolved(row) else "discussions_not_resolved"


def _changes_count(version: Version) -> str:
    return "1000+" if version.is_overflowing else str(len(version.diffs))
