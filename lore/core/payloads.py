"""GitLab's answers as typed values: bytes in, frozen values out, or a typed error.

Only what identifies a thing, its times and its state must be there. Any other field may be absent (`UNSET`) or null
(`None`), and the two are kept apart, since a server without a feature leaves its fields out. Fields that are not named
here are in `raw`, the thing's JSON text as it was received.

A body that decodes here can be stored: no NUL, no lone surrogate, no number past 63 bits or a double's range, no
nesting that a database's JSON functions refuse, also not inside fields that are unknown to us.

Source: https://docs.gitlab.com/api/rest/ and the pages of each resource.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, Union, overload

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from msgspec.structs import force_setattr

from lore.core.errors import PassingError, RefusedError
from lore.core.plan import (
    CLOSES_ISSUES,
    DIFFS,
    DISCUSSIONS,
    ISSUE,
    LABEL_EVENTS,
    LINKS,
    MERGE_REQUEST,
    MILESTONE_EVENTS,
    PROJECT,
    STATE_EVENTS,
)

T = TypeVar("T")
S = TypeVar("S", bound="Received")

Maybe = Union[T, None, UnsetType]  # noqa: UP007  # msgspec reads the generic alias; `X | Y` has no type variable here
Id = Annotated[int, Meta(ge=1)]
EventKind = Literal["state", "label", "milestone"]

# GitLab nests about ten levels; SQLite's JSON functions refuse 1,000, and a decoder counts the caller's frames too.
MAX_DEPTH: Final = 64
_EVENT_KINDS: Final[dict[str, EventKind]] = {
    STATE_EVENTS: "state",
    LABEL_EVENTS: "label",
    MILESTONE_EVENTS: "milestone",
}


class Milliseconds(int):
    """A moment in integer milliseconds UTC."""


class Received(Struct, frozen=True, kw_only=True):
    """Something GitLab sent.

    Attributes:
        raw: Its JSON text exactly as received.
    """

    # The name under which it would be read from JSON; it is always overwritten, and `raw` itself could be a field.
    raw: str = field(default="", name="lore:raw")


class User(Struct, frozen=True, kw_only=True):
    """A user as other things name it; None in their place is a user that was deleted."""

    id: Maybe[int] = UNSET
    username: Maybe[str] = UNSET
    name: Maybe[str] = UNSET
    state: Maybe[str] = UNSET
    locked: Maybe[bool] = UNSET
    bot: Maybe[bool] = UNSET
    avatar_url: Maybe[str] = UNSET
    web_url: Maybe[str] = UNSET


class Milestone(Struct, frozen=True, kw_only=True):
    """A milestone as other things name it."""

    id: Maybe[int] = UNSET
    iid: Maybe[int] = UNSET
    project_id: Maybe[int] = UNSET
    group_id: Maybe[int] = UNSET
    title: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    state: Maybe[str] = UNSET
    due_date: Maybe[str] = UNSET
    start_date: Maybe[str] = UNSET
    web_url: Maybe[str] = UNSET


class Label(Struct, frozen=True, kw_only=True):
    """A label as a label event names it."""

    id: Maybe[int] = UNSET
    name: Maybe[str] = UNSET
    color: Maybe[str] = UNSET
    text_color: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    description_html: Maybe[str] = UNSET


class References(Struct, frozen=True, kw_only=True):
    """How Markdown refers to an issue or merge request."""

    short: Maybe[str] = UNSET
    relative: Maybe[str] = UNSET
    full: Maybe[str] = UNSET


class TimeStats(Struct, frozen=True, kw_only=True):
    """Estimated and spent time, in seconds and in words."""

    time_estimate: Maybe[int] = UNSET
    total_time_spent: Maybe[int] = UNSET
    human_time_estimate: Maybe[str] = UNSET
    human_total_time_spent: Maybe[str] = UNSET


class TaskStatus(Struct, frozen=True, kw_only=True):
    """How many task list items a description has."""

    count: Maybe[int] = UNSET
    completed_count: Maybe[int] = UNSET


class DiffRefs(Struct, frozen=True, kw_only=True):
    """The commits a merge request's diff is between."""

    base_sha: Maybe[str] = UNSET
    head_sha: Maybe[str] = UNSET
    start_sha: Maybe[str] = UNSET


