"""The pages of docs/providers: their settings let their token through, and what they say takes it back does.

The key set is one of that provider's shape, served by a server of the test; the token is the page's own, signed anew.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from helpers import NOW, Api, assert_refused, sign
from keysets import SHAPES, key_set
from provider import Provider, Signer, content, signer

from gateway.auth.keyset import ASYMMETRIC
from gateway.auth.keytext import read_keys
from gateway.auth.secrets import secret_bytes

PAGES = Path(__file__).parents[2] / "docs" / "providers"
NAMES = sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README")
WITH_SESSIONS = [name for name in NAMES if "| a session | none |" not in (PAGES / f"{name}.md").read_text()]
TIMES = {"iat": 0, "nbf": 0, "auth_time": -10, "exp": 3600}


class Page:
    """What a page says."""

    def __init__(self, name: str, block: int = 0) -> None:
        text = (PAGES / f"{name}.md").read_text()
        self.name = name
        env = re.findall(r"```env\n(.*?)```", text, re.DOTALL)[block]
        self.settings = {
            key.removeprefix("GATEWAY_").lower(): value
            for key, _, value in (line.partition("=") for line in env.splitlines())
        }
        self.token, self.admin, self.other = map(json.loads, re.findall(r"```json\n(.*?)```", text, re.DOTALL))
        self.senders = json.loads(next(iter(re.findall(r"^GATEWAY_SIGNALS=(.*)$", text, re.MULTILINE)), "[]"))
        self.claims = dict(re.findall(r"\| a (session|person|token) \| (?:`(.+?)`|none) \|", text))


class Desk:
    """A gateway with a page's settings, and the provider that signs for it."""

    def __init__(self, page: Page, provider: Provider, make_api: Callable[..., Api]) -> None:
        self.page = page
        self.signer = signer("ES256" if page.name == "supabase" else "RS256", "2026-a")
        if page.name in SHAPES:
            provider.answer = content(key_set(page.name, signer(self.signer.algorithm, "2026-b"), self.signer).encode())
        settings = page.settings
        if "issuers" in settings:
            listed = [{**issuer, "jwks_url": provider.jwks_url} for issuer in json.loads(settings["issuers"])]
            settings = {**settings, "issuers": json.dumps(listed)}
        if "jwks_url" in settings:
            settings = {**settings, "jwks_url": provider.jwks_url}
        if page.senders:
            keys = [{"jwks_url": provider.jwks_url} if "jwks_url" in each else {} for each in page.senders]
            senders = [{**each, **own} for each, own in zip(page.senders, keys, strict=True)]
            settings = {**settings, "signals": json.dumps(senders)}
        self.secret = settings.get("secret")
        self.api = make_api(**settings)

    def mint(self, seconds: int = 0, **claims: Any) -> str:
        """Return the page's token, issued so many seconds from now, with these claims in place of its own."""
        times = {name: int(NOW) + offset for name, offset in TIMES.items() if name in self.page.token}
        times["iat"] += seconds
        payload = {**self.page.token, **times, **claims}
        if self.page.name not in SHAPES:
            return sign({"alg": "HS256", "typ": "JWT"}, payload, secret_bytes(self.secret or ""))
        headers = {"kid": self.signer.kid}
        return jwt.encode(payload, self.signer.key, self.signer.algorithm, headers=headers)

    def signed(self, typ: str, claims: dict[str, Any]) -> str:
        """Return a message of the provider's."""
        headers = {"typ": typ, "kid": self.signer.kid}
        return jwt.encode(claims, self.signer.key, self.signer.algorithm, headers=headers)

    def admin(self) -> str:
        """Return an administrator's token, as the page makes one."""
        return self.mint(**self.page.admin)

    def status(self, token: str) -> int:
        """Return the status that a request with the token gets."""
        code: int = self.api("GET", "/", token).status_code
        return code

    def take_back(self, kind: str, **members: Any) -> None:
        """Have the administrator take back all tokens of the page's session, or person."""
        name = self.page.claims[kind]
        answer = self.api("POST", "/blacklist", self.admin(), json={name: self.page.token[name], **members})
        assert answer.status_code == 200, answer.data
        assert answer.json["claim"] == {name: self.page.token[name]}


@pytest.fixture
def desk(request: pytest.FixtureRequest, make_api: Callable[..., Api]) -> Iterator[Desk]:
    with Provider(plain=True) as provider:
        name, block = request.param if isinstance(request.param, tuple) else (request.param, 0)
        yield Desk(Page(name, block), provider, make_api)


every_page = pytest.mark.parametrize("desk", [*NAMES, ("entra", 1)], indirect=True)
every_page_with_sessions = pytest.mark.parametrize("desk", [*WITH_SESSIONS, ("entra", 1)], indirect=True)


