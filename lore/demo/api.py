"""What each route of the API answers: load the rows, check that the reader may see them, render a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lore.demo import listing
from lore.demo.model import (
    Discussion,
    ExternalIssue,
    Issue,
    IssueLink,
    Json,
    Kind,
    MergeRequest,
    Note,
    Project,
)
from lore.demo.paging import paginate, paginate_by_cursor, refuse_deep_offset
from lore.demo.project_body import project_body
from lore.demo.render import NOTEABLE
from lore.demo.replies import Call, Reply, invalid, moved, no_noteable, no_project, no_record
from lore.demo.state import can_see, can_see_project

Handler = Callable[[Call], Reply]
ISSUE_STATES = ("opened", "closed")
MERGE_REQUEST_STATES = ("opened", "closed", "merged", "locked")


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """One GET of the API.

    Attributes:
        template: The path below `/api/v4`, with `:name` for its variable parts.
        needs_token: Also for public projects.
        kind: What the route is about, for log and faults.
        scope: What a token needs for it; `read_user` is contained in `read_api`.
    """

    template: str
    handler: Handler
    needs_token: bool = False
    kind: Kind | None = None
    scope: str = "read_api"


def project_of(call: Call) -> Project:
    """Return the project the path names.

    Raises:
        ApiError: 404 if there is none or the reader may not see it; 301 if it was renamed.
    """
    reference = call.params["id"]
    project = call.state.project(reference)
    if project is None:
        project = call.state.moved_project(reference)
        if project is not None and can_see_project(call.token, project):
            raise moved(_url_by_id(call, project))
    if project is None or not can_see_project(call.token, project):
        raise no_project()
    return project


def _url_by_id(call: Call, project: Project) -> str:
    head, _, tail = call.path.partition("/projects/")
    rest = tail.partition("/")
    return f"{call.state.external_url}{head}/projects/{project.id}{rest[1]}{rest[2]}"


def _iid(call: Call, name: str) -> int:
    text = call.params["iid"]
    if not text.isdecimal():
        raise invalid(name)
    return int(text)


def issue_of(call: Call) -> tuple[Project, Issue]:
    """Return the issue the path names, with its project."""
    project = project_of(call)
    issue = project.issues.get(_iid(call, "issue_iid"))
    if issue is None or not can_see(call.token, "issue", issue):
        raise no_record()
    return project, issue


def merge_request_of(call: Call) -> tuple[Project, MergeRequest]:
    """Return the merge request the path names, with its project."""
    project = project_of(call)
    row = project.merge_requests.get(_iid(call, "merge_request_iid"))
    if row is None:
        raise no_record()
    return project, row


def noteable_of(call: Call, kind: Kind) -> tuple[Project, Issue | MergeRequest]:
    """Return what notes, discussions and events hang on; its absence is worded differently there."""
    project = project_of(call)
    row = project.entity(kind, _iid(call, "noteable_id"))
    if row is None or not can_see(call.token, kind, row):
        raise no_noteable(NOTEABLE[kind])
    return project, row


def version(call: Call) -> Reply:
    """Answer the server's version."""
    return Reply({"version": call.state.flavour.version, "revision": call.state.flavour.revision})


def metadata(call: Call) -> Reply:
    """Answer the server's version and edition."""
    flavour = call.state.flavour
    kas = {"enabled": False, "externalUrl": None, "externalKubernetesProxyUrl": None, "version": None}
    return Reply(
        {
            "version": flavour.version,
            "revision": flavour.revision,
            "kas": kas,
            "enterprise": flavour.is_enterprise,
        }
    )


def project(call: Call) -> Reply:
    """Answer one project."""
    project = project_of(call)
    visible = [issue for issue in project.issues if can_see(call.token, "issue", issue)]
    return Reply(project_body(call, project, open_issues=listing.issue_counts(visible)["opened"]))


def issues(call: Call) -> Reply:
    """Answer a page of a project's issues, by number or by cursor."""
    project = project_of(call)
    rows = listing.listed(call, _visible_issues(call, project), ISSUE_STATES)
    order, sort = listing.ordering(call)
    label_details = call.value("with_labels_details") == "true"
    declared = _list_parameters(call, order, sort)
    renderer = call.renderer(project)

    def render(issue: Issue) -> Json:
        return renderer.issue(issue, label_details=label_details)

    if call.value("pagination") == "keyset":
        key = listing.ORDERS[order]
        return paginate_by_cursor(call, rows, render, declared, lambda row: (key(row), row.id))
    refuse_deep_offset(call, "Issue")
    return paginate(call, rows, render, declared)


