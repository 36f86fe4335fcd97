"""POST /-/global-token-revocation: the draft's request, as Okta's Universal Logout sends it and by a fixed field."""

import itertools
import json
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import pytest
from helpers import ABSENT, ISSUER, NOW, Api, Clock, assert_refused, mint, sign

from gateway import Gateway

OKTA, URL = "https://acme.okta.test", "http://localhost/-/global-token-revocation"
SECRET = "a secret that Okta's key stands for"
SENDER = {
    "issuer": OKTA,
    "audience": "0oa1client",
    "about": ISSUER,
    "secret": SECRET,
    "email_claim": "email",
    "authorization": "Bearer of-the-soc",
}
GOOD: dict[str, Any] = {
    "iss": OKTA,
    "sub": "0oa1client",
    "aud": URL,
    "iat": int(NOW),
    "nbf": int(NOW) - 300,
    "exp": int(NOW) + 300,
}
ISS_SUB = {"format": "iss_sub", "iss": ISSUER, "sub": "1001"}
ADMIN = mint(sub="admin", scope="blacklist:admin")
numbers = itertools.count()


def credential(_header: dict[str, Any] | None = None, _secret: str = SECRET, **claims: Any) -> str:
    """Return the JWT that Okta sends, with these claims instead of its own; ABSENT leaves one out."""
    members = {**GOOD, "jti": f"okta-{next(numbers)}", **claims}
    payload = {name: value for name, value in members.items() if value is not ABSENT}
    return sign({"alg": "HS256", "typ": "global-token-revocation+jwt", **(_header or {})}, payload, _secret)


def ask(api: Api, token: str | None = None, subject: Any = ISS_SUB, **options: Any) -> Any:
    options = options or {"json": {"sub_id": subject}}
    return api("POST", "/-/global-token-revocation", token or credential(), **options)


def passes(api: Api, **claims: Any) -> bool:
    token = mint(**{"iat": int(NOW) - 10, "sub": "1001", "email": "alice@example.test", **claims})
    return bool(api("GET", "/", token).status_code == 200)


@pytest.fixture
def make_api(make_gate: Callable[..., Gateway]) -> Callable[..., Api]:
    """Without werkzeug's checker, which wants a Content-Length with 204, where RFC 9110 section 8.6 forbids it."""
    return lambda **values: Api(validator(make_gate(**values)))


@pytest.fixture
def gate_api(make_api: Callable[..., Api]) -> Api:
    return make_api(signals=json.dumps([SENDER]))


@pytest.mark.parametrize(
    "subject",
    [
        ISS_SUB,
        {"format": "iss_sub", "iss": OKTA, "sub": "1001"},
        {"format": "opaque", "id": "1001"},
        {"format": "email", "email": "alice@example.test"},
        {"format": "aliases", "identifiers": [{"format": "phone_number", "phone_number": "+1"}, ISS_SUB]},
    ],
    ids=lambda subject: subject["format"],
)
def test_a_users_tokens_are_refused_and_a_later_one_passes(gate_api: Api, clock: Clock, subject: Any) -> None:
    answer = ask(gate_api, subject=subject)
    assert (answer.status_code, answer.data) == (204, b"")
    assert "Content-Length" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"
    assert not passes(gate_api)
    assert passes(gate_api, sub="1002", email="bob@example.test")
    clock.advance(60)
    assert passes(gate_api, iat=int(NOW) + 59)


@pytest.mark.parametrize(
    "members",
    [
        {"subject": ISS_SUB},
        {"subject": {"format": "email", "email": "alice@example.test"}},
        {"sub_id": ISS_SUB, "subject": {**ISS_SUB, "sub": "1002"}},
    ],
    ids=str,
)
def test_the_subject_may_have_the_name_of_oktas_documents(gate_api: Api, members: Any) -> None:
    assert ask(gate_api, json=members).status_code == 204
    assert not passes(gate_api)
    assert passes(gate_api, sub="1002", email="bob@example.test")


def test_the_audience_may_be_the_address_that_was_given_to_the_sender(make_api: Callable[..., Api]) -> None:
    url = "https://api.example.test/-/global-token-revocation"
    api = make_api(signals=json.dumps([{**SENDER, "audience": url}]))
    assert ask(api, credential(aud=url, sub="whoever")).status_code == 204


def test_where_the_resource_is_set_the_requests_host_is_no_audience(make_api: Callable[..., Api]) -> None:
    api = make_api(signals=json.dumps([SENDER]), resource="https://api.example.test/v1")
    assert ask(api, credential(aud=URL)).status_code == 401
    for place in ("", "/v1"):
        url = f"https://api.example.test{place}/-/global-token-revocation"
        assert ask(api, credential(aud=url)).status_code == 204
        assert ask(api, credential(aud=url.replace("https", "http"))).status_code == 401


