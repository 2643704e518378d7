"""Words for the JSON schemas of what commands answer, and the shapes that several of them share.

A command says its own beside its options: `@click.command(cls=Door, data=record(checks=rows(...)))`. A record has all
of its fields and no other; tests/test_manifest.py holds every schema against real answers.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
TRUTH: Schema = {"type": "boolean"}
TIME: Schema = {"type": "string", "format": "date-time"}
# Whatever JSON there is: GitLab's own, or a schema.
ANYTHING: Schema = {}
ENTITY_TYPE: Schema = {"enum": ["issue", "merge_request"]}


def record(**fields: Schema) -> Schema:
    """Return the schema of an object with exactly these fields."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def rows(of: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": of}


def mapping(of: Schema) -> Schema:
    """Return the schema of an object with any names."""
    return {"type": "object", "additionalProperties": of}


def maybe(schema: Schema) -> Schema:
    """Return the schema that also allows null."""
    return either(schema, {"type": "null"})


def either(*schemas: Schema) -> Schema:
    """Return the schema of a value of one of these schemas."""
    return {"anyOf": list(schemas)}


_IIDS = rows({"type": "array", "prefixItems": [ENTITY_TYPE, WHOLE], "minItems": 2, "maxItems": 2})

RUN = record(
    run_id=TEXT,
    project=TEXT,
    kind=TEXT,
    mode={"enum": ["commit", "preflight_only"]},
    status=TEXT,
    stage=TEXT,
    trigger=TEXT,
    retry_of=maybe(TEXT),
    error_code=maybe(TEXT),
    error_message=maybe(TEXT),
    counts=record(
        total=WHOLE,
        ok=WHOLE,
        failed=WHOLE,
        skipped_stale=WHOLE,
        aborted=WHOLE,
        dirty_sources=WHOLE,
        documents_regenerated=WHOLE,
        documents_embedded=WHOLE,
    ),
    failed_iids=_IIDS,
    skipped_stale_iids=_IIDS,
    created_at=TIME,
    finished_at=maybe(TIME),
    elapsed_ms=WHOLE,
)

RUN_AND_ENTITIES = record(
    run=RUN,
    entities=rows(
        record(
            entity_type=ENTITY_TYPE,
            iid=WHOLE,
            stage=TEXT,
            status=TEXT,
            error_code=maybe(TEXT),
            error_message=maybe(TEXT),
            updated_at=TIME,
            settled=maybe(TRUTH),
        )
    ),
)

PLAN = record(
    plan=record(
        gitlab_url=TEXT,
        project=TEXT,
        entities=rows(record(entity_type=ENTITY_TYPE, iid=WHOLE)),
        options=record(mode=TEXT, docs=TRUTH, embed=TRUTH),
        requests=rows(record(entity_type=TEXT, iid=WHOLE, job_type=TEXT, path=TEXT)),
    )
)

_NOTE = record(
    gitlab_id=WHOLE,
    discussion_gitlab_id=TEXT,
    type=maybe(TEXT),
    body=maybe(TEXT),
    author=maybe(TEXT),
    created_at=maybe(TIME),
    updated_at=maybe(TIME),
    system=maybe(TRUTH),
    internal=maybe(TRUTH),
    resolvable=maybe(TRUTH),
    resolved=maybe(TRUTH),
    resolved_by=maybe(TEXT),
    resolved_at=maybe(TIME),
    old_path=maybe(TEXT),
    new_path=maybe(TEXT),
    old_line=maybe(WHOLE),
    new_line=maybe(WHOLE),
    position_type=maybe(TEXT),
)

_ENTITY = {
    "iid": WHOLE,
    "gitlab_id": WHOLE,
    "title": maybe(TEXT),
    "description": maybe(TEXT),
    "state": TEXT,
    "author": maybe(TEXT),
    "assignees": maybe(rows(TEXT)),
    "labels": maybe(rows(TEXT)),
    "milestone": maybe(TEXT),
    "created_at": TIME,
    "updated_at": TIME,
    "closed_at": maybe(TIME),
    "closed_by": maybe(TEXT),
    "user_notes_count": maybe(WHOLE),
    "upvotes": maybe(WHOLE),
    "downvotes": maybe(WHOLE),
    "discussion_locked": maybe(TRUTH),
    "web_url": maybe(TEXT),
    "observed_at": TIME,
    "children_observed_at": maybe(TIME),
    "deleted_at": maybe(TIME),
}