@every_page
def test_the_token_passes(desk: Desk, upstream: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "gateway"):
        token = desk.mint()
        assert desk.status(token) == 200
    assert upstream.requests[-1]["HTTP_X_TOKEN_CLAIMS"] == token.split(".")[1]
    assert not [message for message in caplog.messages if "key" in message]  # nothing to complain of in the key set


@every_page
def test_the_administrator_is_one_and_the_user_is_none(desk: Desk) -> None:
    assert desk.api("GET", "/blacklist/entries", desk.admin()).status_code == 200
    assert_refused(desk.api("GET", "/blacklist/entries", desk.mint()), "insufficient-scope")
    assert_refused(desk.api("POST", "/blacklist", desk.mint(), json={"sub": "1"}), "insufficient-scope")


@every_page_with_sessions
def test_a_session_ends_for_good(desk: Desk) -> None:
    name = desk.page.claims["session"]
    before, refreshed = desk.mint(), desk.mint(3, jti="another", uti="another")
    elsewhere = desk.mint(**{name: "another session", "jti": "elsewhere", "uti": "elsewhere"})
    desk.take_back("session")
    assert [desk.status(token) for token in (before, refreshed, elsewhere)] == [401, 401, 200]
    assert desk.status(desk.admin()) == 200


@every_page
def test_a_person_is_logged_out_everywhere_and_may_come_back(desk: Desk, clock: Any) -> None:
    """A refresh comes back, too, unless a cut-off counts for the sign-in."""
    session = desk.page.claims["session"] or "nothing"
    tokens = [desk.mint(), desk.mint(**{session: "another device", "jti": "another", "uti": "another"})]
    person = desk.page.claims["person"]
    somebody_else = desk.mint(**{person: "somebody else"})
    desk.take_back("person")
    assert [desk.status(token) for token in (*tokens, somebody_else)] == [401, 401, 200]
    clock.advance(3)
    refreshed = desk.mint(3, jti="refreshed", uti="refreshed")
    assert desk.status(refreshed) == (401 if "auth_time" in desk.page.settings else 200)
    assert desk.status(desk.mint(3, auth_time=int(NOW) + 3, jti="signed in", uti="signed in")) == 200


@every_page
def test_a_person_may_be_locked_out(desk: Desk, clock: Any) -> None:
    desk.take_back("person", issued_before=None)
    clock.advance(3)
    assert desk.status(desk.mint(3, auth_time=int(NOW) + 3)) == 401


@every_page
def test_what_the_page_says_is_refused_is(desk: Desk) -> None:
    answer = desk.api("GET", "/", desk.mint(**desk.page.other))
    assert answer.json["type"].removeprefix("urn:jwt-gateway:") in ("invalid-claim", "wrong-audience"), answer.json
    if desk.page.name == "cognito":
        assert_refused(desk.api("GET", "/", desk.mint(client_id="another")), "wrong-audience")


@pytest.mark.parametrize("desk", ["keycloak", "auth0"], indirect=True)
def test_a_logout_there_ends_the_tokens_here(desk: Desk) -> None:
    [sender] = desk.page.senders
    session = desk.page.claims["session"]
    token, other = desk.mint(), desk.mint(**{session: "another session", "jti": "another"})
    somebody_else = desk.mint(sub="somebody else", **{session: "a third", "jti": "a third"})
    claims = {
        "iss": sender["issuer"],
        "aud": sender["audience"],
        "sub": desk.page.token["sub"],
        "sid": desk.page.token.get("sid", "of its own"),
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        **{"jti": "logout", "iat": int(NOW), "exp": int(NOW) + 120},
    }
    message = desk.signed("logout+jwt", claims)
    assert desk.api("POST", "/-/logout", data={"logout_token": message}).status_code == 200
    by_subject = sender.get("sessions") == "subject"
    statuses = [desk.status(each) for each in (token, other, somebody_else)]
    assert statuses == [401, 401 if by_subject else 200, 200]


def test_oktas_universal_logout_ends_the_tokens_here(make_gate: Callable[..., Any]) -> None:
    with Provider(plain=True) as provider:
        desk = Desk(Page("okta"), provider, lambda **values: Api(make_gate(**values)))
        [sender] = desk.page.senders
        token, somebody_else = desk.mint(), desk.mint(uid="00uanother", jti="another")
        credential = {
            "iss": sender["issuer"],
            "sub": sender["audience"],
            "aud": "https://api.example/-/global-token-revocation",
            **{"jti": "okta", "iat": int(NOW), "nbf": int(NOW) - 300, "exp": int(NOW) + 300},
        }
        answer = desk.api(
            "POST",
            "/-/global-token-revocation",
            desk.signed("global-token-revocation+jwt", credential),
            json={"sub_id": {"format": "iss_sub", "iss": sender["issuer"], "sub": desk.page.token["uid"]}},
            base_url="https://api.example",
        )
        assert answer.status_code == 204, answer.data
        assert [desk.status(each) for each in (token, somebody_else)] == [401, 200]