class Project(Received, frozen=True, kw_only=True):
    """A project; its `raw` says what else GitLab tells of it."""

    id: Id
    path_with_namespace: str
    name: Maybe[str] = UNSET
    name_with_namespace: Maybe[str] = UNSET
    path: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    default_branch: Maybe[str] = UNSET
    visibility: Maybe[str] = UNSET
    archived: Maybe[bool] = UNSET
    issues_enabled: Maybe[bool] = UNSET
    merge_requests_enabled: Maybe[bool] = UNSET
    web_url: Maybe[str] = UNSET
    created_at: Maybe[Milliseconds] = UNSET
    last_activity_at: Maybe[Milliseconds] = UNSET


class Issue(Received, frozen=True, kw_only=True):
    """An issue."""

    id: Id
    iid: Id
    project_id: Id
    state: str
    created_at: Milliseconds
    updated_at: Milliseconds
    title: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    closed_at: Maybe[Milliseconds] = UNSET
    closed_by: Maybe[User] = UNSET
    labels: Maybe[tuple[str, ...]] = UNSET
    milestone: Maybe[Milestone] = UNSET
    author: Maybe[User] = UNSET
    assignees: Maybe[tuple[User, ...]] = UNSET
    assignee: Maybe[User] = UNSET
    issue_type: Maybe[str] = UNSET
    type: Maybe[str] = UNSET
    confidential: Maybe[bool] = UNSET
    discussion_locked: Maybe[bool] = UNSET
    due_date: Maybe[str] = UNSET
    start_date: Maybe[str] = UNSET
    moved_to_id: Maybe[int] = UNSET
    user_notes_count: Maybe[int] = UNSET
    merge_requests_count: Maybe[int] = UNSET
    upvotes: Maybe[int] = UNSET
    downvotes: Maybe[int] = UNSET
    has_tasks: Maybe[bool] = UNSET
    task_status: Maybe[str] = UNSET
    task_completion_status: Maybe[TaskStatus] = UNSET
    time_stats: Maybe[TimeStats] = UNSET
    references: Maybe[References] = UNSET
    web_url: Maybe[str] = UNSET
    severity: Maybe[str] = UNSET
    weight: Maybe[int] = UNSET
    epic_iid: Maybe[int] = UNSET
    health_status: Maybe[str] = UNSET
    blocking_issues_count: Maybe[int] = UNSET
    imported: Maybe[bool] = UNSET
    imported_from: Maybe[str] = UNSET
    service_desk_reply_to: Maybe[str] = UNSET
    subscribed: Maybe[bool] = UNSET


