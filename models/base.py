"""The database every table lives in: how it is opened, its transactions, and its clock.

SQLite and PostgreSQL run the same statements. What differs stands here: pragmas and session settings, the lock
mode of a writing transaction, the clock, and what an error of the driver means.
"""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import peewee

from lore.core.errors import BusyError, StorageError
from models import turns

database: Final = peewee.DatabaseProxy()

# A writer of another process may hold the lock for a whole commit, and SQLite's wait is unfair.
SQLITE_BUSY_S: Final = 20.0
# What PostgreSQL raises when somebody else won, or the connection went: the step can be tried again as a whole.
_PASSING_SQLSTATES: Final = ("40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "53300", "25P03")
# No room on the disk: for the pages that are written, or for the file beside the database that even a reader makes.
_FULL_CODES: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
_FULL_SQLSTATE: Final = "53100"
_refused_by: StorageError | None = None
_full: BusyError | None = None


class NeverReusedId(peewee.AutoField):
    """A 64-bit key that is never given out twice, also after its row was deleted.

    Peewee's own fields give SQLite's highest free rowid again, or do not exist on PostgreSQL.
    """

    field_type = "BIGAUTO"

    def ddl(self, ctx: Any) -> Any:
        """Return the column's definition, with SQLite's AUTOINCREMENT where the database is SQLite."""
        nodes = super().ddl(ctx)
        if ctx is not None and ctx.state.field_types.get("BIGAUTO") == "INTEGER":
            return peewee.NodeList((nodes, peewee.SQL("AUTOINCREMENT")))
        return nodes


class Table(peewee.Model):
    """A table of lore."""

    class Meta:
        database = database
        legacy_table_names = False


class SqliteDatabase(peewee.SqliteDatabase):
    """SQLite as lore needs it: WAL, foreign keys on, a long busy time-out."""

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            pragmas=(
                ("journal_mode", "wal"),
                ("synchronous", "normal"),
                ("foreign_keys", 1),
                # Some builds overwrite whatever is deleted, so that a commit writes its run's staged pages once more.
                ("secure_delete", "fast"),
            ),
            timeout=SQLITE_BUSY_S,
            # The connections are one a thread, closed by the thread that opened them.
            check_same_thread=True,
        )
        # SQLite's own LOWER knows ASCII only.
        self.register_function(lambda text: None if text is None else str(text).lower(), "lore_lower", 1)

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for each of many rows."""
        with peewee.__exception_wrapper__:
            self.cursor().executemany(sql, rows)

    def begin(self, lock_type: str | None = None) -> None:
        """Begin a transaction; a writing one as soon as it is its turn."""
        if lock_type != "IMMEDIATE":
            super().begin(lock_type)
            return
        connection = self.connection()
        turns.take(SQLITE_BUSY_S)
        try:
            with peewee.__exception_wrapper__:
                turns.begin_immediate(connection, SQLITE_BUSY_S)
        except BaseException:
            turns.pass_on()
            raise

    def commit(self) -> None:
        """Commit, and let the next one write before anybody hears of it."""
        super().commit()
        turns.pass_on()

    def rollback(self) -> None:
        """Roll back, and let the next one write."""
        try:
            with peewee.__exception_wrapper__:
                is_open = self.connection().in_transaction
            if is_open:  # SQLite has rolled back by itself where the disk is full: a second time would hide why
                super().rollback()
        finally:
            turns.pass_on()


class PostgresqlDatabase(peewee.PostgresqlDatabase):
    """PostgreSQL as lore needs it: a session that cannot hold a transaction open while its process is stopped."""

    def __init__(self, url: str, *, idle_in_transaction_s: float) -> None:
        self._idle_in_transaction_ms = int(idle_in_transaction_s * 1000)
        super().__init__(url, prefer_psycopg3=True, connect_timeout=10, application_name="lore")

    def _initialize_connection(self, conn: Any) -> None:
        # A commit actor that is stopped inside its transaction must not hold the project's rows for ever (I11).
        conn.execute(f"SET idle_in_transaction_session_timeout = {self._idle_in_transaction_ms}")
        conn.execute("SET timezone = 'UTC'")
        # A search sorts a number a vector; by default the disk takes part from 4 MB on.
        conn.execute(
            "SELECT set_config('work_mem', '16MB', false)"
            " WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('16MB')"
        )


def open_database(url: str, *, idle_in_transaction_s: float = 60.0) -> peewee.Database:
    """Bind every table to the database of this URL and return it; nothing is created or read yet.

    Args:
        url: `sqlite:///path`, a path, or `postgresql://…`.
        idle_in_transaction_s: After how long PostgreSQL ends a transaction whose process does not go on.

    Raises:
        SettingError: The URL is of another kind, or the driver is not installed.
    """
    if url.startswith(("postgresql://", "postgres://")):
        try:
            import psycopg  # noqa: F401, PLC0415  # peewee finds the driver by itself, and says less when it is missing
        except ImportError as error:
            from lore.extras import missing_extra  # noqa: PLC0415  # what is read for it is not cheap

            raise missing_extra("postgres", "PostgreSQL, which LORE_DATABASE_URL names,") from error
        url = "postgresql://" + url.split("://", 1)[1]
        opened: peewee.Database = PostgresqlDatabase(url, idle_in_transaction_s=idle_in_transaction_s)
    else:
        opened = SqliteDatabase(str(sqlite_path(url)))
    database.initialize(opened)
    return opened


def sqlite_path(url: str) -> Path:
    """Return the file that a SQLite URL or a plain path names."""
    if url.startswith("sqlite:"):
        parts = urlsplit(url)
        # sqlite:///x is absolute, as everywhere a URL's path is; SQLAlchemy's four slashes come out the same.
        return Path("/" + unquote(parts.path).lstrip("/"))
    return Path(url).expanduser()


def is_postgresql() -> bool:
    """Tell which of the two databases is open."""
    return isinstance(database.obj, peewee.PostgresqlDatabase)


def clock() -> Any:
    """Return the database's clock as an expression: integer milliseconds UTC.

    PostgreSQL reads it as the statement runs, also late in a long transaction; SQLite's is this host's.
    """
    if is_postgresql():
        return peewee.SQL("(extract(epoch from clock_timestamp()) * 1000)::bigint")
    return peewee.Value(time.time_ns() // 1_000_000)


def lower(column: Any) -> Any:
    """Return a text in lower case as an expression, in every alphabet."""
    return peewee.fn.LOWER(column) if is_postgresql() else peewee.fn.LORE_LOWER(column)


def has_text(column: Any, text: str) -> Any:
    """Return the condition that a column holds this text; no character of it is a wildcard."""
    return (peewee.fn.STRPOS(column, text) if is_postgresql() else peewee.fn.INSTR(column, text)) > 0


def now_ms() -> int:
    """Read the database's clock."""
    if is_postgresql():
        with storage_errors():
            sql = "SELECT (extract(epoch from clock_timestamp()) * 1000)::bigint"
            return int(database.execute_sql(sql).fetchone()[0])
    return time.time_ns() // 1_000_000


