"""Every error a caller of lore can meet: one tree of classes, one table of public codes.

A class says what the *caller* does about it; a code says what happened and never changes.

    LoreError
    ├── UsageError           change the command
    ├── SettingError         change a setting
    ├── NotFoundError        name something that is there
    ├── GitLabError          GitLab's answer was not what the request asks for
    │   ├── RefusedError     asking again gives the same answer: fail the task
    │   └── PassingError     asking again later may work: wait `retry_after_s`, then try
    ├── EmbedderError        the embedder gave no vectors: fail the stage
    │   └── EmbedderDownError  asking again later may work
    ├── StorageError         the database
    │   └── BusyError        the database was busy or full, or the connection was lost: try the whole step again
    ├── BrokerError          Redis
    ├── DemoError            the demo did not come to its end
    └── RunError             the run itself ended, or goes on, otherwise than asked
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit statuses of the commands; the numbers are public."""

    DONE = 0
    BUG = 1
    USAGE = 2
    CONFIGURATION = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    RATE_LIMITED = 6
    GITLAB = 7
    DATABASE = 8
    BROKER = 9
    PREFLIGHT = 10
    INGEST = 11
    DOCUMENTS = 12
    CANCELLED = 13
    STILL_RUNNING = 14
    DETACHED = 130


EXIT_MEANINGS: dict[Exit, str] = {
    Exit.DONE: "done (skipped as stale, and queued while Redis is down, included)",
    Exit.BUG: "a bug of ours",
    Exit.USAGE: "usage",
    Exit.CONFIGURATION: "configuration",
    Exit.NOT_ALLOWED: "not authenticated or not allowed",
    Exit.NOT_FOUND: "not found: run, project, or not in the mirror",
    Exit.RATE_LIMITED: "rate limited",
    Exit.GITLAB: "GitLab unreachable or broken",
    Exit.DATABASE: "database",
    Exit.BROKER: "broker",
    Exit.PREFLIGHT: "preflight failed",
    Exit.INGEST: "ingest failed",
    Exit.DOCUMENTS: "documents or embedding failed",
    Exit.CANCELLED: "cancelled",
    Exit.STILL_RUNNING: "still running at --timeout",
    Exit.DETACHED: "detached",
}


@dataclass(frozen=True)
class Code:
    """One public error code.

    Attributes:
        meaning: One line for people.
        exit: The status of a command that ends with this error.
        actions: Commands that help, as templates over the error's context; one whose context is missing is left out.
        dooms_run: Met by any task, it ends the whole run: no other entity could fare better.
    """

    meaning: str
    exit: Exit
    actions: tuple[str, ...] = ()
    dooms_run: bool = False


_LOOK = "lore sync-runs --run-id {run_id}"
_RETRY = "lore sync-runs --run-id {run_id} --retry-failed"

