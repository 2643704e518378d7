"""What a run fetches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lore.core.plan import ENDPOINTS, OWN, PROJECT, Endpoint, Entity, api_path, endpoint_of, entity_name, plan_tasks

entities = st.builds(Entity, st.sampled_from(["issue", "merge_request"]), st.integers(1, 5))


@given(st.lists(entities), st.booleans())
def test_every_endpoint_of_every_entity_is_planned_once_however_often_it_is_named(
    named: list[Entity], with_project: bool
) -> None:
    tasks = plan_tasks(named, with_project=with_project)

    expected = {(e.entity_type, e.iid, p.job_type) for e in named for p in ENDPOINTS[e.entity_type]}
    if with_project:
        expected.add((PROJECT, 0, PROJECT))
    assert {(t.entity_type, t.iid, t.job_type) for t in tasks} == expected
    assert len(tasks) == len(expected)


@given(st.lists(entities), st.randoms(use_true_random=False))
def test_the_order_of_the_tasks_does_not_depend_on_how_they_were_named(named: list[Entity], random: object) -> None:
    shuffled = list(named)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    assert plan_tasks(shuffled, with_project=True) == plan_tasks(named, with_project=True)


def test_the_project_comes_first_then_each_entity_with_its_own_endpoint_first() -> None:
    tasks = plan_tasks([Entity("merge_request", 2), Entity("issue", 9)], with_project=True)

    assert [t.entity_type for t in tasks] == [PROJECT] + ["issue"] * 6 + ["merge_request"] * 7
    assert [tasks[1].job_type, tasks[7].job_type] == [OWN, OWN]


def test_an_issue_and_a_merge_request_need_exactly_these() -> None:
    assert {kind: [e.job_type for e in of] for kind, of in ENDPOINTS.items()} == {
        "issue": [
            "entity",
            "discussions",
            "resource_state_events",
            "resource_label_events",
            "resource_milestone_events",
            "links",
        ],
        "merge_request": [
            "entity",
            "discussions",
            "diffs",
            "resource_state_events",
            "resource_label_events",
            "resource_milestone_events",
            "closes_issues",
        ],
    }


def test_only_the_links_are_a_list_in_one_piece() -> None:
    lists = {e.job_type: e.is_paged for of in ENDPOINTS.values() for e in of if e.is_list}

    assert [job_type for job_type, is_paged in lists.items() if not is_paged] == ["links"]
    assert all(not endpoint.is_list for of in ENDPOINTS.values() for endpoint in of[:1])


@pytest.mark.parametrize(
    ("entity_type", "job_type", "path"),
    [
        ("project", "project", "/projects/4711"),
        ("issue", "entity", "/projects/4711/issues/7"),
        ("issue", "links", "/projects/4711/issues/7/links"),
        ("merge_request", "entity", "/projects/4711/merge_requests/7"),
        ("merge_request", "diffs", "/projects/4711/merge_requests/7/diffs"),
    ],
)
def test_the_path_of_a_task_is_gitlabs(entity_type: str, job_type: str, path: str) -> None:
    assert api_path("4711", entity_type, 7, endpoint_of(entity_type, job_type)) == path


@pytest.mark.parametrize(
    ("entity_type", "job_type"), [("issue", "diffs"), ("project", "entity"), ("epic", "entity"), ("issue", "project")]
)
def test_a_job_type_of_another_kind_or_version_is_no_endpoint(entity_type: str, job_type: str) -> None:
    with pytest.raises(KeyError, match=job_type):
        endpoint_of(entity_type, job_type)


def test_every_planned_task_names_its_endpoint() -> None:
    tasks = plan_tasks([Entity("issue", 1), Entity("merge_request", 1)], with_project=True)

    assert all(isinstance(endpoint_of(t.entity_type, t.job_type), Endpoint) for t in tasks)


def test_entities_are_named_as_gitlabs_users_do() -> None:
    assert [entity_name("issue", 7), entity_name("merge_request", 12), entity_name("project", 0)] == [
        "#7",
        "!12",
        "project",
    ]
