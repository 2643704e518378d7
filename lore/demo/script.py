"""What can happen to a project while somebody mirrors it: one small function for each step.

A step is a JSON object: `{"step": "comment", "kind": "issue", "iid": 7, ...}`; `project` (an id or a path) names
another than the profile's own. The rules about `updated_at` are GitLab's: a saved attribute always moves it, a touch
only if it has not moved for a minute, and some changes never do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha1
from typing import Any

from lore.demo.model import (
    Commit,
    Discussion,
    Entity,
    FileDiff,
    Issue,
    IssueLink,
    Json,
    Kind,
    Label,
    LabelEvent,
    MergeRequest,
    MilestoneEvent,
    Note,
    Project,
    StateEvent,
    User,
    Version,
)
from lore.demo.render import kind_of
from lore.demo.state import State
from lore.demo.truth import entity_truth

Step = Mapping[str, Any]


class ScriptError(ValueError):
    """A step that makes no sense; the message says which and why."""


def run_steps(state: State, steps: Sequence[Step]) -> list[Json]:
    """Do the steps in order and return, for each, the truth about what it changed.

    Raises:
        ScriptError: A step is unknown or names something that is not there; those before it were done.
    """
    with state.lock:
        return [_run(state, step) for step in steps]


def _run(state: State, step: Step) -> Json:
    name = step.get("step")
    action = STEPS.get(str(name))
    if action is None:
        raise ScriptError(f"unknown step {name!r}; there are {', '.join(sorted(STEPS))}")
    project = state.main if "project" not in step else state.project(str(step["project"]))
    if project is None:
        raise ScriptError(f"no project {step['project']!r}")
    try:
        row = action(state, project, step)
    except KeyError as error:
        raise ScriptError(f"step {name!r}: {error.args[0]!r} is missing or not there") from error
    state.changed()
    truth = None if row is None else entity_truth(state, project, kind_of(row), row.iid)
    return {"step": name, "truth": truth}


def comment(state: State, project: Project, step: Step) -> Entity:
    """Add a note: a thread of its own, or with `discussion_id` a reply. Options: `body`, `position`, `thread`."""
    row, now = _entity(project, step), state.clock.now()
    position, thread_id = step.get("position"), step.get("discussion_id")
    is_thread = bool(position or thread_id or step.get("thread"))
    note = Note(
        state.new_id(),
        str(step.get("body", "A new comment.")),
        _actor(project, step),
        now,
        now,
        type="DiffNote" if position else "DiscussionNote" if is_thread else None,
        resolvable=is_thread,
        position=position,
        internal=bool(step.get("internal", False)),
    )
    if thread_id:
        thread = _thread(row, step)
        thread.notes.append(note)
        thread.individual = False
    else:
        row.discussions.append(Discussion(_sha("thread", note.id), [note], individual=not is_thread))
    state.touch(row)
    return row


def edit_note(state: State, project: Project, step: Step) -> Entity:
    """Change a note's `body`."""
    row = _entity(project, step)
    note = _note(row, step)
    note.body = str(step.get("body", note.body + " (edited)"))
    note.updated_at = state.clock.now()
    state.touch(row)
    return row


def delete_note(state: State, project: Project, step: Step) -> Entity:
    """Delete a note; nothing else shows that it was there, and the noteable is not touched."""
    row = _entity(project, step)
    gone = _note(row, step)
    for thread in row.discussions:
        thread.notes = [note for note in thread.notes if note is not gone]
    row.discussions = [thread for thread in row.discussions if thread.notes]
    return row


def delete_discussion(state: State, project: Project, step: Step) -> Entity:
    """Delete a thread; the noteable is not touched."""
    row = _entity(project, step)
    row.discussions.remove(_thread(row, step))
    return row


