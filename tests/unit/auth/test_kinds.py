"""Tokens that call themselves another kind are no access tokens; what is like them and is none passes."""

import json
from typing import Any

import pytest
from helpers import Api, assert_refused, mint

LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
OTHERS: dict[str, dict[str, Any]] = {
    "simplejwt's refresh token": {"token_type": "refresh"},
    "flask-jwt-extended's refresh token": {"type": "refresh"},
    "Keycloak's refresh token": {"typ": "Refresh"},
    "Keycloak's offline token": {"typ": "Offline"},
    "Keycloak's logout token": {"typ": "Logout"},
    "a refresh token by its URN": {"token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    "a refresh token in other words": {"type": "refresh-token"},
    "one word": {"type": "RefreshToken"},
    "a logout token by its media type": {"typ": "logout+jwt"},
    "a logout token by its long media type": {"typ": "application/logout+jwt"},
    "an event": {"typ": "secevent+jwt"},
    "a security event": {"type": "security_event"},
    "a credential": {"type": ["VerifiableCredential", "Diploma"]},
    "a credential by its media type": {"typ": "vc+sd-jwt", "type": "credential"},
    "a logout token": {"events": {LOGOUT: {}}},
    "Keycloak's logout of offline sessions": {"events": {LOGOUT: {"revoke_offline_access": True}}, "sid": "s"},
    "a logout token whose events are a list": {"events": [LOGOUT]},
    "a session that was revoked": {
        "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}}
    },
}
ACCESS: dict[str, dict[str, Any]] = {
    "Keycloak": {"typ": "Bearer"},
    "simplejwt": {"token_type": "access"},
    "flask-jwt-extended": {"type": "access", "fresh": True},
    "a scheme": {"token_type": "Bearer"},
    "another meaning": {"type": "events-team", "typ": "refreshments", "token_type": 7},
    "nothing": {"type": None, "typ": "", "token_type": {}, "events": None},
    "a program's own events": {"events": {"read": True}},
    "a scope of that name": {"scope": "offline_access refresh"},
}


@pytest.mark.parametrize("claims", OTHERS.values(), ids=OTHERS)
def test_a_token_that_calls_itself_another_kind_is_refused(api: Api, claims: dict[str, Any]) -> None:
    answer = api("GET", "/", mint(**claims))
    assert_refused(answer, "invalid-claim")
    assert next(iter(claims)) in answer.get_json()["detail"]


@pytest.mark.parametrize("claims", ACCESS.values(), ids=ACCESS)
def test_what_calls_itself_none_of_these_passes(api: Api, claims: dict[str, Any]) -> None:
    assert api("GET", "/", mint(**claims)).status_code == 200


@pytest.mark.parametrize(
    "typ", ["logout+jwt", "vc+sd-jwt", "dc+sd-jwt", "kb+jwt", "Refresh", "refresh_token", "Offline", "logout"]
)
def test_a_header_that_names_another_kind_is_refused(api: Api, typ: str) -> None:
    assert_refused(api("GET", "/", mint(_header={"typ": typ})), "malformed-token")


def test_another_kind_cannot_be_named_as_the_token_to_take_back_and_is_not_taken_for_one(api: Api) -> None:
    assert_refused(api("POST", "/blacklist", mint(), json={"token": mint(token_type="refresh")}), "invalid-request")


# For whom


CLIENTS = [{"issuer": "https://www.discogs.com/", "secret": "discogs", "audience": "api", "client_ids": ["web", "app"]}]


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"client_id": "web"}, None),
        ({"azp": "app"}, None),
        ({"client_id": "web", "azp": "app"}, None),
        ({"aud": "api", "client_id": "nobody's"}, None),
        ({"aud": None, "client_id": "web"}, None),
        ({"aud": "web"}, "wrong-audience"),
        ({"aud": "other", "client_id": "web"}, "wrong-audience"),
        ({"aud": [], "client_id": "web"}, "wrong-audience"),
        ({"client_id": "other"}, "wrong-audience"),
        ({"client_id": "web", "azp": "other"}, "wrong-audience"),
        ({"client_id": ["web"]}, "wrong-audience"),
        ({"client_id": True}, "wrong-audience"),
        ({}, "missing-claim"),
        ({"client_id": None}, "missing-claim"),
    ],
)
def test_a_token_without_audience_is_for_a_client(make_api: Any, claims: dict[str, Any], code: str | None) -> None:
    """As Amazon Cognito's access tokens are."""
    answer = make_api(issuers=json.dumps(CLIENTS))("GET", "/", mint(**claims))
    assert answer.status_code == 200 if code is None else assert_refused(answer, code) is None
