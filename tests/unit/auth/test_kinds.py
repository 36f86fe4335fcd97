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
    "typ",
    [
        "logout+jwt",
        "logout+jwt ",
        "secevent+jwt; charset=utf-8",
        "vc+sd-jwt",
        "dc+sd-jwt",
        "kb+jwt",
        "Refresh",
        "refresh_token",
        "Offline",
        "logout",
    ],
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


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"client_id": "web"}, None),
        ({"client_id": "web", "aud": "https://orders.test/"}, None),
        ({"client_id": "other", "aud": "https://orders.test/"}, "wrong-audience"),
        ({"client_id": "other", "aud": "web"}, "wrong-audience"),
        ({"client_id": "other", "aud": []}, "wrong-audience"),
        ({"azp": "other", "aud": ["web"]}, "wrong-audience"),
        ({"aud": "web"}, "missing-claim"),
    ],
)
def test_where_no_audience_is_set_an_audience_is_no_way_around_the_client(
    make_api: Any, claims: dict[str, Any], code: str | None
) -> None:
    """Cognito's access tokens have an `aud` where a client asks for one (resource binding)."""
    listed = [{**CLIENTS[0], "audience": []}]
    answer = make_api(issuers=json.dumps(listed))("GET", "/", mint(**claims))
    assert answer.status_code == 200 if code is None else assert_refused(answer, code) is None


# What a token must have


@pytest.mark.parametrize(
    ("required", "claims", "code"),
    [
        ("sub", {"sub": "1001"}, None),
        ("sub", {"sub": 0}, None),
        ("sub", {"sub": ["1001"]}, None),
        ("sub", {}, "missing-claim"),
        ("sub", {"sub": None}, "missing-claim"),
        ("sub", {"sub": ""}, "missing-claim"),
        ("sub", {"sub": []}, "missing-claim"),
        ("sub", {"sub": True}, "missing-claim"),
        ("sub", {"sub": {}}, "missing-claim"),
        ("cnf", {"cnf": {"jkt": "x"}}, None),
        ("token_use=access", {"token_use": "access"}, None),
        ("token_use=access", {"token_use": "id"}, "invalid-claim"),
        ("token_use=access", {"token_use": "Access"}, "invalid-claim"),
        ("token_use=access", {"token_use": ["id", "access"]}, None),
        ("token_use=access", {"token_use": {"access": 1}}, "invalid-claim"),
        ("token_use=access", {}, "missing-claim"),
        ("typ=Bearer|DPoP", {"typ": "DPoP"}, None),
        ("typ=Bearer|DPoP", {"typ": "ID"}, "invalid-claim"),
        ("level=3", {"level": 3}, None),
        ("level=3", {"level": 3.0}, None),
        ("level=3", {"level": "3"}, None),
        ("level=3e0", {"level": 3}, None),
        ("level=3", {"level": 30}, "invalid-claim"),
        ("email_verified=true", {"email_verified": True}, None),
        ("email_verified=true", {"email_verified": False}, "invalid-claim"),
        ("realm_access.roles=api", {"realm_access": {"roles": ["x", "api"]}}, None),
        ("realm_access.roles=api", {"realm_access": {"roles": "api x"}}, "invalid-claim"),
        ("realm_access.roles=api", {"realm_access": ["roles"]}, "missing-claim"),
        ("https://a.test/role=x", {"https://a.test/role": "x"}, None),
        ("resource_access.my.app.roles=x", {"resource_access": {"my.app": {"roles": ["x"]}}}, None),
        ("a.b", {"a.b": None, "a": {"b": 1}}, "missing-claim"),
        ("sub,sid", {"sub": "1", "sid": "2"}, None),
        ("sub,sid", {"sub": "1"}, "missing-claim"),
    ],
)
def test_what_a_token_must_have(make_api: Any, required: str, claims: dict[str, Any], code: str | None) -> None:
    answer = make_api(required_claims=required)("GET", "/", mint(**claims))
    assert answer.status_code == 200 if code is None else assert_refused(answer, code) is None


def test_an_issuer_asks_for_more_than_all_do(make_api: Any) -> None:
    listed = [{"issuer": "https://www.discogs.com/", "secret": "discogs", "required_claims": ["token_use=access"]}]
    api = make_api(issuers=json.dumps(listed), required_claims="sub")
    assert api("GET", "/", mint(sub="1", token_use="access")).status_code == 200
    assert_refused(api("GET", "/", mint(sub="1")), "missing-claim")
    assert_refused(api("GET", "/", mint(token_use="access")), "missing-claim")
