"""What the benchmarks of the commit share: merge requests as GitLab answers them, staged as a fetch leaves them.

A run that was staged waits for its commit, as if its last fetch had just ended.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from lore import logs  # noqa: E402
from lore.core import plan  # noqa: E402
from lore.core import runs as rules  # noqa: E402
from lore.core.plan import Entity  # noqa: E402
from lore.settings import read_settings  # noqa: E402
from models.base import clock, disconnect, now_ms, write  # noqa: E402
from models.ledger import Run  # noqa: E402
from models.queue import Claim, Task, stage_page  # noqa: E402

GITLAB_URL = "http://gitlab.test"
PROJECT = "tern/harbour"
PROJECT_ID = 4711
CREATED_AT = 1_700_000_000_000
# Between the ids of two merge requests' notes.
NOTES_APART = 1_000
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def another_database(url: str, name: str) -> str:
    """Make one more database on a PostgreSQL server and return its URL."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return url.replace("/postgres?", f"/{name}?")


def empty(url: str) -> None:
    """Make an empty mirror of a SQLite file that is not there yet, or of what a PostgreSQL holds, and open it."""
    import workers

    if url.startswith("postgresql"):
        import psycopg

        disconnect()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
    open_mirror(url)
    workers.open_ledger(_settings(url))


def open_mirror(url: str) -> None:
    """Open a mirror, with a broker that hears nobody."""
    import workers

    logs.configure(format="json", level="error")
    workers.open_workers(_settings(url), embedded=True)


def _settings(url: str) -> Any:
    return read_settings(
        {
            "LORE_GITLAB_URL": GITLAB_URL,
            "LORE_GITLAB_TOKEN": "glpat-benchmark",
            "LORE_DATABASE_URL": url,
            "HOME": "/nonexistent",
        }
    )


def stage(pages: dict[int, dict[str, list[bytes]]]) -> str:
    """Submit a run of these merge requests that ends with its commit, and stage their pages; return its id."""
    from workers import moves, runs

    entities = [Entity(plan.MERGE_REQUEST, iid) for iid in pages]
    options = rules.RunOptions(docs=False, embed=False)
    opened = runs.submit(
        gitlab_url=GITLAB_URL, project=PROJECT, entities=entities, options=options, is_to_be_sent=False
    )
    with write():
        Run.update(status=rules.PREFLIGHT, started_at=clock()).where(Run.run_id == opened.run_id).execute()
        Task.update(status=rules.DONE, claim_no=1, observed_at=clock(), found_project_id=PROJECT_ID).where(
            Task.scope_run == opened.run_id
        ).execute()
        for task in Task.select().where(Task.scope_run == opened.run_id):
            held = Claim(
                task.id, 1, opened.run_id, task.project_id, task.entity_type, task.iid, task.job_type, 1, now_ms()
            )
            bodies = [_project()] if task.job_type == plan.PROJECT else pages[task.iid][task.job_type]
            for number, body in enumerate(bodies, start=1):
                stage_page(held, number, body)
        assert moves.end_preflight(opened.run_id) == rules.COMMITTING
    return opened.run_id