class MergeRequest(Received, frozen=True, kw_only=True):
    """A merge request; its `project_id` is the target project's."""

    id: Id
    iid: Id
    project_id: Id
    state: str
    created_at: Milliseconds
    updated_at: Milliseconds
    title: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    merged_at: Maybe[Milliseconds] = UNSET
    closed_at: Maybe[Milliseconds] = UNSET
    prepared_at: Maybe[Milliseconds] = UNSET
    merge_after: Maybe[Milliseconds] = UNSET
    merge_user: Maybe[User] = UNSET
    merged_by: Maybe[User] = UNSET
    closed_by: Maybe[User] = UNSET
    author: Maybe[User] = UNSET
    assignees: Maybe[tuple[User, ...]] = UNSET
    assignee: Maybe[User] = UNSET
    reviewers: Maybe[tuple[User, ...]] = UNSET
    labels: Maybe[tuple[str, ...]] = UNSET
    milestone: Maybe[Milestone] = UNSET
    source_branch: Maybe[str] = UNSET
    target_branch: Maybe[str] = UNSET
    source_project_id: Maybe[int] = UNSET
    target_project_id: Maybe[int] = UNSET
    draft: Maybe[bool] = UNSET
    work_in_progress: Maybe[bool] = UNSET
    merge_status: Maybe[str] = UNSET
    detailed_merge_status: Maybe[str] = UNSET
    merge_error: Maybe[str] = UNSET
    merge_when_pipeline_succeeds: Maybe[bool] = UNSET
    has_conflicts: Maybe[bool] = UNSET
    blocking_discussions_resolved: Maybe[bool] = UNSET
    discussion_locked: Maybe[bool] = UNSET
    sha: Maybe[str] = UNSET
    merge_commit_sha: Maybe[str] = UNSET
    squash_commit_sha: Maybe[str] = UNSET
    diff_refs: Maybe[DiffRefs] = UNSET
    changes_count: Maybe[str] = UNSET
    squash: Maybe[bool] = UNSET
    squash_on_merge: Maybe[bool] = UNSET
    should_remove_source_branch: Maybe[bool] = UNSET
    force_remove_source_branch: Maybe[bool] = UNSET
    allow_collaboration: Maybe[bool] = UNSET
    allow_maintainer_to_push: Maybe[bool] = UNSET
    approvals_before_merge: Maybe[int] = UNSET
    first_contribution: Maybe[bool] = UNSET
    user_notes_count: Maybe[int] = UNSET
    upvotes: Maybe[int] = UNSET
    downvotes: Maybe[int] = UNSET
    task_completion_status: Maybe[TaskStatus] = UNSET
    time_stats: Maybe[TimeStats] = UNSET
    reference: Maybe[str] = UNSET
    references: Maybe[References] = UNSET
    web_url: Maybe[str] = UNSET
    imported: Maybe[bool] = UNSET
    imported_from: Maybe[str] = UNSET
    subscribed: Maybe[bool] = UNSET


class LinePoint(Struct, frozen=True, kw_only=True):
    """One end of a range of lines."""

    line_code: Maybe[str] = UNSET
    type: Maybe[str] = UNSET
    old_line: Maybe[int] = UNSET
    new_line: Maybe[int] = UNSET


class LineRange(Struct, frozen=True, kw_only=True):
    """The lines that a note of several lines is about."""

    start: Maybe[LinePoint] = UNSET
    end: Maybe[LinePoint] = UNSET


class Position(Struct, frozen=True, kw_only=True):
    """Where in a diff a note stands; partial in notes that are outdated or old.

    An added line has no `old_line`, a removed one no `new_line`, an unchanged one has both.
    """

    base_sha: Maybe[str] = UNSET
    start_sha: Maybe[str] = UNSET
    head_sha: Maybe[str] = UNSET
    old_path: Maybe[str] = UNSET
    new_path: Maybe[str] = UNSET
    position_type: Maybe[str] = UNSET
    old_line: Maybe[int] = UNSET
    new_line: Maybe[int] = UNSET
    line_range: Maybe[LineRange] = UNSET
    width: Maybe[int | float] = UNSET
    height: Maybe[int | float] = UNSET
    x: Maybe[int | float] = UNSET
    y: Maybe[int | float] = UNSET


class Note(Received, frozen=True, kw_only=True):
    """A note; `resolved`, `resolved_by` and `resolved_at` are absent where it is not resolvable."""

    id: Id
    created_at: Milliseconds
    updated_at: Milliseconds
    type: Maybe[str] = UNSET
    body: Maybe[str] = UNSET
    author: Maybe[User] = UNSET
    system: Maybe[bool] = UNSET
    noteable_id: Maybe[int] = UNSET
    noteable_iid: Maybe[int] = UNSET
    noteable_type: Maybe[str] = UNSET
    project_id: Maybe[int] = UNSET
    resolvable: Maybe[bool] = UNSET
    resolved: Maybe[bool] = UNSET
    resolved_by: Maybe[User] = UNSET
    resolved_at: Maybe[Milliseconds] = UNSET
    confidential: Maybe[bool] = UNSET
    internal: Maybe[bool] = UNSET
    commit_id: Maybe[str] = UNSET
    position: Maybe[Position] = UNSET
    imported: Maybe[bool] = UNSET
    imported_from: Maybe[str] = UNSET


