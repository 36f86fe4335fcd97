"""POST /-/revoke (RFC 7009) and /-/introspect (RFC 7662), and how clients authenticate (RFC 6749 section 2.3.1)."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
from helpers import EXPIRES, ISSUER, NOW, Api, assert_refused, mint, signature_spellings

OTHER = "https://other.test/"
CLIENTS = json.dumps(
    [
        {"client_id": "shop", "secret": "s3cret of the shop"},
        {"client_id": "odd: client", "secret": "p%ss+w:rd &ü", "may": ["revoke"]},
        {"client_id": "api", "secret": ["new", "old"], "may": ["introspect"], "issuers": [ISSUER]},
        {"client_id": "busy", "secret": "busy", "per_minute": 3},
    ]
)
CLIENTS_OF_ONE = json.dumps([{"client_id": "shop", "secret": "s3cret of the shop"}])
ISSUERS = json.dumps([{"issuer": ISSUER, "secret": "discogs"}, {"issuer": OTHER, "secret": "other"}])
TOKEN = mint(sub="1001", scope="read write", client_id="shop", aud="urn:api", iat=int(NOW) - 10)

Make = Callable[..., Api]


def basic(name: str, secret: str) -> dict[str, str]:
    """Return the Authorization field as RFC 6749 has it: both form-urlencoded first."""
    pair = f"{quote_plus(name)}:{quote_plus(secret)}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


SHOP = basic("shop", "s3cret of the shop")


def ask(api: Api, what: str, token: str = TOKEN, headers: dict[str, str] = SHOP, **more: str) -> Any:
    return api("POST", f"/-/{what}", data={"token": token, **more}, headers=headers)


@pytest.fixture
def gate_api(make_api: Make) -> Api:
    return make_api(issuers=ISSUERS, clients=CLIENTS)


def passes(api: Api, token: str = TOKEN) -> bool:
    return bool(api("GET", "/", token).status_code == 200)


class TestRevoking:
    def test_a_clients_token_is_refused_at_the_next_request(self, gate_api: Api) -> None:
        answer = ask(gate_api, "revoke")
        assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (200, b"", "no-store")
        assert not passes(gate_api)
        assert passes(gate_api, mint(sub="1001", jti="another"))
        assert ask(gate_api, "revoke").status_code == 200

    @pytest.mark.parametrize("spelling", [*sorted(signature_spellings(TOKEN))[:3], f"{TOKEN}\n", f" {TOKEN}\r\n"])
    def test_any_spelling_of_it_will_do(self, gate_api: Api, spelling: str) -> None:
        assert ask(gate_api, "revoke", spelling).status_code == 200
        assert not passes(gate_api)

    @pytest.mark.parametrize("hint", ["access_token", "refresh_token", "unknown", ""])
    def test_a_hint_stops_nothing(self, gate_api: Api, hint: str) -> None:
        assert ask(gate_api, "revoke", token_type_hint=hint).status_code == 200
        assert not passes(gate_api)

    @pytest.mark.parametrize(
        "token",
        [
            "garbage",
            "a.b.c",
            mint("wrong"),
            mint(exp=int(NOW) - 1),
            mint(iss="https://unknown.test/"),
            mint(exp="never"),
        ],
        ids=["opaque", "dots", "signature", "expired", "issuer", "claim"],
    )
    def test_what_would_not_pass_anyway_is_success(self, gate_api: Api, token: str) -> None:
        assert ask(gate_api, "revoke", token).status_code == 200

    def test_what_another_gateway_on_the_same_store_lets_pass_for_longer_is_refused_there(self, make_api: Make) -> None:
        """One with more LEEWAY, or without MAX_TOKEN_AGE, or whose clock is behind."""
        for token in (mint(exp=int(NOW) - 1, jti="over"), mint(iat=int(NOW) - 100, jti="old")):
            tolerant = make_api(leeway=60)
            assert passes(tolerant, token)
            assert ask(make_api(max_token_age=50, clients=CLIENTS_OF_ONE), "revoke", token).status_code == 200
            assert not passes(tolerant, token)

    @pytest.mark.parametrize(
        "here",
        [
            {"audience": "urn:another"},
            {"required_claims": "token_use=access"},
            {"issuers": json.dumps([{"issuer": ISSUER, "secret": "discogs", "client_ids": ["another"]}])},
            {"max_token_bytes": 100},
        ],
        ids=str,
    )
    def test_a_token_for_an_api_of_another_gateway_on_the_same_store_is_refused_there(
        self, make_api: Make, here: dict[str, Any]
    ) -> None:
        """An authorization server names one address for all its clients."""
        there, api = make_api(audience="urn:api"), make_api(clients=CLIENTS_OF_ONE, **here)
        assert (passes(there), passes(api)) == (True, False)
        assert ask(api, "introspect").json == {"active": False}
        answer = ask(api, "revoke", token_type_hint="refresh_token")
        assert (answer.status_code, answer.json["error"]) == (400, "unsupported_token_type")
        assert ask(api, "revoke").status_code == 200
        assert not passes(there)
        assert passes(there, mint(sub="1001", aud="urn:api", jti="another"))

    def test_an_opaque_refresh_token_is_not_called_revoked(self, gate_api: Api) -> None:
        answer = ask(gate_api, "revoke", "opaque", token_type_hint="refresh_token")
        assert (answer.status_code, answer.json["error"]) == (400, "unsupported_token_type")

    @pytest.mark.parametrize(
        ("token", "hint"),
        [
            (mint("of its maker alone", iss=ISSUER), "refresh_token"),
            (mint(iss="https://unknown.test/"), "refresh_token"),
            (mint(typ="Refresh"), "refresh_token"),
            (mint(typ="Refresh"), "access_token"),
            (mint("of its maker alone", typ="Offline"), ""),
            (mint(token_type="refresh"), ""),
            (mint(type="refresh", exp=int(NOW) - 1), "nonsense"),
            (mint(_header={"typ": "oi_reft+jwt"}), ""),
            (mint("of its maker alone", _header={"typ": "refresh+jwt"}), "access_token"),
        ],
    )
    def test_nor_is_one_that_is_a_jwt(self, gate_api: Api, token: str, hint: str) -> None:
        """As those of Keycloak and simplejwt are, and of OpenIddict, which says so in the header."""
        answer = ask(gate_api, "revoke", token, token_type_hint=hint)
        assert (answer.status_code, answer.json["error"]) == (400, "unsupported_token_type")

    @pytest.mark.parametrize(
        "claims", [{"client_id": "api"}, {"azp": "api"}, {"client_id": "shop", "azp": "api"}], ids=str
    )
    def test_another_clients_token_is_refused(self, gate_api: Api, claims: dict[str, str]) -> None:
        token = mint(sub="1001", **claims)
        answer = ask(gate_api, "revoke", token)
        assert (answer.status_code, answer.json["error"]) == (400, "unauthorized_client")
        assert passes(gate_api, token)

    def test_a_client_of_an_issuer_with_tenants_asks_for_any_of_theirs(self, make_api: Make) -> None:
        issuer, tenant = "https://login.test/{tenantid}/v2.0", "5B1C2D3E-0000-4000-8000-0000000000aa"
        client = {"client_id": "shop", "secret": "s3cret of the shop", "issuers": [issuer]}
        listed = [{"issuer": issuer, "secret": "discogs"}, {"issuer": ISSUER, "secret": "discogs"}]
        api = make_api(issuers=json.dumps(listed), clients=json.dumps([client]))
        token = mint(iss=issuer.replace("{tenantid}", tenant), tid=tenant, sub="1")
        assert ask(api, "introspect", token).json["active"] is True
        assert ask(api, "introspect", mint(sub="1")).json == {"active": False}
        assert ask(api, "revoke", token).status_code == 200
        assert ask(api, "introspect", token).json == {"active": False}
        assert not passes(api, token)

    def test_a_token_that_names_no_client_is_its_holders(self, gate_api: Api) -> None:
        for token in (mint("other", iss=OTHER, sub="7"), mint("other", iss=OTHER, sub="8", client_id=None)):
            assert ask(gate_api, "revoke", token).status_code == 200
            assert not passes(gate_api, token)

    def test_the_entry_says_which_client(self, gate_api: Api) -> None:
        ask(gate_api, "revoke")
        [entry] = gate_api("GET", "/blacklist/entries", mint(sub="a", scope="blacklist:admin")).json["entries"]
        assert entry["by"] == "client:shop"


class TestIntrospecting:
    def test_a_token_that_would_pass_is_told_with_its_claims(self, gate_api: Api) -> None:
        answer = ask(gate_api, "introspect")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json == {
            "active": True,
            "token_type": "Bearer",
            "iss": ISSUER,
            "sub": "1001",
            "scope": "read write",
            "client_id": "shop",
            "aud": "urn:api",
            "iat": int(NOW) - 10,
            "exp": EXPIRES,
        }

    def test_white_space_around_it_is_no_part_of_it(self, gate_api: Api) -> None:
        assert ask(gate_api, "introspect", f" {TOKEN}\r\n").json["active"]

    @pytest.mark.parametrize(
        ("claims", "told"),
        [
            ({"scp": ["a", "b"]}, {"scope": "a b"}),
            ({"azp": "spa"}, {"client_id": "spa"}),
            ({"scope": None, "scp": "a", "client_id": None, "azp": "spa"}, {"scope": "a", "client_id": "spa"}),
            ({"active": False, "token_type": "access"}, {"active": True, "token_type": "Bearer"}),
        ],
        ids=str,
    )
    def test_members_mean_what_the_rfc_says(self, gate_api: Api, claims: dict[str, Any], told: dict[str, Any]) -> None:
        answer = ask(gate_api, "introspect", mint(sub="1", **claims)).json
        assert {name: answer[name] for name in told} == told

    @pytest.mark.parametrize(
        "token",
        [
            "garbage",
            mint("wrong"),
            mint(exp=int(NOW)),
            mint(nbf=int(NOW) + 60),
            mint(iss="https://unknown.test/"),
            mint(_header={"typ": "logout+jwt"}),
            mint(_header={"alg": "none"}),
            mint(sid=list(range(65))),
        ],
        ids=["opaque", "signature", "expired", "early", "issuer", "kind", "unsigned", "members"],
    )
    def test_of_what_would_not_pass_nothing_is_told(self, gate_api: Api, token: str) -> None:
        answer = ask(gate_api, "introspect", token)
        assert (answer.status_code, answer.data) == (200, b'{"active": false}')

    def test_nor_of_what_was_taken_back_or_of_issuers_that_are_not_the_clients_business(self, gate_api: Api) -> None:
        ask(gate_api, "revoke")
        foreign = mint("other", iss=OTHER, sub="7")
        answers = [
            ask(gate_api, "introspect"),
            ask(gate_api, "introspect", foreign, basic("api", "old")),
            ask(gate_api, "introspect", "garbage"),
        ]
        assert len({(answer.status_code, answer.data, str(answer.headers)) for answer in answers}) == 1
        assert ask(gate_api, "introspect", foreign).json["active"]


class TestAuthenticating:
    @pytest.mark.parametrize("secret", ["new", "old"])
    def test_by_any_of_its_secrets(self, gate_api: Api, secret: str) -> None:
        assert ask(gate_api, "introspect", headers=basic("api", secret)).status_code == 200

    def test_by_form_urlencoded_names_and_secrets(self, gate_api: Api) -> None:
        assert ask(gate_api, "revoke", "garbage", basic("odd: client", "p%ss+w:rd &ü")).status_code == 200

    @pytest.mark.parametrize("secret", ["a+b/c=", "100%", "%41+", "ü:x"])
    def test_a_secret_may_come_as_it_is_as_curl_sends_it(self, make_api: Make, secret: str) -> None:
        """Of `openssl rand -base64 32` every other result has a plus sign."""
        api = make_api(clients=json.dumps([{"client_id": "shop", "secret": secret}]))
        raw = {"Authorization": "Basic " + base64.b64encode(f"shop:{secret}".encode()).decode()}
        assert ask(api, "introspect", headers=raw).status_code == 200
        assert ask(api, "introspect", headers=basic("shop", secret)).status_code == 200
        assert ask(api, "introspect", headers=basic("shop", quote_plus(secret))).status_code == 401

    @pytest.mark.parametrize("name", ["svc+orders@example.com", "100%", "a%20b", "ü"])
    def test_so_may_its_name(self, make_api: Make, name: str) -> None:
        api = make_api(clients=json.dumps([{"client_id": name, "secret": "s"}]))
        raw = {"Authorization": "Basic " + base64.b64encode(f"{name}:s".encode()).decode()}
        for headers in (raw, basic(name, "s")):
            assert ask(api, "introspect", headers=headers).json["active"]
            assert ask(api, "introspect", headers=headers, client_id=name).json["active"]
            assert ask(api, "introspect", headers=headers, client_id="shop").status_code == 400
        guesses = [ask(api, "revoke", headers=basic(name, "guess")).status_code for _ in range(11)]
        assert guesses == [401] * 10 + [429]

    def test_in_the_body(self, gate_api: Api) -> None:
        answer = ask(gate_api, "revoke", headers={}, client_id="shop", client_secret="s3cret of the shop")
        assert answer.status_code == 200
        assert not passes(gate_api)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            basic("shop", "wrong"),
            basic("nobody", "s3cret of the shop"),
            basic("nobody", ""),
            basic("shop", ""),
            {"Authorization": "Basic !"},
            {"Authorization": "Basic " + base64.b64encode(b"shop").decode()},
            {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
            {"Authorization": f"Bearer {TOKEN}"},
        ],
        ids=["none", "secret", "name", "nobody", "empty", "base64", "colon", "utf-8", "bearer"],
    )
    def test_nobody_else(self, gate_api: Api, headers: dict[str, str]) -> None:
        for what in ("revoke", "introspect"):
            answer = ask(gate_api, what, headers=headers)
            assert (answer.status_code, answer.json["error"]) == (401, "invalid_client")
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert passes(gate_api)

    def test_in_one_way_alone(self, gate_api: Api) -> None:
        for more in ({"client_id": "api"}, {"client_secret": "s3cret of the shop"}):
            answer = ask(gate_api, "revoke", **more)
            assert (answer.status_code, answer.json["error"]) == (400, "invalid_request")
        assert ask(gate_api, "introspect", client_id="shop").json["active"]

    def test_for_what_it_may(self, gate_api: Api) -> None:
        for what, headers in (("introspect", basic("odd: client", "p%ss+w:rd &ü")), ("revoke", basic("api", "new"))):
            answer = ask(gate_api, what, headers=headers)
            assert (answer.status_code, answer.json["error"]) == (400, "unauthorized_client")

    @pytest.mark.parametrize("body", [{}, {"token": ""}, {"token": ["a", "b"]}], ids=str)
    def test_and_names_one_token(self, gate_api: Api, body: dict[str, Any]) -> None:
        answer = gate_api("POST", "/-/introspect", data=body, headers=SHOP)
        assert (answer.status_code, answer.json["error"]) == (400, "invalid_request")

    def test_a_token_in_the_query_is_none(self, gate_api: Api) -> None:
        answer = gate_api("POST", f"/-/introspect?token={TOKEN}", data={}, headers=SHOP)
        assert answer.status_code == 400


class TestLimits:
    def test_guesses_are_stopped_and_the_client_is_not(self, gate_api: Api) -> None:
        guesses = [ask(gate_api, "introspect", headers=basic("shop", f"guess {n}")).status_code for n in range(12)]
        assert guesses == [401] * 10 + [429] * 2
        here = ask(gate_api, "introspect")
        assert (here.status_code, here.headers["Retry-After"]) == (429, "60")
        elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
        answer = gate_api("POST", "/-/introspect", data={"token": TOKEN}, headers=SHOP, environ_base=elsewhere)
        assert answer.json["active"]

    def test_a_client_has_so_many_requests_a_minute(self, gate_api: Api) -> None:
        statuses = [ask(gate_api, "introspect", headers=basic("busy", "busy")).status_code for _ in range(5)]
        assert statuses == [200] * 3 + [429] * 2
        assert ask(gate_api, "introspect").status_code == 200


def test_they_are_not_there_until_somebody_may(make_api: Make) -> None:
    api = make_api(clients=json.dumps([{"client_id": "a", "secret": "a", "may": ["revoke"]}]))
    assert_refused(ask(api, "introspect", headers=basic("a", "a")), "unsupported-scheme")
    assert_refused(ask(api, "introspect", headers={"Authorization": f"Bearer {TOKEN}"}), "not-found")


def test_nothing_is_told_while_the_store_fails(make_api: Make, store_fails: Any) -> None:
    api = make_api(issuers=ISSUERS, clients=CLIENTS)
    with store_fails("add", "find_again"):
        for what in ("revoke", "introspect"):
            assert_refused(ask(api, what), "store-unavailable")
    assert ask(api, "introspect").json["active"]