CODES: dict[str, Code] = {
    # usage
    "USAGE": Code("the command line cannot be read", Exit.USAGE, ("{command} --help",)),
    "NO_ENTITIES": Code("nothing was named to refresh", Exit.USAGE, ("{command} --help",)),
    "BAD_IID": Code("an iid is a whole number from 1 up", Exit.USAGE, ("{command} --help",)),
    "BAD_REF": Code(
        "a REF is a web URL, group/project!12, !12 or #7",
        Exit.USAGE,
        ("{again} '!{number}'", "{again} '#{number}'", "{command} --help"),
    ),
    "HOST_MISMATCH": Code("a REF or git remote on another host than LORE_GITLAB_URL", Exit.USAGE, ("lore doctor",)),
    "SEVERAL_PROJECTS": Code("a run is of one project, several were named", Exit.USAGE),
    "NO_PROJECT": Code("no project was named or found", Exit.USAGE, ("{command} --help",)),
    "AMBIGUOUS_PROJECT": Code(
        "a short project name fits several projects of the mirror", Exit.USAGE, ("lore sync-runs",)
    ),
    "CONFLICTING_OPTIONS": Code("two options that exclude each other", Exit.USAGE, ("{command} --help",)),
    "NO_DOCS_REQUIRES_NO_EMBED": Code("--no-docs needs --no-embed: no documents, no embedding", Exit.USAGE),
    "EMPTY_QUERY": Code("a search for nothing", Exit.USAGE, ("{command} --help",)),
    "AMBIGUOUS_RUN": Code("a run id prefix fits several runs", Exit.USAGE, ("lore sync-runs",)),
    "RUN_OPEN": Code("the run has not ended yet", Exit.USAGE, (_LOOK, "lore cancel {run_id}")),
    "RUN_ENDED": Code("the run has ended already", Exit.USAGE, (_LOOK,)),
    "NOTHING_TO_RETRY": Code("every entity of the run ended ok or skipped_stale", Exit.USAGE, (_LOOK,)),
    # configuration
    "NO_TOKEN": Code("no GitLab token is set", Exit.CONFIGURATION, ("lore doctor",), dooms_run=True),
    "TOKEN_FILE": Code("the token file cannot be used", Exit.CONFIGURATION, ("lore doctor",), dooms_run=True),
    "BAD_SETTING": Code(
        "a setting has a value that is not allowed", Exit.CONFIGURATION, ("lore doctor",), dooms_run=True
    ),
    "MISSING_EXTRA": Code("an optional part of lore is not installed", Exit.CONFIGURATION),
    "TLS_UNTRUSTED": Code(
        "GitLab's certificate is vouched for by nobody known; set LORE_CA_FILE",
        Exit.CONFIGURATION,
        ("lore doctor",),
        dooms_run=True,
    ),
    "OTHER_GITLAB": Code(
        "the worker's LORE_GITLAB_URL is not the run's", Exit.CONFIGURATION, ("lore doctor",), dooms_run=True
    ),
    "EMBEDDER_MISSING": Code(
        "LORE_EMBEDDINGS is wordllama, which is not installed", Exit.CONFIGURATION, ("lore doctor",)
    ),
    "NETWORK_FILE_SYSTEM": Code("SQLite on a network file system is refused", Exit.CONFIGURATION, ("lore doctor",)),
    # not authenticated or not allowed
    "GITLAB_UNAUTHORIZED": Code(
        "GitLab does not accept the token (401)", Exit.NOT_ALLOWED, ("lore doctor",), dooms_run=True
    ),
    "GITLAB_FORBIDDEN": Code("the token may not read this (403)", Exit.NOT_ALLOWED, ("lore doctor",)),
    # not found
    "RUN_NOT_FOUND": Code("no such run in the ledger", Exit.NOT_FOUND, ("lore sync-runs",)),
    "UNKNOWN_PROJECT": Code("the mirror has no such project", Exit.NOT_FOUND, ("lore stats", "lore doctor")),
    "PATH_NOT_FOUND": Code("the mirror knows no file, or label, of this name", Exit.NOT_FOUND, ("lore stats",)),
    "PROJECT_NOT_FOUND": Code(
        "GitLab has no such project, or the token cannot see it", Exit.NOT_FOUND, ("lore doctor",), dooms_run=True
    ),
    "NOT_IN_MIRROR": Code("the mirror does not hold this yet", Exit.NOT_FOUND, ("lore-submit {ref} --wait",)),
    "EMPTY_MIRROR": Code("there is nothing to search yet", Exit.NOT_FOUND, ("lore-submit --help", "lore docs")),
    "GITLAB_NOT_FOUND": Code(
        "GitLab has no such issue or merge request, or the token cannot see it (404)",
        Exit.NOT_FOUND,
        ("lore doctor", "lore sync --prune"),
    ),
    # GitLab
    "GITLAB_RATE_LIMITED": Code("GitLab asks to wait (429)", Exit.RATE_LIMITED, (_RETRY,)),
    "GITLAB_UNREACHABLE": Code("no answer from GitLab: name, connection or time-out", Exit.GITLAB, ("lore doctor",)),
    "GITLAB_UNAVAILABLE": Code("GitLab answers with a server error (5xx)", Exit.GITLAB, ("lore doctor",)),
    "GITLAB_BROKEN_ANSWER": Code("GitLab's answer broke off", Exit.GITLAB, ("lore doctor",)),
    "GITLAB_BAD_PAYLOAD": Code(
        "a body that is no GitLab payload, or that the mirror cannot hold", Exit.GITLAB, ("lore doctor",)
    ),
    "GITLAB_TOO_LARGE": Code("an answer larger than LORE_GITLAB_MAX_BODY_MB", Exit.GITLAB, ("lore doctor",)),
    "GITLAB_REDIRECT": Code("GitLab sends us somewhere we do not follow", Exit.GITLAB, ("lore doctor",)),
    "GITLAB_BAD_REQUEST": Code("GitLab does not take this request (4xx)", Exit.GITLAB, ("lore doctor",)),
    "WRONG_ENTITY": Code("GitLab answered with another entity than the one asked for", Exit.GITLAB, ("lore doctor",)),
    "LIST_UNSTABLE": Code("a list kept changing while it was read", Exit.GITLAB, (_RETRY,)),
    # database and broker
    "DATABASE_UNREACHABLE": Code("the database cannot be opened", Exit.DATABASE, ("lore doctor",)),
    "DATABASE_BUSY": Code("the database was busy for too long", Exit.DATABASE, ("lore doctor",)),
    "DATABASE_FULL": Code(
        "the disk of the database is full: make room, then do the same again",
        Exit.DATABASE,
        ("lore doctor", _LOOK),
    ),
    "DATABASE_NEWER": Code("the database was written by a newer lore", Exit.DATABASE, ("lore doctor",)),
    "DATABASE_ERROR": Code("the database refused a statement", Exit.DATABASE, ("lore doctor",)),
    "BROKER_UNREACHABLE": Code("Redis does not answer", Exit.BROKER, ("lore doctor",)),
    "NO_LIVE_WORKER": Code(
        "no worker is alive to do what is waited for; it stays queued", Exit.BROKER, ("lore worker",)
    ),
    "QUEUE_DEADLINE": Code("no worker took the run before LORE_QUEUE_DEADLINE", Exit.BROKER, ("lore worker", _RETRY)),
    # how a run ended
    "SURGICAL_PREFLIGHT_FAILED": Code(
        "at least one entity could not be fetched, so nothing was written", Exit.PREFLIGHT, (_LOOK, _RETRY)
    ),
    "SYNC_INCOMPLETE": Code(
        "entities that failed in an incremental sync have not landed since", Exit.PREFLIGHT, (_LOOK, _RETRY)
    ),
    "LISTING_INCOMPLETE": Code(
        "a listing that does not prove itself complete may delete nothing", Exit.GITLAB, ("lore sync --prune",)
    ),
    "RUN_DEADLINE": Code("the run's stage took longer than LORE_RUN_DEADLINE", Exit.PREFLIGHT, (_LOOK, _RETRY)),
    "POISON": Code("whoever worked on it died or was lost, three times", Exit.INGEST, (_LOOK, _RETRY)),
    "INGEST_FAILED": Code("the commit failed and was rolled back", Exit.INGEST, (_LOOK, _RETRY)),
    "EMBEDDINGS_OFF": Code(
        "vectors are asked for where LORE_EMBEDDINGS is off", Exit.CONFIGURATION, ("lore doctor", _RETRY)
    ),
    "DOCUMENTS_FAILED": Code("the content is written, its documents could not be", Exit.DOCUMENTS, (_LOOK, _RETRY)),
    "EMBEDDING_FAILED": Code(
        "content and documents are written, their vectors could not be", Exit.DOCUMENTS, (_LOOK, _RETRY)
    ),
    "EMBEDDER_UNREACHABLE": Code(
        "no answer from the embedder: name, connection, time-out, or it asks to wait (429, 5xx)",
        Exit.DOCUMENTS,
        ("lore doctor", _RETRY),
    ),
    "EMBEDDER_REFUSED": Code(
        "the embedder does not take the request: token, model or text (4xx)", Exit.DOCUMENTS, ("lore doctor", _RETRY)
    ),
    "EMBEDDER_BAD_ANSWER": Code(
        "the embedder's answer is not the vectors that were asked for", Exit.DOCUMENTS, ("lore doctor", _RETRY)
    ),
    "RUN_CANCELLED": Code("the run was cancelled", Exit.CANCELLED, (_RETRY,)),
    "STILL_RUNNING": Code(
        "the run had not ended at --timeout",
        Exit.STILL_RUNNING,
        ("lore sync-runs --run-id {run_id} --follow", "lore cancel {run_id}"),
    ),
    "DETACHED": Code(
        "the run goes on without us",
        Exit.DETACHED,
        ("lore sync-runs --run-id {run_id} --follow", "lore cancel {run_id}"),
    ),
    "INTERRUPTED": Code("stopped by Ctrl-C or a signal, or by `lore mcp` as it took too long", Exit.DETACHED),
    "DEMO_FAILED": Code("the demo did not come to its end", Exit.BUG, ("lore demo --no-redis", "lore doctor")),
    "INTERNAL": Code("a bug of ours", Exit.BUG, ("lore doctor",)),
}


