"""What a handler is given and what it gives back, and GitLab's errors with their exact bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lore.demo.model import Json, Project
from lore.demo.render import Renderer
from lore.demo.state import State
from lore.demo.tokens import Token

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, already routed.

    Attributes:
        path: As it was sent, still percent-encoded: GitLab's `Link` repeats it so.
        query: In the order sent, decoded.
        params: The variable parts of the path, decoded.
    """

    state: State
    path: str
    query: Sequence[tuple[str, str]]
    params: Mapping[str, str]
    token: Token | None

    def value(self, name: str) -> str | None:
        """Return the last value of a query parameter."""
        return next((value for key, value in reversed(self.query) if key == name), None)

    def values(self, name: str) -> list[str]:
        """Return all values of an array parameter, written `name[]=a&name[]=b` or `name=a,b`."""
        found: list[str] = []
        for key, value in self.query:
            if key == f"{name}[]":
                found.append(value)
            elif key == name:
                found += value.split(",")
        return found

    def renderer(self, project: Project) -> Renderer:
        """Return what renders the rows of a project."""
        return self.state.renderer(project)


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200 answer: a JSON value and the headers that go with a page."""

    body: Any
    headers: Sequence[Header] = ()


@dataclass(slots=True)
class ApiError(Exception):
    """An answer that is not a 200."""

    status: int
    body: Json | str
    headers: list[Header] = field(default_factory=list)


def unauthorized() -> ApiError:
    """Return the 401 of a missing or wrong token."""
    return ApiError(401, {"message": "401 Unauthorized"})


def expired() -> ApiError:
    """Return the 401 of an expired token."""
    return _invalid_token("Token is expired. You can either do re-authorization or token refresh.")


def revoked() -> ApiError:
    """Return the 401 of a revoked token."""
    return _invalid_token("Token was revoked. You have to re-authorize from the user.")


def blocked() -> ApiError:
    """Return the 403 of a blocked user."""
    return ApiError(403, {"message": "403 Forbidden - Your account has been blocked."})


def forbidden() -> ApiError:
    """Return the plain 403."""
    return ApiError(403, {"message": "403 Forbidden"})


def insufficient_scope() -> ApiError:
    """Return the 403 of a token that may too little."""
    return ApiError(
        403,
        {
            "error": "insufficient_scope",
            "error_description": "The request requires higher privileges than provided by the access token.",
            "scope": "api read_api",
        },
    )


def no_route() -> ApiError:
    """Return the 404 of a path no route has."""
    return ApiError(404, {"error": "404 Not Found"})


def no_project() -> ApiError:
    """Return the 404 of a project that is not there or not to be seen."""
    return ApiError(404, {"message": "404 Project Not Found"})


def no_record() -> ApiError:
    """Return the 404 of an issue or merge request."""
    return ApiError(404, {"message": "404 Not found"})


def no_noteable(kind_name: str) -> ApiError:
    """Return the 404 of what should have notes or events."""
    return ApiError(404, {"message": f"404 {kind_name} Not Found"})


def invalid(parameter: str, why: str = "is invalid") -> ApiError:
    """Return the 400 that names a parameter."""
    return ApiError(400, {"error": f"{parameter} {why}"})


def not_allowed(why: str) -> ApiError:
    """Return a 405."""
    return ApiError(405, {"error": why})


def moved(url: str) -> ApiError:
    """Return the 301 of a renamed project: a plain text, not JSON."""
    return ApiError(301, f"This resource has been moved permanently to {url}", [("Location", url)])


def _invalid_token(description: str) -> ApiError:
    return ApiError(401, {"error": "invalid_token", "error_description": description})
