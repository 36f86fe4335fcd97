"""/blacklist over HTTP, sentence by sentence of its contract."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from helpers import (
    ABSENT,
    EXPIRES,
    ISSUER,
    NOW,
    Api,
    Clock,
    assert_refused,
    fingerprint,
    mint,
    sign,
    signature_spellings,
)
from recorder import until

ADMIN = mint(sub="admin", scope="blacklist:admin", jti="admin")
HOLDER = mint(sub="1001", jti="a", iat=int(NOW) - 10)
OTHER = mint(sub="1002", jti="b", iat=int(NOW) - 10)
FORM = {"content_type": "application/x-www-form-urlencoded"}
EXPIRES_AT = "2035-01-24T02:35:52Z"


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def done(answer: Any) -> dict[str, Any]:
    """Return the members of a success answer."""
    assert answer.status_code == 200, answer.get_data(as_text=True)
    assert answer.mimetype == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    members: dict[str, Any] = json.loads(answer.data)
    assert members["success"] is True
    return members


def outcome(answer: Any) -> tuple[bool, bool]:
    members = done(answer)
    return members["blacklisted"], members["changed"]


def passes(api: Api, token: str) -> bool:
    """Return whether a request with the token gets to the upstream; if not, because it is blacklisted."""
    answer = api("GET", "/info", token)
    if answer.status_code != 200:
        assert_refused(answer, "token-blacklisted")
    return bool(answer.status_code == 200)


class Meanwhile(BytesIO):
    """A body, while which comes something else happens."""

    def __init__(self, body: bytes, happen: Callable[[], object]) -> None:
        super().__init__(body)
        self.happen = happen

    def read(self, size: int | None = -1) -> bytes:
        self.happen()
        return super().read(size)


def post_slowly(api: Api, token: str, happen: Callable[[], object]) -> Any:
    body = b'{"jti": "x"}'
    more = {"content_type": "application/json", "content_length": len(body)}
    return api("POST", "/blacklist", token, input_stream=Meanwhile(body, happen), **more)


def test_a_token_that_expires_while_the_body_comes_blacklists_nothing(api: Api, clock: Clock) -> None:
    short = mint(sub="admin", scope="blacklist:admin", exp=int(NOW) + 60)
    assert_refused(post_slowly(api, short, lambda: clock.advance(60)), "token-expired")
    assert done(post_slowly(api, ADMIN, lambda: None))["changed"]


def test_a_token_whose_key_is_withdrawn_while_the_body_comes_blacklists_nothing(
    make_gate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth.keys.LOOK_SECONDS", 0.05)
    old, new = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    file = tmp_path / "key.pem"
    file.write_bytes(old.public_key().public_bytes(pem, spki))
    gate = make_gate(algorithms="ES256", public_key=str(file))
    claims = {"iss": ISSUER, "exp": EXPIRES, "sub": "admin", "scope": "blacklist:admin"}
    token = jwt.encode(claims, old, "ES256")

    def withdraw() -> None:
        file.write_bytes(new.public_key().public_bytes(pem, spki))
        assert until(lambda: Api(gate)("GET", "/info", token).status_code == 401)

    assert done(post_slowly(Api(gate), token, lambda: None))["changed"]
    assert_refused(post_slowly(Api(gate), token, withdraw), "bad-signature")


# No body: the caller's own token.


def test_the_assignments_flow(api: Api) -> None:
    assert passes(api, HOLDER)
    assert outcome(api("POST", "/blacklist", HOLDER)) == (True, True)
    assert not passes(api, HOLDER)
    assert outcome(api("DELETE", "/blacklist", HOLDER)) == (False, True)
    assert passes(api, HOLDER)


def test_the_answer_is_the_contracts_to_the_letter(api: Api) -> None:
    assert done(api("POST", "/blacklist", HOLDER)) == {
        "success": True,
        "message": "The token is blacklisted.",
        "request": {"method": "POST", "path": "/blacklist", "params": {}},
        "token": HOLDER,
        "blacklisted": True,
        "changed": True,
        "expires_at": EXPIRES_AT,
        "entries": [{"kind": "token"}],
    }


def test_both_methods_are_idempotent_and_changed_is_false_when_it_already_was_so(api: Api) -> None:
    assert outcome(api("DELETE", "/blacklist", HOLDER)) == (False, False)
    assert [outcome(api("POST", "/blacklist", HOLDER)) for _ in range(2)] == [(True, True), (True, False)]
    assert [outcome(api("DELETE", "/blacklist", HOLDER)) for _ in range(2)] == [(False, True), (False, False)]


def test_get_tells_the_state_and_changes_nothing(api: Api) -> None:
    for blacklisted in (False, True):
        for _ in range(2):
            answer = done(api("GET", "/blacklist", HOLDER))
            assert (answer["blacklisted"], answer["changed"]) == (blacklisted, False)
            assert answer["request"]["method"] == "GET"
            assert (answer["token"], answer["expires_at"]) == (HOLDER, EXPIRES_AT)
        api("POST", "/blacklist", HOLDER)


def test_the_state_outlives_the_gateway(make_api: Any) -> None:
    done(make_api()("POST", "/blacklist", HOLDER))
    assert not passes(make_api(), HOLDER)


def test_two_gateways_on_one_store_agree_at_once(make_api: Any) -> None:
    one, two = make_api(), make_api()
    for _ in range(3):
        done(one("POST", "/blacklist", HOLDER))
        assert not passes(two, HOLDER)
        done(two("DELETE", "/blacklist", HOLDER))
        assert passes(one, HOLDER)


# A token in the body.


@pytest.mark.parametrize("form", [False, True])
def test_holding_a_token_is_the_right_to_blacklist_and_restore_it(api: Api, form: bool) -> None:
    body = {"data": {"token": OTHER}} if form else {"json": {"token": OTHER}}
    answer = done(api("POST", "/blacklist", HOLDER, **body))
    assert (answer["token"], answer["blacklisted"], answer["changed"]) == (OTHER, True, True)
    assert not passes(api, OTHER)
    assert passes(api, HOLDER)
    assert outcome(api("GET", "/blacklist", HOLDER, **body)) == (True, False)
    assert outcome(api("DELETE", "/blacklist", HOLDER, **body)) == (False, True)
    assert passes(api, OTHER)


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ""])
def test_a_token_type_hint_is_accepted_and_ignored(api: Api, hint: str) -> None:
    body = {"token": OTHER, "token_type_hint": hint}
    assert outcome(api("POST", "/blacklist", HOLDER, data=body)) == (True, True)
    assert outcome(api("DELETE", "/blacklist", HOLDER, json=body)) == (False, True)


def test_a_token_type_hint_alone_names_nothing(api: Api) -> None:
    """Whoever lost `token` on the way must not lose the caller's token too."""
    assert_refused(api("POST", "/blacklist", HOLDER, data={"token_type_hint": "access_token"}), "invalid-request")
    assert passes(api, HOLDER)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "a.b.c",
        mint("wrong"),
        mint(iss="https://evil.test/"),
        mint(exp=ABSENT),
        mint(exp="soon"),
        sign({"alg": "none"}, {"iss": ISSUER, "exp": EXPIRES}),
        OTHER + "=",
        OTHER + "\n",
        "Bearer " + OTHER,
        "\ud800",
        "\0",
        "é",
        "x" * 9000,
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_token_in_the_body_that_does_not_verify_is_an_invalid_request(api: Api, method: str, text: str) -> None:
    assert_refused(api(method, "/blacklist", HOLDER, json={"token": text}), "invalid-request")
    assert passes(api, HOLDER)
    assert passes(api, OTHER)