@contextmanager
def write() -> Iterator[None]:
    """Run the block in one writing transaction, the outermost one.

    SQLite takes its write lock at once (a read that is upgraded later fails without waiting). Inside another
    transaction it would silently become a savepoint, so that is a bug.

    Raises:
        BusyError: Somebody else won, the disk is full, or the connection was lost; at COMMIT the outcome of that last
            is unknown.
        StorageError: The database cannot do it.
    """
    if database.in_transaction():
        raise RuntimeError("a writing transaction must be the outermost one")
    if _refused_by is not None:
        raise BusyError(_refused_by.code, _refused_by.message)
    with storage_errors():
        if is_postgresql():
            with database.atomic():
                yield
        else:
            try:
                with database.atomic("IMMEDIATE"):
                    yield
            finally:
                turns.pass_on()  # a lost connection is not rolled back


def refuse_writes(error: StorageError) -> None:
    """Let every later `write()` of this process raise: the database is not ours to change any more."""
    global _refused_by
    _refused_by = error


def take_full() -> BusyError | None:
    """Return what this process met of a full disk since it was asked last; None: nothing.

    Whoever meets it leaves his work to others, and a disk is full for all of them: one of them says so.
    """
    global _full
    met, _full = _full, None
    return met


@contextmanager
def read() -> Iterator[None]:
    """Run the block's statements on one snapshot (SQLite) or one connection (PostgreSQL), errors renamed."""
    with storage_errors(), database.atomic():
        yield