class Discussion(Received, frozen=True, kw_only=True):
    """A discussion with its notes in GitLab's order; `resolvable` and `resolved` only from GitLab 19.5."""

    id: str
    notes: tuple[Note, ...]
    individual_note: Maybe[bool] = UNSET
    resolvable: Maybe[bool] = UNSET
    resolved: Maybe[bool] = UNSET


class ResourceEvent(Received, frozen=True, kw_only=True):
    """A change of state, label or milestone.

    Attributes:
        kind: Which of the three lists it is from.
        state: The new state (kind `state`); a milestone event has one too.
        action: `add` or `remove` (kinds `label` and `milestone`).
        label: None once the label was deleted.
    """

    id: Id
    created_at: Milliseconds
    kind: EventKind = field(default="state", name="lore:kind")
    user: Maybe[User] = UNSET
    resource_type: Maybe[str] = UNSET
    resource_id: Maybe[int] = UNSET
    state: Maybe[str] = UNSET
    action: Maybe[str] = UNSET
    label: Maybe[Label] = UNSET
    milestone: Maybe[Milestone] = UNSET
    source_commit: Maybe[str] = UNSET
    source_merge_request_id: Maybe[int] = UNSET


class Diff(Received, frozen=True, kw_only=True):
    """One file of a merge request; an empty `diff` is not "no change" (renamed, binary, collapsed or too large)."""

    old_path: str
    new_path: str
    diff: Maybe[str] = UNSET
    a_mode: Maybe[str] = UNSET
    b_mode: Maybe[str] = UNSET
    new_file: Maybe[bool] = UNSET
    renamed_file: Maybe[bool] = UNSET
    deleted_file: Maybe[bool] = UNSET
    generated_file: Maybe[bool] = UNSET
    collapsed: Maybe[bool] = UNSET
    too_large: Maybe[bool] = UNSET


class EntityLink(Received, frozen=True, kw_only=True):
    """An issue at the other end of a link, or one that a merge request closes.

    Attributes:
        id: A string where the issue lives in another tracker (Jira and the like), which has few other fields.
        issue_link_id: The link's own id, in the list of an issue's links.
    """

    id: Id | str
    iid: Maybe[Id] = UNSET
    project_id: Maybe[Id] = UNSET
    title: Maybe[str] = UNSET
    description: Maybe[str] = UNSET
    state: Maybe[str] = UNSET
    created_at: Maybe[Milliseconds] = UNSET
    updated_at: Maybe[Milliseconds] = UNSET
    closed_at: Maybe[Milliseconds] = UNSET
    author: Maybe[User] = UNSET
    labels: Maybe[tuple[str, ...]] = UNSET
    references: Maybe[References] = UNSET
    web_url: Maybe[str] = UNSET
    issue_link_id: Maybe[Id] = UNSET
    link_type: Maybe[str] = UNSET
    link_created_at: Maybe[Milliseconds] = UNSET
    link_updated_at: Maybe[Milliseconds] = UNSET

    @property
    def is_external(self) -> bool:
        """Whether the issue lives in another tracker."""
        return isinstance(self.id, str)


class ServerVersion(Received, frozen=True, kw_only=True):
    """What a GitLab server says of itself."""

    version: str
    revision: Maybe[str] = UNSET
    enterprise: Maybe[bool] = UNSET


class TokenInfo(Received, frozen=True, kw_only=True):
    """What GitLab knows of the token we use; `expires_at` is a date (`YYYY-MM-DD`), None means never."""

    id: Maybe[int] = UNSET
    name: Maybe[str] = UNSET
    scopes: Maybe[tuple[str, ...]] = UNSET
    active: Maybe[bool] = UNSET
    revoked: Maybe[bool] = UNSET
    expires_at: Maybe[str] = UNSET


Item = Discussion | Diff | ResourceEvent | EntityLink


class _Thread(Struct, frozen=True, kw_only=True):
    """A discussion whose notes are still text."""

    id: str
    notes: list[Raw]
    individual_note: Maybe[bool] = UNSET
    resolvable: Maybe[bool] = UNSET
    resolved: Maybe[bool] = UNSET


