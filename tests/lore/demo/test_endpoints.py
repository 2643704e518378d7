"""The demo GitLab read by what we did not write: python-gitlab, JSON schemas, and recorded answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gitlab
import jsonschema
import pytest

from lore.demo.api import ApiRoute
from lore.demo.routes import ROUTES
from lore.demo.state import State
from lore.demo.truth import project_truth

RICH = {"tiny": (3, 5), "tern": (12, 7)}
# What 17.x (recorded) sends and 18.9 CE does not, or the other way round.
ENTERPRISE_ONLY = {"approvals_before_merge", "blocking_issues_count", "weight", "epic", "iteration", "health_status"}
GONE_SINCE = {"attachment"}
NEW_SINCE = {"start_date", "public_email"}


def opened(demo: Any) -> gitlab.Gitlab:
    return gitlab.Gitlab(demo.url, private_token=demo.token, retry_transient_errors=False, per_page=50)


def rich(demo: Any) -> tuple[int, int]:
    return RICH[demo.project.partition("/")[0]]


def filled(route: ApiRoute, demo: Any, children: dict[str, Any]) -> str:
    mr_iid, issue_iid = rich(demo)
    iid = mr_iid if route.kind == "merge_request" else issue_iid
    path = route.template.replace(":id", str(demo.project_id)).replace(":iid", str(iid))
    return path.replace(":child_id", str(children.get(route.template.rpartition("/")[0], "")))


def test_python_gitlab_reads_version_user_and_token(either: Any) -> None:
    api = opened(either)
    api.auth()

    assert api.version()[0].startswith("18.9.")
    assert api.http_get("/metadata")["enterprise"] is False
    assert api.user is not None
    assert api.user.username == "demo-reader"
    assert api.personal_access_tokens.get("self").scopes == ["read_api"]


def test_python_gitlab_finds_the_project_by_path_and_by_id(either: Any) -> None:
    api = opened(either)

    assert api.projects.get(either.project).id == either.project_id
    assert api.projects.get(either.project_id).path_with_namespace == either.project
    assert api.projects.get(either.project_id).default_branch == "main"


def test_python_gitlab_reads_an_issue_and_all_that_hangs_on_it(either: Any) -> None:
    iid = rich(either)[1]
    truth = either.truth("issue", iid)
    issue = opened(either).projects.get(either.project_id).issues.get(iid)

    assert issue.asdict() == truth["body"]
    assert [row.asdict() for row in issue.discussions.list(get_all=True)] == truth["discussions"]
    assert [row.asdict() for row in issue.resourcestateevents.list(get_all=True)] == truth["state_events"]
    assert [row.asdict() for row in issue.resourcelabelevents.list(get_all=True)] == truth["label_events"]
    assert [row.asdict() for row in issue.resourcemilestoneevents.list(get_all=True)] == truth["milestone_events"]
    assert [row.issue_link_id for row in issue.links.list()] == [row["issue_link_id"] for row in truth["links"]]
    assert {row["iid"] for row in issue.closed_by(get_all=True)}
    assert {row["iid"] for row in issue.related_merge_requests(get_all=True)}


def test_python_gitlab_reads_a_merge_request_and_all_that_hangs_on_it(either: Any) -> None:
    iid = rich(either)[0]
    truth = either.truth("merge_request", iid)
    row = opened(either).projects.get(either.project_id).mergerequests.get(iid)

    assert row.asdict() == truth["body"]
    assert [thread.asdict() for thread in row.discussions.list(get_all=True)] == truth["discussions"]
    assert [event.asdict() for event in row.resourcestateevents.list(get_all=True)] == truth["state_events"]
    assert [event.asdict() for event in row.resourcelabelevents.list(get_all=True)] == truth["label_events"]
    assert [event.asdict() for event in row.resourcemilestoneevents.list(get_all=True)] == truth["milestone_events"]
    assert [commit.id for commit in row.commits(get_all=True)] == [commit["id"] for commit in truth["commits"]]
    assert [version.asdict() for version in row.diffs.list(get_all=True)] == truth["versions"]
    assert row.changes()["changes"] == truth["diffs"]
    assert [issue.id for issue in row.closes_issues(get_all=True)] == [issue["id"] for issue in truth["closes_issues"]]


def test_python_gitlab_reads_one_note_discussion_event_and_version(either: Any) -> None:
    project = opened(either).projects.get(either.project_id)
    row = project.mergerequests.get(rich(either)[0])
    thread = row.discussions.list(get_all=True)[0]
    note = row.notes.list(get_all=True)[0]
    version = row.diffs.list(get_all=True)[0]
    event = project.issues.get(rich(either)[1]).resourcelabelevents.list(get_all=True)[0]

    assert row.discussions.get(thread.id).asdict() == thread.asdict()
    assert row.notes.get(note.id).body == note.body
    assert row.diffs.get(version.id).diffs
    assert project.issues.get(rich(either)[1]).resourcelabelevents.get(event.id).asdict() == event.asdict()


def test_python_gitlab_lists_everything_and_counts_it(either: Any) -> None:
    project = opened(either).projects.get(either.project_id)
    truth = either.whole_truth()

    issues = {row.iid: row for row in project.issues.list(get_all=True)}
    merge_requests = {row.iid: row for row in project.mergerequests.list(get_all=True)}
    counts = project.issues_statistics.get().statistics["counts"]

    assert {str(iid) for iid in issues} == set(truth["issues"])
    assert {str(iid) for iid in merge_requests} == set(truth["merge_requests"])
    assert counts["all"] == len(issues) == counts["opened"] + counts["closed"]


def test_python_gitlab_reads_issues_by_cursor(either: Any) -> None:
    project = opened(either).projects.get(either.project_id)
    by_cursor = project.issues.list(iterator=True, pagination="keyset", order_by="created_at", sort="asc", per_page=7)

    assert [row.iid for row in by_cursor] == [
        row.iid for row in project.issues.list(get_all=True, order_by="created_at", sort="asc")
    ]


def test_every_route_answers_200_for_a_rich_row(either: Any, client: Any) -> None:
    http = client(either)
    children: dict[str, Any] = {}
    statuses: dict[str, int] = {}
    for route in ROUTES:
        response = http.get(filled(route, either, children))
        statuses[route.template] = response.status_code
        if isinstance(response.json(), list) and response.json():
            children[route.template] = response.json()[0].get("id")

    assert set(statuses.values()) == {200}


def test_the_listed_row_is_the_single_row_less_what_only_the_single_one_has(
    either: Any, client: Any, crawl: Any
) -> None:
    only_single = {
        "issues": {"subscribed"},
        "merge_requests": {
            *("subscribed", "changes_count", "diff_refs", "head_pipeline", "pipeline", "merge_error", "user"),
            *("first_contribution", "latest_build_started_at", "latest_build_finished_at"),
            "first_deployed_to_production_at",
        },
    }
    http = client(either)
    for kind, extra in only_single.items():
        for row in crawl(http, f"/projects/{either.project_id}/{kind}")[:40]:
            single = http.get(f"/projects/{either.project_id}/{kind}/{row['iid']}").json()

            assert set(single) - set(row) == extra
            assert {key: single[key] for key in row} == row


def validators(shared: Path) -> dict[str, Any]:
    return {
        path.stem: jsonschema.Draft202012Validator(json.loads(path.read_text("utf-8")))
        for path in (shared / "schemas").glob("*.json")
    }


def test_every_body_of_both_profiles_validates_against_the_schemas_of_real_answers(either: Any, shared: Path) -> None:
    valid = validators(shared)
    truth = either.whole_truth()
    checked = 0
    for kind in ("issue", "merge_request"):
        for row in truth[f"{kind}s"].values():
            valid[kind].validate(row["body"])
            parts = [("discussion", "discussions"), ("diff", "diffs"), ("commit", "commits"), ("issue", "links")]
            parts += [(f"resource_{name}_event", f"{name}_events") for name in ("state", "label", "milestone")]
            for schema, part in parts:
                for item in row.get(part, []):
                    valid[schema].validate(item)
                    checked += 1
            for note in (note for thread in row["discussions"] for note in thread["notes"]):
                valid["note"].validate(note)
            for closed in row.get("closes_issues", []):
                if isinstance(closed["id"], int):
                    valid["issue"].validate(closed)

    assert checked > 400


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ogr/projects_19258958_issues_12.http.json", "issue"),
        ("ogr/projects_19258958_merge_requests_1149.http.json", "merge_request"),
    ],
)
def test_a_body_has_the_keys_of_the_newest_recorded_one(harbour: Any, recording: Any, name: str, kind: str) -> None:
    recorded = set(recording(name)["body"]) - ENTERPRISE_ONLY
    ours = set(harbour.truth(kind, 7 if kind == "issue" else 12)["body"])

    # The recorded merge request comes from a fork.
    assert recorded - ours <= {"allow_collaboration", "allow_maintainer_to_push"}
    assert ours - recorded <= NEW_SINCE


def test_a_note_has_the_keys_of_the_newest_recorded_one(harbour: Any, client: Any, recording: Any) -> None:
    recorded = recording("ogr/projects_19258958_merge_requests_1149_notes__sort=asc.http.json")["body"][0]
    notes = client(harbour).get(f"/projects/{harbour.project_id}/merge_requests/12/notes").json()
    plain = next(note for note in notes if note["type"] is None)

    assert set(plain) == set(recorded) - GONE_SINCE
    assert set(plain["author"]) == set(recorded["author"]) | {"public_email"}


def test_the_project_has_the_keys_of_a_recorded_one(harbour: Any, client: Any, recording: Any) -> None:
    recorded = set(recording("ogr/projects_packit-service~hello-world.http.json")["body"])
    ours = set(client(harbour).get(f"/projects/{harbour.project_id}").json())

    missing = recorded - ours
    assert not ours - recorded
    assert missing <= {
        "compliance_frameworks",
        "container_expiration_policy",
        "container_registry_image_prefix",
        "enforce_auth_checks_on_uploads",
        "external_authorization_classification_label",
        "requirements_access_level",
        "requirements_enabled",
        "security_and_compliance_access_level",
        "security_and_compliance_enabled",
    }


def test_the_headers_of_a_list_are_those_of_a_recorded_one(harbour: Any, client: Any, recording: Any) -> None:
    name = (
        "ogr/projects_14233409_merge_requests__id=14233409.order_by=updated_at.page=2.per_page=20.sort=desc.state=all"
    )
    by_the_way = {"cf-cache-status", "connection", "content-encoding", "server", "transfer-encoding", "gitlab-lb"}
    by_the_way |= {
        "gitlab-sv",
        "cf-request-id",
        "content-length",
        "set-cookie",
        "cf-ray",
        "x-permitted-cross-domain-policies",
    }
    recorded = {key.lower() for key in recording(f"{name}.http.json")["headers"]}
    recorded = {key for key in recorded if not key.startswith("ratelimit")} - by_the_way

    response = client(harbour).get(
        f"/projects/{harbour.project_id}/merge_requests", params={"order_by": "updated_at", "state": "all", "page": 2}
    )

    assert set(response.headers) - by_the_way == recorded


@pytest.mark.parametrize("profile", ["tiny", "harbour"])
def test_the_truth_is_what_a_full_crawl_by_the_api_finds(
    profile: str, request: pytest.FixtureRequest, client: Any, crawl: Callable[..., list[Any]]
) -> None:
    demo = request.getfixturevalue(profile)
    http, base = client(demo), f"/projects/{demo.project_id}"
    found: dict[str, Any] = {"project": http.get(base).json(), "deleted": {"issues": [], "merge_requests": []}}
    own = {"issues": ["links"], "merge_requests": ["diffs", "closes_issues", "commits", "versions"]}
    for kind, parts in own.items():
        found[kind] = {}
        for row in crawl(http, f"{base}/{kind}"):
            path = f"{base}/{kind}/{row['iid']}"
            entity = {"body": http.get(path).json(), "discussions": crawl(http, f"{path}/discussions")}
            for name in ("state", "label", "milestone"):
                entity[f"{name}_events"] = crawl(http, f"{path}/resource_{name}_events")
            entity |= {part: crawl(http, f"{path}/{part}") for part in parts}
            found[kind][str(row["iid"])] = entity

    assert found == demo.whole_truth()


def test_the_digest_changes_with_the_content_and_with_nothing_else(tiny: Any) -> None:
    before = tiny.digest()
    tiny.advance_clock(10)
    assert tiny.digest() == before

    tiny.script([{"step": "comment", "kind": "issue", "iid": 12}])
    assert tiny.digest() != before

    tiny.reset()
    assert tiny.digest() == before


def test_rows_do_not_depend_on_the_order_they_are_asked_for() -> None:
    from lore.demo import harbour

    forward, backward = (State(lambda: harbour.build(5)) for _ in range(2))
    for iid in reversed(backward.main.merge_requests.iids()):
        backward.main.merge_requests[iid]
    for iid in reversed(backward.main.issues.iids()):
        backward.main.issues[iid]

    assert project_truth(forward, forward.main) == project_truth(backward, backward.main)


def test_another_seed_makes_another_project() -> None:
    from lore.demo import harbour

    one, other = (State(lambda seed=seed: harbour.build(seed)) for seed in (1, 2))

    assert one.main.issues[30].title != other.main.issues[30].title or one.main.issues[31] != other.main.issues[31]


def test_the_story_of_merge_request_12_closes_issue_7(harbour: Any) -> None:
    row, issue = harbour.truth("merge_request", 12), harbour.truth("issue", 7)
    notes = [note for thread in row["discussions"] for note in thread["notes"]]
    positions = [note["position"] for note in notes if note["type"] == "DiffNote"]

    assert [closed["iid"] for closed in row["closes_issues"]] == [7]
    assert any(position["old_path"] != position["new_path"] for position in positions)
    assert any(diff["renamed_file"] and diff["diff"] for diff in row["diffs"])
    assert any(diff["renamed_file"] and not diff["diff"] for diff in row["diffs"])
    assert any(note["system"] for note in notes)
    assert any(note.get("resolved") for note in notes)
    assert all(row[f"{name}_events"] for name in ("state", "label", "milestone"))
    assert {link["link_type"] for link in issue["links"]} == {"relates_to", "blocks"}
    assert issue["body"]["milestone"]["title"] == row["body"]["milestone"]["title"]


def test_the_demo_project_has_400_issues_and_250_merge_requests_that_agree(harbour: Any) -> None:
    truth = harbour.whole_truth()
    merged = [row for row in truth["merge_requests"].values() if row["body"]["state"] == "merged"]
    closed = {issue["iid"] for row in merged for issue in row["closes_issues"]}

    assert (len(truth["issues"]), len(truth["merge_requests"])) == (400, 250)
    assert all(truth["issues"][str(iid)]["body"]["state"] == "closed" for iid in closed)
    assert len(closed) > 80


def test_nothing_happens_to_a_row_before_it_exists_or_after_it_was_updated(harbour: Any) -> None:
    truth = harbour.whole_truth()
    for row in [*truth["issues"].values(), *truth["merge_requests"].values()]:
        notes = [note["created_at"] for thread in row["discussions"] for note in thread["notes"]]
        events = [event["created_at"] for name in ("state", "label", "milestone") for event in row[f"{name}_events"]]

        assert all(row["body"]["created_at"] <= at <= row["body"]["updated_at"] for at in notes + events)


def test_a_system_note_is_some_milliseconds_younger_than_its_last_change(harbour: Any) -> None:
    threads = harbour.truth("merge_request", 12)["discussions"]
    system = [note for thread in threads for note in thread["notes"] if note["system"]]

    assert system
    assert all(note["created_at"] < note["updated_at"] for note in system)


def test_ids_are_unique_across_the_project(harbour: Any) -> None:
    truth = harbour.whole_truth()
    rows = [*truth["issues"].values(), *truth["merge_requests"].values()]
    notes = [note["id"] for row in rows for thread in row["discussions"] for note in thread["notes"]]
    threads = [thread["id"] for row in rows for thread in row["discussions"]]
    for ids in (notes, threads, *([e["id"] for row in rows for e in row[f"{n}_events"]] for n in ("state", "label"))):
        assert len(ids) == len(set(ids))
