"""Messages come once: one that is signed with a key newer than our copy of the key set must be able to come again."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from wsgiref.validate import validator

import jwt
import pytest
from helpers import EXPIRES, ISSUER, NOW, Api, Clock, assert_refused
from provider import Provider, Signer, signer, status

from gateway import Gateway

URI = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
Make = Callable[..., Api]


@pytest.fixture
def make_api(make_gate: Callable[..., Gateway]) -> Make:
    """Werkzeug's checker wants the length of a 204, which RFC 9110 section 8.6 forbids."""
    return lambda **values: Api(validator(make_gate(**values)))


def rotated(provider: Provider, make_api: Make, clock: Clock, kid: str | None = "newer") -> Api:
    """Return a gateway that has just asked for newer keys in vain, for somebody's junk, before the provider got one."""
    listed = [{"issuer": ISSUER, "jwks_url": provider.jwks_url}]
    sender = {"issuer": ISSUER, "audience": "api", "about": ISSUER}
    clients = [{"client_id": "shop", "secret": "s3cret"}]
    api = make_api(issuers=json.dumps(listed), signals=json.dumps([sender]), clients=json.dumps(clients))
    times = {"iat": int(NOW), "exp": EXPIRES}
    for _ in range(2):  # the first one may be answered by the first fetch
        assert api("GET", "/", signer("RS256", "junk").token(iss=ISSUER, **times)).status_code == 401
    provider.keys = [replace(signer("RS256", "newer"), kid=kid)]
    clock.advance(1)
    return api


def ask_with_a_newer_key(api: Api, kind: str, sign_with: Signer) -> Any:
    times = {"iat": int(NOW), "exp": int(NOW) + 120}
    claims: dict[str, Any] = {"iss": ISSUER, "aud": "api", "jti": kind, **times}
    subject = {"format": "iss_sub", "iss": ISSUER, "sub": "1001"}
    if kind == "logout":
        claims |= {"sub": "1001", "events": {"http://schemas.openid.net/event/backchannel-logout": {}}}
        return api("POST", "/-/logout", data={"logout_token": typed(sign_with, "logout+jwt", claims)})
    if kind == "events":
        del claims["exp"]
        claims |= {"sub_id": subject, "events": {URI: {}}}
        text = typed(sign_with, "secevent+jwt", claims)
        return api("POST", "/-/events", data=text, content_type="application/secevent+jwt")
    text = typed(sign_with, "global-token-revocation+jwt", claims)
    return api("POST", "/-/global-token-revocation", text, json={"sub_id": subject})


def typed(sign_with: Signer, typ: str, claims: dict[str, Any]) -> str:
    named = {"kid": sign_with.kid} if sign_with.kid else {}
    return jwt.encode(claims, sign_with.key, sign_with.algorithm, headers={"typ": typ, **named})


@pytest.mark.parametrize("kind", ["logout", "events", "revocation"])
def test_a_message_signed_with_a_key_that_is_newer_than_ours_can_come_again(
    make_api: Make, clock: Clock, kind: str
) -> None:
    """It comes once: with 400 it would be lost, and anybody's junk could bring that about."""
    with Provider([signer("RS256", "older")], plain=True) as provider:
        api = rotated(provider, make_api, clock)
        newer = signer("RS256", "newer")
        refused = ask_with_a_newer_key(api, kind, newer)
        assert_refused(refused, "keys-unavailable")
        clock.advance(int(refused.headers["Retry-After"]))
        assert ask_with_a_newer_key(api, kind, newer).status_code in (200, 202, 204)
        token = signer("RS256", "newer").token(iss=ISSUER, iat=int(NOW) - 10, exp=EXPIRES, sub="1001")
        assert_refused(api("GET", "/", token), "token-blacklisted")


def test_so_can_one_of_a_provider_that_names_no_keys(make_api: Make, clock: Clock) -> None:
    """None of its keys verifies, and nothing says that it is one of those that we have."""
    unnamed = [replace(signer("RS256", name), kid=None) for name in ("older", "newer")]
    with Provider(unnamed[:1], plain=True) as provider:
        api = rotated(provider, make_api, clock, None)
        for newer in (unnamed[1], signer("RS256", "newer")):
            assert_refused(ask_with_a_newer_key(api, "logout", newer), "keys-unavailable")
        clock.advance(30)
        assert ask_with_a_newer_key(api, "logout", unnamed[1]).status_code == 200


def test_a_wrong_signature_by_a_key_that_we_have_is_refused_for_good(make_api: Make, clock: Clock) -> None:
    with Provider([signer("RS256", "older")], plain=True) as provider:
        api = rotated(provider, make_api, clock)
        forged = Signer("RS256", "older", signer("RS256", "foreign").key)
        assert ask_with_a_newer_key(api, "logout", forged).json["error"] == "invalid_request"


def test_a_message_whose_key_is_not_there_after_a_fresh_look_is_refused_for_good(make_api: Make, clock: Clock) -> None:
    with Provider([signer("RS256", "older")], plain=True) as provider:
        api = rotated(provider, make_api, clock)
        provider.answer = status(503)
        clock.advance(60)
        foreign = signer("RS256", "foreign")
        assert_refused(ask_with_a_newer_key(api, "logout", foreign), "keys-unavailable")
        provider.answer = None
        clock.advance(60)
        assert ask_with_a_newer_key(api, "logout", foreign).json["error"] == "invalid_request"


def test_a_token_is_called_revoked_once_our_keys_say_that_it_would_not_pass(make_api: Make, clock: Clock) -> None:
    def revoke(key: str) -> Any:
        token = signer("RS256", key).token(iss=ISSUER, iat=int(NOW) - 10, exp=EXPIRES, sub="1001")
        form = {"token": token, "client_id": "shop", "client_secret": "s3cret"}
        return api("POST", "/-/revoke", data=form), token

    with Provider([signer("RS256", "older")], plain=True) as provider:
        api = rotated(provider, make_api, clock)
        assert_refused(revoke("newer")[0], "keys-unavailable")
        assert_refused(revoke("foreign")[0], "keys-unavailable")
        clock.advance(30)
        answer, token = revoke("newer")
        assert answer.status_code == 200
        assert_refused(api("GET", "/", token), "token-blacklisted")
        assert revoke("foreign")[0].status_code == 200