@pytest.mark.parametrize("field", ["Bearer of-the-soc", "of-the-soc"])
def test_a_sender_can_be_known_by_its_authorization_field(make_api: Callable[..., Api], field: str) -> None:
    sender = {"issuer": "soc", "about": [ISSUER], "authorization": field}
    api = make_api(signals=json.dumps([sender]))
    for _ in range(2):  # the field is the same each time
        assert ask(api, "of-the-soc").status_code == 204
    assert not passes(api)
    assert_refused(api("POST", "/-/logout", data={"logout_token": "x"}), "missing-credentials")


TENANTS, TENANT = "https://login.test/{tenantid}/v2.0", "2f0c6cf5-7b4c-4a34-9d6b-1f6a3b2f0001"


@pytest.mark.parametrize(
    ("subject", "status"),
    [
        ({"format": "iss_sub", "iss": TENANTS.replace("{tenantid}", TENANT.upper()), "sub": "1001"}, 204),
        ({"format": "iss_sub", "iss": TENANTS, "sub": "1001"}, 422),
        ({"format": "opaque", "id": "1001"}, 422),
        ({"format": "email", "email": "alice@example.test"}, 422),
        ({"format": "iss_sub", "iss": ISSUER, "sub": "1001"}, 403),
    ],
)
def test_of_several_tenants_users_that_of_the_tenant_that_is_named_is_revoked_or_none(
    make_api: Callable[..., Api], subject: Any, status: int
) -> None:
    issuer = {"issuer": TENANTS, "secret": "of-all-the-tenants"}
    sender = {"issuer": TENANTS, "authorization": "Bearer of-the-soc", "email_claim": "email"}
    api = make_api(issuers=json.dumps([issuer]), signals=json.dumps([sender]))

    def passes_of(tenant: str) -> bool:
        claims = {"iss": TENANTS.replace("{tenantid}", tenant), "tid": tenant, "email": "alice@example.test"}
        token = mint(issuer["secret"], sub="1001", iat=int(NOW) - 10, **claims)
        return bool(api("GET", "/", token).status_code == 200)

    assert ask(api, "of-the-soc", subject=subject).status_code == status
    assert (passes_of(TENANT), passes_of(TENANT.replace("1", "2"))) == (status != 204, True)


def test_a_sender_whose_clock_is_ahead_is_covered(gate_api: Api, clock: Clock) -> None:
    """As in its logout tokens: its tokens are dated ahead, too."""
    assert ask(gate_api, credential(iat=int(NOW) + 20)).status_code == 204
    clock.advance(60)
    assert not passes(gate_api, iat=int(NOW) + 19)
    assert passes(gate_api, iat=int(NOW) + 20)


@pytest.mark.parametrize(
    ("of_issuer", "of_sender"),
    [
        ({}, {"tenants": [TENANT]}),
        ({"tenants": [TENANT]}, {}),
        ({"tenants": [TENANT]}, {"secret": "x", "audience": "a"}),
    ],
)
def test_known_by_its_authorization_a_sender_speaks_for_its_tenants_alone(
    make_api: Callable[..., Api], of_issuer: dict[str, Any], of_sender: dict[str, Any]
) -> None:
    issuer = {"issuer": TENANTS, "secret": "of-all-the-tenants", **of_issuer}
    sender = {"issuer": TENANTS, "authorization": "of-the-soc", **of_sender}
    api = make_api(issuers=json.dumps([issuer]), signals=json.dumps([sender]))
    for tenant, status, refusal in ((TENANT, 204, "token-blacklisted"), (TENANT.replace("1", "2"), 403, None)):
        iss = TENANTS.replace("{tenantid}", tenant)
        assert ask(api, "of-the-soc", {"format": "iss_sub", "iss": iss, "sub": "1001"}).status_code == status
        answer = api("GET", "/", mint(issuer["secret"], iss=iss, tid=tenant, sub="1001", iat=int(NOW) - 10))
        if refusal:
            assert_refused(answer, refusal)
        else:
            assert answer.status_code == (401 if of_issuer else 200)


BAD_CREDENTIALS = {
    "garbage": "garbage",
    "the field of nobody": "of-the-soc ",
    "a foreign signature": credential(_secret="foreign"),
    "unsigned": sign({"alg": "none", "typ": "global-token-revocation+jwt"}, {**GOOD, "jti": "1"}),
    "no type": sign({"alg": "HS256"}, {**GOOD, "jti": "1"}, SECRET),
    "an ID token": credential({"typ": "JWT"}),
    "a logout token's type": credential({"typ": "logout+jwt"}),
    "another issuer": credential(iss="https://evil.okta.test"),
    "no issuer": credential(iss=ABSENT),
    "another audience": credential(aud="https://other.test/-/global-token-revocation"),
    "another path": credential(aud="http://localhost/-/logout"),
    "another client": credential(sub="0oa2other"),
    "clients in a list": credential(sub=["0oa1client"]),
    "no audience": credential(aud=ABSENT),
    "expired": credential(exp=int(NOW)),
    "no end": credential(exp=ABSENT),
    "not valid yet": credential(nbf=int(NOW) + 60),
    "no time of issue": credential(iat=ABSENT),
    "no number": credential(jti=ABSENT),
    "an access token": mint(scope="blacklist:admin"),
}