class _Listed(Struct, frozen=True):
    iid: int
    project_id: int
    updated_at: Milliseconds


def or_none(value: T | UnsetType) -> T | None:
    """Return the value, or None where it is absent, for a column that cannot tell absent from null."""
    return None if isinstance(value, UnsetType) else value


def parse_timestamp(text: str) -> int:
    """Return the moment that an ISO 8601 timestamp names, in milliseconds UTC, rounded down.

    Any precision, `Z`, `UTC` (old webhooks) and offsets are read; a time without a zone is not.

    Raises:
        ValueError: The text names no moment.
    """
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ValueError("not a timestamp")
    if text[-1] == "Z" and text[10] == "T" and text[11:13] != "24":  # which newer Pythons read as the next day
        # As GitLab writes it; of a page's decoding, taking the others apart would be a third.
        return _parse_usual(text)
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = found.groups()
    try:
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        raise ValueError("not a timestamp") from None
    since = moment - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if sign is not None:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            raise ValueError("not a timestamp")
        offset_s = int(offset_hours) * 3_600 + int(offset_minutes) * 60
        seconds += -offset_s if sign == "+" else offset_s
    return seconds * 1_000 + int((fraction or "")[:3].ljust(3, "0"))


def _parse_usual(text: str) -> int:
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except ValueError:
        raise ValueError("not a timestamp") from None
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def decode_project(body: bytes) -> Project:
    """Return the project of an answer of `GET /projects/:id`.

    Raises:
        RefusedError: GITLAB_BAD_PAYLOAD.
        PassingError: GITLAB_BROKEN_ANSWER, the body broke off.
    """
    return _decode_object(_PROJECT, body, PROJECT)


@overload
def decode_entity(entity_type: Literal["issue"], body: bytes) -> Issue: ...
@overload
def decode_entity(entity_type: Literal["merge_request"], body: bytes) -> MergeRequest: ...
@overload
def decode_entity(entity_type: str, body: bytes) -> Issue | MergeRequest: ...
def decode_entity(entity_type: str, body: bytes) -> Issue | MergeRequest:
    """Return the issue or merge request of an answer of its own endpoint.

    Raises:
        RefusedError: GITLAB_BAD_PAYLOAD.
        PassingError: GITLAB_BROKEN_ANSWER, the body broke off.
    """
    if entity_type == ISSUE:
        return _decode_object(_ISSUE, body, ISSUE)
    if entity_type == MERGE_REQUEST:
        return _decode_object(_MERGE_REQUEST, body, MERGE_REQUEST)
    raise KeyError(f"no entity type {entity_type!r}")


@overload
def decode_list(job_type: Literal["discussions"], body: bytes, *, is_checked: bool = ...) -> list[Discussion]: ...
@overload
def decode_list(job_type: Literal["diffs"], body: bytes, *, is_checked: bool = ...) -> list[Diff]: ...
@overload
def decode_list(
    job_type: Literal["resource_state_events", "resource_label_events", "resource_milestone_events"],
    body: bytes,
    *,
    is_checked: bool = ...,
) -> list[ResourceEvent]: ...
@overload
def decode_list(
    job_type: Literal["closes_issues", "links"], body: bytes, *, is_checked: bool = ...
) -> list[EntityLink]: ...
@overload
def decode_list(job_type: str, body: bytes, *, is_checked: bool = ...) -> list[Item]: ...
def decode_list(
    job_type: str, body: bytes, *, is_checked: bool = False
) -> list[Discussion] | list[Diff] | list[ResourceEvent] | list[EntityLink] | list[Item]:
    """Return the items of one page of a list endpoint, in GitLab's order.

    Args:
        job_type: The endpoint.
        body: The page.
        is_checked: It was decoded before, and found fit to be stored.

    Raises:
        KeyError: The job type is no list endpoint's.
        RefusedError: GITLAB_BAD_PAYLOAD.
        PassingError: GITLAB_BROKEN_ANSWER, the body broke off.
    """
    decode_item = _ITEMS[job_type]
    raws = _checked(_RAWS, body, job_type, is_checked=is_checked)
    return [decode_item(raw, f"{job_type}[{index}]") for index, raw in enumerate(raws)]


