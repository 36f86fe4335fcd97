"""Token -> the fields the upstream may trust, after every spelling a client may have sent is gone."""

import base64
import json
from typing import Any

import pytest
from helpers import ABSENT, EXPIRES, ISSUER, NOW, Api, mint, sign
from hypothesis import given
from hypothesis import strategies as st

from gateway.gate.identity import Identity
from gateway.http.wsgi import Context

SPELLINGS = [
    "X-Token-Subject",
    "x-token-subject",
    "X-TOKEN-SUBJECT",
    "X_Token_Subject",
    "X-Token_Subject",
    "X.Token.Subject",
    "X~Token!Subject",
    "X-Token-Claims",
    "X_Token_Claims",
    "x.token-claims",
]


def environ_key(name: str) -> str:
    """Return the key of a server that folds nothing but `-`."""
    return "HTTP_" + name.upper().replace("-", "_")


def claims_of(value: str) -> Any:
    assert "=" not in value
    return json.loads(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))


def sent_on(upstream: Any) -> dict[str, str]:
    return {key: value for key, value in upstream.requests[-1].items() if key.startswith("HTTP_X")}


def test_the_upstream_gets_the_claims_and_the_subject(api: Api, upstream: Any) -> None:
    api("GET", "/", mint(sub="1001", name="Zoë", admin=True))
    environ = upstream.requests[-1]
    assert environ["HTTP_X_TOKEN_SUBJECT"] == "1001"
    assert claims_of(environ["HTTP_X_TOKEN_CLAIMS"]) == {
        "iss": ISSUER,
        "exp": EXPIRES,
        "sub": "1001",
        "name": "Zoë",
        "admin": True,
    }
    assert environ["gateway.claims"]["sub"] == "1001"


@pytest.mark.parametrize("path", ["/", "/info", "/open"])
@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_spelling_of_a_trusted_field_comes_through(
    make_gate: Any, upstream: Any, name: str, path: str, method: str
) -> None:
    """On every route: with a token, without one on a public path, and when the claim is absent."""
    api = Api(make_gate(public_paths="/open"))
    spoofed = {environ_key(name): "spoofed"}
    token = None if path == "/open" else mint(sub=ABSENT)
    assert api(method, path, token, environ_overrides=spoofed).status_code == 200
    assert "spoofed" not in sent_on(upstream).values()


def test_the_decision_alone_never_repeats_what_the_client_sent(api: Api) -> None:
    """Where there is nothing to say the field is there and empty, so that an outer proxy overwrites the client's."""
    answer = api("GET", "/-/auth", mint(), headers={"X-Token-Subject": "spoofed"})
    assert answer.headers["X-Token-Subject"] == ""
    assert "sub" not in claims_of(answer.headers["X-Token-Claims"])


@pytest.mark.parametrize(
    ("sub", "field"),
    [
        ("1001", "1001"),
        ("a b", "a b"),
        (1001, "1001"),
        (-5, "-5"),
        ("", None),
        (ABSENT, None),
        (None, None),
        (True, None),
        (1.5, None),
        ([1], None),
        ({"a": 1}, None),
        ("Zoë", None),
        ("a\r\nX-Admin: yes", None),
        ("a\n", None),
        ("a\0", None),
        ("\x7f", None),
        (" a", None),
        ("a ", None),
        ("\ud800", None),
    ],
)
def test_the_subject_field_holds_printable_text_or_an_integer_and_nothing_else(
    api: Api, upstream: Any, sub: Any, field: str | None
) -> None:
    assert api("GET", "/", mint(sub=sub), headers={"X-Token-Subject": "spoofed"}).status_code == 200
    assert upstream.requests[-1].get("HTTP_X_TOKEN_SUBJECT") == field
    claims = claims_of(upstream.requests[-1]["HTTP_X_TOKEN_CLAIMS"])
    assert claims.get("sub", ABSENT) == sub


