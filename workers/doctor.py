"""What `lore doctor` looks at: each thing lore needs, ok, or the command that mends it.

A SQLite file that is not there is not made; a database that is there is brought up to this version.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import dramatiq
import peewee

from lore.core import payloads
from lore.core import runs as rules
from lore.core.errors import LoreError, RefusedError
from lore.logs import get_logger
from lore.settings import ATTRIBUTES, Settings, change_action, duration_words, redact_url
from models import base, codes, fulltext, schema, vectors
from models.documents import Document
from models.ledger import Run
from models.locks import ProjectLock
from models.queue import Task
from workers import QUEUES, RUN_QUEUES, SYNC_QUEUES, documents, findings, open_ledger, resources

log = get_logger(__name__)

# Any of them lets us read what we mirror.
READING_SCOPES: Final = ("read_api", "api")
# A token that ends sooner than this is better made anew today.
TOKEN_DAYS: Final = 7
# What is fetched and written side by side takes a few megabytes, and more where a diff is large.
LEAST_FREE_BYTES: Final = 10_000_000
# What SQLite says of a file that is no database, or is one no longer.
_SQLITE: Final = b"SQLite format 3\0"
_DAMAGED: Final = ("file is not a database", "disk image is malformed", "malformed database schema")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        is_ok: Whether lore can work with it.
        detail: What was found.
        action: A command that mends it, or brings nearer to it; None where all is well.
    """

    name: str
    is_ok: bool
    detail: str
    action: str | None = None


def checks(settings: Settings) -> Iterator[Check]:
    """Look at everything in turn; what goes wrong is a check that is not ok, never an exception.

    Args:
        settings: What the user configured.
    """
    yield from _settings(settings)
    for name, look in (("gitlab", _gitlab), ("database", _database), ("redis", _redis)):
        try:
            yield from look(settings)
        except LoreError as error:
            yield Check(name, False, f"{error.code}: {error.message}", _own_action(error, settings))
        except Exception as error:
            log.debug("check_failed", check=name, exc_info=True)
            yield Check(
                name, False, f"could not be looked at: {type(error).__name__}", "LORE_LOG_LEVEL=debug lore doctor"
            )


def _settings(settings: Settings) -> Iterator[Check]:
    shown: set[str] = set()
    for name, attribute in ATTRIBUTES.items():
        if attribute in shown:
            continue
        shown.add(attribute)
        source = settings.sources.get(attribute, "default")
        value = getattr(settings, attribute)
        if attribute == "gitlab_token" and value is None:
            problem = settings.token_problem
            detail = problem.message if problem else "no token"
            action = next((action for action in (problem.actions if problem else []) if action != "lore doctor"), None)
            yield Check(name, False, detail, action or _change("gitlab_token", settings))
            continue
        yield Check(name, True, f"{_shown(attribute, value)} ({source})")


def _shown(attribute: str, value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, (int, float)) and attribute.endswith(("_ms", "_s")):
        return duration_words(value if attribute.endswith("_ms") else round(value * 1000))
    return redact_url(str(value))


def _gitlab(settings: Settings) -> Iterator[Check]:
    if settings.gitlab_token is None:
        yield Check("gitlab", False, f"{settings.gitlab_url} was not asked: there is no token", change_action())
        return
    from lore.gitlab import GitLab  # noqa: PLC0415  # httpx is paid for here only
    from lore.http import build_client  # noqa: PLC0415  # the same

    ca_file = str(settings.ca_file) if settings.ca_file else None
    with build_client(ca_file=ca_file, read_s=settings.gitlab_timeout_s) as client:
        gitlab = GitLab(client, settings.gitlab_url, settings.gitlab_token, request_timeout_s=settings.gitlab_timeout_s)
        began = time.monotonic()
        try:
            known = gitlab.version()
        except RefusedError as error:
            if error.code != "GITLAB_NOT_FOUND":
                raise
            detail = f"there is no GitLab API at {settings.gitlab_url}: is LORE_GITLAB_URL right?"
            yield Check("gitlab", False, detail, _look_at_url(settings))
            return
        took_ms = round((time.monotonic() - began) * 1000)
        edition = " (enterprise)" if known.enterprise is True else ""
        yield Check("gitlab", True, f"{settings.gitlab_url} is GitLab {known.version}{edition}, {took_ms} ms")
        yield judge_token(gitlab.token_info(), today=datetime.now(UTC).date())


def _look_at_url(settings: Settings) -> str:
    """Return the command that changes where GitLab is; none that shows the token to another host, as the default is."""
    if settings.sources.get("gitlab_url") != "environment":
        return change_action()
    host = urlsplit(settings.gitlab_url)._replace(path="").geturl()
    if host == settings.gitlab_url:
        return shlex.join(["curl", "-sSI", host])
    return shlex.join(["env", f"LORE_GITLAB_URL={host}", "lore", "doctor"])