def test_another_tenant_has_entries_and_administrators_of_its_own(make_api: Callable[..., Api]) -> None:
    with Provider(plain=True) as provider:
        page = Page("entra", 1)
        (issuer,) = json.loads(page.settings["issuers"])
        del issuer["tenants"]
        page.settings["issuers"] = json.dumps([issuer])
        desk, other = Desk(page, provider, make_api), "99999999-0000-4000-8000-0000000000ff"
        of_other = {"iss": issuer["issuer"].replace("{tenantid}", other), "tid": other}
        desk.take_back("person")
        assert desk.status(desk.mint()) == 401
        assert desk.status(desk.mint(**of_other)) == 200
        assert_refused(desk.api("GET", "/", desk.mint(tid=other)), "wrong-issuer")
    with Provider(plain=True) as provider:
        assert_refused(
            Desk(Page("entra", 1), provider, make_api).api("GET", "/", desk.mint(**of_other)), "wrong-issuer"
        )


def test_google_signs_with_either_spelling_of_its_name(make_api: Callable[..., Api]) -> None:
    with Provider(plain=True) as provider:
        desk = Desk(Page("google-firebase"), provider, make_api)
        tokens = [
            desk.mint(iss=iss, aud="1234.apps.googleusercontent.com")
            for iss in ("https://accounts.google.com", "accounts.google.com")
        ]
        assert [desk.status(token) for token in tokens] == [200, 200]
        admin = desk.mint(iss="accounts.google.com", aud="1234.apps.googleusercontent.com", **desk.page.admin)
        desk.api("POST", "/blacklist", admin, json={"sub": desk.page.token["sub"]})
        assert [desk.status(token) for token in (*tokens, desk.mint())] == [401, 401, 200]


def test_supabases_legacy_secret_signs_beside_its_keys(make_api: Callable[..., Api]) -> None:
    with Provider(plain=True) as provider:
        desk = Desk(Page("supabase"), provider, make_api)
        payload = jwt.decode(desk.mint(), options={"verify_signature": False})
        assert desk.status(sign({"alg": "HS256", "kid": "AbCd", "typ": "JWT"}, payload, desk.secret or "")) == 200
        assert (
            desk.status(sign({"alg": "HS256", "kid": desk.signer.kid}, payload, key_set("supabase", desk.signer)))
            == 401
        )
        assert_refused(desk.api("GET", "/", desk.mint(iss="supabase", role="service_role")), "wrong-issuer")


def test_a_supabase_project_that_signs_with_its_secret_alone_has_no_keys(make_api: Callable[..., Api]) -> None:
    with Provider(plain=True) as provider:
        desk = Desk(Page("supabase"), provider, make_api)
        provider.answer = content(b'{"keys": []}')
        payload = {**desk.page.token, "iat": int(NOW), "exp": int(NOW) + 3600}
        token = sign({"alg": "HS256", "kid": "AbCd", "typ": "JWT"}, payload, desk.secret or "")
        assert desk.status(token) == 200
        assert_refused(desk.api("GET", "/", desk.mint()), "unknown-key")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_key_set_is_taken_as_its_maker_writes_it(shape: str, algorithm: str) -> None:
    if algorithm == "ES256" and shape in ("keycloak", "auth0", "entra", "google-firebase"):
        pytest.skip("the shape is one of RSA keys")
    keys = [
        Signer(algorithm, each.kid, each.key) for each in (signer(algorithm, "2026-a"), signer(algorithm, "2026-b"))
    ]
    found, ignored = read_keys(key_set(shape, *keys).encode(), ASYMMETRIC)
    assert [each.reason for each in ignored if not each.expected] == []
    for key in keys:
        signing_input, _, signature = key.token(sub="1").rpartition(".")
        candidates = found.candidates(key.kid, algorithm)
        assert any(
            each.verifies(algorithm, signing_input.encode(), jwt.utils.base64url_decode(signature))
            for each in candidates
        )


def test_the_table_has_a_row_for_each_page_and_says_what_the_page_says() -> None:
    table = (PAGES / "README.md").read_text()
    rows = {
        file: [cell.strip() for cell in cells.split("|")]
        for file, cells in re.findall(r"^\| \[.+?\]\((.+?)\.md\) \|(.+)\|$", table, re.MULTILINE)
    }
    assert sorted(rows) == NAMES
    for name, (_, session, person, administrator, everywhere) in rows.items():
        claims, page = Page(name).claims, (PAGES / f"{name}.md").read_text()
        assert f"`{claims['person']}`" == person
        assert everywhere.startswith(person)
        assert (session == "–") == (claims["session"] == "")
        assert claims["session"] in session or "Action" in session
        assert administrator.split("`")[1].split(".")[0] in json.dumps(Page(name).admin)
        assert quote(name) in table
        assert "What a refresh does" in page
