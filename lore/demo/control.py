"""The routes below `/__fake__/`: what a test or a demo tells the server and asks of it. Never part of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lore.demo.app import DemoApp
from lore.demo.clock import iso
from lore.demo.faults import FaultError
from lore.demo.model import Kind, Project
from lore.demo.script import ScriptError, run_steps
from lore.demo.truth import digest, entity_truth, project_truth


def control_app(app: DemoApp) -> Starlette:
    """Return the control routes of one demo server."""
    desk = _Desk(app)
    post: dict[str, Callable[[Any], Any]] = {
        "reset": desk.reset,
        "clock": desk.clock,
        "faults": desk.faults,
        "script": desk.script,
        "latency": desk.latency,
    }
    get: dict[str, Callable[[Request], Any]] = {
        "log": lambda request: app.record.log(),
        "stats": lambda request: app.record.stats(),
        "faults": lambda request: app.faults.describe(),
        "tokens": desk.tokens,
        "truth/{id:path}/digest": lambda request: {"digest": digest(desk.whole_truth(request))},
        "truth/{id:path}/{kind}/{iid:int}": desk.one_truth,
        "truth/{id:path}": desk.whole_truth,
    }
    routes = [Route(f"/__fake__/{name}", _posted(do), methods=["POST"]) for name, do in post.items()]
    routes += [Route(f"/__fake__/{name}", _asked(ask), methods=["GET"]) for name, ask in get.items()]
    return Starlette(routes=routes)


class _Desk:
    def __init__(self, app: DemoApp) -> None:
        self._app = app
        self._state = app.state

    def reset(self, wanted: Any) -> Any:
        """Put state, faults, latency and log back to the start."""
        self._state.reset()
        self._app.faults.load([])
        self._app.latency_ms = 0.0
        self._app.record.clear()
        return {}

    def clock(self, wanted: Any) -> Any:
        self._state.clock.advance(float((wanted or {}).get("advance_s", 0)))
        return {"now": iso(self._state.clock.now())}

    def faults(self, wanted: Any) -> Any:
        self._app.faults.load(wanted or [])
        return self._app.faults.describe()

    def script(self, wanted: Any) -> Any:
        return run_steps(self._state, wanted or [])

    def latency(self, wanted: Any) -> Any:
        self._app.latency_ms = float((wanted or {}).get("ms", 0))
        return {"ms": self._app.latency_ms}

    def tokens(self, request: Request) -> Any:
        return {token.name: token.value for token in self._state.tokens.all()}

    def whole_truth(self, request: Request) -> Any:
        return project_truth(self._state, self._project(request))

    def one_truth(self, request: Request) -> Any:
        kind: Kind = "merge_request" if request.path_params["kind"] == "merge_request" else "issue"
        return entity_truth(self._state, self._project(request), kind, request.path_params["iid"])

    def _project(self, request: Request) -> Project:
        reference = request.path_params["id"]
        project = self._state.project(reference)
        if project is None:
            raise ScriptError(f"no project {reference!r}")
        return project


def _posted(do: Callable[[Any], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(do(await request.json() if await request.body() else None))
        except (ScriptError, FaultError, ValueError, TypeError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    return endpoint


def _asked(ask: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(ask(request))
        except ScriptError as error:
            return JSONResponse({"error": str(error)}, status_code=404)

    return endpoint