def resolve(state: State, project: Project, step: Step) -> Entity:
    """Resolve a thread (`resolved`: false reopens it).

    Only the notes move, as GitLab updates them without callbacks; the entity is touched if the thread is one note, or
    if this was the last open thread of a merge request, which adds a system note.
    """
    row, now = _entity(project, step), state.clock.now()
    thread = _thread(row, step)
    is_resolved = bool(step.get("resolved", True))
    for note in thread.notes:
        if note.resolvable:
            note.resolved_at = now if is_resolved else None
            note.resolved_by = _actor(project, step) if is_resolved else None
            note.updated_at = now
    was_last = is_resolved and all(other.resolved for other in row.discussions if other.resolvable)
    if was_last and isinstance(row, MergeRequest):
        _system_note(state, row, "resolved all threads", _actor(project, step))
    if was_last or len(thread.notes) == 1:
        state.touch(row)
    return row


def label(state: State, project: Project, step: Step) -> Entity:
    """Change labels: `add` and `remove` are lists of names. The events of one step have one `created_at`."""
    row, now = _entity(project, step), state.clock.now()
    changes = [("add", name) for name in step.get("add", ())] + [("remove", name) for name in step.get("remove", ())]
    for action, name in changes:
        found = _label(state, project, name)
        row.labels = [other for other in row.labels if other.id != found.id] + ([found] if action == "add" else [])
        row.label_events.append(LabelEvent(state.new_id(), _actor(project, step), now, found, action))
    state.touch(row)
    return row


def close(state: State, project: Project, step: Step) -> Entity:
    """Close it."""
    row = _entity(project, step)
    _close(state, row, _actor(project, step))
    return row


def reopen(state: State, project: Project, step: Step) -> Entity:
    """Open it again."""
    row, now = _entity(project, step), state.clock.now()
    row.state, row.closed_at, row.closed_by = "opened", None, None
    row.state_events.append(StateEvent(state.new_id(), _actor(project, step), now, "reopened"))
    state.write(row)
    return row


def merge(state: State, project: Project, step: Step) -> Entity:
    """Merge, and close the issues it closes if the target is the default branch."""
    row, now, actor = _merge_request(project, step), state.clock.now(), _actor(project, step)
    row.state, row.merged_at, row.merged_by = "merged", now, actor
    row.merge_commit_sha = _sha("merge", row.id)
    row.state_events.append(StateEvent(state.new_id(), actor, now, "merged"))
    state.write(row)
    if row.target_branch == project.default_branch:
        for iid in project.closes.get(row.iid, ()):
            issue = project.issues.get(iid)
            if issue is not None and issue.state == "opened":
                _close(state, issue, actor, merge_request_id=row.id)
    return row


def milestone(state: State, project: Project, step: Step) -> Entity:
    """Set the milestone of that `title`, or none if it is null."""
    row, now, title = _entity(project, step), state.clock.now(), step["title"]
    wanted = None if title is None else next((one for one in project.milestones if one.title == title), None)
    if title is not None and wanted is None:
        raise KeyError(title)
    for action, which in (("remove", row.milestone), ("add", wanted)):
        if which is not None:
            row.milestone_events.append(MilestoneEvent(state.new_id(), _actor(project, step), now, which, action))
    row.milestone = wanted
    state.write(row)
    return row


def edit(state: State, project: Project, step: Step) -> Entity:
    """Change `title` or `description`."""
    row, actor = _entity(project, step), _actor(project, step)
    if "title" in step:
        _system_note(state, row, f"changed title from **{row.title}** to **{step['title']}**", actor)
        row.title = str(step["title"])
    if "description" in step:
        _system_note(state, row, "changed the description", actor)
        row.description = step["description"]
    state.write(row)
    return row


def push(state: State, project: Project, step: Step) -> Entity:
    """Push a commit that adds or replaces files: `diffs` is a list of objects with the fields of `FileDiff`."""
    row = _merge_request(project, step)
    pushed = [FileDiff(**diff) for diff in step.get("diffs", ())] or [_edited(row.latest.diffs[0])]
    _push(state, project, row, pushed, step)
    return row


def rename_file(state: State, project: Project, step: Step) -> Entity:
    """Push a rename from `old_path` to `new_path`, with a change inside if `edited`."""
    row, old, new = _merge_request(project, step), str(step["old_path"]), str(step["new_path"])
    diff = "@@ -1,2 +1,2 @@\n berth\n-old\n+new\n" if step.get("edited") else ""
    _push(state, project, row, [FileDiff(old, new, diff, renamed_file=True)], step)
    return row