def test_why_a_token_in_the_body_does_not_verify_is_said(api: Api) -> None:
    for text, code in (("Bearer " + OTHER, "malformed-token"), (mint(iss="https://evil.test/"), "wrong-issuer")):
        refused = json.loads(api("POST", "/blacklist", HOLDER, json={"token": text}).data)
        assert refused["detail"] == f"The token in the request does not verify: {code}."


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize("exp", [1, int(NOW) - 1, int(NOW), NOW - 0.5])
def test_an_expired_token_is_answered_as_success_with_nothing_to_do(api: Api, method: str, exp: float) -> None:
    expired = mint(exp=exp)
    answer = done(api(method, "/blacklist", HOLDER, json={"token": expired}))
    assert (answer["token"], answer["blacklisted"], answer["changed"]) == (expired, False, False)
    assert (answer["expires_at"], answer["entries"]) == (rfc3339(exp), [])
    assert answer["message"] == "The token has expired."
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"] == []


def test_an_expired_token_is_not_blacklisted_even_where_a_claim_is(api: Api, clock: Clock) -> None:
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1002"}))
    expired = mint(sub="1002", exp=int(NOW) + 10)
    assert outcome(api("GET", "/blacklist", HOLDER, json={"token": expired})) == (True, False)
    clock.advance(10)
    for method in ("POST", "DELETE", "GET"):
        assert outcome(api(method, "/blacklist", HOLDER, json={"token": expired})) == (False, False)