def issues_statistics(call: Call) -> Reply:
    """Answer how many issues there are, open and closed, under the same filters as the list."""
    project = project_of(call)
    rows = [
        row for row in _visible_issues(call, project) if all(keep(row) for keep in listing.filters(call, ISSUE_STATES))
    ]
    return Reply({"statistics": {"counts": listing.issue_counts(rows)}})


def issue(call: Call) -> Reply:
    """Answer one issue."""
    project, row = issue_of(call)
    return Reply(call.renderer(project).issue_single(row))


def issue_links(call: Call) -> Reply:
    """Answer the linked issues, seen from this one; GitLab does not page them."""
    project, row = issue_of(call)
    renderer = call.renderer(project)
    found = [(other, link) for link in project.links if (other := _linked(project, link, row.iid)) is not None]
    return Reply([renderer.linked_issue(other, link) for other, link in found if can_see(call.token, "issue", other)])


def closed_by(call: Call) -> Reply:
    """Answer the merge requests whose merge would close the issue."""
    project, row = issue_of(call)
    iids = call.state.closing_merge_requests(project, row.iid)
    renderer = call.renderer(project)
    rows = [project.merge_requests[iid] for iid in iids]
    return paginate(call, rows, renderer.merge_request, _owner_parameters(call, "issue_iid"))


def related_merge_requests(call: Call) -> Reply:
    """Answer the merge requests that mention the issue as closed, whatever their target."""
    project, row = issue_of(call)
    rows = [request for request in project.merge_requests if row.iid in project.closes.get(request.iid, ())]
    renderer = call.renderer(project)
    return paginate(call, rows, renderer.merge_request_single, _owner_parameters(call, "issue_iid"))


def merge_requests(call: Call) -> Reply:
    """Answer a page of a project's merge requests."""
    project = project_of(call)
    rows = listing.listed(call, list(project.merge_requests), MERGE_REQUEST_STATES)
    renderer = call.renderer(project)
    label_details = call.value("with_labels_details") == "true"
    is_simple = call.value("view") == "simple"
    declared = _list_parameters(call, *listing.ordering(call)) | {"with_merge_status_recheck": "false"}

    def render(row: MergeRequest) -> Json:
        if is_simple:
            return renderer.merge_request_simple(row)
        return renderer.merge_request(row, label_details=label_details)

    return paginate(call, rows, render, declared)


def merge_request(call: Call) -> Reply:
    """Answer one merge request."""
    project, row = merge_request_of(call)
    return Reply(call.renderer(project).merge_request_single(row))


def changes(call: Call) -> Reply:
    """Answer a merge request with all its diffs, unpaged."""
    project, row = merge_request_of(call)
    return Reply(call.renderer(project).merge_request_changes(row))


def diffs(call: Call) -> Reply:
    """Answer the diffs of a merge request's latest version."""
    project, row = merge_request_of(call)
    declared = _owner_parameters(call, "merge_request_iid") | {"unidiff": "false"}
    return paginate(call, row.latest.diffs, call.renderer(project).diff, declared)


def commits(call: Call) -> Reply:
    """Answer the commits of a merge request, the newest first."""
    project, row = merge_request_of(call)
    newest_first = row.latest.commits[::-1]
    return paginate(call, newest_first, call.renderer(project).commit, _owner_parameters(call, "merge_request_iid"))


def versions(call: Call) -> Reply:
    """Answer what each push made of a merge request, the newest first."""
    project, row = merge_request_of(call)
    renderer = call.renderer(project)
    return paginate(
        call,
        row.versions[::-1],
        lambda item: renderer.version(item, row),
        _owner_parameters(call, "merge_request_iid"),
    )


def one_version(call: Call) -> Reply:
    """Answer one version, with its commits and diffs."""
    project, row = merge_request_of(call)
    found = _by_id(row.versions, call.params["child_id"])
    return Reply(call.renderer(project).version_single(found, row))


