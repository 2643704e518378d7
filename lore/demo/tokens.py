"""The tokens of the demo GitLab and what each may do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lore.demo.model import User

READER = User(31, "demo-reader", "Demo Reader", has_avatar=False)
GUEST = User(32, "demo-guest", "Demo Guest", has_avatar=False)
OWNER = User(33, "demo-owner", "Demo Owner", has_avatar=False)
BLOCKED = User(34, "demo-blocked", "Demo Blocked", state="blocked", has_avatar=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A personal access token.

    Attributes:
        name: How log and faults call it, so that no log holds the value.
        sees_confidential: Whether confidential issues and internal notes are shown to it.
        sees_private: Whether private projects are.
    """

    name: str
    value: str
    user: User
    scopes: tuple[str, ...] = ("read_api",)
    is_expired: bool = False
    is_revoked: bool = False
    sees_confidential: bool = True
    sees_private: bool = False

    @property
    def may_read_api(self) -> bool:
        """Whether it may read more than its own user."""
        return "read_api" in self.scopes or "api" in self.scopes


TOKENS = (
    Token("full", "glpat-demo-full", READER),
    Token("guest", "glpat-demo-guest", GUEST, sees_confidential=False),
    Token("owner", "glpat-demo-owner", OWNER, scopes=("api",), sees_private=True),
    Token("read_user", "glpat-demo-read-user", READER, scopes=("read_user",)),
    Token("expired", "glpat-demo-expired", READER, is_expired=True),
    Token("revoked", "glpat-demo-revoked", READER, is_revoked=True),
    Token("blocked", "glpat-demo-blocked", BLOCKED),
)
DEFAULT_TOKEN = TOKENS[0].value
ANONYMOUS = "anonymous"
WRONG = "wrong"


class TokenRing:
    """The tokens that exist now, by value."""

    def __init__(self) -> None:
        self._tokens = {token.value: token for token in TOKENS}

    def find(self, value: str) -> Token | None:
        """Return the token of that value, or None."""
        return self._tokens.get(value)

    def all(self) -> list[Token]:
        """Return every token."""
        return list(self._tokens.values())

    def name(self, value: str | None) -> str:
        """Return how log and faults call the holder of a value, or of none."""
        if value is None:
            return ANONYMOUS
        token = self.find(value)
        return WRONG if token is None else token.name

    def change(self, name: str, *, is_revoked: bool | None = None, is_expired: bool | None = None) -> Token:
        """Revoke or expire the token of that name.

        Raises:
            KeyError: If none has it.
        """
        token = next((token for token in self.all() if token.name == name), None)
        if token is None:
            raise KeyError(f"no token is called {name!r}; there are {[token.name for token in self.all()]}")
        if is_revoked is not None:
            token = replace(token, is_revoked=is_revoked)
        if is_expired is not None:
            token = replace(token, is_expired=is_expired)
        self._tokens[token.value] = token
        return token