def test_a_token_that_is_not_valid_yet_can_be_blacklisted_already(api: Api, clock: Clock) -> None:
    early = mint(nbf=int(NOW) + 100)
    assert outcome(api("POST", "/blacklist", HOLDER, json={"token": early})) == (True, True)
    clock.advance(100)
    assert not passes(api, early)


@pytest.mark.parametrize("exp", [2**63, 10**400, 1e308, 253_402_300_800])
def test_an_absurd_expiry_is_clamped_and_the_blacklisting_still_succeeds(api: Api, exp: Any) -> None:
    eternal = mint(exp=exp)
    answer = done(api("POST", "/blacklist", eternal))
    assert (answer["blacklisted"], answer["changed"]) == (True, True)
    assert answer["expires_at"] == "9999-12-31T23:59:59Z"
    assert not passes(api, eternal)
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"][0]["expires_at"] == "9999-12-31T23:59:59Z"


def test_every_spelling_is_refused_after_one_is_blacklisted(api: Api) -> None:
    spellings = [HOLDER, *signature_spellings(HOLDER)]
    assert all(passes(api, text) for text in spellings)
    assert done(api("POST", "/blacklist", spellings[2]))["token"] == spellings[2]
    assert not any(passes(api, text) for text in spellings)
    assert outcome(api("DELETE", "/blacklist", spellings[1])) == (False, True)
    assert all(passes(api, text) for text in spellings)


def test_an_ecdsa_twin_is_refused_after_its_token_is_blacklisted(make_api: Any, tmp_path: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "public.pem").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    api = make_api(public_key=str(tmp_path / "public.pem"))
    text = jwt.encode({"iss": ISSUER, "exp": EXPIRES}, key, "ES256")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    head, _, signature = text.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    twin = raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32)
    twin_text = f"{head}.{jwt.utils.base64url_encode(twin).decode()}"
    assert passes(api, twin_text)
    done(api("POST", "/blacklist", text))
    assert not passes(api, twin_text)


# A claim.


@pytest.mark.parametrize("name", ["jti", "sub", "sid"])
def test_an_admin_takes_back_every_token_with_a_claim(api: Api, name: str) -> None:
    taken, spared = mint(**{name: "x"}), mint(**{name: "y"})
    cut_off = NOW + 1 if name == "sub" else None
    assert done(api("POST", "/blacklist", ADMIN, json={name: "x"})) == {
        "success": True,
        "message": "The claim is blacklisted.",
        "request": {"method": "POST", "path": "/blacklist", "params": {name: "x"}},
        "claim": {name: "x"},
        "issuer": ISSUER,
        "issued_before": cut_off,
        "until": None,
        "blacklisted": True,
        "changed": True,
        "expires_at": None,
        "entries": [
            {
                "claim": {name: "x"},
                "issuer": ISSUER,
                "issued_before": cut_off,
                "created_at": rfc3339(NOW),
                "expires_at": None,
                "by": "admin",
                "reason": "",
            }
        ],
    }
    assert (passes(api, taken), passes(api, spared)) == (False, True)
    answer = done(api("DELETE", "/blacklist", ADMIN, json={name: "x"}))
    assert (answer["claim"], answer["blacklisted"], answer["changed"]) == ({name: "x"}, False, True)
    assert "token" not in answer
    assert passes(api, taken)


@pytest.mark.parametrize("token", [HOLDER, mint(scope="read"), mint(scope="")])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_claim_needs_the_admin_scope(api: Api, method: str, token: str) -> None:
    answer = api(method, "/blacklist", token, json={"sub": "1002"})
    assert_refused(answer, "insufficient-scope")
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    assert 'scope="blacklist:admin"' in answer.headers["WWW-Authenticate"]
    assert passes(api, OTHER)


@pytest.mark.parametrize(
    "scope",
    [
        "blacklist:admin",
        "read blacklist:admin write",
        ["blacklist:admin"],
        ["read", "blacklist:admin"],
        ["a", 1, "blacklist:admin"],
    ],
)
def test_the_scope_is_space_separated_text_or_a_list(api: Api, scope: Any) -> None:
    done(api("GET", "/blacklist/entries", mint(scope=scope)))


@pytest.mark.parametrize(
    "scope",
    [
        "blacklist:admins",
        "blacklist:adm",
        "xblacklist:admin",
        "Blacklist:Admin",
        "blacklist:admin,read",
        "blacklist:admin\tread",
        "blacklist",
        "*",
        ["blacklist:admin read"],
        [["blacklist:admin"]],
        {"blacklist:admin": True},
        None,
        True,
        1,
    ],
)
def test_the_scope_is_matched_whole(api: Api, scope: Any) -> None:
    assert_refused(api("GET", "/blacklist/entries", mint(scope=scope)), "insufficient-scope")


