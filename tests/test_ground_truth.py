"""After a run the mirror holds what GitLab said, compared with the demo server's own ground truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import drain, settings_for
from truth import compare, entities_of

from lore.core.plan import Entity
from lore.core.runs import RunOptions
from lore.demo.server import running
from workers import resources, runs


@pytest.fixture(params=["tiny", "demo"])
def demo(request: pytest.FixtureRequest, ledger: Any, database_url: str) -> Iterator[Any]:
    with running(request.param) as server:
        resources.configure(settings_for(server.url, server.token, database_url))
        yield server
        resources.close()


def refresh(server: Any, entities: list[Entity]) -> dict[str, Any]:
    run_id = runs.submit(gitlab_url=server.url, project=server.project, entities=entities, options=RunOptions()).run_id
    drain()
    error = runs.error_of(run_id)
    assert error is None, (error.code, error.message, error.failures)
    return runs.read_run(run_id)


@pytest.mark.invariant("I14")
def test_the_mirror_equals_the_ground_truth_field_by_field_children_included(demo: Any) -> None:
    entities = entities_of(demo)[:40] if demo.project != "tiny/conformance" else entities_of(demo)

    refresh(demo, entities)

    for entity in entities:
        truth = demo.truth(entity.entity_type, entity.iid)
        compare(entity, truth)
