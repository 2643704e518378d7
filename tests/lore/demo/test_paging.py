"""Pages, filters, orders, caching headers: as GitLab does it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lore.demo import tiny as tiny_profile
from lore.demo.server import running

ISSUES = "/projects/71/issues"


def links(response: Any) -> dict[str, str]:
    return {name: url for url, name in re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers.get("Link", ""))}


def test_a_middle_page_has_every_paging_header(harbour: Any, client: Any) -> None:
    response = client(harbour).get(f"/projects/{harbour.project_id}/issues", params={"page": 2, "per_page": 50})

    paging = {key: value for key, value in response.headers.items() if key.startswith("x-") and "page" in key}
    assert paging == {
        "x-next-page": "3",
        "x-page": "2",
        "x-per-page": "50",
        "x-prev-page": "1",
        "x-total-pages": "8",
    }
    assert response.headers["x-total"] == "400"
    assert list(links(response)) == ["prev", "next", "first", "last"]


def test_first_and_last_pages_have_empty_texts_where_there_is_no_neighbour(tiny: Any, client: Any) -> None:
    only = client(tiny).get(ISSUES)

    assert (only.headers["x-next-page"], only.headers["x-prev-page"]) == ("", "")
    assert list(links(only)) == ["first", "last"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (ISSUES, "id=71&order_by=created_at&page=1&per_page=20&sort=desc&state=all&with_labels_details=false"),
        (
            "/projects/71/merge_requests",
            "id=71&order_by=created_at&page=1&per_page=20&sort=desc&state=all&with_labels_details=false"
            "&with_merge_status_recheck=false",
        ),
        ("/projects/71/issues/5/discussions", "id=71&noteable_id=5&page=1&per_page=20"),
        (
            "/projects/71/issues/5/notes",
            "activity_filter=all_notes&id=71&noteable_id=5&order_by=created_at&page=1&per_page=20&sort=desc",
        ),
        ("/projects/71/issues/5/resource_state_events", "eventable_id=5&id=71&page=1&per_page=20"),
        ("/projects/71/merge_requests/9/commits", "id=71&merge_request_iid=9&page=1&per_page=20"),
        (
            "/projects/tiny%2Fconformance/issues/5/closed_by",
            "id=tiny%2Fconformance&issue_iid=5&page=1&per_page=20",
        ),
    ],
)
def test_a_link_carries_every_declared_parameter_sorted_with_its_default(
    tiny: Any, client: Any, path: str, query: str
) -> None:
    first = links(client(tiny).get(path))["first"]

    assert first == f"{tiny.url}/api/v4{path}?{query}"


def test_a_link_repeats_array_parameters_escaped(tiny: Any, client: Any) -> None:
    first = links(client(tiny).get(ISSUES, params={"iids[]": ["1", "2"]}))["first"]

    assert "?id=71&iids%5B%5D=1&iids%5B%5D=2&order_by=" in first


def test_links_name_the_configured_host_and_not_the_one_that_was_asked() -> None:
    import httpx

    with running("tiny", external_url="https://gitlab.example.com") as demo:
        response = httpx.get(
            f"{demo.url}/api/v4{ISSUES}",
            headers={"PRIVATE-TOKEN": demo.token, "Host": "evil.test"},
            trust_env=False,
            verify=False,
        )

    assert links(response)["first"].startswith("https://gitlab.example.com/api/v4/projects/71/issues?")
    assert response.json()[0]["web_url"].startswith("https://gitlab.example.com/")


def test_a_page_can_be_empty_and_still_have_a_next_one(tiny: Any, client: Any) -> None:
    where = tiny_profile.SHORT_PAGES
    response = client(tiny).get(f"/projects/71/issues/{where.iid}/discussions", params={"per_page": 100, "page": 2})

    assert response.json() == []
    assert response.headers["x-next-page"] == "3"
    assert response.headers["x-total"] == "250"


def test_a_page_can_be_short_and_still_have_a_next_one(tiny: Any, client: Any) -> None:
    http = client(tiny)
    threads = http.get("/projects/71/issues/4/discussions", params={"per_page": 20})
    events = http.get("/projects/71/issues/5/resource_label_events", params={"per_page": 100})

    assert (len(threads.json()), threads.headers["x-next-page"]) == (18, "2")
    assert (len(events.json()), events.headers["x-next-page"]) == (75, "2")


def test_the_largest_page_has_100_rows(tiny: Any, client: Any) -> None:
    response = client(tiny).get("/projects/71/merge_requests/11/diffs", params={"per_page": 1000})

    assert (len(response.json()), response.headers["x-per-page"]) == (100, "100")


def test_a_page_past_the_end_is_an_empty_list(tiny: Any, client: Any) -> None:
    response = client(tiny).get(ISSUES, params={"page": 9})

    assert (response.status_code, response.json()) == (200, [])
    assert (response.headers["x-next-page"], response.headers["x-prev-page"]) == ("", "")


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("page=two", "page is invalid"),
        ("per_page=0", "per_page has a value not allowed"),
        ("iids[]=x", "iids is invalid"),
        ("updated_after=2025-01-01T00:00:00+02:00", "updated_after is invalid"),
        ("updated_after=yesterday", "updated_after is invalid"),
        ("state=asleep", "state does not have a valid value"),
        ("order_by=mood", "order_by does not have a valid value"),
        ("sort=up", "sort does not have a valid value"),
        ("pagination=keyset&cursor=%2A%2A", "cursor is invalid"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(tiny: Any, client: Any, query: str, error: str) -> None:
    response = client(tiny).get(f"{ISSUES}?{query}")

    assert (response.status_code, response.json()) == (400, {"error": error})


def test_past_ten_thousand_rows_there_are_no_totals_and_no_last_page(tiny: Any, client: Any) -> None:
    from lore.demo.tiny_issues import empty

    with tiny.state.lock:
        from lore.demo.dice import Dice

        for iid in range(100, 10_100):
            row = empty(Dice(1))
            row.iid = row.id = iid
            tiny.state.main.issues.add(row)
        tiny.state.changed()
    response = client(tiny).get(ISSUES, params={"page": 3})

    assert "x-total" not in response.headers
    assert "x-total-pages" not in response.headers
    assert list(links(response)) == ["prev", "next", "first"]


def test_an_offset_above_50000_is_refused_where_there_is_a_cursor(tiny: Any, client: Any) -> None:
    response = client(tiny).get(ISSUES, params={"page": 502, "per_page": 100})

    assert response.status_code == 405
    assert "maximum allowed offset of 50000 for requests that return objects of type Issue" in response.json()["error"]


def test_a_cursor_reads_every_issue_once_and_ends_without_a_link(tiny: Any, client: Any) -> None:
    http = client(tiny)
    iids: list[int] = []
    response = http.get(ISSUES, params={"pagination": "keyset", "order_by": "updated_at", "sort": "asc", "per_page": 3})
    for _ in range(4):
        iids += [row["iid"] for row in response.json()]
        assert "x-total" not in response.headers
        assert "x-page" not in response.headers
        if "Link" in response.headers:
            response = http.get(links(response)["next"])

    assert "Link" not in response.headers
    assert sorted(iids) == [1, 2, 3, 4, 5, 7, 8, 9, 11, 12]


def test_there_is_no_cursor_for_merge_requests(tiny: Any, client: Any) -> None:
    response = client(tiny).get("/projects/71/merge_requests", params={"pagination": "keyset"})

    assert response.status_code == 405
    assert response.json() == {"error": "Keyset pagination is not yet available for this type of request"}


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_ties_are_broken_by_the_highest_id_in_both_directions(tiny: Any, client: Any, sort: str) -> None:
    rows = client(tiny).get(ISSUES, params={"order_by": "updated_at", "sort": sort}).json()

    tied = [row["iid"] for row in rows if row["iid"] in tiny_profile.TIED_ISSUES]
    assert tied == sorted(tiny_profile.TIED_ISSUES, reverse=True)


def test_updated_after_includes_the_moment_a_body_showed(tiny: Any, client: Any) -> None:
    http = client(tiny)
    seen = http.get(f"{ISSUES}/8").json()["updated_at"]

    again = http.get(ISSUES, params={"updated_after": seen, "sort": "asc", "order_by": "updated_at"}).json()
    offset = http.get(ISSUES, params={"updated_after": seen.replace("Z", "+00:00")}).json()

    assert 8 in [row["iid"] for row in again]
    assert len(again) == len(offset)


@pytest.mark.parametrize("bound", ["updated_after", "updated_before"])
def test_both_bounds_of_a_time_include_the_moment_they_name(tiny: Any, client: Any, bound: str) -> None:
    truth = tiny.script([{"step": "edit", "kind": "issue", "iid": 8, "title": "At a whole millisecond"}])[0]["truth"]

    rows = client(tiny).get(ISSUES, params={bound: truth["body"]["updated_at"]}).json()

    assert 8 in [row["iid"] for row in rows]


def test_a_list_is_filtered_by_what_it_is_asked_for(tiny: Any, client: Any) -> None:
    http = client(tiny)

    def iids(**query: Any) -> list[int]:
        return sorted(row["iid"] for row in http.get(ISSUES, params=query).json())

    assert iids(state="closed") == [9]
    assert iids(**{"iids[]": [3, 4]}) == [3, 4]
    assert iids(labels="kind: bug,priority::high") == [5]
    assert iids(search="boundless") == []
    assert iids(search="pages") == []
    assert iids(search="WINDOWS") == []
    assert iids(confidential="true") == [11]
    assert iids(issue_type="incident") == [12]
    assert iids(milestone='Late: the "second"') == [5]
    assert iids(updated_before="2025-02-05T00:00:00Z") == [1]
    assert iids(unknown="ignored") == [1, 2, 3, 4, 5, 7, 8, 9, 11, 12]


def test_labels_come_with_details_if_asked_for(tiny: Any, client: Any) -> None:
    row = client(tiny).get(ISSUES, params={"iids[]": 8, "with_labels_details": "true"}).json()[0]

    assert row["labels"][0]["name"] == "plain"
    assert set(row["labels"][0]) == {"id", "name", "color", "description", "description_html", "text_color"}


def test_the_simple_view_of_merge_requests_has_nine_fields(tiny: Any, client: Any) -> None:
    row = client(tiny).get("/projects/71/merge_requests", params={"view": "simple"}).json()[0]

    assert len(row) == 9


def test_offset_pages_read_the_live_state_so_a_list_can_drift(tiny: Any, client: Any) -> None:
    http = client(tiny)
    query = {"order_by": "updated_at", "sort": "asc", "per_page": 5}
    first = [row["iid"] for row in http.get(ISSUES, params=query).json()]
    tiny.script([{"step": "edit", "kind": "issue", "iid": first[0], "title": "Moved to the end"}])
    second = [row["iid"] for row in http.get(ISSUES, params=query | {"page": 2}).json()]

    assert len(set(first + second)) == 9  # the sixth row was skipped


@pytest.mark.parametrize("path", [ISSUES, f"{ISSUES}/5/discussions", f"{ISSUES}/5", "/projects/71"])
def test_an_unchanged_answer_is_304_without_body_but_with_its_paging_headers(tiny: Any, client: Any, path: str) -> None:
    http = client(tiny)
    fresh = http.get(path)
    etag = fresh.headers["etag"]
    again = http.get(path, headers={"If-None-Match": etag})

    assert re.fullmatch(r'W/"[0-9a-f]{32}"', etag)
    assert (again.status_code, again.content) == (304, b"")
    wanted = {
        key: value for key, value in fresh.headers.items() if key.startswith(("x-page", "x-next", "x-total", "link"))
    }
    assert wanted.items() <= dict(again.headers).items()
    assert again.headers["etag"] == etag


def test_a_changed_answer_has_another_etag(tiny: Any, client: Any) -> None:
    http = client(tiny)
    etag = http.get(f"{ISSUES}/5").headers["etag"]
    tiny.script([{"step": "edit", "kind": "issue", "iid": 5, "title": "New"}])
    again = http.get(f"{ISSUES}/5", headers={"If-None-Match": etag})

    assert again.status_code == 200
    assert again.json()["title"] == "New"


def test_notes_come_in_the_order_and_of_the_sort_asked_for(harbour: Any, client: Any, crawl: Any) -> None:
    http, path = client(harbour), f"/projects/{harbour.project_id}/merge_requests/12/notes"
    everything = [note["id"] for note in crawl(http, path)]
    comments = crawl(http, path, activity_filter="only_comments", sort="asc")
    activity = crawl(http, path, activity_filter="only_activity")

    assert everything == sorted(everything, reverse=True)
    assert not any(note["system"] for note in comments)
    assert all(note["system"] for note in activity)
    assert len(comments) + len(activity) == len(everything)
    assert [note["id"] for note in comments] == sorted(note["id"] for note in comments)
