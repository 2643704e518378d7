"""What is asked of GitLab, and what each of its answers means."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from lore.core import payloads, plan
from lore.core.errors import GitLabError, LoreError, PassingError, RefusedError, SettingError
from lore.gitlab import GitLab, ListRead, check_entity, check_project, project_segment

EXAMPLES = Path(__file__).parents[3] / "shared" / "gitlab" / "recordings" / "docs-examples" / "errors.json"
AT = "2026-09-30T17:46:43.118Z"
DATE = "Wed, 30 Sep 2026 17:46:43 GMT"
DATE_S = 1_790_790_403
DISCUSSIONS = plan.endpoint_of("issue", plan.DISCUSSIONS)
LINKS = plan.endpoint_of("issue", plan.LINKS)
PATH = "/projects/3/issues/7/discussions"

Handler = Callable[[httpx.Request], httpx.Response]


class Token:
    """A secret as `lore.settings` has them."""

    def __init__(self, text: str = "glpat-hunter2") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"


class Server:
    """Answers requests as a handler says, and remembers them."""

    def __init__(self, handler: Handler) -> None:
        self.requests: list[httpx.Request] = []
        self._handler = handler

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._handler(request)

    @property
    def paths(self) -> list[str]:
        return [request.url.raw_path.decode() for request in self.requests]


def speaker(handler: Handler, base_url: str = "https://gitlab.example.com", **bounds: Any) -> tuple[GitLab, Server]:
    server = Server(handler)
    return GitLab(httpx.Client(transport=httpx.MockTransport(server)), base_url, Token(), **bounds), server


def answer(value: Any = None, status: int = 200, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx.Response(status, json={} if value is None else value, headers=named)


def always(response: httpx.Response) -> Handler:
    """Answer the same each time; a response serves one request only."""
    return lambda request: httpx.Response(response.status_code, headers=response.headers, content=response.content)


def failure(response: httpx.Response, path: str = "/projects/3/issues/7") -> GitLabError:
    gitlab, _ = speaker(always(response))
    with pytest.raises(GitLabError) as caught:
        gitlab.get(path)
    return caught.value


# --- requests


def test_a_path_is_asked_below_the_api_of_the_address() -> None:
    gitlab, server = speaker(always(answer()))

    found = gitlab.get("/projects/group%2Fsub%2Fproj/issues/7", params={"page": 2, "search": "a b+c"})

    assert server.paths == ["/api/v4/projects/group%2Fsub%2Fproj/issues/7?page=2&search=a+b%2Bc"]
    assert (found.status, found.body, found.path, found.path_moved) == (
        200, b"{}", "/projects/group%2Fsub%2Fproj/issues/7", False,
    )  # fmt: skip


@pytest.mark.parametrize("base_url", ["https://host.example/gitlab", "https://host.example/gitlab/"])
def test_an_address_may_have_a_relative_root(base_url: str) -> None:
    gitlab, server = speaker(always(answer()), base_url)

    gitlab.get("/version")

    assert str(server.requests[0].url) == "https://host.example/gitlab/api/v4/version"


@pytest.mark.parametrize(
    "base_url",
    ["", "gitlab.com", "ftp://gitlab.com", "https://", "https://ann:pw@gitlab.com", "https://h/?a=1", "https://[bad"],
)
def test_an_address_that_cannot_be_used_is_a_wrong_setting(base_url: str) -> None:
    with pytest.raises(SettingError) as caught:
        speaker(always(answer()), base_url)

    assert caught.value.code == "BAD_SETTING"
    assert "pw" not in caught.value.message


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("text", ["", "glpat-a\n", "glpat a", "glpat-ä", "glpat-a\x00"])
def test_a_token_that_cannot_be_sent_is_a_wrong_setting_and_not_shown(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        GitLab(httpx.Client(), "https://gitlab.example.com", Token(text))

    assert caught.value.code == "BAD_SETTING"
    assert "glpat" not in caught.value.message


@pytest.mark.parametrize(
    ("project", "segment"),
    [(3, "3"), ("group/proj", "group%2Fproj"), ("g/ä b?#", "g%2F%C3%A4%20b%3F%23"), ("a%2Fb", "a%252Fb")],
)
def test_a_project_is_one_segment_of_a_path(project: str | int, segment: str) -> None:
    assert project_segment(project) == segment


def test_what_the_headers_say_is_in_the_answer() -> None:
    headers = {"ETag": 'W/"abc"', "Date": DATE, "RateLimit-Remaining": "1999", "Ratelimit-Reset": "1790790420"}
    gitlab, _ = speaker(always(answer(**headers)))

    found = gitlab.get("/version")

    assert (found.etag, found.date_ms) == ('W/"abc"', DATE_S * 1_000)
    assert (found.ratelimit_remaining, found.ratelimit_reset) == (1_999, 1_790_790_420)
    assert found.requests == 1


@pytest.mark.parametrize("date", ["Fri, 01 Nov 2019 13-36-03 GMT", "", "yesterday", "99999999"])
def test_headers_that_make_no_sense_are_as_if_absent(date: str) -> None:
    gitlab, _ = speaker(always(answer(**{"Date": date, "RateLimit-Remaining": "many", "RateLimit-Reset": "-1"})))

    found = gitlab.get("/version")

    assert (found.date_ms, found.ratelimit_remaining, found.ratelimit_reset) == (None, None, None)


def test_a_known_page_is_asked_for_only_if_it_changed() -> None:
    gitlab, server = speaker(always(httpx.Response(304, headers={"X-Next-Page": "2"})))

    found = gitlab.get(PATH, etag='W/"abc"')

    assert server.requests[0].headers["if-none-match"] == 'W/"abc"'
    assert (found.status, found.body, found.next_page) == (304, b"", 2)


def test_every_request_is_announced_before_it_is_sent_and_may_be_stopped() -> None:
    gitlab, server = speaker(always(answer()))

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gitlab.get("/version", before_request=stop)
    assert server.requests == []


# --- the token


@pytest.mark.invariant("I13")
def test_the_token_is_sent_to_the_address_and_nowhere_else() -> None:
    gitlab, server = speaker(always(answer(status=302, Location="https://evil.example/api/v4/version")))

    with pytest.raises(RefusedError):
        gitlab.get("/version")

    assert [request.url.host for request in server.requests] == ["gitlab.example.com"]
    assert server.requests[0].headers["private-token"] == "glpat-hunter2"
    assert "authorization" not in server.requests[0].headers


@pytest.mark.invariant("I13")
@pytest.mark.parametrize(
    "url", ["https://evil.example/api/v4/version", "http://gitlab.example.com/", "https://gitlab.example.com:8443/"]
)
def test_even_a_request_for_elsewhere_would_go_without_the_token(url: str) -> None:
    gitlab, _ = speaker(always(answer()))

    (request,) = gitlab._auth.auth_flow(httpx.Request("GET", url))

    assert "private-token" not in request.headers


@pytest.mark.invariant("I13")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_an_answer_that_repeats_the_token_does_not_put_it_into_the_error(status: int) -> None:
    error = failure(answer({"message": "bad token glpat-hunter2"}, status))

    seen: BaseException | None = error
    while seen is not None:
        assert "hunter2" not in f"{seen!r} {seen}"
        seen = seen.__cause__ or seen.__context__


@pytest.mark.invariant("I13")
def test_the_token_is_not_shown_by_what_holds_it() -> None:
    gitlab, _ = speaker(always(answer()))

    shown = [repr(gitlab), *(repr(value) for value in vars(gitlab).values())]

    assert all("hunter2" not in text for text in shown)


# --- redirects


def moved(status: int, location: str) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        if b"%2F" in request.url.raw_path:
            return httpx.Response(status, headers={"Location": location}, text="This resource has been moved")
        return answer({"id": 42})

    return handler


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "https://gitlab.example.com/api/v4/projects/42/issues/7?page=2",
        "https://gitlab.example.com:443/api/v4/projects/42/issues/7",
        "/api/v4/projects/42/issues/7?private_token=x",
    ],
)
def test_a_renamed_project_is_followed_once_with_our_own_parameters(status: int, location: str) -> None:
    gitlab, server = speaker(moved(status, location))
    announced: list[int] = []

    found = gitlab.get(
        "/projects/old%2Fname/issues/7", params={"page": 1}, before_request=lambda: announced.append(len(announced))
    )

    assert server.paths[1] == "/api/v4/projects/42/issues/7?page=1"
    assert server.requests[1].headers["private-token"] == "glpat-hunter2"
    assert (found.path, found.path_moved, found.requests) == ("/projects/42/issues/7", True, 2)
    assert announced == [0, 1]


@pytest.mark.invariant("I13")
@pytest.mark.parametrize(
    "location",
    [
        "https://evil.example/api/v4/projects/42/issues/7",
        "https://gitlab.example.com.evil.example/api/v4/projects/42",
        "https://gitlab.example.com@evil.example/api/v4/projects/42",
        "http://gitlab.example.com/api/v4/projects/42/issues/7",
        "https://gitlab.example.com:8443/api/v4/projects/42/issues/7",
        "//evil.example/api/v4/projects/42",
        "/users/sign_in",
        "/api/v4/../../users/sign_in",
        "/api/v4",
        "https://[bad",
        "javascript:alert(1)",
        "https://gitlab.example.com:port/api/v4/projects/42",
        "https://gitlab.example.com/api/v4/\x01",
        "",
    ],
)
def test_a_redirect_to_anywhere_else_is_refused(location: str) -> None:
    gitlab, server = speaker(moved(301, location))

    with pytest.raises(RefusedError) as caught:
        gitlab.get("/projects/old%2Fname/issues/7")

    assert caught.value.code == "GITLAB_REDIRECT"
    assert {(request.url.scheme, request.url.host, request.url.port) for request in server.requests} == {
        ("https", "gitlab.example.com", None)
    }


def test_a_redirect_stays_below_a_relative_root() -> None:
    gitlab, _ = speaker(moved(301, "/api/v4/projects/42"), "https://host.example/gitlab")

    with pytest.raises(RefusedError) as caught:
        gitlab.get("/projects/old%2Fname")

    assert caught.value.code == "GITLAB_REDIRECT"


def test_a_second_redirect_is_refused() -> None:
    gitlab, server = speaker(always(answer(status=301, Location="/api/v4/projects/42")))

    with pytest.raises(RefusedError) as caught:
        gitlab.get("/projects/41")

    assert caught.value.code == "GITLAB_REDIRECT"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [300, 303, 305, 304])
def test_other_statuses_between_are_refused(status: int) -> None:
    assert failure(httpx.Response(status, headers={"Location": "/api/v4/projects/42"})).code in (
        "GITLAB_REDIRECT",
        "GITLAB_BAD_PAYLOAD",
    )


# --- errors by status, then content type


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"message": "401 Unauthorized"}, "GITLAB_UNAUTHORIZED"),
        (401, {"error": "invalid_token", "error_description": "Token is expired."}, "GITLAB_UNAUTHORIZED"),
        (403, {"message": "403 Forbidden"}, "GITLAB_FORBIDDEN"),
        (403, {"error": "insufficient_scope", "scope": "api read_api"}, "GITLAB_FORBIDDEN"),
        (404, {"message": "404 Not found"}, "GITLAB_NOT_FOUND"),
        (404, {"message": "404 Issue Not Found"}, "GITLAB_NOT_FOUND"),
        (404, {"error": "404 Not Found"}, "GITLAB_NOT_FOUND"),
        (404, {"message": "404 Project Not Found"}, "PROJECT_NOT_FOUND"),
        (400, {"error": "iids is invalid"}, "GITLAB_BAD_REQUEST"),
        (400, {"message": {"title": ["is too long"]}}, "GITLAB_BAD_REQUEST"),
        (405, {"error": "Keyset pagination is not yet available"}, "GITLAB_BAD_REQUEST"),
        (409, {"message": ["Another open merge request"]}, "GITLAB_BAD_REQUEST"),
        (410, None, "GITLAB_BAD_REQUEST"),
        (418, [[[["x"]]]], "GITLAB_BAD_REQUEST"),
    ],
)
def test_what_cannot_pass_is_refused_by_its_status(status: int, body: Any, code: str) -> None:
    error = failure(httpx.Response(status, json=body))

    assert isinstance(error, RefusedError)
    assert error.code == code


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503])
def test_an_error_page_in_html_means_what_its_status_means(status: int) -> None:
    in_json = failure(httpx.Response(status, json={"message": "x"}))
    in_html = failure(httpx.Response(status, html="<html>404 Project Not Found</html>"))

    assert (type(in_html), in_html.code) == (type(in_json), in_json.code)


def test_a_missing_project_is_told_from_a_missing_issue() -> None:
    assert failure(answer({"message": "404 Not found"}, 404), "/projects/3").code == "PROJECT_NOT_FOUND"
    assert failure(answer({"message": "404 Not found"}, 404), "/projects/g%2Fp").code == "PROJECT_NOT_FOUND"
    assert failure(answer({"message": "404 Not found"}, 404), "/projects/3/issues/1").code == "GITLAB_NOT_FOUND"


def test_a_missing_project_is_named_and_not_the_path_that_was_asked_for() -> None:
    error = failure(answer({"message": "404 Project Not Found"}, 404), "/projects/tern%2Fnope/issues/1/closed_by")

    assert error.message == "GitLab has no project tern/nope (or this token may not see it)"


def test_a_token_that_is_not_accepted_is_said_without_a_path() -> None:
    error = failure(answer({"message": "401 Unauthorized"}, 401), "/projects/3/issues/1/resource_state_events")

    assert error.message == "GitLab does not accept the token (401 Unauthorized)"


def test_a_404_that_is_not_of_the_api_asks_about_the_address() -> None:
    assert "LORE_GITLAB_URL" in failure(httpx.Response(404, html="<html>")).message


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520, 599])
def test_a_server_error_can_pass(status: int) -> None:
    error = failure(httpx.Response(status, html="<html>", headers={"Retry-After": "7"}))

    assert isinstance(error, PassingError)
    assert (error.code, error.retry_after_s, error.pauses_host) == ("GITLAB_UNAVAILABLE", 7.0, False)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(429, text="Retry later\n", headers={"Retry-After": "30"}),
        httpx.Response(429, json={"message": {"error": "too many times"}}, headers={"Retry-After": "30"}),
        httpx.Response(429, html="<html>", headers={"Retry-After": "30"}),
    ],
    ids=["text", "json", "html"],
)
def test_a_rate_limit_pauses_the_host_as_long_as_gitlab_asks(response: httpx.Response) -> None:
    error = failure(response)

    assert isinstance(error, PassingError)
    assert (error.code, error.retry_after_s, error.pauses_host) == ("GITLAB_RATE_LIMITED", 30.0, True)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 12 "}, 12.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "7200"}, 7_200.0),
        ({"Retry-After": "9" * 5_000}, 1e9),
        ({"Retry-After": "Wed, 30 Sep 2026 17:47:13 GMT", "Date": DATE}, 30.0),
        ({"Retry-After": "Wed, 30 Sep 2026 19:47:13 +0200", "Date": DATE}, 30.0),
        ({"Retry-After": "Wed, 30 Sep 2026 17:46:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Wed, 99 Sep 2026 17:47:13 GMT"}, None),
        ({"Retry-After": ""}, None),
        ({}, None),
        ({"RateLimit-Reset": str(DATE_S + 17), "Date": DATE}, 17.0),
        ({"RateLimit-Reset": str(DATE_S - 17), "Date": DATE}, 0.0),
        ({"RateLimit-Reset": str(DATE_S + 17), "Date": DATE, "Retry-After": "5"}, 5.0),
        ({"RateLimit-Reset": str(DATE_S + 17), "Date": DATE, "Retry-After": "-5"}, 17.0),
        ({"RateLimit-Reset": "soon"}, None),
    ],
)
def test_a_wait_is_read_in_both_forms_by_gitlabs_own_clock(headers: Mapping[str, str], wait_s: float | None) -> None:
    error = failure(httpx.Response(429, text="Retry later\n", headers=headers))

    assert isinstance(error, PassingError)
    assert error.retry_after_s == wait_s


def test_a_date_to_wait_for_needs_no_date_of_the_answer() -> None:
    error = failure(httpx.Response(503, headers={"Retry-After": "Wed, 30 Sep 2099 17:47:13 GMT"}))

    assert isinstance(error, PassingError)
    assert error.retry_after_s is not None
    assert error.retry_after_s > 1_000_000


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<html><body>Sign in</body></html>"),
        httpx.Response(200, text="[]"),
        httpx.Response(200, content=b"[]"),
        httpx.Response(200, content=b"", headers={"Content-Type": "application/json"}),
        httpx.Response(200, content=b" \n", headers={"Content-Type": "application/json"}),
        httpx.Response(200, content=b"[]", headers={"Content-Type": "x" * 500}),
        httpx.Response(204),
        httpx.Response(201, json={"message": "x", "status": "error", "http_status": 406}),
        httpx.Response(206, json=[]),
    ],
    ids=["a page", "text", "no type", "nothing", "blanks", "a long type", "204", "201", "206"],
)
def test_a_success_that_is_no_json_is_no_payload(response: httpx.Response) -> None:
    error = failure(response)

    assert isinstance(error, RefusedError)
    assert error.code == "GITLAB_BAD_PAYLOAD"
    assert len(error.message) < 300


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
def test_json_is_known_by_its_type_whatever_follows_it(kind: str) -> None:
    gitlab, _ = speaker(always(httpx.Response(200, content=b"{}", headers={"Content-Type": kind})))

    assert gitlab.get("/version").body == b"{}"


def test_an_error_says_what_gitlab_says_in_one_short_line() -> None:
    error = failure(answer({"error": "insufficient_scope", "error_description": "a\x1b[31m\nb" + "c" * 3_000}, 403))

    assert "insufficient_scope: a" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 300


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 4_000, b'{"message":', b"null", b'"\\ud800"'])
@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_an_errors_body_never_hides_its_status(status: int, body: bytes) -> None:
    error = failure(httpx.Response(status, content=body, headers={"Content-Type": "application/json"}))

    assert error.code == failure(answer({}, status)).code


class Breaking(httpx.SyncByteStream):
    def __iter__(self) -> Any:
        yield b'{"message":'
        raise httpx.ReadError("reset")


def test_an_errors_body_that_breaks_off_does_not_hide_its_status() -> None:
    gitlab, _ = speaker(lambda request: httpx.Response(404, stream=Breaking()))

    with pytest.raises(RefusedError) as caught:
        gitlab.get("/projects/3/issues/7")

    assert caught.value.code == "GITLAB_NOT_FOUND"


def test_a_payload_that_breaks_off_can_pass() -> None:
    gitlab, _ = speaker(lambda request: httpx.Response(200, stream=Breaking()))

    with pytest.raises(PassingError) as caught:
        gitlab.get("/projects/3/issues/7")

    assert caught.value.code == "GITLAB_BROKEN_ANSWER"


def test_a_body_past_the_bound_is_refused() -> None:
    gitlab, _ = speaker(always(answer(["x" * 100])), max_body_bytes=100)

    with pytest.raises(RefusedError) as caught:
        gitlab.get("/version")

    assert caught.value.code == "GITLAB_TOO_LARGE"


@pytest.mark.skipif(not EXAMPLES.is_file(), reason="the recordings are not at ../shared/gitlab/recordings")
def test_every_documented_error_has_its_code() -> None:
    codes = {}
    for name, example in json.loads(EXAMPLES.read_text()).items():
        content = json.dumps(example["body"]) if "body" in example else example["body_text"]
        headers = {"Content-Type": "application/json" if "body" in example else "text/plain"}
        headers |= {key: value for key, value in example.get("headers", {}).items() if key != "Content-Length"}
        codes[name] = failure(httpx.Response(example["status"], content=content, headers=headers)).code

    assert codes == {
        "301_moved_project": "GITLAB_REDIRECT",
        "401_expired": "GITLAB_UNAUTHORIZED",
        "401_invalid_token": "GITLAB_UNAUTHORIZED",
        "401_revoked": "GITLAB_UNAUTHORIZED",
        "403_scope": "GITLAB_FORBIDDEN",
        "404_no_route": "GITLAB_NOT_FOUND",
        "404_project": "PROJECT_NOT_FOUND",
        "404_record": "GITLAB_NOT_FOUND",
        "405_keyset_unsupported": "GITLAB_BAD_REQUEST",
        "405_offset_limit": "GITLAB_BAD_REQUEST",
        "408_statement_timeout_mr_list": "GITLAB_UNAVAILABLE",
        "429_application_limit": "GITLAB_RATE_LIMITED",
        "429_rack_attack": "GITLAB_RATE_LIMITED",
        "500": "GITLAB_UNAVAILABLE",
    }


# --- lists


def thread(number: int) -> dict[str, Any]:
    return {"id": f"{number:040x}", "notes": [{"id": number, "created_at": AT, "updated_at": AT, "body": "x"}]}


class Threads:
    """A list endpoint over pages that a test may change between two requests."""

    def __init__(self, *pages: list[int], uses_link: bool = False, has_etags: bool = True) -> None:
        self.pages = list(pages)
        self.uses_link = uses_link
        self.has_etags = has_etags
        self.before: dict[int, Callable[[], None]] = {}
        self.requests: list[tuple[int, str | None, int]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.before.pop(len(self.requests), lambda: None)()
        number = int(request.url.params["page"])
        assert request.url.params["per_page"] == "100"
        body = json.dumps([thread(item) for item in self.pages[number - 1]])
        etag = f'W/"{hash(body)}"'
        headers = {"Content-Type": "application/json"} | ({"ETag": etag} if self.has_etags else {})
        is_last = number >= len(self.pages)
        if not self.uses_link:
            headers["X-Next-Page"] = "" if is_last else str(number + 1)
        elif not is_last:
            elsewhere = "https://internal.example/api/v4/projects/3/issues/7/discussions"
            headers["Link"] = (
                f'<{elsewhere}?id=3&noteable_id=7&page={number + 1}&per_page=100>; rel="next", '
                f'<{elsewhere}?page=1&per_page=100>; rel="first"'
            )
        status = 304 if self.has_etags and request.headers.get("if-none-match") == etag else 200
        self.requests.append((number, request.headers.get("if-none-match"), status))
        return httpx.Response(status, headers=headers, content=b"" if status == 304 else body.encode())

    @property
    def asked(self) -> list[int]:
        return [number for number, _, _ in self.requests]


class Reader:
    """Reads a list, and keeps what a caller would keep."""

    def __init__(self, handler: Handler, endpoint: plan.Endpoint = DISCUSSIONS, path: str = PATH) -> None:
        self.gitlab, self.server = speaker(handler)
        self.endpoint = endpoint
        self.path = path
        self.kept: dict[int, bytes] = {}
        self.announced = 0
        self.restarts = 0

    def announce(self) -> None:
        self.announced += 1

    def keep(self, number: int, body: bytes) -> None:
        self.kept[number] = body

    def restart(self) -> None:
        self.restarts += 1
        self.kept.clear()

    def read(self) -> ListRead:
        return self.gitlab.read_list(
            self.path, self.endpoint, before_request=self.announce, keep_page=self.keep, restart=self.restart
        )

    @property
    def ids(self) -> list[int]:
        found: list[int] = []
        for _, body in sorted(self.kept.items()):
            found += [int(discussion.id, 16) for discussion in payloads.decode_list(plan.DISCUSSIONS, body)]
        return found


def test_a_list_of_one_page_takes_exactly_one_request() -> None:
    threads = Threads([1, 2])
    reader = Reader(threads)

    found = reader.read()

    assert threads.asked == [1]
    assert (found.pages, found.requests, found.walks, found.not_modified) == (1, 1, 1, 0)
    assert found.size_bytes == len(reader.kept[1])
    assert (reader.ids, reader.announced, reader.restarts) == ([1, 2], 1, 0)


@pytest.mark.parametrize("uses_link", [False, True], ids=["x-next-page", "link"])
def test_a_list_is_read_to_its_last_page_and_the_earlier_ones_are_asked_again(uses_link: bool) -> None:
    threads = Threads([1, 2], [3], [4], uses_link=uses_link)
    reader = Reader(threads)

    found = reader.read()

    assert threads.asked == [1, 2, 3, 1, 2]
    assert [status for _, _, status in threads.requests] == [200, 200, 200, 304, 304]
    assert (found.pages, found.requests, found.not_modified, found.walks) == (3, 5, 2, 1)
    assert (reader.ids, reader.announced) == ([1, 2, 3, 4], 5)
    assert {request.url.host for request in reader.server.requests} == {"gitlab.example.com"}


def test_an_empty_page_with_a_next_page_is_not_the_end() -> None:
    reader = Reader(Threads([], [1], [], [2]))

    assert reader.read().pages == 4
    assert reader.ids == [1, 2]


def test_a_server_without_etags_is_believed_by_the_ids() -> None:
    threads = Threads([1], [2], has_etags=False)
    reader = Reader(threads)

    found = reader.read()

    assert (threads.asked, found.not_modified, found.walks) == ([1, 2, 1], 0, 1)


def test_a_row_deleted_between_two_pages_hides_no_living_one() -> None:
    threads = Threads([1, 2], [3, 4])
    reader = Reader(threads)

    def delete_1() -> None:
        threads.pages = [[2, 3], [4]]

    threads.before[1] = delete_1
    found = reader.read()

    assert reader.ids == [2, 3, 4]
    assert (reader.restarts, found.walks, found.pages) == (1, 2, 2)
    assert threads.asked == [1, 2, 1, 1, 2, 1]


def test_a_newer_body_of_the_same_items_is_kept_in_place_of_the_older() -> None:
    threads = Threads([1], [2])
    bodies = iter([b"first", b"second"])

    def handler(request: httpx.Request) -> httpx.Response:
        response = threads(request)
        if request.url.params["page"] != "1":
            return response
        items = [thread(1) | {"edited": next(bodies).decode()}]
        return httpx.Response(200, json=items, headers={"X-Next-Page": "2"})

    reader = Reader(handler)
    found = reader.read()

    assert b"second" in reader.kept[1]
    assert (found.walks, reader.restarts) == (1, 0)


@pytest.mark.parametrize("has_etags", [True, False])
def test_another_number_of_pages_means_another_walk(has_etags: bool) -> None:
    threads = Threads([1], [2], has_etags=has_etags)
    reader = Reader(threads)

    def one_page() -> None:
        threads.pages = [[1]]

    threads.before[2] = one_page
    found = reader.read()

    assert (found.pages, found.walks, reader.ids) == (1, 2, [1])


def test_a_list_that_changes_during_three_walks_can_pass() -> None:
    threads = Threads([1], [2])
    reader = Reader(threads)

    def change() -> None:
        threads.pages = [[threads.pages[0][0] + 10], [2]]

    threads.before = {2: change, 5: change, 8: change}
    with pytest.raises(PassingError) as caught:
        reader.read()

    assert caught.value.code == "LIST_UNSTABLE"
    assert threads.asked == [1, 2, 1] * 3
    assert reader.restarts == 2


@pytest.mark.parametrize("next_page", ["1", "0", "-1", "x", "1e3", "9" * 400, "٢"])
def test_a_next_page_that_leads_nowhere_is_no_payload(next_page: str) -> None:
    reader = Reader(always(httpx.Response(200, json=[], headers=[("X-Next-Page", next_page.encode())])))

    with pytest.raises(RefusedError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_BAD_PAYLOAD"
    assert reader.announced == 1


@pytest.mark.parametrize("link", ['<https://h/x?cursor=abc>; rel="next"', '<https://[bad?page=2x>; rel="next"'])
def test_a_next_page_without_a_number_is_not_taken_for_the_end(link: str) -> None:
    reader = Reader(always(answer([], Link=link)))

    with pytest.raises(RefusedError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_BAD_PAYLOAD"


def test_a_list_without_any_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lore.gitlab.MAX_PAGES", 5)
    reader = Reader(lambda request: answer([], X_Next_Page=str(int(request.url.params["page"]) + 1)))

    with pytest.raises(RefusedError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_BAD_PAYLOAD"
    assert reader.announced == 5


@pytest.mark.parametrize("body", [{}, None, [None], [{"id": 5, "notes": []}], [{"id": "a"}]])
def test_a_page_is_kept_only_once_it_is_validated(body: Any) -> None:
    reader = Reader(always(httpx.Response(200, content=json.dumps(body), headers={"Content-Type": "application/json"})))

    with pytest.raises(RefusedError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_BAD_PAYLOAD"
    assert reader.kept == {}


def test_a_page_that_is_asked_again_is_validated_too() -> None:
    threads = Threads([1], [2])

    def handler(request: httpx.Request) -> httpx.Response:
        response = threads(request)
        return answer({}) if len(threads.requests) == 3 else response

    reader = Reader(handler)
    with pytest.raises(RefusedError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_BAD_PAYLOAD"


def test_an_error_on_any_page_ends_the_reading() -> None:
    threads = Threads([1], [2])
    reader = Reader(lambda request: answer({}, 503) if threads.requests else threads(request))

    with pytest.raises(PassingError) as caught:
        reader.read()

    assert caught.value.code == "GITLAB_UNAVAILABLE"


def test_who_asks_may_stop_before_any_request() -> None:
    threads = Threads([1], [2])
    reader = Reader(threads)

    class ClaimLostError(Exception):
        pass

    def stop_at_second() -> None:
        reader.announced += 1
        if reader.announced == 2:
            raise ClaimLostError

    with pytest.raises(ClaimLostError):
        reader.gitlab.read_list(
            PATH, DISCUSSIONS, before_request=stop_at_second, keep_page=reader.keep, restart=reader.restart
        )
    assert threads.asked == [1]


def test_a_list_that_has_no_pages_is_asked_without_a_page() -> None:
    reader = Reader(always(answer([])), LINKS, "/projects/3/issues/7/links")

    reader.read()

    assert reader.server.paths == ["/api/v4/projects/3/issues/7/links"]


def test_a_list_that_has_pages_after_all_is_read_to_its_end() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return answer([], X_Next_Page="2" if "page" not in request.url.params else "")

    reader = Reader(handler, LINKS, "/projects/3/issues/7/links")

    assert reader.read().pages == 2
    assert "/api/v4/projects/3/issues/7/links?page=2" in reader.server.paths


def test_the_pages_of_a_renamed_project_are_asked_for_where_it_is_now() -> None:
    threads = Threads([1], [2])

    def handler(request: httpx.Request) -> httpx.Response:
        if b"%2F" in request.url.raw_path:
            return httpx.Response(301, headers={"Location": f"/api/v4{PATH}"}, text="moved")
        return threads(request)

    reader = Reader(handler, path="/projects/old%2Fname/issues/7/discussions")
    found = reader.read()

    assert (found.requests, found.path, reader.announced) == (4, PATH, 4)
    assert threads.asked == [1, 2, 1]


# --- what is asked for must be what is given


def entity(**fields: Any) -> payloads.Issue:
    value = {"id": 1, "iid": 7, "project_id": 3, "state": "opened", "created_at": AT, "updated_at": AT} | fields
    return payloads.decode_entity("issue", json.dumps(value).encode())


def test_the_entity_that_was_asked_for_is_accepted() -> None:
    check_entity(entity(), iid=7, gitlab_project_id=3)
    check_entity(entity(), iid=7, gitlab_project_id=None)


@pytest.mark.parametrize("asked", [{"iid": 8, "gitlab_project_id": 3}, {"iid": 7, "gitlab_project_id": 4}])
def test_another_entity_than_the_one_asked_for_is_refused(asked: Any) -> None:
    with pytest.raises(RefusedError) as caught:
        check_entity(entity(), **asked)

    assert caught.value.code == "WRONG_ENTITY"


def test_another_project_than_the_one_asked_for_is_refused() -> None:
    project = payloads.decode_project(b'{"id":3,"path_with_namespace":"g/p"}')

    check_project(project, gitlab_project_id=3)
    check_project(project, gitlab_project_id=None)
    with pytest.raises(RefusedError) as caught:
        check_project(project, gitlab_project_id=4)
    assert caught.value.code == "WRONG_ENTITY"


# --- what the doctor asks


def test_the_version_is_asked_for() -> None:
    gitlab, server = speaker(always(answer({"version": "18.9.0", "revision": "abc"})))

    assert gitlab.version().version == "18.9.0"
    assert server.paths == ["/api/v4/version"]


def test_the_tokens_scopes_and_expiry_are_asked_for() -> None:
    gitlab, server = speaker(always(answer({"scopes": ["read_api"], "expires_at": None})))

    token = gitlab.token_info()

    assert token is not None
    assert (token.scopes, token.expires_at) == (("read_api",), None)
    assert server.paths == ["/api/v4/personal_access_tokens/self"]


@pytest.mark.parametrize("status", [400, 404])
def test_a_server_that_cannot_tell_of_the_token_is_no_error(status: int) -> None:
    gitlab, _ = speaker(always(answer({"message": "x"}, status)))

    assert gitlab.token_info() is None


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_token_that_is_not_accepted_is_an_error(status: int) -> None:
    gitlab, _ = speaker(always(answer({"message": "x"}, status)))

    with pytest.raises(LoreError):
        gitlab.token_info()


# --- threads


def test_many_threads_share_one_speaker() -> None:
    gitlab, server = speaker(lambda request: answer({"path": request.url.path}))
    start = threading.Barrier(8)
    wrong: list[str] = []

    def ask(number: int) -> None:
        start.wait(10)
        for iid in range(20):
            path = f"/projects/{number}/issues/{iid}"
            if json.loads(gitlab.read_object(path).body)["path"] != f"/api/v4{path}":
                wrong.append(path)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)

    assert wrong == []
    assert len(server.requests) == 160