def delete_issue(state: State, project: Project, step: Step) -> None:
    """Delete an issue for good."""
    project.issues.delete(_issue(project, step).iid)


def delete_mr(state: State, project: Project, step: Step) -> None:
    """Delete a merge request for good."""
    project.merge_requests.delete(_merge_request(project, step).iid)


def hide(state: State, project: Project, step: Step) -> Entity:
    """Make an issue confidential (`confidential`: false undoes it): who lacks the right sees it as deleted."""
    row = _issue(project, step)
    row.confidential = bool(step.get("confidential", True))
    state.write(row)
    return row


def hide_project(state: State, project: Project, step: Step) -> None:
    """Make the project private: 404 for all but its owner (`private`: false undoes it)."""
    project.is_private = bool(step.get("private", True))


def rename_project(state: State, project: Project, step: Step) -> None:
    """Give the project another `path`; the old one redirects from now on."""
    project.former_paths.append(project.path)
    project.path = str(step["path"])


def move_issue(state: State, project: Project, step: Step) -> Entity:
    """Move an issue `to` another project: closed here, with the new one's global id."""
    row, target = _issue(project, step), state.project(str(step["to"]))
    if target is None:
        raise KeyError(step["to"])
    iid = target.issues.next_iid()
    now = state.clock.now()
    copy = Issue(state.new_id(), iid, row.title, row.description, row.author, row.created_at, now)
    target.issues.add(copy)
    row.moved_to_id = copy.id
    _system_note(state, row, f"moved to {target.path}#{iid}", _actor(project, step))
    _close(state, row, _actor(project, step))
    return row


def link(state: State, project: Project, step: Step) -> Entity:
    """Link two issues: `to` is the other's iid. Neither is touched."""
    row = _issue(project, step)
    other = project.issues[int(step["to"])]
    found = IssueLink(state.new_id(), row.iid, other.iid, str(step.get("type", "relates_to")), state.clock.now())
    project.links.append(found)
    return row


def unlink(state: State, project: Project, step: Step) -> Entity:
    """Remove the link to the issue of that iid, `to`; neither is touched."""
    row, other = _issue(project, step), int(step["to"])
    project.links = [one for one in project.links if {one.source_iid, one.target_iid} != {row.iid, other}]
    return row


def create_issue(state: State, project: Project, step: Step) -> Entity:
    """Open an issue under a number never used before."""
    now = state.clock.now()
    row = Issue(
        state.new_id(),
        project.issues.next_iid(),
        str(step.get("title", "A new issue")),
        step.get("description", ""),
        _actor(project, step),
        now,
        now,
        confidential=bool(step.get("confidential", False)),
    )
    project.issues.add(row)
    return row


def create_mr(state: State, project: Project, step: Step) -> Entity:
    """Open a merge request with one file; `closes` is a list of issue iids, which are not touched."""
    now, actor = state.clock.now(), _actor(project, step)
    iid = project.merge_requests.next_iid()
    row = MergeRequest(
        state.new_id(),
        iid,
        str(step.get("title", "A new merge request")),
        step.get("description", ""),
        actor,
        now,
        now,
        source_branch=str(step.get("source_branch", f"topic-{iid}")),
        target_branch=str(step.get("target_branch", project.default_branch)),
    )
    first = FileDiff("NOTES.md", "NOTES.md", "@@ -0,0 +1 @@\n+A note.\n", a_mode="0", new_file=True)
    row.versions.append(_version(state, row, [FileDiff(**diff) for diff in step.get("diffs", ())] or [first], actor))
    project.merge_requests.add(row)
    project.closes[iid] = [int(one) for one in step.get("closes", ())]
    return row


def advance_clock(state: State, project: Project, step: Step) -> None:
    """Push the clock forward by so many `seconds`."""
    state.clock.advance(float(step["seconds"]))


def revoke_token(state: State, project: Project, step: Step) -> None:
    """Revoke the token of that `name` (default `full`); with `expire`, let it expire instead."""
    is_expiry = bool(step.get("expire", False))
    state.tokens.change(str(step.get("name", "full")), is_revoked=not is_expiry or None, is_expired=is_expiry or None)