def identity(job_type: str, item: Any) -> str:
    """Return what identifies an item of a list: its paths, its link or its id."""
    if job_type == DIFFS:
        return f"{item.old_path}\0{item.new_path}"
    if job_type == LINKS and isinstance(item.issue_link_id, int):
        return f"link {item.issue_link_id}"
    return str(item.id)


def decode_listing(body: bytes) -> list[tuple[int, int, int]]:
    """Return (iid, project_id, updated_at) of each row of a project's list of issues or merge requests.

    Raises:
        RefusedError: GITLAB_BAD_PAYLOAD.
        PassingError: GITLAB_BROKEN_ANSWER, the body broke off.
    """
    return [(row.iid, row.project_id, int(row.updated_at)) for row in _checked(_LISTING, body, "list")]


def decode_version(body: bytes) -> ServerVersion:
    """Return the answer of `GET /version`."""
    return _decode_object(_VERSION, body, "version")


def decode_token(body: bytes) -> TokenInfo:
    """Return the answer of `GET /personal_access_tokens/self`."""
    return _decode_object(_TOKEN, body, "personal_access_tokens/self")


def _read_timestamp(wanted: type, value: object) -> Milliseconds:
    if wanted is Milliseconds and isinstance(value, str):
        return Milliseconds(parse_timestamp(value))
    raise ValueError("not a timestamp")