@dataclass(frozen=True)
class Failure:
    """Why one entity of a run failed, as robot answers list it."""

    entity_type: str
    iid: int
    stage: str
    code: str
    message: str


class LoreError(Exception):
    """An error with a public code; `str(error)` is its message, safe to show (no secret, no traceback).

    Args:
        code: A key of `CODES`.
        message: What is wrong and the next step, in one or two lines.
        actions: Ready commands; None takes the code's own, filled in from `context`.
        context: Values for the templates of the actions (`run_id`, `command`, `ref`, …).
    """

    def __init__(self, code: str, message: str, *, actions: Sequence[str] | None = None, **context: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.context = context
        self.actions: list[str] = list(actions) if actions is not None else actions_for(code, **context)

    @property
    def exit(self) -> int:
        """The exit status of a command that ends with this error."""
        return CODES[self.code].exit


class UsageError(LoreError):
    """The command asks for something that cannot be: change it."""


class SettingError(LoreError):
    """A setting is missing or wrong: change it."""


class NotFoundError(LoreError):
    """What was named is not there."""


class GitLabError(LoreError):
    """GitLab's answer was not what the request asks for."""


class RefusedError(GitLabError):
    """Asking again would give the same answer."""


class PassingError(GitLabError):
    """Asking again later may work.

    Args:
        retry_after_s: What GitLab asked us to wait, in seconds; None where it said nothing.
        pauses_host: Every request to this host should wait, not only this one (a 429).
    """

    def __init__(
        self, code: str, message: str, *, retry_after_s: float | None = None, pauses_host: bool = False, **context: Any
    ) -> None:
        super().__init__(code, message, **context)
        self.retry_after_s = retry_after_s
        self.pauses_host = pauses_host


class EmbedderError(LoreError):
    """The embedder gave no vectors, and would not if it were asked again."""


class EmbedderDownError(EmbedderError):
    """The embedder may give them later.

    Args:
        retry_after_s: What it asked us to wait, in seconds; None where it said nothing.
    """

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None, **context: Any) -> None:
        super().__init__(code, message, **context)
        self.retry_after_s = retry_after_s