_ISSUE = record(
    **_ENTITY,
    issue_type=maybe(TEXT),
    confidential=maybe(TRUTH),
    due_date=maybe(TEXT),
    weight=maybe(WHOLE),
    merge_requests_count=maybe(WHOLE),
    moved_to_id=maybe(WHOLE),
)

_MERGE_REQUEST = record(
    **_ENTITY,
    draft=maybe(TRUTH),
    source_branch=maybe(TEXT),
    target_branch=maybe(TEXT),
    source_project_id=maybe(WHOLE),
    target_project_id=maybe(WHOLE),
    sha=maybe(TEXT),
    merge_commit_sha=maybe(TEXT),
    squash_commit_sha=maybe(TEXT),
    merged_at=maybe(TIME),
    merged_by=maybe(TEXT),
    prepared_at=maybe(TIME),
    reviewers=maybe(rows(TEXT)),
    detailed_merge_status=maybe(TEXT),
    changes_count=maybe(TEXT),
)

SHOWN = record(
    ref=TEXT,
    project=TEXT,
    entity_type=ENTITY_TYPE,
    entity=either(_ISSUE, _MERGE_REQUEST),
    threads_total=WHOLE,
    threads=rows(record(id=TEXT, individual_note=maybe(TRUTH), resolved=maybe(TRUTH), notes=rows(_NOTE))),
    events=rows(
        record(
            kind=TEXT,
            gitlab_id=WHOLE,
            author=maybe(TEXT),
            created_at=maybe(TIME),
            action=maybe(TEXT),
            state=maybe(TEXT),
            label=maybe(TEXT),
            milestone=maybe(TEXT),
        )
    ),
    files=rows(
        record(
            old_path=maybe(TEXT),
            new_path=maybe(TEXT),
            a_mode=maybe(TEXT),
            b_mode=maybe(TEXT),
            new_file=maybe(TRUTH),
            renamed_file=maybe(TRUTH),
            deleted_file=maybe(TRUTH),
            generated_file=maybe(TRUTH),
            collapsed=maybe(TRUTH),
            too_large=maybe(TRUTH),
        )
    ),
    links=rows(
        record(
            kind=TEXT,
            gitlab_id=TEXT,
            link_type=maybe(TEXT),
            linked_project_id=maybe(WHOLE),
            linked_iid=maybe(WHOLE),
            title=maybe(TEXT),
            state=maybe(TEXT),
            web_url=maybe(TEXT),
        )
    ),
    related=rows(record(relation=TEXT, ref=TEXT, title=maybe(TEXT), state=maybe(TEXT), is_held=TRUTH)),
    fresh=record(observed_at=TIME, children_observed_at=maybe(TIME), settled=TRUTH),
)

_LISTED = {
    "ref": TEXT,
    "project": TEXT,
    "iid": WHOLE,
    "title": maybe(TEXT),
    "state": TEXT,
    "author": maybe(TEXT),
    "assignees": rows(TEXT),
    "labels": rows(TEXT),
    "milestone": maybe(TEXT),
    "user_notes_count": maybe(WHOLE),
    "web_url": maybe(TEXT),
    "created_at": TIME,
    "updated_at": TIME,
    "closed_at": maybe(TIME),
}

ISSUES = record(total=WHOLE, issues=rows(record(**_LISTED, confidential=maybe(TRUTH), due_date=maybe(TEXT))))

MERGE_REQUESTS = record(
    total=WHOLE,
    merge_requests=rows(
        record(
            **_LISTED,
            draft=maybe(TRUTH),
            reviewers=rows(TEXT),
            source_branch=maybe(TEXT),
            target_branch=maybe(TEXT),
            merged_at=maybe(TIME),
        )
    ),
)

