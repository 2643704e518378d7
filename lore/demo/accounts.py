"""What a token's holder learns of itself: `/user` and `/personal_access_tokens/self`."""

from __future__ import annotations

from lore.demo.clock import DAY, iso, iso_day
from lore.demo.replies import Call, Reply, unauthorized
from lore.demo.tokens import Token


def user(call: Call) -> Reply:
    """Answer who the token belongs to."""
    holder = _token(call).user
    joined = iso(call.state.main.created_at)
    email = f"{holder.username}@example.invalid"
    brief = call.renderer(call.state.main).user(holder) or {}
    return Reply(
        brief
        | {
            "created_at": joined,
            "bio": "",
            "location": "",
            "linkedin": "",
            "twitter": "",
            "discord": "",
            "website_url": "",
            "github": "",
            "job_title": "",
            "pronouns": None,
            "organization": "",
            "bot": False,
            "work_information": None,
            "local_time": None,
            "last_sign_in_at": joined,
            "confirmed_at": joined,
            "last_activity_on": iso_day(call.state.clock.now()),
            "email": email,
            "commit_email": email,
            "theme_id": 3,
            "color_scheme_id": 1,
            "projects_limit": 100000,
            "current_sign_in_at": joined,
            "identities": [],
            "can_create_group": False,
            "can_create_project": False,
            "two_factor_enabled": False,
            "external": False,
            "private_profile": False,
        }
    )


def token_self(call: Call) -> Reply:
    """Answer what the token may do and until when."""
    token = _token(call)
    now = call.state.clock.now()
    return Reply(
        {
            "id": 70 + token.user.id,
            "name": token.name,
            "revoked": False,
            "created_at": iso(call.state.main.created_at),
            "description": None,
            "scopes": list(token.scopes),
            "user_id": token.user.id,
            "last_used_at": iso(now - now % DAY),
            "active": True,
            "expires_at": iso_day(now + 90 * DAY),
        }
    )


def _token(call: Call) -> Token:
    if call.token is None:
        raise unauthorized()
    return call.token
