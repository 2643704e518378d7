"""A run from its submission to its end, with the actors called one after the other."""

from __future__ import annotations

import pytest
from support import (
    CONTENT_TABLES,
    ISSUE_7,
    MR_12,
    PROJECT,
    content,
    drain,
    open_tasks,
    refused,
    rows_of,
    status_of,
    submit,
)

from lore.core import plan
from lore.core.errors import RefusedError
from lore.core.plan import Entity
from models.ledger import Project, RunEntity, RunSource
from models.locks import ProjectLock
from models.queue import StagedPayload, Task
from workers import runs


def test_a_run_fetches_everything_and_commits_it(gitlab) -> None:
    run_id = submit(MR_12, ISSUE_7)

    drain()

    view = runs.read_run(run_id)
    assert view["status"] == "succeeded"
    assert view["counts"] | {"total": 2, "ok": 2, "dirty_sources": 2} == view["counts"]
    rows = {table: len(found) for table, found in content().items()}
    assert rows == {
        "issues": 1,
        "merge_requests": 1,
        "discussions": 4,
        "notes": 6,
        "resource_events": 8,
        "merge_request_diffs": 1,
        "entity_links": 2,
        "documents": 4,
        "embeddings": 4,
        "dirty_sources": 0,
    }


def test_after_a_run_nothing_is_open_staged_or_locked(gitlab) -> None:
    run_id = submit()

    drain()

    assert open_tasks() == 0
    assert StagedPayload.select().count() == 0
    assert ProjectLock.select().where(ProjectLock.owner.is_null(False)).count() == 0
    assert RunSource.select().where(RunSource.run == run_id).count() == 2


def test_a_second_run_changes_only_times_of_observation_and_its_dirty_rows(gitlab) -> None:
    submit()
    drain()
    watched = tuple(table for table in CONTENT_TABLES if table._meta.table_name != "dirty_sources")
    observed = ("observed_at", "children_observed_at", "parts_observed_at")
    before = rows_of(*watched, without=observed)

    submit()
    drain()

    assert rows_of(*watched, without=observed) == before
    assert content()["dirty_sources"] == []


def test_a_project_confirmed_within_the_hour_is_not_asked_for_again(gitlab) -> None:
    submit()
    drain()
    gitlab.asked.clear()

    submit()
    drain()

    assert not [path for path in gitlab.asked if path.count("/") == 2]
    assert all(path.startswith("/projects/4711/") for path in gitlab.asked)


@pytest.mark.invariant("I1")
def test_one_404_among_20_entities_changes_no_content_and_names_that_one_failure(gitlab) -> None:
    submit(MR_12)
    drain()
    before = content()
    entities = [Entity("issue", iid) for iid in range(1, 20)] + [MR_12]
    gitlab.set(Entity("issue", 5), plan.OWN, refused())

    run_id = submit(*entities)
    drain()

    assert content() == before
    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit), error.total) == ("SURGICAL_PREFLIGHT_FAILED", 10, 20)
    assert [(f.entity_type, f.iid, f.code) for f in error.failures] == [("issue", 5, "GITLAB_NOT_FOUND")]


@pytest.mark.invariant("I7")
def test_a_failed_run_leaves_no_open_row_and_says_why_each_was_aborted(gitlab) -> None:
    gitlab.set(MR_12, plan.DISCUSSIONS, refused("GITLAB_FORBIDDEN"))

    run_id = submit(MR_12, ISSUE_7)
    drain()

    assert open_tasks(run_id) == 0
    assert StagedPayload.select().count() == 0
    aborted = Task.select().where(Task.scope_run == run_id, Task.status == "aborted")
    assert aborted.count() > 0
    assert all(task.aborted_reason for task in aborted)


@pytest.mark.invariant("I8")
def test_every_entity_of_an_ended_run_says_how_and_where_it_ended(gitlab) -> None:
    gitlab.set(ISSUE_7, plan.OWN, refused())
    failed = submit(MR_12, ISSUE_7)
    drain()
    gitlab.answers.clear()
    done = submit(MR_12, ISSUE_7)
    drain()

    by_run = {
        run_id: {(e["entity_type"], e["status"], e["stage"], e["error_code"]) for e in runs.read_entities(run_id)}
        for run_id in (failed, done)
    }
    assert by_run == {
        failed: {
            ("issue", "failed", "preflight", "GITLAB_NOT_FOUND"),
            ("merge_request", "aborted", "preflight", None),
        },
        done: {("issue", "ok", "embedding", None), ("merge_request", "ok", "embedding", None)},
    }


def test_a_401_ends_the_whole_run_with_its_own_exit_status(gitlab) -> None:
    gitlab.set(MR_12, plan.DISCUSSIONS, refused("GITLAB_UNAUTHORIZED"))

    run_id = submit(MR_12, ISSUE_7)
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("GITLAB_UNAUTHORIZED", 4)
    assert open_tasks() == 0


def test_a_project_that_is_not_there_ends_the_run_as_not_found(gitlab) -> None:
    gitlab.set(None, plan.PROJECT, refused("PROJECT_NOT_FOUND"))

    run_id = submit()
    drain()

    error = runs.error_of(run_id)
    assert error is not None
    assert (error.code, int(error.exit)) == ("PROJECT_NOT_FOUND", 5)


