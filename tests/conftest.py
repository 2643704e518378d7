"""Databases, brokers and servers for every test; whatever is started here is ended here, by its process."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import structlog
from chaos.stage import environment
from dramatiq.worker import WorkerThread
from servers import postgresql_running

from lore import logs
from lore.demo.server import spawn
from models import base, schema
from workers import resources
from workers.embedded import EmbeddedBroker

# What a shell starts in the background ignores Ctrl-C, and hands that down: a test that presses it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

dramatiq.set_broker(EmbeddedBroker())

from workers import commit, documents, embed, planning, preflight  # noqa: E402, F401  # the actors register with the broker that is set

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
DATABASES = ("sqlite", "postgresql")
JOIN_S = 30


PROVEN = pytest.StashKey[dict[str, set[str]]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note which invariants are tested on which database, and run the fast tests before the slow ones."""
    proven: dict[str, set[str]] = {}
    for item in items:
        database = getattr(item, "callspec", None) and item.callspec.params.get("database_url")
        for marker in item.iter_markers("invariant"):
            proven.setdefault(marker.args[0], set()).add(database or "sqlite")
    config.stash[PROVEN] = proven
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def proven_invariants(pytestconfig: pytest.Config) -> dict[str, set[str]]:
    """Which invariants have a test, and on which databases."""
    if pytestconfig.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("only part of the tests was collected: run pytest without naming files")
    return pytestconfig.stash[PROVEN]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of contracts and recordings beside the project; absent outside our own machines."""
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: this test reads recordings and schemas that are not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A real PostgreSQL server for this test process, from a wheel."""
    with postgresql_running() as url:
        yield url


@pytest.fixture(scope="session")
def demo() -> Iterator[Any]:
    """A demo GitLab as a process of its own, for all tests of processes; each begins with `demo.reset()`."""
    with spawn("demo") as server:
        yield server


@pytest.fixture
def environ(demo: Any, database_url: str, tmp_path: Path) -> dict[str, str]:
    """What a command sees whose home is empty, with a demo GitLab as it was in the beginning."""
    demo.reset()
    return environment(tmp_path, demo, database_url)


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/lore.db"
    url: str = request.getfixturevalue("postgresql_url")
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'lore' AND pid <> pg_backend_pid()"
        )
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@pytest.fixture
def settings(database_url: str) -> Any:
    from support import settings_for

    return settings_for("http://gitlab.test", "glpat-test", database_url)


@pytest.fixture(autouse=True)
def quiet_logs() -> None:
    """Log as a worker whose output is no terminal: pretty tracebacks cost more than what is tested."""
    logs.configure(format="json", level="warning")


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """What a test that configures logging leaves behind."""
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "peewee", "playhouse", "asyncio")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises
    for name, one in levels.items():
        logging.getLogger(name).setLevel(one)
    structlog.reset_defaults()


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An embedder at our own seam."""
    from support import LetterEmbedder

    fake = LetterEmbedder()
    monkeypatch.setattr(resources, "embedder", lambda: fake)
    return fake


@pytest.fixture
def ledger(settings: Any, database_url: str, embedder: Any) -> Iterator[Any]:
    """An open database at our schema, settings and an embedder for the actors, and an empty broker."""
    base.open_database(database_url)
    schema.bring_up()
    resources.configure(settings)
    broker: Any = dramatiq.get_broker()
    broker.flush_all()
    broker.is_worked, broker.only_run_id = True, None
    yield base.database
    # A run that ended early may have left a fetch behind, which would look for its tables in the next test.
    for thread in threading.enumerate():
        if isinstance(thread, WorkerThread):
            thread.join(JOIN_S)
    broker.flush_all()
    resources.close()
    base.disconnect()


@pytest.fixture
def gitlab(ledger: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GitLab at our own seam."""
    from support import FakeGitLab

    fake = FakeGitLab()
    monkeypatch.setattr(resources, "gitlab", lambda: fake)
    return fake