_TOUCHING = {
    "ref": TEXT,
    "iid": WHOLE,
    "title": maybe(TEXT),
    "state": TEXT,
    "author": maybe(TEXT),
    "at": TIME,
    "created_at": TIME,
    "merged_at": maybe(TIME),
    "closed_at": maybe(TIME),
    "files": rows(
        record(
            change={"enum": ["added", "renamed", "deleted", "changed"]},
            old_path=TEXT,
            new_path=TEXT,
            lines_added=maybe(WHOLE),
            lines_removed=maybe(WHOLE),
        )
    ),
}

_SAID_OF_FILE = record(
    note_id=WHOLE,
    discussion_id=TEXT,
    author=maybe(TEXT),
    created_at=maybe(TIME),
    path=TEXT,
    line=maybe(WHOLE),
    resolved=maybe(TRUTH),
    snippet=TEXT,
)

# The second is that of --discussions.
HISTORY = record(
    project=TEXT,
    path=TEXT,
    paths=rows(TEXT),
    total=WHOLE,
    history=rows(either(record(**_TOUCHING), record(**_TOUCHING, discussions=rows(_SAID_OF_FILE)))),
)

PEOPLE = record(
    project=TEXT,
    kind={"enum": ["path", "label"]},
    name=TEXT,
    paths=rows(TEXT),
    total=WHOLE,
    people=rows(
        record(
            username=TEXT,
            authored=WHOLE,
            assigned=WHOLE,
            reviewed=WHOLE,
            merged=WHOLE,
            commented=WHOLE,
            total=WHOLE,
            last_at=TIME,
            refs=rows(TEXT),
        )
    ),
)

STORY = record(
    refs=rows(TEXT),
    title=maybe(TEXT),
    total=WHOLE,
    events=rows(
        record(
            at=TIME,
            ref=TEXT,
            kind=TEXT,
            author=maybe(TEXT),
            text=maybe(TEXT),
            cause=maybe(TEXT),
            path=maybe(TEXT),
            line=maybe(WHOLE),
        )
    ),
)

# By entity type: how many in `total`, and in each state that occurs.
_STATES = mapping(WHOLE)

STATS = record(
    gitlab_url=TEXT,
    database=record(kind={"enum": ["postgresql", "sqlite"]}, size_bytes=WHOLE),
    documents=WHOLE,
    embeddings=WHOLE,
    dirty_sources=WHOLE,
    total=WHOLE,
    projects=rows(
        record(
            project=TEXT,
            issues=_STATES,
            merge_requests=_STATES,
            deleted=WHOLE,
            discussions=WHOLE,
            notes=WHOLE,
            events=WHOLE,
            files=WHOLE,
            links=WHOLE,
            oldest_observed_at=maybe(TIME),
            newest_observed_at=maybe(TIME),
            newest_updated_at=maybe(TIME),
            last_run=maybe(record(run_id=TEXT, status=TEXT, finished_at=maybe(TIME))),
        )
    ),
)

# `marks` are where the query's words stand in `snippet`; `why` is the rank from 1 by `text` and by `semantic`, and the
# `similarity`.
FOUND = record(
    query=TEXT,
    mode={"enum": ["hybrid", "text", "semantic"]},
    hits=rows(
        record(
            ref=TEXT,
            type={"enum": ["issue", "merge_request", "discussion"]},
            project=TEXT,
            entity_type=ENTITY_TYPE,
            iid=WHOLE,
            title=TEXT,
            state=maybe(TEXT),
            author=maybe(TEXT),
            updated_at=TIME,
            web_url=maybe(TEXT),
            snippet=TEXT,
            marks=rows({"type": "array", "prefixItems": [WHOLE, WHOLE], "minItems": 2, "maxItems": 2}),
            score=NUMBER,
            why=mapping(NUMBER),
        )
    ),
)

# A command that stays until it is stopped, and ends as what it started does.
ENDED = record(exit=WHOLE)
