"""Every recorded answer of one of our endpoints decodes; see the INDEX of the recordings for their origins."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lore.core import payloads, plan
from lore.core.errors import RefusedError

RECORDINGS = Path(__file__).parents[3] / "shared" / "gitlab" / "recordings"

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not at ../shared/gitlab/recordings")

# The lists of `lore.core.plan` by the last part of their path.
LISTS = sorted({endpoint.job_type for each in plan.ENDPOINTS.values() for endpoint in each if endpoint.is_list})

# Files without a request: what they hold, by name. A list of a single endpoint's objects is decoded one by one.
BODIES = {
    "dependabot/merge_request.json": plan.MERGE_REQUEST,
    "dependabot/merge_requests.json": plan.MERGE_REQUEST,
    "devlake/issues.json": plan.ISSUE,
    "devlake/merge_requests.json": plan.MERGE_REQUEST,
    "devlake/merge_requests_for_notes.json": plan.MERGE_REQUEST,
    "devlake/merge_request_notes.json": "notes",
    "docs-examples/resource_state_events.json": plan.STATE_EVENTS,
    "docs-examples/resource_milestone_events.json": plan.MILESTONE_EVENTS,
    "gitlab-vscode/diff_note.json": "notes",
    "gitlab-vscode/label_events__added_normal.json": plan.LABEL_EVENTS,
    "gitlab-vscode/label_events__added_scoped.json": plan.LABEL_EVENTS,
    "gitlab-vscode/label_events__removed_normal.json": plan.LABEL_EVENTS,
    "gitlab-vscode/mr_version.json": "version with diffs",
    "gitlab-vscode/mr_versions__multi_files.json": "version with diffs",
    "gitlab-vscode/mr_versions__nest_folders.json": "version with diffs",
    "gitlab-vscode/mr_versions__only_one_folder.json": "version with diffs",
    "gitlab-vscode/mr_versions__only_root_files.json": "version with diffs",
    "gitlab-vscode/open_issue.json": plan.ISSUE,
    "gitlab-vscode/open_mr.json": plan.MERGE_REQUEST,
    "gitlab-vscode/version.json": "version",
    "gitlab4j/diff.json": plan.DIFFS,
    "gitlab4j/issue.json": plan.ISSUE,
    "gitlab4j/issue-discussions.json": plan.DISCUSSIONS,
    "gitlab4j/issues-closed-by-mr.json": plan.CLOSES_ISSUES,
    "gitlab4j/label-events.json": plan.LABEL_EVENTS,
    "gitlab4j/linked-issues.json": plan.LINKS,
    "gitlab4j/merge-request-discussions.json": plan.DISCUSSIONS,
    "gitlab4j/merge-request.json": plan.MERGE_REQUEST,
    "gitlab4j/note.json": "notes",
    "glab/closesIssuesList.json": plan.CLOSES_ISSUES,
    "glab/issueListFull.json": plan.ISSUE,
    "glab/mergeableMr.json": plan.MERGE_REQUEST,
    "glab/mergedMr.json": plan.MERGE_REQUEST,
    "go-gitlab/get_merge_request.json": plan.MERGE_REQUEST,
    "go-gitlab/get_merge_requests.json": plan.MERGE_REQUEST,
    "go-gitlab/issue_move.json": plan.ISSUE,
    "go-gitlab/list_merge_request_diff.json": plan.DIFFS,
    "go-scm/commit_diff.json": plan.DIFFS,
    "go-scm/issue.json": plan.ISSUE,
    "go-scm/issue_events.json": plan.LABEL_EVENTS,
    "go-scm/issue_notes.json": "notes",
    "go-scm/issues.json": plan.ISSUE,
    "go-scm/merge.json": plan.MERGE_REQUEST,
    "go-scm/merge_diff.json": "changes",
    "go-scm/merge_notes.json": "notes",
    "go-scm/merges.json": plan.MERGE_REQUEST,
    "go-scm/nested_repo.json": plan.PROJECT,
    "go-scm/pr_events.json": plan.LABEL_EVENTS,
    "narkoz/issue_resource_state_events.json": plan.STATE_EVENTS,
    "narkoz/merge_request_changes.json": "changes",
    "narkoz/merge_request_closes_issues.json": plan.CLOSES_ISSUES,
    "narkoz/merge_request_discussions.json": plan.DISCUSSIONS,
    "narkoz/mr_resource_state_events.json": plan.STATE_EVENTS,
    "narkoz/project_issue_links.json": plan.LINKS,
    "narkoz/related_merge_requests.json": plan.MERGE_REQUEST,
    "narkoz/resource_label_events.json": plan.LABEL_EVENTS,
    "danger-js/getMergeRequestDiffs.json": plan.DIFFS,
    "danger-js/gitlab_changes.json": "compare",
    "dependabot/business_compare_commits.json": "compare",
    "go-scm/compare.json": "compare",
    "rust-gitlab/discussion.json": plan.DISCUSSIONS,
    "rust-gitlab/issue.json": plan.ISSUE,
    "rust-gitlab/issue_reference.json": plan.CLOSES_ISSUES,
    "rust-gitlab/merge_request.json": plan.MERGE_REQUEST,
    "rust-gitlab/merge_request_basic.json": plan.MERGE_REQUEST,
    "rust-gitlab/note.json": "notes",
    "rust-gitlab/project.json": plan.PROJECT,
    "rust-gitlab/resource_label_event.json": plan.LABEL_EVENTS,
    # The bodies of exchanges whose request was not recorded.
    "danger/merge_request_1_changes_response.http.json": "changes",
    "danger/merge_request_1_comments_no_stickies_response.http.json": "notes",
    "danger/merge_request_1_response.http.json": plan.MERGE_REQUEST,
}

# Files of endpoints that lore does not ask.
NOT_OURS = {
    "danger-js/getFileContents.json": "a file of the repository",
    "danger-js/getMergeRequestApprovals.json": "approvals",
    "dependabot/branch_not_found.json": "an error",
    "dependabot/commits.json": "commits",
    "dependabot/labels_with_security.json": "labels",
    "dependabot/not_found.json": "an error",
    "devlake/merge_request_commits.json": "commits",
    "docs-examples/errors.json": "errors; see test_gitlab",
    "docs-examples/resource_iteration_events.json": "iteration events",
    "docs-examples/resource_weight_events.json": "weight events",
    "gitlab-vscode/user.json": "a user",
    "gitlab-vscode/versions.json": "versions of a diff",
    "gitlab4j/events.json": "events of a project",
    "gitlab4j/merge-request-diff.json": "a version of a diff without its files",
    "gitlab4j/merge-request-diffs.json": "versions of a diff",
    "gitlab4j/merge-request-versions.json": "versions of a diff",
    "go-scm/milestones.json": "milestones",
    "narkoz/error_project_not_found.json": "an error",
    "rust-gitlab/award_emoji.json": "emoji",
    "rust-gitlab/commit_note.json": "a comment of a commit, which has no id",
    "rust-gitlab/commit_status.json": "a status",
    "rust-gitlab/member.json": "a member",
    "rust-gitlab/merge_train.json": "a merge train",
    "rust-gitlab/pipeline.json": "a pipeline",
    "rust-gitlab/pipeline_basic.json": "a pipeline",
    "rust-gitlab/pipeline_variable.json": "a variable",
    "rust-gitlab/project_hook.json": "a hook",
    "rust-gitlab/repo_branch.json": "a branch",
    "rust-gitlab/repo_commit_detail.json": "a commit",
    "rust-gitlab/user.json": "a user",
    "rust-gitlab/user_public.json": "a user",
}

# Bodies of our endpoints that no GitLab sends like this, with what they lack.
REFUSED = {
    "danger/merge_requests_response.http.json": "missing required field `id`",  # cut down to iid and sha
}

# By the path of a recorded request, below the API.
ROUTES: tuple[tuple[str, str | None], ...] = (
    (r"/projects/[^/]+", plan.PROJECT),
    (r"/projects/.+/issues(/\d+)?", plan.ISSUE),
    (r"/projects/.+/merge_requests(/\d+)?", plan.MERGE_REQUEST),
    (r"/projects/.+/issues/\d+/closed_by", plan.MERGE_REQUEST),
    (r"/projects/.+/repository/commits/\w+/merge_requests", plan.MERGE_REQUEST),
    (r"/projects/.+/(issues|merge_requests)/\d+/notes(/\d+)?", "notes"),
    (r"/projects/.+/repository/commits/\w+/discussions/\w+/notes/\d+", "notes"),
    (r"/projects/.+/repository/commits/\w+/discussions", plan.DISCUSSIONS),
    (r"/projects/.+/repository/commits/\w+/diff", plan.DIFFS),
    (r"/projects/.+/repository/compare", "compare"),
    (r"/projects/.+/merge_requests/\d+/changes", "changes"),
    (r"/projects/.+/(?:issues|merge_requests)/\d+/(?P<list>\w+)", None),
)
OTHER_ROUTES = (
    r"/user",
    r"/projects/.+/(hooks|labels|members/all)",
    r"/projects/.+/award_emoji(/\d+)?",
    r"/projects/.+/merge_requests/\d+/(commits|merge_ref)",
    r"/projects/.+/repository/commits(/[\w-]+(/statuses|/comments)?)?",
)


@dataclass(frozen=True)
class Recorded:
    """A recorded answer: what it is of, and its value."""

    file: str
    endpoint: str
    value: Any


def recorded() -> Iterator[Recorded]:
    """Walk the recordings and yield the answers of our endpoints; every file must be accounted for."""
    for path in sorted(RECORDINGS.rglob("*.json")):
        file = path.relative_to(RECORDINGS).as_posix()
        if file.startswith("webhooks/") or file in NOT_OURS:
            continue
        value = json.loads(path.read_text())
        endpoint = BODIES.get(file)
        if path.name.endswith(".http.json"):
            if value["status"] >= 300:
                continue
            route = re.sub(r"^https?://[^/]+/api/v4|\?.*$", "", value["request"]["url"])
            if any(re.fullmatch(other, route) for other in OTHER_ROUTES):
                continue
            endpoint = endpoint or endpoint_of(route)
            value = value["body"]
        elif file == "danger-js/getMergeRequestDiffs.json":
            value = value[0]["response"]
        elif file.startswith("devlake/"):
            value = [row["data"] for row in value]
        assert endpoint is not None, f"{file} is new: name its endpoint in BODIES, or the reason in NOT_OURS"
        yield Recorded(file, endpoint, value)


def endpoint_of(route: str) -> str | None:
    for pattern, endpoint in ROUTES:
        found = re.fullmatch(pattern, route)
        if found is not None and (endpoint or found["list"] in LISTS):
            return endpoint or found["list"]
    return None


def decode(answer: Recorded) -> list[Any]:
    """Decode an answer by our own functions; what comes in another wrapping is put into ours first."""
    rows = answer.value if isinstance(answer.value, list) else [answer.value]
    if answer.endpoint == plan.PROJECT:
        return [payloads.decode_project(text(row)) for row in rows]
    if answer.endpoint in plan.ENTITY_TYPES:
        return [payloads.decode_entity(answer.endpoint, text(row)) for row in rows]
    if answer.endpoint == "version":
        return [payloads.decode_version(text(row)) for row in rows]
    if answer.endpoint == "notes":
        (discussion,) = payloads.decode_list(plan.DISCUSSIONS, text([{"id": "of notes alone", "notes": rows}]))
        return list(discussion.notes)
    if answer.endpoint == "version with diffs" or answer.endpoint == "compare":
        return list(payloads.decode_list(plan.DIFFS, text(answer.value["diffs"])))
    if answer.endpoint == "changes":
        entity = payloads.decode_entity(plan.MERGE_REQUEST, text(answer.value))
        return [entity, *payloads.decode_list(plan.DIFFS, text(answer.value["changes"]))]
    items = payloads.decode_list(answer.endpoint, text(rows))
    assert all(payloads.identity(answer.endpoint, item) for item in items)
    return list(items)


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def answers() -> list[Recorded]:
    return list(recorded())


@pytest.mark.invariant("I14")
def test_every_recorded_answer_of_our_endpoints_decodes(answers: list[Recorded]) -> None:
    decoded: Counter[str] = Counter()
    by_folder: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        if answer.file in REFUSED:
            continue
        items = decode(answer)
        decoded[answer.endpoint] += len(items)
        by_folder[answer.file.split("/")[0], answer.endpoint] += len(items)

    for (folder, endpoint), count in sorted(by_folder.items()):
        print(f"{folder:15} {endpoint:27} {count:5}")  # what was decoded; pytest -s shows it
    assert decoded == EXPECTED


# How many things the recordings hold by endpoint: decoding nothing would pass for decoding well.
EXPECTED = Counter(
    {
        plan.PROJECT: 8,
        plan.ISSUE: 150,
        plan.MERGE_REQUEST: 216,
        plan.DISCUSSIONS: 52,
        plan.STATE_EVENTS: 6,
        plan.LABEL_EVENTS: 16,
        plan.MILESTONE_EVENTS: 1,
        plan.DIFFS: 7,
        plan.CLOSES_ISSUES: 7,
        plan.LINKS: 2,
        "notes": 152,
        "changes": 12,
        "compare": 21,
        "version with diffs": 14,
        "version": 1,
    }
)


def test_a_recorded_body_that_is_refused_is_refused_for_the_reason_we_know(answers: list[Recorded]) -> None:
    refused = {}
    for answer in answers:
        if answer.file in REFUSED:
            with pytest.raises(RefusedError) as caught:
                decode(answer)
            refused[answer.file] = caught.value.message

    assert refused.keys() == REFUSED.keys()
    for file, reason in REFUSED.items():
        assert reason in refused[file]


@pytest.mark.invariant("I14")
def test_every_recorded_thing_keeps_its_text(answers: list[Recorded]) -> None:
    kept = 0
    for answer in answers:
        if answer.file in REFUSED or answer.endpoint == "changes":
            continue
        rows = answer.value if isinstance(answer.value, list) else [answer.value]
        if answer.endpoint in ("version with diffs", "compare"):
            rows = answer.value["diffs"]
        for row, item in zip(rows, decode(answer), strict=True):
            assert json.loads(item.raw) == row
            kept += 1
    assert kept == EXPECTED.total() - EXPECTED["changes"]


@pytest.mark.invariant("I14")
def test_what_is_null_or_absent_in_a_recording_is_so_in_the_value(answers: list[Recorded]) -> None:
    nulls: Counter[str] = Counter()
    for answer in answers:
        if answer.file in REFUSED or answer.endpoint not in (plan.ISSUE, plan.MERGE_REQUEST, "notes"):
            continue
        rows = answer.value if isinstance(answer.value, list) else [answer.value]
        for row, item in zip(rows, decode(answer), strict=True):
            for name in item.__struct_fields__:
                if name == "raw":
                    continue
                value = getattr(item, name)
                assert (value is payloads.UNSET) == (name not in row), (answer.file, name)
                assert (value is None) == (name in row and row[name] is None), (answer.file, name)
                nulls[name] += value is None
    assert nulls["sha"] > 0
    assert nulls["source_project_id"] > 0
    assert nulls["changes_count"] > 0
