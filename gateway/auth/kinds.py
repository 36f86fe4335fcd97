"""Which tokens say of themselves that they are no access tokens (RFC 8725 section 3.11)."""

from __future__ import annotations

import re
from typing import Any

# Claims in which makers say a token's kind, by its name or a URN: Keycloak, flask-jwt-extended, simplejwt.
_NAMES = ("typ", "type", "token_type")
_OTHERS = re.compile(
    r"(?:.*[:/])?(?:refresh|offline|(?:(?:back|front)[ _-]?channel[ _-]?)?logout|(?:sec(?:urity)?[ _-]?)?event"
    r"|(?:verifiable[ _-]?)?credential)(?:[ _-]?token)?(?:\+(?:sd-)?jwt)?",
    re.IGNORECASE,
)
# In a header: any media type of a kind of JWT but that of access tokens (RFC 9068).
_OTHER_MEDIA_TYPES = re.compile(r"(?!(?:application/)?at\+jwt$).*\+(?:sd-)?jwt", re.IGNORECASE)
_EVENTS = re.compile(r"https?://schemas\.openid\.net/.*|.*/(?:back|front)channel-logout", re.IGNORECASE)


def is_other_type(typ: str) -> bool:
    """Return whether a header's `typ` names another kind of token."""
    name = typ.partition(";")[0].strip()  # without a media type's parameters
    return bool(_OTHER_MEDIA_TYPES.fullmatch(name) or _OTHERS.fullmatch(name))


def other_kind(claims: dict[str, Any]) -> str | None:
    """Return the claim by which a token calls itself one for refreshing, logout, events or credentials, if one does."""
    for name in _NAMES:
        value = claims.get(name)
        if value is not None and any(_OTHERS.fullmatch(each) for each in _texts(value)):
            return name
    # A logout token (Back-Channel Logout section 2.4) or a security event (RFC 8417 section 2.2), under whatever `typ`.
    events = claims.get("events")
    return "events" if events is not None and any(_EVENTS.fullmatch(each) for each in _texts(events)) else None


def _texts(value: object) -> list[str]:
    """Return the text that the value is, or that is in it: members of a list, names of an object."""
    members = value if isinstance(value, list | dict) else [value]
    return [each for each in members if isinstance(each, str)]