class MergeRequests:
    """Merge requests as GitLab answers them.

    The first of two with the same seed differ in nothing but what follows from their iid.
    """

    def __init__(self, *, notes: int, files: int, seed: int = 7) -> None:
        self.notes = notes
        self.files = files
        self._dice = random.Random(seed)
        self._words = _words()

    def pages(self, iid: int, *, updated_at: int = CREATED_AT) -> dict[str, list[bytes]]:
        """Return the pages of every endpoint of one merge request."""
        folder = folder_of(iid)
        paths = [f"{folder}{'/'.join(self._dice.sample(self._words, 3))}.py" for _ in range(self.files)]
        at = _iso(updated_at)
        labels = [_event(iid * 10 + n, at, "label", action="add") for n in range(5)]
        states = [_event(iid * 10 + n, at, "state", state="closed") for n in range(2)]
        lists: dict[str, list[Any]] = {
            plan.DISCUSSIONS: self._discussions(iid, paths, at),
            plan.DIFFS: [self._diff(path) for path in paths],
            plan.STATE_EVENTS: states,
            plan.LABEL_EVENTS: labels,
            plan.MILESTONE_EVENTS: [],
            plan.CLOSES_ISSUES: [_issue(iid, at)],
        }
        found = {
            job: [
                json.dumps(items[start : start + plan.PER_PAGE]).encode()
                for start in range(0, len(items), plan.PER_PAGE)
            ]
            or [b"[]"]
            for job, items in lists.items()
        }
        return {plan.OWN: [json.dumps(self._own(iid, at)).encode()], **found}

    def _text(self, words: int) -> str:
        return " ".join(self._dice.choices(self._words, k=words))

    def _discussions(self, iid: int, paths: Sequence[str], at: str) -> list[dict[str, Any]]:
        """Return threads of one to four notes, a third of them on a line of a file, and system notes."""
        found: list[dict[str, Any]] = []
        left = self.notes
        while left:
            size = min(left, self._dice.choice((1, 1, 1, 2, 3, 4)))
            numbers = range(iid * NOTES_APART + left, iid * NOTES_APART + left - size, -1)
            path = self._dice.choice(paths) if self._dice.random() < 0.33 else None
            notes = [self._note(number, iid, at, path, is_system=size == 1 and path is None) for number in numbers]
            found.append({"id": f"{numbers[0]:040x}", "individual_note": size == 1, "notes": notes})
            left -= size
        return found

    def _note(self, number: int, iid: int, at: str, path: str | None, *, is_system: bool) -> dict[str, Any]:
        note: dict[str, Any] = {
            "id": 3_000_000_000 + number,
            "type": "DiffNote" if path else None,
            "body": self._text(6 if is_system else 40),
            "author": _user(number % 40),
            "created_at": at,
            "updated_at": at,
            "system": is_system,
            "noteable_id": 900_000 + iid,
            "noteable_type": "MergeRequest",
            "project_id": PROJECT_ID,
            "resolvable": path is not None,
            "confidential": False,
            "internal": False,
            "imported": False,
            "imported_from": "none",
            "noteable_iid": iid,
            "commands_changes": {},
        }
        if path is not None:
            sha = f"{number:040x}"
            line = self._dice.randint(1, 900)
            point = {"line_code": f"{sha}_{line}_{line}", "type": "new", "old_line": None, "new_line": line}
            note |= {
                "resolved": True,
                "resolved_by": _user(3),
                "resolved_at": at,
                "commit_id": None,
                "position": {
                    "base_sha": sha,
                    "start_sha": sha,
                    "head_sha": sha,
                    "old_path": path,
                    "new_path": path,
                    "position_type": "text",
                    "old_line": None,
                    "new_line": line,
                    "line_range": {"start": point, "end": point},
                },
            }
        return note

    def _diff(self, path: str) -> dict[str, Any]:
        lines = "\n".join(f"+    {self._text(8)}" for _ in range(25))
        return {
            "diff": f"@@ -0,0 +1,25 @@\n{lines}\n",
            "collapsed": False,
            "too_large": False,
            "new_path": path,
            "old_path": path,
            "a_mode": "100644",
            "b_mode": "100644",
            "new_file": False,
            "renamed_file": False,
            "deleted_file": False,
            "generated_file": False,
        }

    def _own(self, iid: int, at: str) -> dict[str, Any]:
        return _issue(iid, at) | {
            "id": 900_000 + iid,
            "iid": iid,
            "title": self._text(8),
            "description": self._text(150),
            "target_branch": "main",
            "source_branch": self._words[iid % 3000],
            "source_project_id": PROJECT_ID,
            "target_project_id": PROJECT_ID,
            "draft": False,
            "reviewers": [_user(4), _user(5)],
            "merge_user": None,
            "merged_at": None,
            "prepared_at": at,
            "sha": f"{iid:040x}",
            "merge_commit_sha": None,
            "squash_commit_sha": None,
            "detailed_merge_status": "mergeable",
            "changes_count": str(self.files),
            "diff_refs": dict.fromkeys(("base_sha", "head_sha", "start_sha"), f"{iid:040x}"),
        }


@cache
def _words() -> list[str]:
    dice = random.Random(1)
    return ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 9))) for _ in range(3000)]


def folder_of(iid: int) -> str:
    """Return the folder whose files a merge request changes."""
    return f"src{iid % 997}/"


def _iso(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _project() -> bytes:
    return json.dumps({"id": PROJECT_ID, "path_with_namespace": PROJECT, "default_branch": "main"}).encode()


def _user(number: int) -> dict[str, Any]:
    return {
        "id": 100 + number,
        "username": f"person{number}",
        "public_email": None,
        "name": f"Person {number}",
        "state": "active",
        "locked": False,
        "avatar_url": f"https://gitlab.example/uploads/-/system/user/avatar/{number}/avatar.png",
        "web_url": f"https://gitlab.example/person{number}",
    }


def _event(number: int, at: str, kind: str, **more: str) -> dict[str, Any]:
    label = {"id": 5, "name": "sea", "color": "#428BCA", "description": None, "description_html": ""}
    event = {"id": number, "user": _user(1), "created_at": at, "resource_type": "MergeRequest", "resource_id": 1}
    return event | ({"label": label} if kind == "label" else {}) | more


def _issue(iid: int, at: str) -> dict[str, Any]:
    return {
        "id": 500_000 + iid,
        "iid": 50_000 + iid,
        "project_id": PROJECT_ID,
        "title": "a leak in the harbour wall",
        "description": "water comes in at the second stone",
        "state": "opened",
        "created_at": at,
        "updated_at": at,
        "closed_at": None,
        "closed_by": None,
        "labels": ["bug", "sea"],
        "milestone": None,
        "assignees": [_user(2)],
        "author": _user(1),
        "assignee": _user(2),
        "user_notes_count": 12,
        "upvotes": 0,
        "downvotes": 0,
        "discussion_locked": None,
        "web_url": f"https://gitlab.example/{PROJECT}/-/issues/{iid}",
        "time_stats": {"time_estimate": 0, "total_time_spent": 0},
        "task_completion_status": {"count": 0, "completed_count": 0},
        "references": {"short": f"#{iid}", "relative": f"#{iid}", "full": f"{PROJECT}#{iid}"},
    }
