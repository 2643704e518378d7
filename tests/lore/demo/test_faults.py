"""Each fault does to a client what it says, to the requests it is meant for and to no other."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from lore.demo.app import ACTIONS
from lore.demo.delivery import DELIVERIES
from lore.demo.distortions import DISTORTIONS, MALFORMED, ODD

PATH = "/projects/71/issues/5"
THREADS = "/projects/71/issues/4/discussions"


def hit(demo: Any, client: Any, action: Any, path: str = PATH, **query: Any) -> httpx.Response:
    """Load one fault for every request and make one."""
    demo.faults([{"action": action}])
    response: httpx.Response = client(demo).get(path, params=query or None)
    return response


def test_a_fault_hits_only_what_it_matches(tiny: Any, client: Any) -> None:
    match = {"route": "/projects/:id/issues/:iid/*", "kind": "issue", "iid": [4, 5], "page": 2, "token": "full"}
    tiny.faults([{"match": match, "action": "not_found"}])
    http = client(tiny)

    def status(path: str, **query: Any) -> int:
        return int(http.get(path, params=query).status_code)

    assert status(THREADS, page=2) == 404
    assert status(THREADS) == 200
    assert status("/projects/71/issues/3/discussions", page=2) == 200
    assert status("/projects/71/issues", page=2) == 200
    assert client(tiny, tiny.tokens()["owner"]).get(THREADS, params={"page": 2}).status_code == 200


@pytest.mark.parametrize(
    ("when", "times", "hits"),
    [
        ({"nth": [2, 5]}, None, [2, 5]),
        ({"nth": 3}, None, [3]),
        ({"every": 3}, None, [3, 6]),
        ({"after_requests": 4}, None, [5, 6]),
        ({}, 2, [1, 2]),
        ({"every": 2}, 1, [2]),
    ],
)
def test_a_fault_comes_when_it_is_told_to(tiny: Any, client: Any, when: Any, times: Any, hits: list[int]) -> None:
    tiny.faults([{"when": when, "times": times, "action": {"type": "server_error"}}])
    http = client(tiny)

    assert [number for number in range(1, 7) if http.get(PATH).status_code == 500] == hits


def test_a_random_fault_is_the_same_for_the_same_seed(tiny: Any, client: Any) -> None:
    def statuses() -> list[int]:
        tiny.faults([{"when": {"prob": 0.5}, "action": "server_error"}])
        return [client(tiny).get(PATH).status_code for _ in range(20)]

    first = statuses()
    assert first == statuses()
    assert {200, 500} == set(first)


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "explode"},
        {"action": "reset", "match": {"colour": "red"}},
        {"action": "reset", "when": {"often": 1}},
        {"action": "reset", "where": "here"},
        {},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_and_changes_nothing(tiny: Any, client: Any, fault: Any) -> None:
    tiny.faults([{"action": "forbidden"}])
    with pytest.raises(RuntimeError, match="unknown"):
        tiny.faults([fault])

    assert client(tiny).get(PATH).status_code == 403


@pytest.mark.parametrize(
    ("action", "status", "body"),
    [
        ("not_found", 404, {"message": "404 Not found"}),
        ({"type": "not_found", "message": "404 Project Not Found"}, 404, {"message": "404 Project Not Found"}),
        ("forbidden", 403, {"message": "403 Forbidden"}),
        ("unauthorized", 401, {"message": "401 Unauthorized"}),
        ("server_error", 500, {"message": "500 Internal Server Error"}),
        ({"type": "server_error", "status": 503}, 503, {"message": "503 Service Unavailable"}),
        ({"type": "body", "status": 200, "json": {"iid": 6}}, 200, {"iid": 6}),
    ],
)
def test_a_refusal_has_gitlabs_status_and_words(tiny: Any, client: Any, action: Any, status: int, body: Any) -> None:
    response = hit(tiny, client, action)

    assert (response.status_code, response.json()) == (status, body)


@pytest.mark.parametrize("form", ["expired", "revoked"])
def test_a_token_can_end_in_the_middle_of_a_run(tiny: Any, client: Any, form: str) -> None:
    tiny.faults([{"when": {"after_requests": 2}, "action": {"type": "unauthorized", "form": form}}])
    http = client(tiny)
    statuses = [http.get(PATH).status_code for _ in range(4)]

    assert statuses == [200, 200, 401, 401]
    assert form in http.get(PATH).json()["error_description"]


def test_a_scope_can_be_missing_for_one_route_only(tiny: Any, client: Any) -> None:
    tiny.faults([{"match": {"route": "*/discussions"}, "action": {"type": "forbidden", "form": "scope"}}])

    assert client(tiny).get(f"{PATH}/discussions").json()["error"] == "insufficient_scope"
    assert client(tiny).get(PATH).status_code == 200


def test_the_limiters_429_is_a_text_with_every_header(tiny: Any, client: Any, recording: Any) -> None:
    example = recording("docs-examples/errors.json")["429_rack_attack"]
    response = hit(tiny, client, {"type": "rate_limited", "retry_after": 30})

    assert (response.status_code, response.text) == (429, example["body_text"])
    assert response.headers["content-type"] == "text/plain"
    assert response.headers["retry-after"] == "30"
    assert {name.lower() for name in example["headers"]} <= set(response.headers)


@pytest.mark.parametrize("value", [0, 86400 * 365, -5, "soon", 1.5])
def test_retry_after_can_be_any_number_or_text(tiny: Any, client: Any, value: Any) -> None:
    assert hit(tiny, client, {"type": "rate_limited", "retry_after": value}).headers["retry-after"] == str(value)


def test_retry_after_can_be_a_date_or_absent(tiny: Any, client: Any) -> None:
    dated = hit(tiny, client, {"type": "rate_limited", "retry_after": 90, "as_date": True}).headers
    absent = hit(tiny, client, {"type": "rate_limited", "retry_after": None}).headers

    wait = parsedate_to_datetime(dated["retry-after"]) - parsedate_to_datetime(dated["date"])
    assert wait.total_seconds() == 90
    assert "retry-after" not in absent


def test_the_applications_429_is_json_without_any_header_of_a_limiter(tiny: Any, client: Any, recording: Any) -> None:
    response = hit(tiny, client, {"type": "rate_limited", "form": "application"})

    assert response.json() == recording("docs-examples/errors.json")["429_application_limit"]["body"]
    assert len(response.content) == 89
    assert not [name for name in response.headers if name.startswith(("ratelimit", "retry"))]


def test_a_proxys_429_is_html(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "rate_limited", "form": "haproxy"})

    assert (response.status_code, response.headers["content-type"]) == (429, "text/html")


def test_a_request_during_the_wait_is_a_violation_for_its_token_only(tiny: Any, client: Any) -> None:
    tiny.faults([{"times": 1, "action": {"type": "rate_limited", "retry_after": 60}}])
    client(tiny).get(PATH)
    client(tiny, tiny.tokens()["guest"]).get(PATH)
    assert tiny.stats()["violations"] == 0

    client(tiny).get(PATH)
    assert tiny.stats()["violations"] == 1


@pytest.mark.parametrize("status", [502, 504, 520, 522])
def test_a_proxys_5xx_is_html(tiny: Any, client: Any, status: int) -> None:
    response = hit(tiny, client, {"type": "server_error", "status": status, "retry_after": 7})

    assert (response.status_code, response.headers["content-type"]) == (status, "text/html")
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("form", "status", "content_type"),
    [
        ("sign_in", 200, "text/html; charset=utf-8"),
        ("captive", 200, "application/json"),
        ("maintenance", 503, "text/html; charset=utf-8"),
        ("redirect", 302, "text/html; charset=utf-8"),
    ],
)
def test_a_page_can_come_where_json_should_be(
    tiny: Any, client: Any, form: str, status: int, content_type: str
) -> None:
    response = hit(tiny, client, {"type": "html", "form": form})

    assert (response.status_code, response.headers["content-type"]) == (status, content_type)
    assert response.text.lstrip().lower().startswith(("<!doctype html>", "<html>"))
    if form == "redirect":
        assert response.headers["location"] == f"{tiny.url}/users/sign_in"


@pytest.mark.parametrize("form", sorted(MALFORMED))
def test_a_malformed_body_is_not_the_right_one(tiny: Any, client: Any, form: str) -> None:
    right = client(tiny).get(PATH).content
    response = hit(tiny, client, {"type": "malformed", "form": form})
    is_still_json = {"nan", "duplicate_keys", "null", "wrong_top", "item_not_object"}

    assert response.status_code == 200
    assert response.content != right
    if form in is_still_json:
        json.loads(response.content)
    else:
        # JSON's and UTF-8's errors are both children of ValueError; the deepest body is one of the stack.
        with pytest.raises((ValueError, RecursionError)):
            json.loads(response.content.decode("utf-8"))


@pytest.mark.parametrize(
    ("form", "status", "header"),
    [
        ("text", 200, ("content-type", "text/plain")),
        ("empty", 200, ("content-length", "0")),
        ("charset", 200, ("content-type", "application/json; charset=utf-16")),
        ("gzip", 200, ("content-encoding", "gzip")),
    ],
)
def test_the_right_bytes_can_come_under_a_wrong_name(
    tiny: Any, client: Any, form: str, status: int, header: tuple[str, str]
) -> None:
    response = hit(tiny, client, {"type": "wrong_type", "form": form})

    assert (response.status_code, response.headers[header[0]]) == (status, header[1])


def test_a_small_packed_body_can_be_a_very_big_one(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "wrong_type", "form": "gzip_bomb"})

    assert int(response.headers["content-length"]) < 100_000
    assert len(response.content) == 50_000_000


def test_an_answer_can_have_other_headers(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "headers", "set": {"ETag": None, "X-Odd": "yes"}})

    assert ("etag" in response.headers, response.headers["x-odd"]) == (False, "yes")


def test_a_redirect_can_lead_anywhere(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "redirect", "location": "//other.test/x", "status": 307})

    assert (response.status_code, response.headers["location"]) == (307, "//other.test/x")


def test_an_answer_can_have_no_content(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "wrong_type", "form": "no_content"})

    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("form", ["bad_gzip", "corrupt_gzip"])
def test_a_packed_body_can_be_broken(tiny: Any, client: Any, form: str) -> None:
    with pytest.raises(httpx.DecodingError):
        hit(tiny, client, {"type": "wrong_type", "form": form})


@pytest.mark.parametrize("form", [*sorted(ODD), "drop", "extra", "value"])
def test_one_field_of_every_row_can_be_odd(tiny: Any, client: Any, form: str) -> None:
    right = client(tiny).get("/projects/71/issues").json()
    options = {"type": "schema", "form": form, "field": "iid", "value": "x"}
    raw = hit(tiny, client, options, "/projects/71/issues").content

    if form == "deep":
        assert raw.count(b"[" * 100_000) == 10
        return
    rows = json.loads(raw)
    expected: dict[str, Any] = {"null": None, "huge_int": int("9" * 400), "float_id": 12.5, "value": "x"}
    expected |= {"nul": "a\0b", "surrogate": "\ud800", "bool": True}
    if form == "drop":
        assert all("iid" not in row for row in rows)
    elif form == "extra":
        assert all("unheard_of" in row for row in rows)
    elif form in expected:
        assert all(row["iid"] == expected[form] for row in rows)
    assert [row["title"] for row in rows] == [row["title"] for row in right]


def test_a_page_can_name_itself_as_the_next_one(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "page_drift"}, THREADS, page=2)

    assert response.headers["x-next-page"] == "2"
    assert f'{THREADS}?id=71&noteable_id=4&page=2&per_page=20>; rel="next"' in response.headers["link"]


def test_a_list_can_have_no_end(tiny: Any, client: Any) -> None:
    response = hit(tiny, client, {"type": "page_drift", "form": "endless"}, THREADS, page=99)

    assert response.headers["x-next-page"] == "100"


@pytest.mark.parametrize("form", ["wrong_total", "no_link", "no_next", "foreign_link", "duplicate", "drop"])
def test_a_page_may_not_fit_its_neighbours(tiny: Any, client: Any, form: str) -> None:
    right = client(tiny).get(THREADS)
    response = hit(tiny, client, {"type": "page_drift", "form": form, "host": "http://other.test"}, THREADS)
    holds = {
        "wrong_total": response.headers.get("x-total") == "1",
        "no_link": "link" not in response.headers and "x-next-page" in response.headers,
        "no_next": "link" not in response.headers and "x-next-page" not in response.headers,
        "foreign_link": "<http://other.test/" in response.headers.get("link", ""),
        "duplicate": response.json() == right.json()[:1] + right.json(),
        "drop": response.json() == right.json()[1:],
    }

    assert holds[form]


@pytest.mark.parametrize("at", ["request", "headers", "body"])
def test_a_connection_can_be_reset(tiny: Any, client: Any, at: str) -> None:
    tiny.faults([{"times": 1, "action": {"type": "reset", "at": at}}])
    http = client(tiny)
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)) as caught:
        http.get(PATH)

    if at == "request":
        assert isinstance(caught.value, httpx.ReadError)  # RST, not FIN
    assert http.get(PATH).status_code == 200


def test_a_connection_can_be_closed_without_an_answer(tiny: Any, client: Any) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        hit(tiny, client, "closed")


@pytest.mark.parametrize("options", [{}, {"cut": 0}, {"cut": 10**9}, {"chunked": True}])
@pytest.mark.parametrize("path", [PATH, "/projects/71/issues/2"])
def test_a_body_can_end_too_early(tiny: Any, client: Any, options: dict[str, Any], path: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        hit(tiny, client, {"type": "truncated", **options}, path)


def test_a_body_can_be_cut_inside_a_character(tiny: Any, client: Any) -> None:
    whole = client(tiny).get("/projects/71/issues/1").content
    cut = whole.index("Ω".encode()) + 1
    tiny.faults([{"action": {"type": "truncated", "cut": cut}}])
    with client(tiny).stream("GET", "/projects/71/issues/1") as response:
        pieces = response.iter_raw()
        received = next(pieces)
        with pytest.raises(httpx.RemoteProtocolError):
            received += next(pieces)

    assert received == whole[:cut]


def test_a_body_can_drip(tiny: Any) -> None:
    tiny.faults([{"action": {"type": "slow_drip", "bytes_per_s": 50}}])
    host, _, port = tiny.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"GET /api/v4/projects/71 HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while received.count(b"\r\n\r\n") == 0 or len(received.split(b"\r\n\r\n", 1)[1]) < 10:
            received += raw.recv(65536)

    assert len(received.split(b"\r\n\r\n", 1)[1]) < 100


@pytest.mark.parametrize("at", ["headers", "body"])
def test_an_answer_can_stall(tiny: Any, client: Any, at: str) -> None:
    tiny.faults([{"action": {"type": "slow_drip", "at": at, "stall_s": 60}}])
    with pytest.raises(httpx.ReadTimeout):
        client(tiny).get(PATH, timeout=0.2)


def test_a_body_can_be_very_big(tiny: Any, client: Any) -> None:
    tiny.faults([{"action": {"type": "big_body", "mb": 5}}])
    with client(tiny).stream("GET", PATH) as response:
        size = sum(len(piece) for piece in response.iter_raw())

    assert size > 4_900_000


def test_latency_is_waited_side_by_side(tiny: Any, client: Any) -> None:
    tiny.latency(150)
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(lambda _: client(tiny).get(PATH).status_code, range(10)))
    took = time.monotonic() - began

    assert statuses == [200] * 10
    assert 0.15 <= took < 1.4  # one after the other they would take 1.5
    assert tiny.stats()["peak_concurrency"] >= 5


def test_latency_can_be_a_fault_of_one_route(tiny: Any, client: Any) -> None:
    tiny.faults([{"match": {"route": "*/discussions"}, "action": {"type": "latency", "ms": 400}}])
    client(tiny).get(PATH)
    client(tiny).get(f"{PATH}/discussions")
    quick, slow = (entry["ended"] - entry["started"] for entry in tiny.log())

    assert quick < 0.4 <= slow


def test_the_state_can_change_between_two_requests(tiny: Any, client: Any) -> None:
    steps = [{"step": "comment", "kind": "issue", "iid": 5, "body": "In between."}]
    tiny.faults(
        [{"match": {"route": "*/discussions"}, "when": {"nth": 1}, "action": {"type": "mutate", "steps": steps}}]
    )
    http = client(tiny)
    before = http.get(PATH).json()
    threads = http.get(f"{PATH}/discussions").json()

    assert threads[-1]["notes"][0]["body"] == "In between."
    assert before["user_notes_count"] + 1 == http.get(PATH).json()["user_notes_count"]


def test_the_state_can_change_after_an_answer(tiny: Any, client: Any) -> None:
    action = {"type": "mutate", "at": "after", "steps": [{"step": "delete_issue", "iid": 5}]}
    tiny.faults([{"times": 1, "action": action}])
    http = client(tiny)

    assert [http.get(PATH).status_code, http.get(PATH).status_code] == [200, 404]


def test_faults_add_up(tiny: Any, client: Any) -> None:
    tiny.faults([{"action": {"type": "latency", "ms": 50}}, {"action": "forbidden"}])
    response = client(tiny).get(PATH)

    assert response.status_code == 403
    assert float(response.headers["x-runtime"]) >= 0.05


def test_a_fault_never_touches_the_control_routes(tiny: Any) -> None:
    tiny.faults([{"action": "reset"}])

    assert tiny.log() == []
    tiny.reset()


def test_a_reset_of_the_server_ends_all_faults(tiny: Any, client: Any) -> None:
    tiny.faults([{"action": "forbidden"}])
    tiny.latency(5000)
    tiny.reset()

    assert client(tiny).get(PATH, timeout=2).status_code == 200


def test_every_action_has_a_test_above() -> None:
    tested = {"latency", "mutate", *DISTORTIONS, *DELIVERIES}

    assert set(ACTIONS) == tested
    assert len(tested) == 20


def test_the_log_says_what_was_asked(tiny: Any, client: Any) -> None:
    http = client(tiny)
    http.get(THREADS, params={"page": 2})
    http.get("/nothing")
    first, second = tiny.log()

    assert first["route"] == "/projects/:id/issues/:iid/discussions"
    assert (first["kind"], first["iid"], first["page"], first["status"]) == ("issue", 4, 2, 200)
    assert (first["method"], first["path"], first["query"]) == ("GET", f"/api/v4{THREADS}", "page=2")
    assert first["token"] == "full"
    assert first["ended"] >= first["started"]
    assert first["size_bytes"] > 1000
    assert first["connection"] == second["connection"]
    assert (second["route"], second["status"]) == ("unknown", 404)


def test_the_statistics_count_requests_duplicates_and_connections(tiny: Any, client: Any) -> None:
    http = client(tiny)
    for path in (PATH, PATH, f"{PATH}?page=2", "/version"):
        http.get(path)
    stats = tiny.stats()

    assert (stats["requests"], stats["duplicates"], stats["connections"]) == (4, 1, 1)
    assert stats["by_route"] == {"/projects/:id/issues/:iid": 3, "/version": 1}
    assert stats["by_status"] == {"200": 4}


def test_peak_concurrency_counts_requests_under_way_at_once(tiny: Any, client: Any) -> None:
    tiny.latency(500)
    barrier = threading.Barrier(3)

    def ask(_: int) -> None:
        barrier.wait(5)
        client(tiny).get(PATH)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ask, range(3)))

    assert tiny.stats()["peak_concurrency"] == 3