def _decoder(wanted: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(wanted, dec_hook=_read_timestamp)


def _decode_object(decoder: msgspec.json.Decoder[S], body: bytes, what: str) -> S:
    value = _checked(decoder, body, what)
    force_setattr(value, "raw", body.decode())
    return value


def _checked(decoder: msgspec.json.Decoder[T], body: bytes, what: str, *, is_checked: bool = False) -> T:
    """Decode a whole body, and refuse what could be decoded but not stored."""
    if not body.strip():
        _refuse(what, "it is empty")
    try:
        # A decoder skips the inside of strings it was not asked for.
        body.decode()
        value = decoder.decode(body)
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            _raise_broken(what, error)
        _refuse(what, "its text is not UTF-8", error)
    except RecursionError as error:
        _refuse(what, f"it is nested more than {MAX_DEPTH} levels deep", error)
    except msgspec.ValidationError as error:
        _refuse(what, str(error), error)
    except msgspec.DecodeError as error:
        if _broke_off(error, body):
            _raise_broken(what, error)
        _refuse(what, "a string holds a lone surrogate" if "truncated" in str(error) else str(error), error)
    reason = None if is_checked else _why_not_storable(body)
    if reason is not None:
        _refuse(what, reason)
    return value


def _decode_item(decoder: msgspec.json.Decoder[S], raw: Raw, where: str) -> S:
    try:
        value = decoder.decode(raw)
    except msgspec.DecodeError as error:
        _refuse(where, str(error), error)
    force_setattr(value, "raw", bytes(raw).decode())
    return value


def _decode_discussion(raw: Raw, where: str) -> Discussion:
    try:
        thread = _THREAD.decode(raw)
    except msgspec.DecodeError as error:
        _refuse(where, str(error), error)
    return Discussion(
        id=thread.id,
        notes=tuple(_decode_item(_NOTE, note, f"{where}.notes[{index}]") for index, note in enumerate(thread.notes)),
        individual_note=thread.individual_note,
        resolvable=thread.resolvable,
        resolved=thread.resolved,
        raw=bytes(raw).decode(),
    )


def _event_decoder(job_type: str) -> Callable[[Raw, str], ResourceEvent]:
    kind = _EVENT_KINDS[job_type]
    needed = "state" if kind == "state" else "action"

    def decode(raw: Raw, where: str) -> ResourceEvent:
        event = _decode_item(_EVENT, raw, where)
        if not isinstance(getattr(event, needed), str):
            _refuse(where, f"Object missing required field `{needed}`")
        force_setattr(event, "kind", kind)
        return event

    return decode


def _decode_closed_issue(raw: Raw, where: str) -> EntityLink:
    link = _decode_item(_LINK, raw, where)
    if not link.is_external and not isinstance(link.iid, int):
        _refuse(where, "Object missing required field `iid`")
    return link


def _decode_link(raw: Raw, where: str) -> EntityLink:
    link = _decode_closed_issue(raw, where)
    if not isinstance(link.issue_link_id, int):
        _refuse(where, "Object missing required field `issue_link_id`")
    return link


def _why_not_storable(body: bytes) -> str | None:
    """Say what in a body of valid JSON no table can hold; None if all of it can be stored."""
    if b"\\u0000" in body and _NUL.search(body):
        return "a string holds a NUL character"
    skeleton = _STRING.sub(b"", body)
    if _BIG_NUMBER.search(skeleton):
        for number in _NUMBER.findall(skeleton):
            if not _fits_64_bits(number):
                return "a number is too large to be stored"
    brackets = _NO_BRACKETS.sub(b"", skeleton)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return None
        brackets = _INNERMOST.sub(b"", brackets)
    return f"it is nested more than {MAX_DEPTH} levels deep" if brackets else None


def _fits_64_bits(number: bytes) -> bool:
    """Tell whether a JSON number is a signed 64 bit integer or within a double's range."""
    if re.search(rb"[.eE]", number):
        return math.isfinite(float(number))
    return len(number) <= 20 and -(2**63) <= int(number) < 2**63


def _broke_off(error: msgspec.DecodeError, body: bytes) -> bool:
    """Tell a body that ends too early from one that is wrong."""
    message = str(error)
    if "truncated" not in message:
        place = _PLACE.search(message)
        return place is not None and int(place[1]) >= len(body)
    # msgspec also calls a whole body truncated when it looks past the end for the other half of a lone surrogate.
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def _refuse(what: str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise RefusedError("GITLAB_BAD_PAYLOAD", f"GitLab's answer cannot be used: {what}: {reason}") from cause


def _raise_broken(what: str, cause: Exception) -> NoReturn:
    raise PassingError("GITLAB_BROKEN_ANSWER", f"GitLab's answer broke off: {what}") from cause


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r" ?(?:Z|UTC|([+-])([0-9]{2}):?([0-9]{2}))"
)
# In valid JSON a backslash stands only inside a string, so an odd number of them before the `u` is an escape.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# Cheap to look for in a body that has none, as most do.
_BIG_NUMBER: Final = re.compile(rb"[0-9]{19}|[0-9][eE]")
_NUMBER: Final = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INNERMOST: Final = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS: Final = re.compile(rb"[^\[\]{}]+")
_PLACE: Final = re.compile(r"\(byte ([0-9]+)\)")

_PROJECT: Final = _decoder(Project)
_ISSUE: Final = _decoder(Issue)
_MERGE_REQUEST: Final = _decoder(MergeRequest)
_NOTE: Final = _decoder(Note)
_THREAD: Final = _decoder(_Thread)
_EVENT: Final = _decoder(ResourceEvent)
_DIFF: Final = _decoder(Diff)
_LINK: Final = _decoder(EntityLink)
_VERSION: Final = _decoder(ServerVersion)
_TOKEN: Final = _decoder(TokenInfo)
_RAWS: Final = _decoder(list[Raw])
_LISTING: Final = _decoder(list[_Listed])

_ITEMS: Final[dict[str, Callable[[Raw, str], Any]]] = {
    DISCUSSIONS: _decode_discussion,
    STATE_EVENTS: _event_decoder(STATE_EVENTS),
    LABEL_EVENTS: _event_decoder(LABEL_EVENTS),
    MILESTONE_EVENTS: _event_decoder(MILESTONE_EVENTS),
    DIFFS: lambda raw, where: _decode_item(_DIFF, raw, where),
    CLOSES_ISSUES: _decode_closed_issue,
    LINKS: _decode_link,
}
