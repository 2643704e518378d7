"""Two demo servers for all of these tests, each put back to its start before every test that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lore.demo.client import Demo
from lore.demo.server import LocalDemo, running

SHARED = Path(__file__).parents[4] / "shared" / "gitlab"

Crawl = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def _tiny_server() -> Iterator[LocalDemo]:
    with running("tiny") as demo:
        yield demo


@pytest.fixture(scope="session")
def _demo_server() -> Iterator[LocalDemo]:
    with running("demo") as demo:
        yield demo


@pytest.fixture
def tiny(_tiny_server: LocalDemo) -> LocalDemo:
    _tiny_server.reset()
    return _tiny_server


@pytest.fixture
def harbour(_demo_server: LocalDemo) -> LocalDemo:
    _demo_server.reset()
    return _demo_server


@pytest.fixture(params=["tiny", "demo"])
def either(request: pytest.FixtureRequest) -> LocalDemo:
    """Both profiles, one after the other."""
    demo: LocalDemo = request.getfixturevalue("tiny" if request.param == "tiny" else "harbour")
    return demo


@pytest.fixture
def client() -> Iterator[Callable[..., httpx.Client]]:
    """Return a maker of clients for a demo server's API, with the default token, another one, or none."""
    made: list[httpx.Client] = []

    def make(demo: Demo, token: str | None = "") -> httpx.Client:
        headers = {} if token is None else {"PRIVATE-TOKEN": token or demo.token}
        made.append(
            httpx.Client(base_url=f"{demo.url}/api/v4", headers=headers, trust_env=False, timeout=10, verify=False)
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def crawl() -> Crawl:
    """Return a function that reads a list to its last page by `X-Next-Page`."""

    def read(http: httpx.Client, path: str, **query: Any) -> list[Any]:
        rows: list[Any] = []
        page = "1"
        while page:
            response = http.get(path, params={"per_page": 100, **query, "page": page})
            assert response.status_code == 200, response.text
            rows += response.json()
            page = response.headers.get("X-Next-Page", "")
        return rows

    return read


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of facts about GitLab, which lies beside the project and is no part of it."""
    if not SHARED.is_dir():
        pytest.skip("../shared/gitlab is absent: schemas and recordings of real GitLab servers cannot be compared")
    return SHARED


@pytest.fixture(scope="session")
def recording(shared: Path) -> Callable[[str], Any]:
    """Return a function that loads a recorded answer by its path below `recordings`."""

    def load(name: str) -> Any:
        return json.loads((shared / "recordings" / name).read_text("utf-8"))

    return load