@pytest.mark.parametrize("first", [plan.OWN, plan.DISCUSSIONS, plan.DIFFS])
def test_a_404_names_the_entity_whichever_endpoint_was_answered_first(gitlab, first: str) -> None:
    said = "GitLab has no /projects/4711/merge_requests/12/x (or not seen)"
    for job in (plan.OWN, plan.DISCUSSIONS, plan.DIFFS):
        gitlab.set(MR_12, job, RefusedError("GITLAB_NOT_FOUND", said, hint=" (or not seen)"))
    run_id = submit(MR_12)
    drain(only={"preflight"})

    fetch_first(first)
    drain()

    or_this = "" if first == plan.OWN else f", or that has no {first}"
    (failure,) = runs.error_of(run_id).failures
    assert failure.message == f"{PROJECT} has no !12{or_this} (or not seen)"
    details = [event["detail"] for event in runs.read_events(run_id, 0) if event["event"] == "fetch_failed"]
    assert [detail["message"] for detail in details] == [said]


def test_a_404_of_one_list_of_an_entity_that_is_there_names_the_list(gitlab) -> None:
    gitlab.set(MR_12, plan.DIFFS, RefusedError("GITLAB_NOT_FOUND", "GitLab has no …/diffs", hint=" (or not seen)"))
    run_id = submit(MR_12)
    drain(only={"preflight"})

    fetch_first(plan.OWN)
    drain()

    assert [failure.message for failure in runs.error_of(run_id).failures] == ["GitLab has no …/diffs"]


def test_a_missing_project_is_named_as_it_was_asked_for(gitlab) -> None:
    error = RefusedError("PROJECT_NOT_FOUND", "GitLab has no project 4711 (or not seen)", hint=" (or not seen)")
    gitlab.set(MR_12, plan.DIFFS, error)
    run_id = submit(MR_12)

    drain()

    assert runs.error_of(run_id).message == f"GitLab has no project {PROJECT} (or not seen)"


def fetch_first(job_type: str) -> None:
    from workers.preflight import fetch

    fetch.fn(Task.select(Task.id).where(Task.job_type == job_type).scalar())


def test_every_failure_of_a_run_is_named_not_only_the_first(gitlab) -> None:
    for iid in (1, 3):
        gitlab.set(Entity("issue", iid), plan.OWN, refused())

    run_id = submit(*(Entity("issue", iid) for iid in range(1, 5)))
    drain()

    assert runs.read_run(run_id)["failed_iids"] == [["issue", 1], ["issue", 3]]


def test_an_answer_about_another_iid_is_the_wrong_entity(gitlab) -> None:
    from support import entity_body

    gitlab.set(MR_12, plan.OWN, entity_body(Entity("merge_request", 13)))

    run_id = submit(MR_12)
    drain()

    assert [f.code for f in runs.error_of(run_id).failures] == ["WRONG_ENTITY"]
    assert content()["merge_requests"] == []


def test_an_answer_about_another_project_is_the_wrong_entity_also_when_the_project_was_not_known(gitlab) -> None:
    from support import entity_body

    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, project_id=1))

    run_id = submit(MR_12)
    drain()

    assert [f.code for f in runs.error_of(run_id).failures] == ["WRONG_ENTITY"]


@pytest.mark.invariant("I2")
def test_preflight_only_changes_no_content_and_leaves_no_payload(gitlab) -> None:
    run_id = submit(mode="preflight_only")

    drain()

    assert status_of(run_id) == "succeeded"
    assert all(not rows for rows in content().values())
    assert StagedPayload.select().count() == 0
    assert {(e["status"], e["stage"]) for e in runs.read_entities(run_id)} == {("ok", "preflight")}


def test_a_renamed_project_stays_the_same_one(gitlab) -> None:
    from support import project_body

    submit(MR_12)
    drain()
    gitlab.set(None, plan.PROJECT, project_body(path="tern/port"))

    run_id = submit(MR_12, project="tern/port")
    drain()

    assert status_of(run_id) == "succeeded"
    assert Project.select().where(Project.gitlab_id.is_null(False)).count() == 1
    assert len(content()["merge_requests"]) == 1
    assert runs.read_run(run_id)["project"] == "tern/port"


def test_a_path_that_another_project_took_over_is_that_project_now(gitlab) -> None:
    from support import age, entity_body, project_body

    submit(MR_12)
    drain()
    age(Project, 7_200_000, Project.confirmed_at)
    gitlab.set(None, plan.PROJECT, project_body(gitlab_id=5000))
    gitlab.set(MR_12, plan.OWN, entity_body(MR_12, project_id=5000))

    run_id = submit(MR_12)
    drain()

    assert status_of(run_id) == "succeeded"
    assert len(content()["merge_requests"]) == 2


def test_a_worker_of_another_gitlab_fails_the_run_before_any_request(gitlab) -> None:
    run_id = runs.submit(
        gitlab_url="http://other.test", project="a/b", entities=[MR_12], options=runs.RunOptions()
    ).run_id

    drain()

    assert gitlab.asked == []
    assert runs.error_of(run_id).code == "OTHER_GITLAB"


def test_the_same_message_twice_does_its_work_once(gitlab) -> None:
    run_id = submit(MR_12)
    preflight_message = run_id
    from workers.commit import commit
    from workers.preflight import fetch, preflight

    drain(only={"preflight"})
    preflight.fn(preflight_message)
    tasks = [task.id for task in Task.select()]
    for task_id in tasks:
        fetch.fn(task_id)
        fetch.fn(task_id)
    commit.fn(run_id)
    commit.fn(run_id)
    assert len(content()["dirty_sources"]) == 1
    drain()

    assert len(gitlab.asked) == len(tasks)
    assert RunEntity.select().count() == 1
