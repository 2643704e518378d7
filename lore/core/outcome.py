"""What a command answers: one JSON object for robots, lines for people, and an exit status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from lore.core.errors import CODES, Exit, LoreError, RunError, UsageError
from lore.core.fields import Fields, select
from lore.core.plan import Entity, api_path, endpoint_of, plan_tasks

if TYPE_CHECKING:
    from lore.core.runs import RunOptions

# The public codes of warnings; a warning never changes the exit status.
WARNINGS: Final[dict[str, str]] = {
    "UNKNOWN_SETTING": "a LORE_* name that is no setting",
    "OPEN_SETTINGS_FILE": "a password in a settings file that others can read",
    "BROKER_UNREACHABLE": "Redis does not answer: the run stays queued and is sent later",
    "NO_LIVE_WORKER": "no worker is there to take the run",
    "SYNC_ACTIVE": "a sync of the project is under way already, so nothing was begun",
    "EMBEDDINGS_OFF": "embeddings are off, so only words were searched",
    "NO_VECTORS": "no document has a vector yet, so only words were searched",
    "OTHER_MODEL": "documents were embedded with another model, and are not found by their meaning",
    "SEARCHED_IN_PART": "not every document was looked at: the query is no word, or too common a one, or too many"
    " vectors are of older texts",
    "LEFT_QUEUED": "the run was written and waits for a worker",
    "CORRECTED": "a mistyped command or option was read as the only one it can mean",
    "NO_BROWSER": "no browser could be opened for --open",
}


@dataclass(frozen=True)
class Warned:
    """Something to know that did not keep the command from its work; `code` is a key of `WARNINGS`."""

    code: str
    message: str


@dataclass(frozen=True)
class Meta:
    """What is said about the call itself; `next` asks for the next page of a list, None where there is none."""

    command: str
    version: str
    elapsed_ms: int
    next: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a command that could do its work answers.

    Attributes:
        data: What a robot reads.
        exit: The exit status.
        warnings: What a person should know besides.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    exit: int = Exit.DONE
    warnings: Sequence[Warned] = ()


def success(outcome: Outcome, *, meta: Meta, fields: Fields | None = None) -> dict[str, Any]:
    """Return the robot's answer of a command that could do its work, with all of its data or these fields of it."""
    return {
        "ok": True,
        "data": select(outcome.data, fields),
        "warnings": [{"code": warned.code, "message": warned.message} for warned in outcome.warnings],
        "meta": _meta(meta),
    }


def failure(error: LoreError, *, meta: Meta) -> dict[str, Any]:
    """Return the robot's answer of a command that ends with an error."""
    said: dict[str, Any] = {"code": error.code, "message": error.message, "actions": list(error.actions)}
    if isinstance(error, RunError):
        said["run_id"] = error.run_id
        if error.total is not None:
            said["total"] = error.total
            said["failures"] = [
                {
                    "entity_type": one.entity_type,
                    "iid": one.iid,
                    "stage": one.stage,
                    "code": one.code,
                    "message": one.message,
                }
                for one in error.failures
            ]
    return {"ok": False, "error": said, "meta": _meta(meta)}


def to_json(answer: Mapping[str, Any]) -> str:
    """Return the answer as one line of ASCII, so that no byte of a title can change a terminal or a reader."""
    said = json.dumps(answer, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return said.replace("\x7f", r"\u007f")


def exit_status(error: LoreError) -> int:
    """Return the exit status of a command that ends with this error."""
    return int(error.exit)


def internal_error(error: BaseException, *, actions: Sequence[str] | None = None) -> LoreError:
    """Return the typed error for an exception nobody expected; it names its kind and nothing of its text.

    Its text may hold what must not be shown (a password in a driver's message); the log has it, cleaned.
    """
    return LoreError(
        "INTERNAL",
        f"lore met a bug of its own ({type(error).__name__}); with LORE_LOG_LEVEL=debug the log says where",
        actions=actions,
    )


def plan_of(gitlab_url: str, project: str, entities: Sequence[Entity], options: RunOptions) -> dict[str, Any]:
    """Return what a run would do: its entities, every endpoint it would read, and its options.

    Args:
        gitlab_url: The configured GitLab.
        project: A full path or a numeric id; what a short name stands for only the mirror knows.
        entities: What is to be refreshed.
        options: What the run is asked to do.

    Raises:
        UsageError: NO_PROJECT, for a short name.
    """
    if "/" not in project and not project.isdigit():
        raise UsageError("NO_PROJECT", f"a dry run opens no database, so give the full path: group/{project}")
    tasks = plan_tasks(entities, with_project=True)
    key = quote(project, safe="")
    return {
        "gitlab_url": gitlab_url,
        "project": project,
        "entities": [{"entity_type": one.entity_type, "iid": one.iid} for one in sorted(set(entities))],
        "options": {"mode": options.mode, "docs": options.docs, "embed": options.embed},
        "requests": [
            {
                "entity_type": task.entity_type,
                "iid": task.iid,
                "job_type": task.job_type,
                "path": "/api/v4"
                + api_path(key, task.entity_type, task.iid, endpoint_of(task.entity_type, task.job_type)),
            }
            for task in tasks
        ],
    }


def meaning_of(code: str) -> str:
    """Return the one-line meaning of an error's or a warning's code, empty for an unknown one."""
    if code in CODES:
        return CODES[code].meaning
    return WARNINGS.get(code, "")


def _meta(meta: Meta) -> dict[str, Any]:
    said: dict[str, Any] = {"command": meta.command, "version": meta.version, "elapsed_ms": meta.elapsed_ms}
    return said if meta.next is None else said | {"next": meta.next}
