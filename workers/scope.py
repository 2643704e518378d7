"""Which projects of the mirror a reading command is about, and how its entities are named."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from lore.core.errors import NotFoundError
from lore.core.plan import Entity, entity_name
from models.base import database
from models.ledger import Project, ProjectPath

T = TypeVar("T")
_CHUNK = 200
_MANY = 1_000
_NO_PROJECT = 0
# More do not fit into a number of 64 bits, nor into any id of GitLab's.
_MOST_DIGITS = 18


def projects_of(gitlab_url: str, project: str | None) -> dict[int, str]:
    """Return the path of each project that is meant, by our id: the named one, or every one of this GitLab.

    Raises:
        NotFoundError: UNKNOWN_PROJECT.
    """
    if project is None:
        rows = Project.select(Project.project_id, Project.path_with_namespace).where(
            Project.gitlab_url == gitlab_url, Project.gitlab_id.is_null(False)
        )
        return dict(rows.order_by(Project.project_id).tuples())
    found = find_project(gitlab_url, project)
    if found is None:
        raise NotFoundError("UNKNOWN_PROJECT", f"the mirror holds nothing of the project {project}")
    return {found.project_id: found.path_with_namespace}


def searched(gitlab_url: str, project: str | None, projects: Mapping[int, str]) -> tuple[int, ...]:
    """Return the ids that narrow a search down to what `projects_of` said; none where the mirror holds nothing else."""
    if project is None and not Project.select().where(Project.gitlab_url != gitlab_url).exists():
        return ()
    return tuple(projects) or (_NO_PROJECT,)


def find_project(gitlab_url: str, project: str) -> Project | None:
    """Return the project of a path, any it ever had, or of a numeric id; None when the mirror has none."""
    found: Project | None = None
    path = ProjectPath.get_or_none(ProjectPath.gitlab_url == gitlab_url, ProjectPath.path == project)
    if path is not None:
        found = Project.get_by_id(path.project_id)
    elif project.isascii() and project.isdigit() and len(project) <= _MOST_DIGITS:
        found = Project.get_or_none(Project.gitlab_url == gitlab_url, Project.gitlab_id == int(project))
    return found


def is_in(table: Any, projects: Mapping[int, str]) -> Any:
    """Return the condition that a row is of these projects and not deleted."""
    ids = list(projects)
    # One project is the usual case, and an index can give its rows in order.
    its = table.project == ids[0] if len(ids) == 1 else table.project.in_(ids)
    return its & table.deleted_at.is_null()


def full_ref(path: str, entity_type: str, iid: int) -> str:
    """Return `group/project!12`."""
    return f"{path}{entity_name(entity_type, iid)}"


def plain_rows(query: Any) -> Iterator[tuple[Any, ...]]:
    """Return a query's rows as the driver gives them: half the time of many rows is their conversion by field.

    Numbers, texts and NULL are what they are; a truth is a number on SQLite.
    """
    return iter(database.execute(query).fetchall())


def in_chunks(values: Collection[T]) -> Iterator[list[T]]:
    """Return the values in lists that stay below every database's limit of parameters."""
    ordered = list(values)
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]


def chosen(column: Any, values: Collection[Any]) -> Iterator[list[Any]]:
    """Return the conditions of the queries that find these rows, and, where there are many, others of the project too.

    Hundreds of lists of numbers cost more than to read the whole project once.
    """
    if len(values) > _MANY:
        yield []
        return
    yield from ([column.in_(chunk)] for chunk in in_chunks(values))


def not_in_mirror(project: str, entity: Entity) -> NotFoundError:
    """Return the error for an entity that the mirror does not hold."""
    name = full_ref(project, entity.entity_type, entity.iid)
    return NotFoundError("NOT_IN_MIRROR", f"the mirror does not hold {name}", ref=shlex.quote(name))
