"""A mirror in which every text that GitLab's users write is hostile."""

from __future__ import annotations

from support import PROJECT_ID, FakeGitLab, discussion_body, drain, entity_body, event_body, note_body, submit

from lore.core import plan
from lore.core.plan import Entity

# Escapes of every kind that we never write ourselves, marks that turn text round, line ends, and rich's markup.
EVIL = "\x1b[38;5;201mX\x1b[2J\x1b]0;title\x07\x9b31m \u202eevil\u2066 \u200b\ufeff\n\r\terror: fake "
EVIL += "[bold red]no[/] :smile:"
SHOWN = r"\x1b[38;5;201mX\x1b[2J\x1b]0;title\x07\x9b31m \u202eevil\u2066 \u200b\ufeff"
MARKUP = "[bold red]no[/] :smile:"


def fill(gitlab: FakeGitLab) -> None:
    """Put an issue and a merge request into the mirror."""
    user = {"id": 1, "username": EVIL}
    fields = {
        "title": EVIL,
        "description": EVIL,
        "author": user,
        "assignees": [user],
        "reviewers": [user],
        "labels": [EVIL],
        "milestone": {"id": 1, "title": EVIL},
        "web_url": EVIL,
        "source_branch": EVIL,
        "target_branch": EVIL,
        "closed_by": user,
        "merge_user": user,
    }
    note = note_body(1, EVIL, author=user, type="DiffNote")
    note["position"] = {"old_path": EVIL, "new_path": EVIL, "new_line": 1, "position_type": "text"}
    link = {"id": 5, "iid": 9, "project_id": PROJECT_ID, "title": EVIL, "state": EVIL, "link_type": EVIL}
    link |= {"references": {"full": EVIL}, "web_url": EVIL}
    lists = {
        plan.DISCUSSIONS: [discussion_body(1, note), discussion_body(2, note_body(2, EVIL, author=user, system=True))],
        plan.STATE_EVENTS: [event_body(1, state="closed", user=user), event_body(2, state="locked", user=user)],
        plan.LABEL_EVENTS: [event_body(1, action="add", label={"id": 1, "name": EVIL}, user=user)],
        plan.MILESTONE_EVENTS: [event_body(1, action="add", milestone={"id": 1, "title": EVIL}, user=user)],
        plan.DIFFS: [{"old_path": EVIL, "new_path": EVIL + "2", "renamed_file": True, "diff": "@@\n+" + EVIL}],
        plan.CLOSES_ISSUES: [link, link | {"id": 6, "project_id": 12345}],
        plan.LINKS: [link | {"issue_link_id": 3}],
    }
    entities = (Entity("issue", 7), Entity("merge_request", 5))
    for entity in entities:
        gitlab.set(entity, plan.OWN, entity_body(entity, **fields))
        for endpoint in plan.ENDPOINTS[entity.entity_type][1:]:
            gitlab.set(entity, endpoint.job_type, lists[endpoint.job_type])
    submit(*entities)
    drain()
