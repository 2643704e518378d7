from __future__ import annotations

from typing import Any

from models.base import now_ms, write
from models.ledger import Project
from models.prepared import Prepared, given, moment

PROJECT = Prepared(lambda: Project.select(Project.path_with_namespace).where(Project.gitlab_url == given("url")))
CONFIRM = Prepared(
    lambda: Project.update(confirmed_at=moment() + given("ms")).where(Project.gitlab_url == given("url"))
)


def test_a_prepared_query_takes_its_values_at_each_execution(ledger: Any) -> None:
    with write():
        Project.insert(gitlab_url="one", path_with_namespace="a/b").execute()
        Project.insert(gitlab_url="two", path_with_namespace="c/d").execute()

    assert [PROJECT.row(url=url) for url in ("one", "two", "three")] == [("a/b",), ("c/d",), None]


def test_its_moment_is_the_databases_clock_at_each_execution(ledger: Any) -> None:
    with write():
        Project.insert(gitlab_url="one", path_with_namespace="a/b").execute()
    times = []
    for _ in range(2):
        before = now_ms()
        with write():
            assert CONFIRM.changed(url="one", ms=5) == 1
            assert CONFIRM.changed(url="other", ms=5) == 0
        times.append(before <= Project.get().confirmed_at - 5 <= now_ms())

    assert times == [True, True]


def test_it_is_written_down_once(ledger: Any) -> None:
    built: list[int] = []
    query = Prepared(lambda: built.append(1) or Project.select(Project.project_id))

    query.row()
    query.row()

    assert built == [1]
