from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lore.core.errors import BusyError, StorageError
from models import base, schema, turns
from models.base import database, write


@pytest.fixture
def path(tmp_path: Path) -> Any:
    base.open_database(f"sqlite://{tmp_path}/lore.db")
    schema.bring_up()
    yield tmp_path / "lore.db"
    base.disconnect()


def test_threads_of_one_process_write_one_after_the_other(path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            with write():
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        base.disconnect()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(most), max(most)) == (300, 1)


def test_who_waits_for_another_process_begins_as_soon_as_it_has_ended(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    looks: list[float] = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 40:
            other.execute("COMMIT")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "sleep", look)
        with write():
            assert database.in_transaction()
    other.close()

    assert looks == [turns.LOOK_EVERY_S] * 40


def test_a_database_that_another_process_never_gives_up_is_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(base, "SQLITE_BUSY_S", 0.01)

    with pytest.raises(BusyError) as caught, write():
        raise AssertionError("it wrote")
    other.close()

    assert caught.value.code == "DATABASE_BUSY"
    with write():
        assert database.in_transaction()


def test_a_thread_that_never_ends_its_turn_makes_the_others_busy_not_wait_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "SQLITE_BUSY_S", 0.01)
    caught: list[BusyError] = []

    def work() -> None:
        with pytest.raises(BusyError) as busy, write():
            raise AssertionError("two at once")
        caught.append(busy.value)
        base.disconnect()

    with write():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    assert caught[0].code == "DATABASE_BUSY"


def write_elsewhere() -> None:
    """Write in another thread, as soon as it is its turn."""
    done: list[int] = []

    def work() -> None:
        with write():
            done.append(1)
        base.disconnect()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_whoever_is_told_of_a_commit_holds_nobody_up(path: Path) -> None:
    with write():
        database.after_commit(write_elsewhere)


def rolled_back() -> None:
    raise ZeroDivisionError


def connection_lost() -> None:
    database.obj.connection().close()


@pytest.mark.parametrize("how", [rolled_back, connection_lost])
def test_a_turn_ends_however_its_transaction_does(path: Path, how: Callable[[], None]) -> None:
    with pytest.raises((ZeroDivisionError, StorageError)), write():
        how()

    write_elsewhere()


def test_a_statement_outside_a_writing_transaction_waits_as_long_as_before(path: Path) -> None:
    with write():
        pass

    assert database.obj.pragma("busy_timeout") == base.SQLITE_BUSY_S * 1000