def test_the_names_of_the_fields_can_be_set(make_api: Any, upstream: Any) -> None:
    api = make_api(claims_field="X-Jwt", subject_field="X-User")
    api("GET", "/", mint(sub="1001"), headers={"X-User": "spoofed", "X-Jwt": "spoofed", "X-Token-Subject": "theirs"})
    assert upstream.requests[-1]["HTTP_X_USER"] == "1001"
    assert claims_of(upstream.requests[-1]["HTTP_X_JWT"])["sub"] == "1001"
    assert upstream.requests[-1]["HTTP_X_TOKEN_SUBJECT"] == "theirs"


@pytest.mark.parametrize(
    "payload",
    [
        f'{{"iss":"{ISSUER}","exp":{EXPIRES},"groups":["{"группа " * 90}"]}}',
        f' {{ "exp" : {EXPIRES}.0e0 ,\n"iss":"{ISSUER}", "n": 1.10 }} ',
        f'{{"iss":"{ISSUER}","exp":{EXPIRES},"x":"\\ud800\\u0041"}}',
    ],
)
def test_the_claims_field_is_the_tokens_own_payload_byte_for_byte(api: Api, upstream: Any, payload: str) -> None:
    token = sign({"alg": "HS256"}, payload)
    assert api("GET", "/", token).status_code == 200
    assert upstream.requests[-1]["HTTP_X_TOKEN_CLAIMS"] == token.split(".")[1]
    assert api("GET", "/-/auth", token).headers["X-Token-Claims"] == token.split(".")[1]


@pytest.mark.parametrize("name", ["claims", "subject"])
def test_a_field_named_none_is_not_sent_and_no_clients_comes_through(make_api: Any, upstream: Any, name: str) -> None:
    api = make_api(**{f"{name}_field": "none"})
    field = f"X-Token-{name.title()}"
    answer = api("GET", "/", mint(sub="1001"), headers={field: "spoofed", "None": "theirs"})
    assert answer.status_code == 200
    other = {"claims": "HTTP_X_TOKEN_SUBJECT", "subject": "HTTP_X_TOKEN_CLAIMS"}[name]
    assert list(sent_on(upstream)) == [other]
    assert upstream.requests[-1]["HTTP_NONE"] == "theirs"
    assert field not in api("GET", "/-/auth", mint(sub="1001")).headers


def test_both_fields_may_be_named_none(make_api: Any, upstream: Any) -> None:
    assert make_api(claims_field="none", subject_field="none")("GET", "/", mint(sub="1001")).status_code == 200
    assert sent_on(upstream) == {}
    assert upstream.requests[-1]["gateway.claims"]["sub"] == "1001"


@pytest.mark.parametrize("forward", [True, False])
def test_the_authorization_field_goes_on_unless_told_otherwise(make_api: Any, upstream: Any, forward: bool) -> None:
    token = mint()
    make_api(forward_authorization=forward)("GET", "/", token)
    assert upstream.requests[-1].get("HTTP_AUTHORIZATION") == (f"Bearer {token}" if forward else None)


@pytest.mark.parametrize("depth", [60, 900, 930, 940, 950, 960, 970, 980, 990, 2900])
def test_claims_nested_as_deep_as_can_be_are_sent_on_or_refused(api: Api, depth: int) -> None:
    """What could be read must also be written again, under another stack."""
    token = sign({"alg": "HS256"}, f'{{"iss":"{ISSUER}","exp":{EXPIRES},"x":{"[" * depth}{"]" * depth}}}')
    assert api("GET", "/info", token).status_code in (200, 401)


@given(st.text("xX-_.~TOKENSUBJCtokensubjc", min_size=1, max_size=20))
def test_only_names_that_fold_to_a_trusted_one_are_removed(name: str) -> None:
    key = environ_key(name)
    environ = {key: "theirs"}
    Identity().set(environ, None, Context())
    folded = "".join(letter if letter.isalnum() else "_" for letter in name.upper())
    assert (key in environ) == (folded not in ("X_TOKEN_SUBJECT", "X_TOKEN_CLAIMS"))


def test_the_identity_of_a_cached_token_stays_its_own(api: Api, upstream: Any) -> None:
    for sub in ("1001", "1002", "1001", "1002"):
        api("GET", "/", mint(sub=sub, iat=int(NOW)))
        assert upstream.requests[-1]["HTTP_X_TOKEN_SUBJECT"] == sub
