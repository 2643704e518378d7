"""Bringing a database to the schema this version knows: on first use, once, whoever comes first.

The lock that keeps others away stands outside the database's transactions: SQLite can switch foreign keys off only
outside one, and a table that is rebuilt with them on takes its children with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lore.core.errors import SettingError, StorageError
from models.base import SqliteDatabase, database, is_postgresql, storage_errors

DIRECTORY: Final = Path(__file__).with_name("migrations")
HISTORY: Final = "schema_migration"
_ADVISORY_KEY: Final = 0x6C6F7265  # "lore"
_NETWORK_FILE_SYSTEMS: Final = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "fuse.sshfs",
    "ceph",
    "glusterfs",
    "lustre",
    "webdav",
)
_KERNEL_FILE_SYSTEMS: Final = ("proc", "sysfs", "cgroup", "cgroup2", "devpts")


def bring_up() -> list[str]:
    """Apply what is missing, under a lock that other processes respect; return the names of the migrations applied.

    Raises:
        StorageError: DATABASE_NEWER, or the database cannot be opened.
        SettingError: NETWORK_FILE_SYSTEM.
    """
    if not is_postgresql():
        _make_room()
    with _named(), storage_errors():
        if check_not_newer():
            return []
        with _alone():
            # Whoever had the lock before us may have done it all.
            if check_not_newer():
                return []
            from playhouse.migrations import Runner  # type: ignore[import-untyped]  # noqa: PLC0415  # not paid for once the schema stands

            applied: list[str] = Runner(database.obj, str(DIRECTORY), table_name=HISTORY).up()
            return applied


@contextmanager
def _named() -> Iterator[None]:
    """Let an error of a SQLite file name it: it may be any file, where LORE_DATABASE_URL is mistyped."""
    try:
        yield
    except StorageError as error:
        path = _sqlite_file()
        if error.code == "DATABASE_ERROR" and path is not None:
            raise StorageError(error.code, f"{error.message} ({path})") from error
        raise


def check_not_newer() -> bool:
    """Tell whether the database is exactly at this version's schema; False when it is older.

    Raises:
        StorageError: DATABASE_NEWER.
    """
    known = migration_names()
    applied = _applied()
    unknown = sorted(applied - known)
    if unknown:
        raise StorageError(
            "DATABASE_NEWER",
            f"the database was written by a newer lore (it has {unknown[-1]}): update lore on this host",
        )
    return applied == known


def migration_names() -> set[str]:
    """Return the names of the migrations this version has."""
    return {
        entry.name[:-3] for entry in os.scandir(DIRECTORY) if entry.name[:1].isdigit() and entry.name.endswith(".py")
    }


def _applied() -> set[str]:
    if not database.obj.table_exists(HISTORY):
        return set()
    return {row[0] for row in database.execute_sql("SELECT name FROM schema_migration").fetchall()}


@contextmanager
def _alone() -> Iterator[None]:
    if is_postgresql():
        database.execute_sql("SELECT pg_advisory_lock(%s)", (_ADVISORY_KEY,))
        try:
            yield
        finally:
            database.execute_sql("SELECT pg_advisory_unlock(%s)", (_ADVISORY_KEY,))
        return
    path = _sqlite_file()
    if path is None:
        yield
        return
    import fcntl  # noqa: PLC0415  # only here, and not on every platform

    with open(f"{path}.lock", "ab") as lock:
        os.chmod(lock.fileno(), 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_room(path: Path) -> None:
    """Do nothing if a SQLite database can be made at this path; nothing is made.

    Raises:
        StorageError: DATABASE_UNREACHABLE.
        SettingError: NETWORK_FILE_SYSTEM.
    """
    folder = path.parent
    while not os.path.exists(folder):  # unlike Path.exists, of a folder that we may not enter too
        folder = folder.parent
    point, kind = _file_system(folder)
    if not folder.is_dir():
        said = f"{folder} is no folder"
    elif kind in _KERNEL_FILE_SYSTEMS:  # root may write everywhere, and yet makes no file here
        said = f"{point} is no disk, but {kind}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        said = f"you may not write to {folder}"
    else:
        _refuse_network(folder)
        return
    raise StorageError("DATABASE_UNREACHABLE", f"the database {path} cannot be made: {said}")


def _make_room() -> None:
    """Make the folder and the file of a SQLite database, for nobody else to read."""
    path = _sqlite_file()
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_network(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(
            "DATABASE_UNREACHABLE", f"the database {path} cannot be opened: {error.strerror or error}"
        ) from error


def _sqlite_file() -> Path | None:
    opened: Any = database.obj
    if not isinstance(opened, SqliteDatabase) or str(opened.database).startswith((":memory:", "file:")):
        return None
    return Path(str(opened.database))


def _file_system(folder: Path) -> tuple[str, str]:
    """Return where a folder's file system is mounted, and its kind; empty where it is not known (Linux tells)."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "", ""
    resolved = str(folder.resolve())
    best = ("", "")
    for line in mounts.read_text(errors="replace").splitlines():
        _, point, kind, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if (resolved == point or resolved.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best


def _refuse_network(folder: Path) -> None:
    """Refuse a folder whose file system does not keep SQLite's locks."""
    point, kind = _file_system(folder)
    if kind.startswith(_NETWORK_FILE_SYSTEMS):
        raise SettingError(
            "NETWORK_FILE_SYSTEM",
            f"SQLite does not work on the network file system {kind} at {point}: "
            "set LORE_DATABASE_URL to a local file or to PostgreSQL",
        )