def closes_issues(call: Call) -> Reply:
    """Answer the issues a merge would close: none unless the target is the default branch."""
    project, row = merge_request_of(call)
    renderer = call.renderer(project)
    rows: list[Issue | ExternalIssue] = []
    if row.target_branch == project.default_branch:
        iids = project.closes.get(row.iid, ())
        found = [issue for iid in iids if (issue := project.issues.get(iid)) is not None]
        rows += [issue for issue in found if can_see(call.token, "issue", issue)]
        rows += project.closes_external.get(row.iid, ())

    def render(item: Issue | ExternalIssue) -> Json:
        return renderer.external_issue(item) if isinstance(item, ExternalIssue) else renderer.issue_basic(item)

    return paginate(call, rows, render, _owner_parameters(call, "merge_request_iid"))


def visible_notes(call: Call, notes: list[Note]) -> list[Note]:
    """Return the notes the reader may see."""
    sees_internal = call.token is not None and call.token.sees_confidential
    return [note for note in notes if not note.hidden and (sees_internal or not note.internal)]


def discussions(kind: Kind) -> Handler:
    """Answer the threads, by their first note."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        renderer = call.renderer(project)

        def render(thread: Discussion) -> Json | None:
            shown = visible_notes(call, thread.notes)
            return renderer.discussion(thread, shown, row) if shown else None

        rows = sorted(row.discussions, key=lambda thread: (thread.notes[0].created_at, thread.notes[0].id))
        return paginate(call, rows, render, _noteable_parameters(call))

    return handler


def one_discussion(kind: Kind) -> Handler:
    """Answer one thread."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        thread = next((thread for thread in row.discussions if thread.id == call.params["child_id"]), None)
        shown = visible_notes(call, thread.notes) if thread else []
        if thread is None or not shown:
            raise no_noteable("Discussion")
        return Reply(call.renderer(project).discussion(thread, shown, row))

    return handler


def notes(kind: Kind) -> Handler:
    """Answer the notes as a flat list, the newest first."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        renderer = call.renderer(project)
        activity = call.value("activity_filter") or "all_notes"
        order, sort = listing.ordering(call)
        rows = [note for note in row.notes() if activity in ("all_notes", _activity(note))]
        if order == "updated_at":
            rows.sort(key=lambda note: (note.updated_at, note.id))
        if sort == "desc":
            rows.reverse()
        declared = _noteable_parameters(call) | {"activity_filter": activity, "order_by": order, "sort": sort}
        return paginate(
            call, rows, lambda note: renderer.note(note, row) if visible_notes(call, [note]) else None, declared
        )

    return handler


def one_note(kind: Kind) -> Handler:
    """Answer one note."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        note = _by_id(visible_notes(call, row.notes()), call.params["child_id"])
        return Reply(call.renderer(project).note(note, row))

    return handler


def events(kind: Kind, name: str) -> Handler:
    """Answer the events of one sort: `name` is `state`, `label` or `milestone`."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        render = getattr(call.renderer(project), f"{name}_event")
        rows = sorted(getattr(row, f"{name}_events"), key=lambda event: int(event.id))
        declared = {"id": call.params["id"], "eventable_id": call.params["iid"]}
        return paginate(call, rows, lambda event: None if event.hidden else render(event, row), declared)

    return handler


def one_event(kind: Kind, name: str) -> Handler:
    """Answer one event of one sort."""

    def handler(call: Call) -> Reply:
        project, row = noteable_of(call, kind)
        shown = [event for event in getattr(row, f"{name}_events") if not event.hidden]
        event = _by_id(shown, call.params["child_id"])
        return Reply(getattr(call.renderer(project), f"{name}_event")(event, row))

    return handler


def _by_id(rows: list[Any], text: str) -> Any:
    found = next((row for row in rows if str(row.id) == text), None)
    if found is None:
        raise no_record()
    return found


def _activity(note: Note) -> str:
    return "only_activity" if note.system else "only_comments"


def _visible_issues(call: Call, project: Project) -> list[Issue]:
    return [issue for issue in project.issues if can_see(call.token, "issue", issue)]


def _linked(project: Project, link: IssueLink, iid: int) -> Issue | None:
    if iid not in (link.source_iid, link.target_iid):
        return None
    return project.issues.get(link.target_iid if link.source_iid == iid else link.source_iid)


def _list_parameters(call: Call, order: str, sort: str) -> dict[str, str]:
    return {
        "id": call.params["id"],
        "order_by": order,
        "sort": sort,
        "state": "all",
        "with_labels_details": "false",
    }


def _owner_parameters(call: Call, name: str) -> dict[str, str]:
    return {"id": call.params["id"], name: call.params["iid"]}


def _noteable_parameters(call: Call) -> dict[str, str]:
    return {"id": call.params["id"], "noteable_id": call.params["iid"]}