def judge_token(known: payloads.TokenInfo | None, *, today: date) -> Check:
    """Say whether a token can read, and for how long.

    Args:
        known: What GitLab says of it; None where it cannot.
        today: UTC, as GitLab counts.
    """
    if known is None:
        return Check("token", True, "accepted; GitLab does not tell its scopes and expiry")
    scopes = list(known.scopes) if isinstance(known.scopes, tuple) else []
    detail = f"scopes {', '.join(scopes) or 'unknown'}"
    if known.revoked is True or known.active is False:
        return Check("token", False, f"{detail}; it is revoked or expired", change_action())
    if scopes and not set(scopes) & set(READING_SCOPES):
        return Check("token", False, f"{detail}; read_api is needed", change_action())
    return _judge_expiry(known.expires_at, detail, today=today)


def _judge_expiry(expires_at: object, detail: str, *, today: date) -> Check:
    if not isinstance(expires_at, str):
        return Check("token", True, f"{detail}; it does not expire")
    try:
        days = (date.fromisoformat(expires_at) - today).days
    except ValueError:
        return Check("token", True, f"{detail}; expires {expires_at}")
    detail = f"{detail}; expires {expires_at}, in {days} days"
    if days < TOKEN_DAYS:
        return Check("token", False, detail, change_action())
    return Check("token", True, detail)


def _database(settings: Settings) -> Iterator[Check]:
    path = settings.sqlite_path
    if path is not None and not os.path.exists(path):
        schema.check_room(path)
        yield Check("database", True, f"{path} is not there yet; the first run makes it")
        return
    open_ledger(settings)
    try:
        with base.read():
            runs = _count(Run.select(Run.status, peewee.fn.COUNT(Run.run_id)).group_by(Run.status))
            tasks = _count(Task.select(Task.status, peewee.fn.COUNT(Task.id)).group_by(Task.status))
            lease_ms = _longest_lease_ms()
            backlog = documents.backlog_size()
            built, indexed = Document.select().count(), fulltext.count()
        left = findings.outlook(queue_deadline_ms=settings.queue_deadline_ms, ledger_keep_ms=settings.ledger_keep_ms)
        embeddings = _embeddings(settings)
    finally:
        base.disconnect()
    if path is None:
        yield Check("database", True, f"PostgreSQL, {sum(runs.values())} runs")
    else:
        yield _judge_room(path, f"SQLite {path}, {sum(runs.values())} runs")
    waiting = {status: count for status, count in runs.items() if status in rules.OPEN_STATUSES}
    open_tasks = sum(tasks.get(status, 0) for status in rules.OPEN_TASKS)
    said = ", ".join(f"{count} {status}" for status, count in sorted(waiting.items())) or "no open run"
    # Whoever died holds them until then; whoever lives makes it later, time and again.
    held = f"; worked on, or left by who died: the last lease ends in {lease_ms / 1000:.0f} s" if lease_ms > 0 else ""
    yield Check("runs", True, f"{said}; {open_tasks} open tasks{held}")
    # A worker sweeps every second: what is still there belongs to nobody.
    detail = ", ".join(f"{what} {count}" for what, count in left.items()) or "nothing to do"
    yield Check("sweeper", not left, detail, "lore sweep" if left else None)
    detail = f"{backlog} issues and merge requests whose documents nobody is about to build"
    yield Check("backlog", not backlog, detail, "lore docs" if backlog else None)
    # One index row a document: anything else is a bug of ours, and building them anew mends it.
    yield Check("search", built == indexed, f"{built} documents, {indexed} in the full-text index")
    yield embeddings


def _judge_room(path: Path, detail: str) -> Check:
    """Say whether a run has room beside the SQLite database: what it fetches is written there first."""
    free = shutil.disk_usage(path.parent).free
    has_room = free >= LEAST_FREE_BYTES
    detail += "" if has_room else f"; its disk is full, or nearly so: {free / 1e6:.1f} MB are free"
    return Check("database", has_room, detail, None if has_room else _look_for_room(path))


def _look_for_room(path: Path) -> str:
    return shlex.join(["df", "-h", str(path.parent)])


def _longest_lease_ms() -> int:
    """Return for how long anything of an open run is still held; 0 or less where nothing is."""
    ends = (
        Run.select(peewee.fn.MAX(Run.stage_until)).where(
            Run.status.in_(rules.OPEN_STATUSES), Run.stage_owner.is_null(False)
        ),
        Task.select(peewee.fn.MAX(Task.claimed_until)).where(Task.status == rules.CLAIMED),
        ProjectLock.select(peewee.fn.MAX(ProjectLock.until)).where(ProjectLock.owner.is_null(False)),
    )
    return max(query.scalar() or 0 for query in ends) - base.now_ms()