class StorageError(LoreError):
    """The database cannot do it."""


class BusyError(StorageError):
    """The database was busy or full, chose a victim of a deadlock, or the connection was lost: the outcome is open."""


class BrokerError(LoreError):
    """Redis cannot do it."""


class DemoError(LoreError):
    """The demo did not come to its end.

    Args:
        status: The exit status of what it ended with.
    """

    def __init__(self, code: str, message: str, *, status: int) -> None:
        super().__init__(code, message)
        self._status = status

    @property
    def exit(self) -> int:
        """What ended the demo, a signal or one of our own statuses, else the code's."""
        is_said = self._status > 128 or self._status in set(Exit)
        return self._status if is_said else CODES[self.code].exit


class RunError(LoreError):
    """A run ended, or goes on, otherwise than asked.

    Args:
        run_id: The run.
        exit: What ended it, where that is not the code's own status.
        total: How many entities it has.
        failures: Why entities failed, in the order of (entity_type, iid).
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        run_id: str,
        exit: Exit | None = None,
        total: int | None = None,
        failures: Sequence[Failure] = (),
        actions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(code, message, actions=actions, run_id=run_id)
        self.run_id = run_id
        self.total = total
        self.failures = list(failures)
        self._exit = exit

    @property
    def exit(self) -> Exit:
        """What ended the run, else the code's own status."""
        return self._exit if self._exit is not None else CODES[self.code].exit


def actions_for(code: str, **context: Any) -> list[str]:
    """Return the code's commands with the context filled in; one that lacks a value is left out."""
    filled = []
    for template in CODES[code].actions:
        try:
            filled.append(template.format(**context))
        except KeyError:
            continue
    return filled
