"""Messages as providers really shape them, with the settings that docs/signals.md names for each of them.

The shapes are those of their sources and documents of 2025 and 2026, without what is of no account here.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from helpers import ISSUER, NOW, Api, mint, sign

BCL = "http://schemas.openid.net/event/backchannel-logout"
CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
THEN = int(NOW) - 3
LOGOUT: dict[str, Any] = {"iat": THEN, "exp": THEN + 120, "events": {BCL: {}}}
OTHER = {"about": ISSUER, "secret": "what the provider's keys stand for"}


class Shape(NamedTuple):
    """A sender's settings, its message by header and claims, and what tokens have that it ends, and that it spares."""

    sender: dict[str, Any]
    typ: str
    claims: dict[str, Any]
    ended: dict[str, Any]
    spared: dict[str, Any]


def keycloak(session: str, **parts: Any) -> dict[str, Any]:
    user = {"format": "iss_sub", "iss": ISSUER, "sub": "1001"}
    event = {"event_timestamp": THEN, "initiating_entity": "admin", "reason_admin": {"en": "User logout"}}
    subject = {"format": "complex", "user": user, "session": {"format": "opaque", "id": session}, **parts}
    return {"iat": THEN, "txn": "t", "aud": ["us"], "sub_id": subject, "events": {CAEP + "session-revoked": event}}


def authentik(**event: Any) -> dict[str, Any]:
    subject = {"user": {"format": "email", "email": "a@example.test"}, **event.pop("subject", {})}
    [uri] = [CAEP + ("credential-change" if event else "session-revoked")]
    return {"iat": THEN, "aud": ["us"], "events": {uri: {"subject": subject, "initiating_entity": "user", **event}}}


AUTHENTIK = {**OTHER, "issuer": "https://authentik.test/.well-known/ssf-configuration/app", "without_typ": True}
GOOGLE = {**OTHER, "issuer": "https://accounts.google.com", "aliases": ["https://accounts.google.com/"]}
GOOGLE["subject_claim"] = "firebase.identities.google.com"

SHAPES = {
    "Keycloak logout": Shape(
        {},
        "JWT",
        {**LOGOUT, "typ": "Logout", "sub": "1001", "sid": "s-1", "events": {BCL: {}, "revoke_offline_access": True}},
        {"sid": "s-1"},
        {"sid": "s-2"},
    ),
    "Keycloak 23 logout": Shape(
        {"without_exp": 120},
        "JWT",
        {"iat": THEN, "typ": "Logout", "sid": "s-1", "events": {BCL: {}}},
        {"sid": "s-1"},
        {"sid": "s-2"},
    ),
    "Keycloak session": Shape({}, "secevent+jwt", keycloak("s-1"), {"sid": "s-1"}, {"sid": "s-2"}),
    "Keycloak all sessions": Shape({}, "secevent+jwt", keycloak("ALL"), {"sid": "s-2"}, {"sid": "s-2", "sub": "1002"}),
    "Keycloak all sessions in an organisation": Shape(
        {"tenant_claim": "organization"},
        "secevent+jwt",
        keycloak("ALL", tenant={"format": "opaque", "id": "acme"}),
        {"organization": ["acme"]},
        {"organization": ["globex"]},
    ),
    "Auth0 logout": Shape(
        {"sessions": "subject"},
        "logout+jwt",
        {**LOGOUT, "sub": "auth0|1001", "sid": "s-1", "trace_id": "t"},
        {"sub": "auth0|1001", "sid": None},
        {"sub": "auth0|1002", "sid": None},
    ),
    "ZITADEL logout": Shape(
        {"sessions": "subject"}, "logout+jwt", {**LOGOUT, "sub": "7001", "sid": "V1_1"}, {"sub": 7001}, {"sub": 7002}
    ),
    "Hydra logout": Shape(
        {"without_exp": 120, "session_claim": "ext.sid"},
        "JWT",
        {"iat": THEN, "aud": ["us"], "sid": "s-1", "events": {BCL: {}}},
        {"ext": {"sid": "s-1"}},
        {"ext": {"sid": "s-2"}},
    ),
    "authentik session": Shape(
        AUTHENTIK,
        "JWT",
        authentik(subject={"session": {"format": "opaque", "id": "5" * 64}}),
        {"sid": "5" * 64},
        {"sid": "6" * 64},
    ),
    "authentik credential": Shape(
        {**AUTHENTIK, "email_claim": "email"},
        "JWT",
        authentik(credential_type="password", change_type="update"),
        {"email": "a@example.test"},
        {"email": "b@example.test"},
    ),
    "Okta session": Shape(
        {**OTHER, "issuer": "https://acme.okta.test", "subject_claim": "uid"},
        "secevent+jwt",
        {
            "iat": THEN,
            "events": {
                CAEP + "session-revoked": {
                    "event_timestamp": THEN * 1000,
                    "subject": {"format": "iss_sub", "iss": "https://acme.okta.test", "sub": "00u1"},
                }
            },
        },
        {"uid": "00u1"},
        {"uid": "00u2"},
    ),
    "Google account": Shape(
        GOOGLE,
        "secevent+jwt",
        {
            "iss": "https://accounts.google.com/",
            "iat": THEN,
            "events": {
                RISC + "account-disabled": {
                    "subject": {"subject_type": "iss-sub", "iss": "https://accounts.google.com/", "sub": "7375"},
                    "reason": "hijacking",
                }
            },
        },
        {"firebase": {"identities": {"google.com": ["7375"], "email": ["a@example.test"]}}},
        {"firebase": {"identities": {"google.com": ["7376"]}}},
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_providers_message_ends_just_those_tokens(make_api: Callable[..., Api], shape: Shape) -> None:
    sender = {"issuer": ISSUER, "audience": "us", **shape.sender}
    api = make_api(signals=json.dumps([sender]))
    claims = {"iss": sender["issuer"], "aud": "us", "jti": "1", **shape.claims}
    text = sign({"alg": "HS256", "typ": shape.typ}, claims, str(shape.sender.get("secret", "discogs")))
    if BCL in claims["events"]:
        answer = api("POST", "/-/logout", data={"logout_token": text})
    else:
        answer = api("POST", "/-/events", data=text, content_type="application/secevent+jwt")
    assert answer.status_code in (200, 202), answer.data
    for theirs, status in ((shape.ended, 401), (shape.spared, 200)):
        token = mint(**{"iat": THEN - 10, "sub": "1001", "sid": "another", **theirs})
        assert api("GET", "/", token).status_code == status