def test_the_scope_stands_in_no_other_claim(api: Api) -> None:
    token = mint(scopes=["blacklist:admin"], roles=["blacklist:admin"])
    assert_refused(api("GET", "/blacklist/entries", token), "insufficient-scope")


def test_the_admin_scope_can_be_set(make_api: Any) -> None:
    api = make_api(admin_scope="root")
    assert_refused(api("GET", "/blacklist/entries", ADMIN), "insufficient-scope")
    done(api("GET", "/blacklist/entries", mint(scope="root")))


def test_a_claim_is_of_the_callers_issuer(make_api: Any) -> None:
    others = "https://other.test/"
    issuers = json.dumps([{"issuer": ISSUER, "secret": "discogs"}, {"issuer": others, "secret": "another"}])
    api = make_api(issuers=issuers)
    theirs = mint("another", iss=others, sub="1001")
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1001"}))
    assert (passes(api, HOLDER), passes(api, theirs)) == (False, True)
    done(api("POST", "/blacklist", mint("another", iss=others, scope="blacklist:admin"), json={"sub": "1001"}))
    assert not passes(api, theirs)
    done(api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"}))
    assert (passes(api, HOLDER), passes(api, theirs)) == (True, False)


def test_the_claims_that_can_be_named_are_set(make_api: Any) -> None:
    api = make_api(blacklist_claims="tenant,sub")
    done(api("POST", "/blacklist", ADMIN, json={"tenant": "a"}))
    assert not passes(api, mint(tenant="a"))
    assert_refused(api("POST", "/blacklist", ADMIN, json={"jti": "a"}), "invalid-request")


@pytest.mark.parametrize("value", ["\ud800", "\0", "a\0b", "x" * 60_000, "Zoë", "\U0001f600", 10**400, -1, 1.5])
def test_odd_claims_are_taken_back_exactly(api: Api, value: Any) -> None:
    answer = done(api("POST", "/blacklist", ADMIN, json={"sub": value}))
    assert (answer["claim"], answer["changed"]) == ({"sub": str(value)}, True)
    if len(str(value)) < 5000:
        assert not passes(api, mint(sub=value))
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"][0]["claim"] == {"sub": str(value)}
    assert outcome(api("DELETE", "/blacklist", ADMIN, json={"sub": value})) == (False, True)


# Cut-offs.


@pytest.mark.parametrize(
    ("iat", "passing"), [(999, False), (1000, True), (1001, True), (999.5, False), (ABSENT, False)]
)
def test_a_cut_off_refuses_iat_strictly_before_it(api: Api, iat: Any, passing: bool) -> None:
    """A token without iat counts as issued before anything."""
    answer = done(api("POST", "/blacklist", ADMIN, json={"sub": "1001", "issued_before": 1000}))
    assert answer["issued_before"] == 1000
    assert passes(api, mint(sub="1001", iat=iat)) is passing


@pytest.mark.parametrize("fraction", [0, 0.001, 0.5, 0.999])
def test_the_default_cut_off_is_the_next_whole_second(api: Api, clock: Clock, fraction: float) -> None:
    clock.advance(fraction)
    assert done(api("POST", "/blacklist", ADMIN, json={"sub": "1001"}))["issued_before"] == NOW + 1
    assert not passes(api, mint(sub="1001", iat=int(NOW)))
    clock.seconds = NOW + 1
    assert passes(api, mint(sub="1001", iat=int(NOW) + 1))


def test_a_cut_off_that_no_date_can_say_is_an_invalid_request(api: Api) -> None:
    for later in (10**12, 2**63, 10**400):
        answer = api("POST", "/blacklist", ADMIN, json={"sub": "1002", "issued_before": later})
        assert_refused(answer, "invalid-request")
    assert passes(api, OTHER)


def test_of_several_cut_offs_the_latest_wins(api: Api) -> None:
    found = []
    for cut_off in (1000, 500, 1000, 2000, 0):
        answer = done(api("POST", "/blacklist", ADMIN, json={"sub": "1001", "issued_before": cut_off}))
        found.append((answer["issued_before"], answer["changed"], answer["blacklisted"]))
    assert found == [
        (1000, True, True),
        (1000, False, True),
        (1000, False, True),
        (2000, True, True),
        (2000, False, True),
    ]
    assert done(api("GET", "/blacklist?sub=1001", ADMIN))["issued_before"] == 2000


def test_a_lifted_cut_off_can_be_set_lower(api: Api) -> None:
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1001", "issued_before": 2000}))
    done(api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"}))
    assert done(api("POST", "/blacklist", ADMIN, json={"sub": "1001", "issued_before": 500}))["issued_before"] == 500


def test_with_a_longest_age_a_token_must_say_when_it_was_issued(make_api: Any, clock: Clock) -> None:
    api = make_api(max_token_age=10, leeway=5)
    assert_refused(api("GET", "/info", mint()), "missing-claim")
    token = mint(iat=int(NOW))
    assert passes(api, token)
    clock.advance(14)
    assert passes(api, token)
    clock.advance(1)
    assert_refused(api("GET", "/info", token), "token-expired")


# Two entries, each alone.


def test_post_writes_a_tokens_entry_also_where_a_claim_blacklists_it(api: Api) -> None:
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1001"}))
    assert outcome(api("POST", "/blacklist", HOLDER)) == (True, True)
    assert outcome(api("POST", "/blacklist", HOLDER)) == (True, False)
    assert outcome(api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"})) == (False, True)
    assert not passes(api, HOLDER)


def test_a_holder_lifts_only_the_tokens_own_entry(api: Api) -> None:
    done(api("POST", "/blacklist", HOLDER))
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1001"}))
    assert outcome(api("DELETE", "/blacklist", HOLDER)) == (True, True)
    assert outcome(api("DELETE", "/blacklist", HOLDER)) == (True, False)
    assert not passes(api, HOLDER)
    assert outcome(api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"})) == (False, True)
    assert passes(api, HOLDER)


# A blacklisted caller.


@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize(
    "body", [{}, {"json": {"token": HOLDER}}, {"data": {"token": HOLDER}}, {"json": {"reason": "lost"}}]
)
def test_a_blacklisted_token_opens_blacklist_about_itself(api: Api, method: str, body: Any) -> None:
    done(api("POST", "/blacklist", HOLDER))
    assert done(api(method, "/blacklist", HOLDER, **body))["token"] == HOLDER


def test_a_blacklisted_token_may_name_itself_in_another_spelling(api: Api) -> None:
    done(api("POST", "/blacklist", HOLDER))
    spelling = signature_spellings(HOLDER).pop()
    assert outcome(api("DELETE", "/blacklist", HOLDER, json={"token": spelling})) == (False, True)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/info",
        "/blacklist/",
        "/blacklist/entries",
        "/blacklist/x",
        "/BLACKLIST",
        "/%62lacklist",
        "/-/auth",
        "/-/x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_a_blacklisted_token_opens_no_other_door(api: Api, upstream: Any, method: str, path: str) -> None:
    done(api("POST", "/blacklist", ADMIN))
    assert_refused(api(method, path, ADMIN), "token-blacklisted")
    assert not upstream.requests


@pytest.mark.parametrize("token", [HOLDER, mint(sub="1001", scope="blacklist:admin")])
@pytest.mark.parametrize(
    "body", [{"token": OTHER}, {"token": "garbage"}, {"sub": "1002"}, {"sub": "1001"}, {"jti": "a"}]
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
@pytest.mark.parametrize("restore", ["holder", "admin"])
def test_a_blacklisted_caller_that_names_anything_but_itself_is_refused_admin_or_not(
    make_api: Any, token: str, body: Any, method: str, restore: str
) -> None:
    api = make_api(restore=restore)
    done(api("POST", "/blacklist", token))
    assert_refused(api(method, "/blacklist", token, json=body), "token-blacklisted")
    assert passes(api, OTHER)


def test_a_blacklisted_caller_learns_nothing_of_a_claim_from_the_query(api: Api) -> None:
    done(api("POST", "/blacklist", ADMIN))
    assert_refused(api("GET", "/blacklist?sub=admin", ADMIN), "token-blacklisted")


# RESTORE=admin.


@pytest.fixture
def strict(make_api: Any) -> Api:
    return make_api(restore="admin")


def test_under_restore_admin_a_thief_cannot_restore_what_was_stolen(strict: Api) -> None:
    done(strict("POST", "/blacklist", HOLDER))
    assert_refused(strict("DELETE", "/blacklist", HOLDER), "insufficient-scope")
    assert_refused(strict("DELETE", "/blacklist", OTHER, json={"token": HOLDER}), "insufficient-scope")
    assert not passes(strict, HOLDER)


def test_under_restore_admin_the_scope_is_checked_before_the_state(strict: Api) -> None:
    assert_refused(strict("DELETE", "/blacklist", HOLDER), "insufficient-scope")
    assert_refused(strict("DELETE", "/blacklist", HOLDER, json={"token": mint(exp=1)}), "insufficient-scope")
    assert_refused(strict("DELETE", "/blacklist", HOLDER, json={"token": "garbage"}), "insufficient-scope")


def test_under_restore_admin_an_admin_restores(strict: Api) -> None:
    done(strict("POST", "/blacklist", HOLDER))
    assert outcome(strict("DELETE", "/blacklist", ADMIN, json={"token": HOLDER})) == (False, True)
    assert passes(strict, HOLDER)


def test_under_restore_admin_a_blacklisted_admin_does_not_restore_itself(strict: Api) -> None:
    done(strict("POST", "/blacklist", ADMIN))
    assert_refused(strict("DELETE", "/blacklist", ADMIN), "token-blacklisted")
    assert_refused(strict("DELETE", "/blacklist", ADMIN, json={"token": ADMIN}), "token-blacklisted")
    assert not passes(strict, ADMIN)


def test_under_restore_admin_everybody_may_still_take_back_and_ask(strict: Api) -> None:
    assert outcome(strict("POST", "/blacklist", HOLDER)) == (True, True)
    assert outcome(strict("GET", "/blacklist", HOLDER)) == (True, False)
    assert outcome(strict("POST", "/blacklist", OTHER, json={"token": mint()})) == (True, True)


# What is restated.


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("?", {}),
        ("?a=1&b=2", {"a": "1", "b": "2"}),
        ("?a=", {"a": ""}),
        ("?a", {"a": ""}),
        ("?a=1&a=2&a=&b=3", {"a": ["1", "2", ""], "b": "3"}),
        ("?a=%C3%A9+%26&%C3%A9=1", {"a": "é &", "é": "1"}),
        ("?a=%ff", {"a": "\ufffd"}),
    ],
)
def test_params_restates_the_decoded_query(api: Api, query: str, params: Any) -> None:
    request = done(api("POST", f"/blacklist{query}", HOLDER))["request"]
    assert request == {"method": "POST", "path": "/blacklist", "params": params}


@pytest.mark.parametrize("kind", ["json", "data"])
def test_params_restates_the_bodys_members_too(api: Api, kind: str) -> None:
    body = {"token": OTHER, "reason": "lost é"}
    answer = done(api("POST", "/blacklist?a=1", HOLDER, **{kind: body}))
    assert answer["request"]["params"] == {"a": "1", **body}


# A claim in the query; never a token.


def test_get_tells_a_claims_state_to_an_admin(api: Api) -> None:
    answer = done(api("GET", "/blacklist?sub=1001", ADMIN))
    assert (answer["claim"], answer["blacklisted"], answer["issued_before"]) == ({"sub": "1001"}, False, None)
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1001", "issued_before": 1000}))
    answer = done(api("GET", "/blacklist?sub=1001", ADMIN))
    assert (answer["blacklisted"], answer["changed"], answer["issued_before"]) == (True, False, 1000)
    assert answer["expires_at"] is None
    assert_refused(api("GET", "/blacklist?sub=1001", HOLDER), "insufficient-scope")


@pytest.mark.parametrize("query", ["sub=", "sub=a&sub=b", "sub=a&jti=b"])
def test_a_query_that_does_not_name_one_claim_is_refused(api: Api, query: str) -> None:
    assert_refused(api("GET", f"/blacklist?{query}", ADMIN), "invalid-request")


@pytest.mark.parametrize("body", [{"sub": "b"}, {"jti": "b"}, {"token": OTHER}])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_query_and_body_together_name_one_target(api: Api, method: str, body: Any) -> None:
    assert_refused(api(method, "/blacklist?sub=a", ADMIN, json=body), "invalid-request")


@pytest.mark.parametrize("query", [f"token={OTHER}", "token=", "token", f"a=1&token={OTHER}", f"t%6fken={OTHER}"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_token_in_the_url_is_refused(api: Api, method: str, query: str) -> None:
    assert_refused(api(method, f"/blacklist?{query}", HOLDER), "invalid-request")
    assert_refused(api(method, f"/blacklist?{query}", ADMIN), "invalid-request")
    assert passes(api, HOLDER)


def test_a_token_in_the_url_is_no_credential(api: Api) -> None:
    for path in ("/info", "/blacklist", "/-/auth"):
        assert_refused(api("GET", f"{path}?access_token={HOLDER}"), "missing-credentials")


# Bodies that are refused, each with nothing changed: one of each kind, all there are stand in test_body.py.

BAD_BODIES = [
    (b"{}", "invalid-request"),
    (b"{", "invalid-request"),
    (b'{"sub": ""}', "invalid-request"),
    (b'{"sub": "1001", "sub": "1001"}', "invalid-request"),
    (b'{"sub": "1001", "token": "a"}', "invalid-request"),
    (b'{"sub": "1001", "unknown": 1}', "invalid-request"),
    (b'{"sub": "1001", "issued_before": "yesterday"}', "invalid-request"),
    (b'{"sub": "' + b"x" * 65_536 + b'"}', "payload-too-large"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_a_bad_body_is_refused_and_nothing_is_changed(api: Api, method: str, body: bytes, code: str) -> None:
    done(api("POST", "/blacklist", HOLDER))
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1002"}))
    before = done(api("GET", "/blacklist/entries", ADMIN))["entries"]
    assert_refused(api(method, "/blacklist", ADMIN, data=body, content_type="application/json"), code)
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"] == before


@pytest.mark.parametrize("size", [65_536, 65_537])
def test_a_body_may_have_64_kib_and_not_one_byte_more(api: Api, size: int) -> None:
    frame = b'{"token": ""}'
    body = frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]
    assert len(body) == size
    answer = api("POST", "/blacklist", HOLDER, data=body, content_type="application/json")
    assert_refused(answer, "invalid-request" if size == 65_536 else "payload-too-large")
    padded = json.dumps({"token": OTHER}).ljust(size)
    answer = api("POST", "/blacklist", HOLDER, data=padded, content_type="application/json")
    assert (answer.status_code == 200) == (size == 65_536)


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jwt", ""]
)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_another_media_type_is_refused_and_the_right_ones_are_named(api: Api, method: str, media_type: str) -> None:
    answer = api(method, "/blacklist", HOLDER, data=b'{"token": "x"}', content_type=media_type)
    assert_refused(answer, "unsupported-media-type")
    assert "application/json" in answer.headers["Accept"]


def test_a_form_names_claims_as_text(api: Api) -> None:
    answer = done(api("POST", "/blacklist", ADMIN, data=b"sub=7001&issued_before=1000&reason=a+b", **FORM))
    assert (answer["claim"], answer["issued_before"]) == ({"sub": "7001"}, 1000)


# Routes and methods.


@pytest.mark.parametrize(
    "path", ["/blacklist/x", "/blacklist/", "/blacklist/entries/", "/blacklist/entries/1", "/-/x", "/-/", "/-/live/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_unknown_routes_are_not_found_after_authentication(api: Api, upstream: Any, method: str, path: str) -> None:
    assert_refused(api(method, path), "missing-credentials")
    assert_refused(api(method, path, mint("wrong")), "bad-signature")
    assert_refused(api(method, path, HOLDER), "not-found")
    assert not upstream.requests


@pytest.mark.parametrize(
    ("path", "allowed"), [("/blacklist", {"GET", "HEAD", "POST", "DELETE"}), ("/blacklist/entries", {"GET", "HEAD"})]
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_not_allowed_after_authentication(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    assert_refused(api(method, path), "missing-credentials")
    assert_refused(api(method, path, mint(exp=1)), "token-expired")
    answer = api(method, path, ADMIN)
    assert_refused(answer, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/blacklist", "/blacklist?sub=1001", "/blacklist/entries"])
def test_head_is_get_without_the_body(make_gate: Any, path: str) -> None:
    api = Api(make_gate())
    head, get = api("HEAD", path, ADMIN), api("GET", path, ADMIN)
    assert (head.status_code, head.data) == (200, b"")
    assert head.mimetype == get.mimetype == "application/json"
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.data))


@pytest.mark.parametrize("method", ["post", "Delete"])
def test_methods_are_case_sensitive(make_gate: Any, method: str) -> None:
    api = Api(make_gate())
    assert_refused(api("", "/blacklist", HOLDER, environ_overrides={"REQUEST_METHOD": method}), "method-not-allowed")
    assert passes(api, HOLDER)


def test_only_the_method_itself_counts(api: Api) -> None:
    done(api("POST", "/blacklist", HOLDER))
    done(api("POST", "/blacklist", HOLDER, headers={"X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}))
    assert not passes(api, HOLDER)


# The list.


def test_entries_are_listed_newest_first(api: Api, clock: Clock) -> None:
    done(api("POST", "/blacklist", HOLDER, json={"reason": "lost"}))
    clock.advance(1)
    done(api("POST", "/blacklist", ADMIN, json={"sub": "1002", "issued_before": 1000, "reason": "left"}))
    clock.advance(1)
    answer = done(api("GET", "/blacklist/entries", ADMIN))
    assert answer == {
        "success": True,
        "entries": [
            {
                "claim": {"sub": "1002"},
                "issuer": ISSUER,
                "issued_before": 1000,
                "created_at": rfc3339(NOW + 1),
                "expires_at": None,
                "by": "admin",
                "reason": "left",
            },
            {
                "fingerprint": fingerprint(HOLDER),
                "issuer": ISSUER,
                "issued_before": None,
                "created_at": rfc3339(NOW),
                "expires_at": rfc3339(EXPIRES + 300),
                "by": "1001",
                "reason": "lost",
            },
        ],
        "next_cursor": None,
    }


def test_only_live_entries_are_listed(api: Api, clock: Clock) -> None:
    done(api("POST", "/blacklist", mint(exp=int(NOW) + 10)))
    done(api("POST", "/blacklist", OTHER))
    done(api("DELETE", "/blacklist", OTHER))
    assert len(done(api("GET", "/blacklist/entries", ADMIN))["entries"]) == 1
    clock.advance(310)
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"] == []


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_follow_one_another_without_gap_or_repeat(api: Api, limit: int) -> None:
    for number in range(7):
        done(api("POST", "/blacklist", ADMIN, json={"jti": str(number)}))
    found, cursor = [], ""
    while cursor is not None:
        query = f"?limit={limit}" + (f"&cursor={quote(cursor)}" if cursor else "")
        page = done(api("GET", f"/blacklist/entries{query}", ADMIN))
        assert len(page["entries"]) <= limit
        found += [entry["claim"]["jti"] for entry in page["entries"]]
        cursor = page["next_cursor"]
    assert found == [str(number) for number in reversed(range(7))]


def test_a_page_has_100_entries_unless_told_otherwise(make_gate: Any) -> None:
    api = Api(make_gate())
    for number in range(101):
        done(api("POST", "/blacklist", ADMIN, json={"jti": str(number)}))
    page = done(api("GET", "/blacklist/entries", ADMIN))
    assert len(page["entries"]) == 100
    assert len(done(api("GET", f"/blacklist/entries?cursor={quote(page['next_cursor'])}", ADMIN))["entries"]) == 1
    assert len(done(api("GET", "/blacklist/entries?limit=1000", ADMIN))["entries"]) == 101


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=",
        "limit=a",
        "limit=1.5",
        "limit=1&limit=2",
        "limit=1e2",
        "limit=%D9%A3",
        "limit=" + "9" * 5000,
        "limit=0000000011000",
    ],
)
def test_a_limit_is_a_whole_number_from_1_to_1000(api: Api, query: str) -> None:
    assert_refused(api("GET", f"/blacklist/entries?{query}", ADMIN), "invalid-request")


@pytest.mark.parametrize("cursor", ["x", "0", "1.2.3", "-1.1", "'", "%00", "1.1&cursor=2.2", "9" * 5000 + ".1"])
def test_a_cursor_that_no_page_gave_is_refused(api: Api, cursor: str) -> None:
    assert_refused(api("GET", f"/blacklist/entries?cursor={cursor}", ADMIN), "invalid-request")


@pytest.mark.parametrize("query", ["email=ann@example.com", "fingerprint=" + "0" * 64, "Sub=1001", "sub=1001&user=1"])
def test_a_filter_that_is_not_known_is_refused_for_all_entries_would_be_no_answer(api: Api, query: str) -> None:
    assert_refused(api("GET", f"/blacklist/entries?{query}", ADMIN), "invalid-request")


@pytest.mark.parametrize("query", ["issuer=", "issuer=https://a.example/&issuer=https://b.example/"])
def test_an_issuer_to_list_is_named_once_or_not_at_all(api: Api, query: str) -> None:
    assert_refused(api("GET", f"/blacklist/entries?{query}", ADMIN), "invalid-request")


def test_by_tells_who_it_was_even_without_a_subject(api: Api) -> None:
    nobody = mint(scope="blacklist:admin")
    done(api("POST", "/blacklist", nobody, json={"sub": "1002"}))
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"][0]["by"] == fingerprint(nobody)[:16]


# At the same time.


def test_racing_post_and_delete_of_one_token_end_in_one_of_the_two_states(make_gate: Any) -> None:
    gate, answers = make_gate(), []

    def change(method: str) -> None:
        api = Api(gate)
        for _ in range(15):
            answers.append((method, done(api(method, "/blacklist", HOLDER))["changed"]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, ("POST", "DELETE") * 2))
    assert len(answers) == 60
    added, removed = answers.count(("POST", True)), answers.count(("DELETE", True))
    assert (
        added - removed
        == int(not passes(Api(gate), HOLDER))
        == len(done(Api(gate)("GET", "/blacklist/entries", ADMIN))["entries"])
    )
