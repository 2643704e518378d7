"""Who may see what, and the exact words of every refusal."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

PUBLIC = (
    "/projects/71",
    "/projects/71/issues/1",
    "/projects/71/merge_requests/6/diffs",
    "/projects/71/issues_statistics",
)
GUARDED = (
    "/version",
    "/user",
    "/personal_access_tokens/self",
    "/projects/71/issues/1/discussions",
    "/projects/71/issues/1/notes",
    "/projects/71/issues/1/links",
    "/projects/71/merge_requests/6/resource_state_events",
    "/projects/71/merge_requests/6/versions",
)
EXPIRED = {
    "error": "invalid_token",
    "error_description": "Token is expired. You can either do re-authorization or token refresh.",
}
REVOKED = {
    "error": "invalid_token",
    "error_description": "Token was revoked. You have to re-authorize from the user.",
}
SCOPE = {
    "error": "insufficient_scope",
    "error_description": "The request requires higher privileges than provided by the access token.",
    "scope": "api read_api",
}


@pytest.mark.parametrize("path", PUBLIC)
def test_public_rows_need_no_token(tiny: Any, client: Any, path: str) -> None:
    assert client(tiny, None).get(path).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
def test_some_routes_need_a_token_even_for_a_public_project(tiny: Any, client: Any, path: str) -> None:
    response = client(tiny, None).get(path)

    assert (response.status_code, response.json()) == (401, {"message": "401 Unauthorized"})


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("read_user", 403, SCOPE),
        ("expired", 401, EXPIRED),
        ("revoked", 401, REVOKED),
        ("blocked", 403, {"message": "403 Forbidden - Your account has been blocked."}),
        ("full", 200, None),
        ("guest", 200, None),
        ("owner", 200, None),
    ],
)
@pytest.mark.parametrize("path", ["/projects/71/issues/1", "/projects/71/issues/1/discussions"])
def test_each_token_is_answered_in_its_own_words(
    tiny: Any, client: Any, path: str, name: str, status: int, body: Any
) -> None:
    response = client(tiny, tiny.tokens()[name]).get(path)

    assert response.status_code == status
    assert body is None or response.json() == body


def test_a_wrong_token_is_refused_on_public_routes_too(tiny: Any, client: Any) -> None:
    response = client(tiny, "glpat-wrong").get("/projects/71")

    assert (response.status_code, response.json()) == (401, {"message": "401 Unauthorized"})


def test_a_token_for_read_user_may_ask_who_it_is(tiny: Any, client: Any) -> None:
    http = client(tiny, tiny.tokens()["read_user"])

    assert http.get("/user").json()["username"] == "demo-reader"
    assert http.get("/personal_access_tokens/self").json()["scopes"] == ["read_user"]


def test_a_token_can_come_as_bearer_or_in_the_query(tiny: Any) -> None:
    url = f"{tiny.url}/api/v4/user"
    bearer = httpx.get(url, headers={"Authorization": f"Bearer {tiny.token}"}, trust_env=False, verify=False)
    query = httpx.get(url, params={"private_token": tiny.token}, trust_env=False, verify=False)

    assert (bearer.status_code, query.status_code) == (200, 200)
    assert tiny.token not in str(tiny.log())


def test_a_link_does_not_repeat_a_token_of_the_query(tiny: Any) -> None:
    url = f"{tiny.url}/api/v4/projects/71/issues"
    response = httpx.get(url, params={"private_token": tiny.token}, trust_env=False, verify=False)

    assert tiny.token not in response.headers["link"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/projects/99999", {"message": "404 Project Not Found"}),
        ("/projects/tiny%2Fnothing", {"message": "404 Project Not Found"}),
        ("/projects/72", {"message": "404 Project Not Found"}),
        ("/projects/tiny%2Fsecret/issues/1", {"message": "404 Project Not Found"}),
        ("/projects/71/issues/6", {"message": "404 Not found"}),
        ("/projects/71/merge_requests/5", {"message": "404 Not found"}),
        ("/projects/71/merge_requests/5/diffs", {"message": "404 Not found"}),
        ("/projects/71/issues/6/discussions", {"message": "404 Issue Not Found"}),
        ("/projects/71/merge_requests/5/notes", {"message": "404 MergeRequest Not Found"}),
        ("/projects/71/merge_requests/5/resource_label_events", {"message": "404 MergeRequest Not Found"}),
        ("/projects/tiny/conformance", {"error": "404 Not Found"}),
        ("/projects/tiny/conformance/issues/1", {"error": "404 Not Found"}),
        ("/projects/71/issues/1/participants", {"error": "404 Not Found"}),
        ("/nothing", {"error": "404 Not Found"}),
    ],
)
def test_what_is_not_there_is_404_in_gitlabs_words(tiny: Any, client: Any, path: str, body: Any) -> None:
    response = client(tiny).get(path)

    assert (response.status_code, response.json()) == (404, body)
    assert response.headers["cache-control"] == "no-cache"


def test_an_iid_that_is_no_number_is_invalid(tiny: Any, client: Any) -> None:
    response = client(tiny).get("/projects/71/issues/abc")

    assert (response.status_code, response.json()) == (400, {"error": "issue_iid is invalid"})


def test_a_private_project_exists_for_its_owner(tiny: Any, client: Any) -> None:
    response = client(tiny, tiny.tokens()["owner"]).get("/projects/tiny%2Fsecret/issues/1")

    assert response.json()["title"] == "Moved here"


@pytest.mark.parametrize("token", [None, "guest"])
def test_a_confidential_issue_is_not_there_for_a_guest(tiny: Any, client: Any, token: str | None) -> None:
    http = client(tiny, None if token is None else tiny.tokens()[token])

    assert http.get("/projects/71/issues/11").json() == {"message": "404 Not found"}
    assert 11 not in [row["iid"] for row in http.get("/projects/71/issues").json()]
    assert http.get("/projects/71/issues").headers["x-total"] == "9"
    assert http.get("/projects/71/issues_statistics").json()["statistics"]["counts"]["all"] == 9


def test_the_discussions_of_a_confidential_issue_are_not_there_for_a_guest(tiny: Any, client: Any) -> None:
    response = client(tiny, tiny.tokens()["guest"]).get("/projects/71/issues/11/discussions")

    assert response.json() == {"message": "404 Issue Not Found"}


def test_an_internal_note_is_not_there_for_a_guest(tiny: Any, client: Any) -> None:
    path = "/projects/71/issues/7/notes"
    everything = client(tiny).get(path).json()
    shown = client(tiny, tiny.tokens()["guest"]).get(path).json()

    assert len(everything) - len(shown) == sum(note["internal"] for note in everything) == 1


def test_the_old_path_of_a_renamed_project_redirects_to_its_id(tiny: Any, client: Any) -> None:
    response = client(tiny).get("/projects/tiny%2Fbefore/issues/5/discussions")
    target = f"{tiny.url}/api/v4/projects/71/issues/5/discussions"

    assert response.status_code == 301
    assert response.headers["location"] == target
    assert response.text == f"This resource has been moved permanently to {target}"
    assert response.headers["content-type"] == "text/plain"


def test_a_project_renamed_now_redirects_from_now_on(tiny: Any, client: Any) -> None:
    tiny.script([{"step": "rename_project", "path": "tiny/after"}])
    http = client(tiny)

    assert http.get("/projects/tiny%2Fconformance").status_code == 301
    assert http.get("/projects/tiny%2Fafter").json()["path_with_namespace"] == "tiny/after"
    assert http.get("/projects/71/issues/1").json()["references"]["full"] == "tiny/after#1"


def test_only_reading_is_served_and_a_write_to_an_old_path_is_405(tiny: Any, client: Any) -> None:
    http = client(tiny)

    assert http.post("/projects/71/issues").json() == {"error": "404 Not Found"}
    assert http.put("/projects/tiny%2Fbefore/issues/5").status_code == 405


def test_a_revoked_token_is_refused_from_the_next_request_on(tiny: Any, client: Any) -> None:
    http = client(tiny)
    assert http.get("/projects/71").status_code == 200

    tiny.script([{"step": "revoke_token", "name": "full"}])

    assert http.get("/projects/71").json() == REVOKED


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("/user", "ogr/user__401.http.json"),
        ("/projects/99999", "ogr/projects_mfocko~ogr-tests__404.http.json"),
    ],
)
def test_an_error_is_what_was_recorded_of_one(tiny: Any, client: Any, recording: Any, ours: str, theirs: str) -> None:
    recorded = recording(theirs)
    response = client(tiny, None).get(ours)

    assert (response.status_code, response.json()) == (recorded["status"], recorded["body"])
    for name in (
        "Content-Type",
        "Cache-Control",
        "Vary",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "Content-Length",
    ):
        if name != "Content-Length" or "user" in theirs:
            assert response.headers[name] == recorded["headers"][name]


def test_the_documented_errors_are_word_for_word_those_of_the_examples(tiny: Any, client: Any, recording: Any) -> None:
    examples = recording("docs-examples/errors.json")
    tokens = tiny.tokens()

    assert client(tiny, tokens["expired"]).get("/user").json() == examples["401_expired"]["body"]
    assert client(tiny, tokens["revoked"]).get("/user").json() == examples["401_revoked"]["body"]
    assert client(tiny, tokens["read_user"]).get("/projects/71").json() == examples["403_scope"]["body"]
    assert client(tiny).get("/nothing").json() == examples["404_no_route"]["body"]
    assert client(tiny).get("/projects/9").json() == examples["404_project"]["body"]
    assert client(tiny).get("/projects/71/issues/6").json() == examples["404_record"]["body"]
    deep = client(tiny).get("/projects/71/issues", params={"page": 502, "per_page": 100})
    assert deep.json() == examples["405_offset_limit"]["body"]