@contextmanager
def storage_errors() -> Iterator[None]:
    """Rename what the driver raises: BusyError for what may pass, StorageError for the rest."""
    try:
        yield
    except peewee.InterfaceError as error:
        disconnect()
        raise BusyError(
            "DATABASE_UNREACHABLE", f"the connection to the database was lost: {_first_line(error)}"
        ) from error
    except peewee.OperationalError as error:
        raise _operational(error) from error
    except peewee.DatabaseError as error:
        if _sqlstate(error) in _PASSING_SQLSTATES:
            raise BusyError("DATABASE_BUSY", f"the database was busy: {_first_line(error)}") from error
        raise StorageError("DATABASE_ERROR", f"the database refused a statement: {_first_line(error)}") from error


def disconnect() -> None:
    """Close this thread's connection, also a broken one; the next statement opens a new one."""
    opened = database.obj
    if opened is None or opened.is_closed():
        return
    try:
        opened.close()
    except peewee.PeeweeException:
        opened.dispose()


def insert_in_chunks(table: type[Table], rows: Sequence[dict[str, Any]], *, size: int = 200) -> None:
    """Insert rows in statements that stay below every database's limit of parameters."""
    for start in range(0, len(rows), size):
        table.insert_many(rows[start : start + size]).execute()


def _operational(error: peewee.OperationalError) -> StorageError:
    text = _first_line(error)
    if "database is locked" in text or "database table is locked" in text:
        return BusyError("DATABASE_BUSY", f"the database was busy for too long: {_writers()} its write lock")
    if _is_full(error):
        global _full
        whose = "PostgreSQL" if is_postgresql() else f"the database {database.obj.database}"
        _full = BusyError("DATABASE_FULL", f"the disk of {whose} is full: make room, then do the same again")
        return _full
    if is_postgresql():
        disconnect_if_broken()
        state = _sqlstate(error)
        if state in _PASSING_SQLSTATES:
            return BusyError("DATABASE_BUSY", f"the database was busy: {text}")
        if state is None or state.startswith("08"):
            return BusyError("DATABASE_UNREACHABLE", f"the database does not answer: {text}")
    if "unable to open" in text:
        return StorageError("DATABASE_UNREACHABLE", f"the database cannot be opened: {text}")
    return StorageError("DATABASE_ERROR", f"the database refused a statement: {text}")


def _writers() -> str:
    """Say who may hold SQLite's write lock: only a commit that is stopped inside its transaction does so for long."""
    try:
        rows = database.execute_sql("SELECT owner FROM project_locks WHERE owner IS NOT NULL ORDER BY owner").fetchall()
    except peewee.PeeweeException:
        rows = []
    owners = [row[0].split("/") for row in rows]
    named = [f"{owner[1]} for run {owner[0]}" if len(owner) > 1 else owner[0] for owner in owners]
    return f"another process, probably {' or '.join(named)}, holds" if named else "another process holds"


def disconnect_if_broken() -> None:
    """Drop this thread's connection when the server ended it."""
    opened = database.obj
    if opened is None or opened.is_closed():
        return
    if not opened.is_connection_usable() or (is_postgresql() and _has_hung_up(opened.connection())):
        disconnect()


def _has_hung_up(connection: Any) -> bool:
    """Tell whether PostgreSQL ended an idle session: until then it says nothing that was not asked for."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def _sqlstate(error: BaseException) -> str | None:
    for cause in _causes(error):
        state = getattr(cause, "sqlstate", None) or getattr(getattr(cause, "orig", None), "sqlstate", None)
        if state:
            return str(state)
    return None


def _is_full(error: BaseException) -> bool:
    # A savepoint that went with its transaction is the last error, not the first.
    return _sqlstate(error) == _FULL_SQLSTATE or any(
        getattr(cause, "sqlite_errorcode", None) in _FULL_CODES for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__context__ if cause.__context__ is not cause else None


def _first_line(error: BaseException) -> str:
    # Drivers add the statement and its values on further lines; those are GitLab's words, not for a message.
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