STEPS: dict[str, Callable[[State, Project, Step], Entity | None]] = {
    step.__name__: step
    for step in (
        comment,
        edit_note,
        delete_note,
        delete_discussion,
        resolve,
        label,
        close,
        reopen,
        merge,
        milestone,
        edit,
        push,
        rename_file,
        delete_issue,
        delete_mr,
        hide,
        hide_project,
        rename_project,
        move_issue,
        link,
        unlink,
        create_issue,
        create_mr,
        advance_clock,
        revoke_token,
    )
}


def _entity(project: Project, step: Step) -> Issue | MergeRequest:
    kind: Kind = "merge_request" if step["kind"] == "merge_request" else "issue"
    return project.shelf(kind)[int(step["iid"])]


def _issue(project: Project, step: Step) -> Issue:
    return project.issues[int(step["iid"])]


def _merge_request(project: Project, step: Step) -> MergeRequest:
    return project.merge_requests[int(step["iid"])]


def _actor(project: Project, step: Step) -> User:
    """Return who does it: `user` is a username, else the project's creator."""
    wanted = step.get("user", project.creator.username)
    return next((user for user in project.users if user.username == wanted), project.creator)


def _thread(row: Entity, step: Step) -> Discussion:
    """Return the thread of that `discussion_id`, or the `index`-th, counted from 0."""
    if "discussion_id" in step:
        found = [thread for thread in row.discussions if thread.id == step["discussion_id"]]
    else:
        found = row.discussions[int(step.get("index", 0)) :][:1]
    if not found:
        raise KeyError("discussion")
    return found[0]


def _note(row: Entity, step: Step) -> Note:
    """Return the note of that `note_id`, or the last that a person wrote."""
    notes = [note for note in row.notes() if not note.system and not note.hidden]
    if "note_id" in step:
        notes = [note for note in row.notes() if note.id == step["note_id"]]
    if not notes:
        raise KeyError("note")
    return notes[-1]


def _label(state: State, project: Project, name: str) -> Label:
    found = next((one for one in project.labels if one.name == name), None)
    if found is None:
        found = Label(state.new_id(), name, "#6699cc")
        project.labels.append(found)
    return found


def _close(state: State, row: Entity, actor: User, *, merge_request_id: int | None = None) -> None:
    now = state.clock.now()
    row.state, row.closed_at, row.closed_by = "closed", now, actor
    event = StateEvent(state.new_id(), actor, now, "closed", source_merge_request_id=merge_request_id)
    row.state_events.append(event)
    state.write(row)


def _system_note(state: State, row: Entity, body: str, actor: User) -> None:
    now = state.clock.now()
    note = Note(state.new_id(), body, actor, now, now + 3_000, system=True)
    row.discussions.append(Discussion(_sha("thread", note.id), [note], individual=True))


def _push(state: State, project: Project, row: MergeRequest, pushed: list[FileDiff], step: Step) -> None:
    paths = {path for diff in pushed for path in (diff.old_path, diff.new_path)}
    kept = [diff for diff in row.latest.diffs if diff.new_path not in paths]
    actor = _actor(project, step)
    row.versions.append(_version(state, row, [*kept, *pushed], actor))
    _system_note(state, row, f"added 1 commit\n\n* {row.latest.head_sha[:8]} - {row.latest.commits[-1].title}", actor)
    state.write(row)


def _version(state: State, row: MergeRequest, diffs: list[FileDiff], actor: User) -> Version:
    now, version_id = state.clock.now(), state.new_id()
    base = row.latest.base_sha if row.versions else _sha("base", row.id)
    earlier = row.latest.commits if row.versions else ()
    head = _sha("head", version_id)
    title = f"Change {len(diffs)} file{'s' if len(diffs) > 1 else ''}"
    commit = Commit(head, earlier[-1].id if earlier else base, title, title + "\n", actor, now)
    return Version(version_id, base, head, now, (*earlier, commit), tuple(diffs))


def _edited(diff: FileDiff) -> FileDiff:
    return replace(diff, diff=diff.diff + "@@ -9 +9 @@\n-before\n+after\n", new_file=diff.new_file)


def _sha(*key: str | int) -> str:
    return sha1("/".join(map(str, key)).encode(), usedforsecurity=False).hexdigest()