def _embeddings(settings: Settings) -> Check:
    """Say what makes vectors, and of which documents there are none."""
    if settings.embeddings == "off":
        return Check("embeddings", True, "off: a search is by words alone")
    try:
        embedder = resources.embedder()
        assert embedder is not None
        embedder.embed(["engine room"])  # also a server that is there may not have the model
    except LoreError as error:
        return Check("embeddings", False, f"{error.code}: {error.message}", _change("embeddings", settings))
    with base.read():
        lacking, models = vectors.lacking(embedder.model), vectors.models()
        compared = _compared()
    others = {name: count for name, count in models.items() if name != embedder.model}
    detail = f"{embedder.model}, compared {compared}; {lacking} documents without a vector"
    if others:
        said = ", ".join(f"{count} of {name}" for name, count in sorted(others.items()))
        return Check("embeddings", False, f"{detail}; vectors of other models: {said}", "lore embed --rebuild")
    return Check("embeddings", not lacking, detail, "lore embed" if lacking else None)


def _compared() -> str:
    """Say where the vectors of a search are compared."""
    if codes.has_pgvector():
        return "by pgvector"
    if base.is_postgresql():
        version = codes.pgvector_version()
        if version is not None:
            return f"in this process (pgvector {version} is too old, or its schema is not in the search_path)"
        return "in this process (this database has no pgvector: CREATE EXTENSION vector)"
    return "in this process"


def _redis(settings: Settings) -> Iterator[Check]:
    if settings.redis_url is None:
        yield Check("redis", True, "not set: a run is done by whoever asks for it")
        yield Check("workers", True, "none needed without Redis")
        return
    import redis  # noqa: PLC0415  # not paid for without Redis

    from workers.broker import SET_ASIDE, SET_ASIDE_COUNT, build_broker, live_workers  # noqa: PLC0415  # the same

    shown = redact_url(settings.redis_url)
    broker = build_broker(settings.redis_url)
    try:
        known = broker.client.info("server")
        version = known.get("valkey_version") or known.get("redis_version")
        yield Check("redis", True, f"{shown}, version {version}")
        dramatiq.set_broker(broker)
        yield judge_workers(live_workers())
        aside = int(broker.client.get(SET_ASIDE_COUNT) or 0)
        mend = f"redis-cli -u {shlex.quote(shown)} del {SET_ASIDE} {SET_ASIDE_COUNT}" if aside else None
        yield Check("messages", not aside, f"{aside} undecodable messages were set aside", mend)
    except redis.RedisError as error:
        detail = f"{shown} does not answer ({type(error).__name__}): start it, or do without"
        yield Check("redis", False, detail, "LORE_REDIS_URL=off lore doctor")
    finally:
        broker.client.close()


def judge_workers(alive: Sequence[str]) -> Check:
    """Say which queues of a run, and of a sync, no worker serves.

    Args:
        alive: As `workers.broker.live_workers` returns them.
    """
    if not alive:
        return Check("workers", False, "no worker is alive", "lore worker")
    served = {queue for worker in alive for queue in worker.rsplit(" ", 1)[-1].split(",")}
    lacking = [queue for queue in QUEUES if queue not in served]
    detail = ", ".join(sorted(alive))
    for what, queues in (("run", RUN_QUEUES), ("sync", SYNC_QUEUES)):
        if named := [queue for queue in queues if queue in lacking]:
            detail += f"; of a {what}, nobody serves {', '.join(named)}"
    return Check("workers", not lacking, detail, f"lore worker --queues {','.join(lacking)}" if lacking else None)


def _count(query: peewee.ModelSelect) -> dict[str, int]:
    return {str(status): int(count) for status, count in query.tuples()}


def _own_action(error: LoreError, settings: Settings) -> str:
    """Return what mends it; the doctor does not send anybody to the doctor."""
    if error.code == "DATABASE_FULL" and settings.sqlite_path is not None:
        return _look_for_room(settings.sqlite_path)
    action = next((action for action in error.actions if action != "lore doctor"), None)
    if action is not None:
        return action
    path = settings.sqlite_path
    if path is not None and any(words in error.message for words in _DAMAGED) and _began_as_sqlite(path):
        return _put_aside(path)
    if error.code.startswith(("DATABASE", "NETWORK")):
        return _change("database_url", settings)
    if error.code.startswith("GITLAB") and error.code not in ("GITLAB_UNAUTHORIZED", "GITLAB_FORBIDDEN"):
        return shlex.join(["curl", "-sSI", settings.gitlab_url])
    return change_action()


def _began_as_sqlite(path: Path) -> bool:
    """Tell whether a file is a database, though a damaged one; nobody is told to move a file that is another's."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def _put_aside(path: Path) -> str:
    """Return the command that keeps a damaged database with its log, so that a new one is made in its place."""
    files = [str(one) for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")) if one.exists()]
    aside = next(name for number in count() if not os.path.exists(name := f"{path}.damaged{number or ''}"))
    return f"{shlex.join(['mkdir', aside])} && {shlex.join(['mv', *files, aside])} && lore sync"


def _change(attribute: str, settings: Settings) -> str:
    """Return the command that changes what a setting says, wherever it was said."""
    source = settings.sources.get(attribute, "default")
    if attribute == "gitlab_token":  # three names fill it
        return change_action(source.rpartition(" ")[-1], source)
    return change_action(next(name for name, filled in ATTRIBUTES.items() if filled == attribute), source)
