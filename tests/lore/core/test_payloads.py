"""What of GitLab's answers becomes a value, and what is refused."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from lore.core import plan
from lore.core.errors import LoreError, PassingError, RefusedError
from lore.core.payloads import (
    MAX_DEPTH,
    Issue,
    decode_entity,
    decode_list,
    decode_project,
    decode_token,
    decode_version,
    identity,
    or_none,
    parse_timestamp,
)

AT = "2026-09-30T17:46:43.118Z"
AT_MS = 1_790_790_403_118
LIST_JOBS = sorted({endpoint.job_type for each in plan.ENDPOINTS.values() for endpoint in each if endpoint.is_list})


def issue_json(**fields: Any) -> dict[str, Any]:
    return {
        "id": 9_007_199_254_740_993, "iid": 7, "project_id": 3, "state": "opened", "created_at": AT, "updated_at": AT,
    } | fields  # fmt: skip


def note_json(**fields: Any) -> dict[str, Any]:
    return {"id": 3_932_641_794, "created_at": AT, "updated_at": AT} | fields


def discussion_json(**fields: Any) -> dict[str, Any]:
    return {"id": "6a9c1750b37d513a43987b574953fceb50b03ce7", "individual_note": True, "notes": [note_json()]} | fields


def event_json(**fields: Any) -> dict[str, Any]:
    return {"id": 11, "user": {"id": 1}, "created_at": AT, "resource_type": "Issue", "resource_id": 5} | fields


def link_json(**fields: Any) -> dict[str, Any]:
    return {"id": 84, "iid": 14, "project_id": 4, "issue_link_id": 1, "link_type": "relates_to"} | fields


ITEMS: dict[str, dict[str, Any]] = {
    plan.DISCUSSIONS: discussion_json(),
    plan.STATE_EVENTS: event_json(state="closed"),
    plan.LABEL_EVENTS: event_json(action="add", label={"id": 4, "name": "bug"}),
    plan.MILESTONE_EVENTS: event_json(action="add", milestone={"id": 6, "title": "v1"}, state="opened"),
    plan.DIFFS: {"old_path": "a", "new_path": "b", "diff": ""},
    plan.CLOSES_ISSUES: issue_json(),
    plan.LINKS: link_json(),
}


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def refused(call: Any, *args: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        call(*args)
    assert caught.value.code == "GITLAB_BAD_PAYLOAD"
    return caught.value


def broken_off(call: Any, *args: Any) -> PassingError:
    with pytest.raises(PassingError) as caught:
        call(*args)
    assert caught.value.code == "GITLAB_BROKEN_ANSWER"
    return caught.value


# --- timestamps


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:00Z", 0),
        (AT, AT_MS),
        ("2026-09-30T13:46:43.118-04:00", AT_MS),
        ("2026-09-30T19:46:43.118+0200", AT_MS),
        ("2026-09-30T17:46:43Z", AT_MS - 118),
        ("2026-09-30T17:46:43.1Z", AT_MS - 18),
        ("2026-09-30T17:46:43.118999999Z", AT_MS),
        ("2026-09-30 17:46:43 UTC", AT_MS - 118),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00+23:59", -62_135_596_800_000 - (23 * 60 + 59) * 60_000),
    ],
)
def test_a_timestamp_is_read_in_every_form_gitlab_sends(text: str, moment: int) -> None:
    assert parse_timestamp(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "2026-09-30", "2026-09-30T17:46:43", "2026-02-30T00:00:00Z", "2026-09-30T24:00:00Z",
        "2026-09-30T17:46:61Z", "2026-09-30T17:46:43+99:00", "2026-09-30T17:46:43+00:75", "0000-01-01T00:00:00Z",
        " 2026-09-30T17:46:43Z", "2026-09-30T17:46:43Z\n", "20260930T174643Z", "٢٠٢٦-09-30T17:46:43Z", "1790790403",
    ],
)  # fmt: skip
def test_what_names_no_moment_is_no_timestamp(text: str) -> None:
    with pytest.raises(ValueError, match="not a timestamp"):
        parse_timestamp(text)


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 1, 1)),
    st.integers(min_value=-14 * 60, max_value=14 * 60),
)
def test_a_timestamp_is_the_same_moment_in_every_zone_rounded_down_to_the_millisecond(
    local: datetime, offset_minutes: int
) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))

    found = parse_timestamp(moment.isoformat(timespec="microseconds"))

    assert found == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(st.text())
def test_a_text_is_a_timestamp_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert isinstance(parse_timestamp(text), int)


@pytest.mark.parametrize("value", ["soon", 1_790_790_403, None, {"at": AT}, True])
def test_a_field_that_holds_no_timestamp_is_named(value: object) -> None:
    error = refused(decode_entity, "issue", body(issue_json(updated_at=value)))

    assert "updated_at" in error.message


# --- what is there, and what need not be


def test_an_issue_needs_only_its_identity_its_times_and_its_state() -> None:
    issue = decode_entity("issue", body(issue_json()))

    assert (issue.id, issue.iid, issue.project_id) == (9_007_199_254_740_993, 7, 3)
    assert (issue.state, issue.created_at, issue.updated_at) == ("opened", AT_MS, AT_MS)
    assert issue.title is UNSET


@pytest.mark.parametrize("field", ["id", "iid", "project_id", "state", "created_at", "updated_at"])
@pytest.mark.parametrize("entity_type", plan.ENTITY_TYPES)
def test_an_entity_without_what_it_needs_is_refused_by_the_fields_name(entity_type: str, field: str) -> None:
    answer = issue_json()
    del answer[field]

    error = refused(decode_entity, entity_type, body(answer))

    assert f"`{field}`" in error.message


@pytest.mark.invariant("I14")
def test_absent_is_not_null() -> None:
    with_null = decode_entity("issue", body(issue_json(weight=None)))
    without = decode_entity("issue", body(issue_json()))

    assert with_null.weight is None
    assert without.weight is UNSET
    assert or_none(without.weight) is None


@pytest.mark.invariant("I14")
def test_unknown_fields_are_kept_in_raw_as_they_were_received() -> None:
    text = json.dumps(issue_json(brand_new={"a": [1.50, None]}, raw=5, **{"lore:raw": "x"}), indent=1)

    issue = decode_entity("issue", text.encode())

    assert issue.raw == text


@pytest.mark.invariant("I14")
def test_every_item_of_a_list_and_every_note_keeps_its_own_raw_text() -> None:
    note = f'{{ "id":5,"created_at":"{AT}", "updated_at":"{AT}","body":"caf\\u00e9 🦀" }}'
    item = f'{{"id": "abc",\n"notes": [ {note} ] , "new": 1}}'

    (discussion,) = decode_list(plan.DISCUSSIONS, f" [ {item} ] ".encode())

    assert discussion.raw == item
    assert discussion.notes[0].raw == note
    assert discussion.notes[0].body == "café 🦀"


def test_every_field_of_an_issue_is_readable() -> None:
    answer = issue_json(
        title="t", description=None, closed_at=AT, closed_by={"id": 1, "username": "ann"}, labels=["a", "b::c"],
        milestone={"id": 2, "iid": 1, "title": "v1", "due_date": "2026-01-01"}, assignees=[{"username": "bo"}],
        author=None, due_date="2026-10-01", confidential=True, discussion_locked=None, issue_type="incident",
        type="INCIDENT", web_url="https://h/-/work_items/7", moved_to_id=22, user_notes_count=4, upvotes=1, downvotes=0,
        merge_requests_count=2, references={"short": "#7", "relative": "#7", "full": "g/p#7"}, weight=3,
        time_stats={"time_estimate": 60, "human_time_estimate": "1m"}, has_tasks=True, severity="UNKNOWN",
        task_completion_status={"count": 2, "completed_count": 1}, start_date="2026-09-01", imported=False,
    )  # fmt: skip

    issue = decode_entity("issue", body(answer))

    assert issue.closed_at == AT_MS
    assert or_none(issue.closed_by).username == "ann"
    assert issue.labels == ("a", "b::c")
    assert or_none(issue.milestone).title == "v1"
    assert [user.username for user in or_none(issue.assignees)] == ["bo"]
    assert issue.author is None
    assert or_none(issue.references).full == "g/p#7"
    assert or_none(issue.time_stats).time_estimate == 60
    assert or_none(issue.task_completion_status).completed_count == 1
    assert (issue.confidential, issue.moved_to_id, issue.weight, issue.due_date) == (True, 22, 3, "2026-10-01")


def test_a_merge_request_may_have_nulls_where_real_ones_have_them() -> None:
    nulls = (
        "sha", "source_project_id", "changes_count", "diff_refs", "merge_commit_sha", "squash_commit_sha", "merged_by",
        "merge_user", "merged_at", "closed_by", "closed_at", "prepared_at", "milestone", "head_pipeline", "merge_after",
        "discussion_locked", "approvals_before_merge", "author", "assignee", "description",
    )  # fmt: skip

    merge_request = decode_entity("merge_request", body(issue_json(**dict.fromkeys(nulls))))

    assert all(getattr(merge_request, name) is None for name in nulls if name != "head_pipeline")


def test_the_count_of_changes_is_a_text_as_it_can_end_in_a_plus() -> None:
    assert decode_entity("merge_request", body(issue_json(changes_count="1000+"))).changes_count == "1000+"


def test_a_note_says_where_in_the_diff_it_stands() -> None:
    position = {
        "base_sha": "b", "start_sha": "s", "head_sha": "h", "old_path": "old.py", "new_path": "new.py",
        "position_type": "text", "old_line": None, "new_line": 27,
        "line_range": {"start": {"line_code": "c", "type": "new", "old_line": None, "new_line": 26}, "end": None},
    }  # fmt: skip
    note = note_json(type="DiffNote", resolvable=True, resolved=True, resolved_by={"id": 1}, resolved_at=AT)

    (discussion,) = decode_list(plan.DISCUSSIONS, body([discussion_json(notes=[note | {"position": position}])]))

    found = or_none(discussion.notes[0].position)
    assert (found.old_path, found.new_path, found.old_line, found.new_line) == ("old.py", "new.py", None, 27)
    assert found.line_range.start.new_line == 26
    assert found.line_range.end is None
    assert discussion.notes[0].resolved_at == AT_MS


def test_a_position_of_an_outdated_note_may_be_partial_or_null() -> None:
    partial = note_json(position={"new_path": "a"})
    without = note_json(position=None)

    (discussion,) = decode_list(plan.DISCUSSIONS, body([discussion_json(notes=[partial, without])]))

    assert [or_none(note.position) and note.position.new_path for note in discussion.notes] == ["a", None]


def test_the_label_of_a_label_event_is_null_once_it_was_deleted() -> None:
    (event,) = decode_list(plan.LABEL_EVENTS, body([event_json(action="remove", label=None, user=None)]))

    assert (event.kind, event.action, event.label, event.user) == ("label", "remove", None, None)


@pytest.mark.parametrize(
    ("job_type", "kind"),
    [(plan.STATE_EVENTS, "state"), (plan.LABEL_EVENTS, "label"), (plan.MILESTONE_EVENTS, "milestone")],
)
def test_an_event_knows_which_list_it_is_from_whatever_its_json_says(job_type: str, kind: str) -> None:
    (event,) = decode_list(job_type, body([ITEMS[job_type] | {"kind": 7, "lore:kind": "state"}]))

    assert event.kind == kind


@pytest.mark.parametrize(
    ("job_type", "field"),
    [
        (plan.STATE_EVENTS, "state"), (plan.LABEL_EVENTS, "action"), (plan.MILESTONE_EVENTS, "action"),
        (plan.LINKS, "issue_link_id"), (plan.LINKS, "iid"), (plan.CLOSES_ISSUES, "iid"), (plan.DISCUSSIONS, "notes"),
        (plan.DIFFS, "new_path"), (plan.DIFFS, "old_path"),
    ],
)  # fmt: skip
def test_an_item_of_another_list_is_refused(job_type: str, field: str) -> None:
    item = dict(ITEMS[job_type])
    del item[field]

    error = refused(decode_list, job_type, body([ITEMS[job_type], item]))

    assert f"`{field}`" in error.message
    assert f"{job_type}[1]" in error.message


def test_an_issue_of_another_tracker_has_a_text_for_an_id_and_few_fields() -> None:
    (link,) = decode_list(plan.CLOSES_ISSUES, body([{"id": "JIRA-12", "title": "t"}]))

    assert link.is_external
    assert link.id == "JIRA-12"


def test_a_link_says_how_the_issues_are_related() -> None:
    (link,) = decode_list(plan.LINKS, body([link_json(link_type="blocks", link_created_at=AT)]))

    assert (link.issue_link_id, link.link_type, link.link_created_at) == (1, "blocks", AT_MS)
    assert not link.is_external


def test_a_project_needs_its_id_and_its_path() -> None:
    project = decode_project(body({"id": 3, "path_with_namespace": "g/p", "last_activity_at": AT}))

    assert (project.id, project.path_with_namespace, project.last_activity_at) == (3, "g/p", AT_MS)
    refused(decode_project, body({"id": 3}))


def test_the_version_and_the_token_are_read_for_the_doctor() -> None:
    assert decode_version(b'{"version":"18.9.0-pre","revision":"abc"}').version == "18.9.0-pre"
    token = decode_token(b'{"id":1,"scopes":["read_api"],"expires_at":"2027-01-01","revoked":false}')
    assert (token.scopes, token.expires_at) == (("read_api",), "2027-01-01")


@pytest.mark.parametrize("job_type", LIST_JOBS)
def test_a_list_may_be_empty(job_type: str) -> None:
    assert decode_list(job_type, b"[]") == []
    assert decode_list(job_type, b" [ ] ") == []


def identities(job_type: str, items: list[Any]) -> list[str]:
    return [identity(job_type, item) for item in decode_list(job_type, body(items))]


def test_files_are_identified_by_both_paths_and_links_by_their_own_id() -> None:
    files = [{"old_path": old, "new_path": new} for old, new in [("a", "b"), ("b", "a"), ("c", "a"), ("a", "c")]]
    links = [link_json(issue_link_id=1), link_json(issue_link_id=2)]

    assert len(set(identities(plan.DIFFS, files))) == 4
    assert len(set(identities(plan.LINKS, links))) == 2


def test_an_endpoint_that_is_no_list_of_ours_is_a_bug() -> None:
    with pytest.raises(KeyError):
        decode_list("notes", b"[]")
    with pytest.raises(KeyError):
        decode_entity("epic", b"{}")


# --- what is refused


@pytest.mark.parametrize("wrong", [b"[]", b"null", b'"text"', b"5", b"[{}]", b"true"])
def test_an_object_is_expected_where_one_was_asked_for(wrong: bytes) -> None:
    refused(decode_entity, "issue", wrong)
    refused(decode_project, wrong)


@pytest.mark.parametrize("wrong", [b"{}", b"null", b'"text"', b"[null]", b"[1]", b"[[]]", b'["a"]', b'[{"id":{}}]'])
@pytest.mark.parametrize("job_type", LIST_JOBS)
def test_a_list_of_objects_is_expected_where_one_was_asked_for(job_type: str, wrong: bytes) -> None:
    refused(decode_list, job_type, wrong)


@pytest.mark.parametrize("value", [7.0, 7.5, "7", True, None, 0, -1, [7], 2**63])
def test_an_id_is_a_whole_number_from_one_up(value: object) -> None:
    refused(decode_entity, "issue", body(issue_json(iid=value)))


UNHOLDABLE = {
    "a NUL": b'"a\\u0000b"',
    "a NUL behind an escaped backslash": b'"\\\\\\u0000"',
    "a NUL in a key": b'{"\\u0000":1}',
    "a lone high surrogate": b'"\\ud800"',
    "a lone high surrogate within text": b'"\\uD800 and so on and so on"',
    "a lone low surrogate": b'"\\udc00"',
    "two high surrogates": b'"\\ud800\\ud800"',
    "bad UTF-8": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "2**63": b"9223372036854775808",
    "-2**63 - 1": b"-9223372036854775809",
    "a number of a million digits": b"9" * 1_000_000,
    "a number past a double": b"1e400",
    "a long number past a double": b"9" * 400 + b".5",
    "deep lists": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "deep objects": b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
    "a list bomb": b"[" * 200_000 + b"]" * 200_000,
    "an object bomb": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "a trailing comma": b"[1,]",
    "a raw control character": b'"a\x00b"',
}
HOLDABLE = {
    "an escaped backslash before u0000": b'"\\\\u0000"',
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "2**63 - 1": b"9223372036854775807",
    "-2**63": b"-9223372036854775808",
    "a long fraction": b"0.12345678901234567890123",
    "a small number": b"1e-400",
    "digits in a text": b'"12345678901234567890123 1e400 \\" 12345678901234567890123"',
    "brackets in a text": b'"' + b"[" * 500 + b'"',
    "many lists side by side": b"[" + b"[]," * 500 + b"[]]",
    "control characters": b'"\\u0001\\u001f\\u2028\x7f"',
    "twice the same key": b'{"a":1,"a":2}',
}


@pytest.mark.parametrize("name", UNHOLDABLE)
@pytest.mark.parametrize("inside", ["an unknown field", "a note"])
def test_what_the_tables_cannot_hold_is_refused_wherever_it_stands(name: str, inside: str) -> None:
    value = UNHOLDABLE[name]
    known = body(issue_json())[:-1] + b', "unknown":' + value + b"}"
    note = body(note_json())[:-1] + b', "unknown":' + value + b"}"
    thread = b'[{"id":"a","notes":[' + note + b"]}]"

    if inside == "a note":
        refused(decode_list, plan.DISCUSSIONS, thread)
    else:
        refused(decode_entity, "issue", known)


@pytest.mark.parametrize("name", HOLDABLE)
def test_what_only_looks_like_it_is_kept(name: str) -> None:
    answer = body(issue_json())[:-1] + b', "unknown":' + HOLDABLE[name] + b"}"

    assert decode_entity("issue", answer).raw.encode() == answer


@pytest.mark.parametrize("answer", [b"", b"  \n"])
def test_an_empty_body_is_no_payload(answer: bytes) -> None:
    refused(decode_entity, "issue", answer)


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"<html>", b")]}'", b"[]"])
def test_a_body_that_begins_otherwise_is_no_payload(prefix: bytes) -> None:
    refused(decode_list, plan.DIFFS, prefix + b"[]")


def test_a_body_that_broke_off_anywhere_can_pass() -> None:
    text = 'é \\" \\u00e9 \\ud83d\\ude00 🦀'
    thread = discussion_json(notes=[note_json(body="x")], size=-1.5e3, flag=True)
    answer = json.dumps([thread]).replace('"x"', f'"{text}"').encode()
    assert decode_list(plan.DISCUSSIONS, answer)

    for length in range(1, len(answer)):
        broken_off(decode_list, plan.DISCUSSIONS, answer[:length])


def test_an_error_shows_nothing_of_the_payload() -> None:
    secret = "glpat-hunter2"
    answers = [
        issue_json(id=secret), issue_json(labels=secret), issue_json(created_at=secret), issue_json(state=[secret]),
        issue_json(author=secret),
    ]  # fmt: skip

    for answer in answers:
        error = refused(decode_entity, "issue", body(answer))
        assert secret not in error.message
        assert len(error.message) < 200
    assert secret not in refused(decode_entity, "issue", b'{"' + secret.encode() + b'":\xff}').message


# --- anything at all


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(AT),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(sorted(issue_json())), inner)
    ),
    max_leaves=20,
)
CALLS: list[Any] = [decode_project, decode_version, decode_token, lambda b: decode_entity("issue", b)]
CALLS += [lambda b: decode_entity("merge_request", b)]
CALLS += [lambda b, job=job: decode_list(job, b) for job in LIST_JOBS]


def try_all(answer: bytes) -> None:
    for call in CALLS:
        with suppress(LoreError):
            call(answer)


@given(st.binary())
@example(b'["\\ud800')
@example(b'{"a":"\\')
@example(b"-")
def test_no_bytes_at_all_make_the_decoder_fail_otherwise(answer: bytes) -> None:
    try_all(answer)


@given(JSON)
def test_no_json_at_all_makes_the_decoder_fail_otherwise(value: Any) -> None:
    try_all(json.dumps(value).encode())


@given(st.sampled_from(LIST_JOBS), st.data())
def test_no_change_of_one_field_makes_the_decoder_fail_otherwise(job_type: str, data: st.DataObject) -> None:
    item = dict(ITEMS[job_type])
    item[data.draw(st.sampled_from(sorted(item)))] = data.draw(JSON)

    try_all(body([item]))


@given(
    st.dictionaries(
        st.sampled_from(sorted(Issue.__struct_encode_fields__)).filter(lambda name: not name.startswith("lore:")), JSON
    )
)
def test_what_is_decoded_can_be_written_as_utf_8_without_a_nul(fields: dict[str, Any]) -> None:
    try:
        issue = decode_entity("issue", json.dumps(issue_json(**fields)).encode())
    except LoreError:
        return

    assert "\0" not in issue.raw
    for name in issue.__struct_fields__:
        value = getattr(issue, name)
        if isinstance(value, str):
            assert "\0" not in value
            value.encode()
        if isinstance(value, int):
            assert -(2**63) <= value < 2**63