@pytest.mark.parametrize("token", BAD_CREDENTIALS.values(), ids=BAD_CREDENTIALS)
def test_a_bad_credential_is_refused_and_changes_nothing(gate_api: Api, token: str) -> None:
    answer = ask(gate_api, token)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gateway", error="invalid_token"'
    assert passes(gate_api)


def test_without_a_credential_it_is_401_without_an_error_code(gate_api: Api) -> None:
    answer = gate_api("POST", "/-/global-token-revocation", json={"sub_id": ISS_SUB})
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="gateway"')


BAD_REQUESTS: dict[str, tuple[Any, int]] = {
    "no subject": ({"json": {}}, 400),
    "a subject that is text": ({"json": {"sub_id": "1001"}}, 400),
    "no format": ({"json": {"sub_id": {"iss": ISSUER, "sub": "1001"}}}, 400),
    "a format we do not know": ({"json": {"sub_id": {"format": "did", "url": "did:example:1"}}}, 400),
    "a phone number": ({"json": {"sub_id": {"format": "phone_number", "phone_number": "+1"}}}, 400),
    "no sub": ({"json": {"sub_id": {"format": "iss_sub", "iss": ISSUER}}}, 400),
    "an empty sub": ({"json": {"sub_id": {**ISS_SUB, "sub": ""}}}, 400),
    "a sub that is a number": ({"json": {"sub_id": {**ISS_SUB, "sub": 1001}}}, 400),
    "an email that is a list": ({"json": {"sub_id": {"format": "email", "email": ["a@b.test"]}}}, 400),
    "no JSON": ({"data": "x", "content_type": "application/json"}, 400),
    "a list": ({"json": [{"sub_id": ISS_SUB}]}, 400),
    "a member twice": (
        {"data": '{"sub_id": {"format": "opaque", "id": "1001", "id": "1002"}}', "content_type": "application/json"},
        400,
    ),
    "a form": ({"data": {"sub_id": "1001"}}, 400),
    "nothing": ({"data": b"", "content_type": "application/json"}, 400),
    "no identifiers": ({"json": {"sub_id": {"format": "aliases", "identifiers": []}}}, 400),
    "a part that cannot be told": ({"json": {"sub_id": {"format": "complex", "user": ISS_SUB, "group": ISS_SUB}}}, 422),
    "a device, which no claim tells": ({"json": {"sub_id": {"format": "complex", "device": ISS_SUB}}}, 422),
    "a tenant that nobody set": (
        {"json": {"sub_id": {"format": "complex", "user": ISS_SUB, "tenant": {"format": "opaque", "id": "t"}}}},
        422,
    ),
    "a user of another issuer": ({"json": {"sub_id": {**ISS_SUB, "iss": "https://other.test/"}}}, 403),
}


@pytest.mark.parametrize(("options", "status"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused_and_changes_nothing(gate_api: Api, options: Any, status: int) -> None:
    answer = ask(gate_api, **options)
    assert answer.status_code == status
    assert answer.json.keys() == {"error", "error_description"}
    assert passes(gate_api)
    assert gate_api("GET", "/blacklist/entries", ADMIN).json["entries"] == []


def test_an_email_is_unmatched_where_no_claim_is_set_for_it(make_api: Callable[..., Api]) -> None:
    api = make_api(signals=json.dumps([{name: SENDER[name] for name in SENDER if name != "email_claim"}]))
    answer = ask(api, subject={"format": "email", "email": "alice@example.test"})
    assert (answer.status_code, answer.json["error"]) == (422, "unmatched")
    assert passes(api)


def test_who_may_not_revoke_is_told_so(make_api: Callable[..., Api]) -> None:
    api = make_api(
        signals=json.dumps([{**SENDER, "takes": ["logout"]}, {**SENDER, "issuer": "b", "authorization": "Bearer b"}])
    )
    assert ask(api).status_code == 403
    assert passes(api)


def test_a_credential_counts_once(gate_api: Api) -> None:
    token = credential()
    assert [ask(gate_api, token).status_code for _ in range(2)] == [204, 401]


def test_a_refused_request_uses_its_credential_up_for_nobody(gate_api: Api) -> None:
    token = credential()
    assert ask(gate_api, token, subject={"format": "did", "url": "x"}).status_code == 400
    assert ask(gate_api, token).status_code == 204
