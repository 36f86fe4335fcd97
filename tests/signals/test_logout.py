"""POST /-/logout: OpenID Connect Back-Channel Logout 1.0, sentence by sentence."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers import ABSENT, EXPIRES, ISSUER, NOW, Api, Clock, assert_refused, mint, sign

from gateway.auth.keyset import KeysRefused

EVENT = "http://schemas.openid.net/event/backchannel-logout"
SIGNALS = json.dumps([{"issuer": ISSUER, "audience": "api"}])
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "api",
    "iat": int(NOW),
    "exp": int(NOW) + 120,
    "events": {EVENT: {}},
    "sub": "1001",
    "sid": "s-1",
}
FORM = "application/x-www-form-urlencoded"

Make = Callable[..., Api]


def logout_token(_header: dict[str, Any] | None = None, _secret: str = "discogs", **claims: Any) -> str:
    """Return a good logout token with these claims instead of its own; ABSENT leaves one out."""
    members = {**GOOD, "jti": f"j-{next(_numbers)}", **claims}
    payload = {name: value for name, value in members.items() if value is not ABSENT}
    return sign({"alg": "HS256", "typ": "logout+jwt", **(_header or {})}, payload, _secret)


_numbers = iter(range(10**9))


def send(api: Api, token: str, **more: str) -> Any:
    return api("POST", "/-/logout", data={"logout_token": token, **more})


def passes(api: Api, **claims: Any) -> bool:
    return bool(
        api("GET", "/", mint(**{"iat": int(NOW) - 10, "sub": "1001", "sid": "s-1", **claims})).status_code == 200
    )


@pytest.fixture
def gate_api(make_api: Make) -> Api:
    return make_api(signals=SIGNALS)


def test_a_session_that_was_logged_out_is_refused_for_good_and_others_pass(gate_api: Api) -> None:
    answer = send(gate_api, logout_token())
    assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (200, b"", "no-store")
    assert not passes(gate_api)
    assert not passes(gate_api, iat=int(NOW) + 0, jti="refreshed later")
    assert passes(gate_api, sid="s-2")
    assert passes(gate_api, sub="1002", sid="s-3")


def test_a_body_that_is_badly_framed_is_refused_in_the_documents_words(gate_api: Api) -> None:
    answer = gate_api("POST", "/-/logout", data={"logout_token": "x"}, headers={"Transfer-Encoding": "chunked"})
    assert (answer.status_code, answer.json["error"]) == (400, "invalid_request")
    assert answer.json["error_description"] == "The body's end is not known."


def test_a_refreshed_token_of_an_ended_session_stays_refused(gate_api: Api, clock: Clock) -> None:
    send(gate_api, logout_token())
    clock.advance(3600)
    assert not passes(gate_api, iat=int(NOW) + 3600)


def test_without_a_session_every_token_of_the_user_until_now_is_refused(gate_api: Api, clock: Clock) -> None:
    assert send(gate_api, logout_token(sid=ABSENT)).status_code == 200
    assert not passes(gate_api)
    assert not passes(gate_api, sid="s-2")
    assert passes(gate_api, sub="1002")
    clock.advance(10)
    assert passes(gate_api, iat=int(NOW) + 9)


def test_a_logout_covers_what_passes_on_gateways_with_more_leeway(make_api: Make, clock: Clock) -> None:
    told, asked = make_api(signals=SIGNALS), make_api(leeway=30)
    assert passes(asked, iat=int(NOW) + 20)
    send(told, logout_token(sid=ABSENT))
    assert not passes(asked, iat=int(NOW) + 20)
    clock.advance(40)
    assert passes(asked, iat=int(NOW) + 40)


def test_a_session_alone_will_do(gate_api: Api) -> None:
    assert send(gate_api, logout_token(sub=ABSENT)).status_code == 200
    assert not passes(gate_api)


def test_a_sender_with_its_issuers_keys_may_have_fewer_algorithms_and_tenants(make_api: Make) -> None:
    issuer = "https://login.test/{tenantid}"
    issuers = [{"issuer": issuer, "secret": "discogs", "algorithms": ["HS256", "HS512"]}]
    sender = {"issuer": issuer, "audience": "api", "tenants": ["A"], "algorithms": "HS256"}
    api = make_api(issuers=json.dumps(issuers), signals=json.dumps([sender]))

    def logout(tenant: str, **header: str) -> int:
        claims = {"iss": issuer.replace("{tenantid}", tenant), "tid": tenant}
        digest = header.get("alg", "HS256").replace("HS", "sha")
        payload = {**GOOD, **claims, "jti": f"t-{next(_numbers)}"}
        token = sign({"alg": "HS256", "typ": "logout+jwt", **header}, payload, digest=digest)
        return int(send(api, token).status_code)

    assert [logout("a"), logout("b"), logout("a", alg="HS512")] == [200, 400, 400]
    with pytest.raises(KeysRefused):
        make_api(signals=json.dumps([{"issuer": ISSUER, "audience": "api", "algorithms": "HS1"}]))


def test_sessions_can_stand_for_their_subject_where_tokens_have_none(make_api: Make) -> None:
    api = make_api(signals=json.dumps([{"issuer": ISSUER, "audience": "api", "sessions": "subject"}]))
    assert send(api, logout_token()).status_code == 200
    assert not passes(api, sid="s-2")
    assert passes(api, sub="1002", sid="s-3")


def test_a_session_alone_is_refused_where_tokens_are_said_to_have_none(make_api: Make) -> None:
    """With 200 nothing would end, and nobody would know."""
    api = make_api(signals=json.dumps([{"issuer": ISSUER, "audience": "api", "sessions": "subject"}]))
    answer = send(api, logout_token(sub=ABSENT))
    assert (answer.status_code, answer.json["error"]) == (400, "invalid_request")
    assert "names a session and no user" in answer.json["error_description"]
    assert send(api, logout_token(sid=ABSENT)).status_code == 200
    assert not passes(api, sid=ABSENT)


def test_a_provider_whose_clock_is_ahead_is_heard_and_covered(gate_api: Api, clock: Clock) -> None:
    assert send(gate_api, logout_token(iat=int(NOW) + 20, sid=ABSENT)).status_code == 200
    clock.advance(60)
    assert not passes(gate_api, iat=int(NOW) + 19)
    assert passes(gate_api, iat=int(NOW) + 20)


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "LOGOUT+JWT", "JWT", "jwt", None])
def test_the_type_may_be_logout_jwt_or_what_older_makers_say(gate_api: Api, typ: str | None) -> None:
    header: dict[str, Any] = {"alg": "HS256"} if typ is None else {"alg": "HS256", "typ": typ}
    claims = {**GOOD, "jti": "typ"}
    assert send(gate_api, sign(header, claims)).status_code == 200
    assert not passes(gate_api)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", "api"]},
        {"events": {EVENT: {"revoke_offline_access": True}}},
        {"events": {EVENT: {}, "https://example.test/other": {}}},
        {"unknown": {"a": 1}},
        {"sub": 1001},
        {"sid": None, "nbf": None},
        {"sub": None},
    ],
    ids=str,
)
def test_what_the_specification_lets_in_is_taken(gate_api: Api, claims: dict[str, Any]) -> None:
    assert send(gate_api, logout_token(**claims), state="ignored", id_token_hint="ignored").status_code == 200
    assert not passes(gate_api)


BAD = {
    "no token": "",
    "no JWT": "garbage",
    "a second signature": logout_token() + ".x",
    "unsigned": sign({"alg": "none", "typ": "logout+jwt"}, {**GOOD, "jti": "1"}),
    "without algorithm": sign({"typ": "logout+jwt"}, {**GOOD, "jti": "1"}),
    "another algorithm": sign({"alg": "HS512", "typ": "logout+jwt"}, {**GOOD, "jti": "1"}, digest="sha512"),
    "a foreign signature": logout_token(_secret="foreign"),
    "an access token's type": logout_token({"typ": "at+jwt"}),
    "an event's type": logout_token({"typ": "secevent+jwt"}),
    "a critical extension": logout_token({"crit": ["exp"]}),
    "no issuer": logout_token(iss=ABSENT),
    "another issuer": logout_token(iss="https://evil.test/"),
    "no audience": logout_token(aud=ABSENT),
    "another audience": logout_token(aud="other"),
    "a list of other audiences": logout_token(aud=["other", 1]),
    "no time of issue": logout_token(iat=ABSENT),
    "a time of issue that is text": logout_token(iat="now"),
    "issued in the future": logout_token(iat=int(NOW) + 60),
    "no end": logout_token(exp=ABSENT),
    "expired": logout_token(exp=int(NOW)),
    "not valid yet": logout_token(nbf=int(NOW) + 60),
    "neither subject nor session": logout_token(sub=ABSENT, sid=ABSENT),
    "neither, both null": logout_token(sub=None, sid=None),
    "an empty session": logout_token(sid=""),
    "a subject that is a list": logout_token(sub=["1001"]),
    "no events": logout_token(events=ABSENT),
    "events as a list": logout_token(events=[EVENT]),
    "no logout event": logout_token(events={"https://example.test/other": {}}),
    "a logout event that is no object": logout_token(events={EVENT: True}),
    "a nonce": logout_token(nonce="n"),
    "a nonce that is null": logout_token(nonce=None),
    "no number": logout_token(jti=ABSENT),
    "a number that is none": logout_token(jti=7),
}


@pytest.mark.parametrize("token", BAD.values(), ids=BAD)
def test_a_bad_logout_token_is_refused_and_changes_nothing(gate_api: Api, token: str) -> None:
    answer = send(gate_api, token)
    assert answer.status_code == 400
    assert answer.json.keys() == {"error", "error_description"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert passes(gate_api)
    listed = gate_api("GET", "/blacklist/entries", mint(sub="admin", scope="blacklist:admin"))
    assert listed.json["entries"] == []


def test_the_good_token_of_this_table_is_good(gate_api: Api) -> None:
    assert send(gate_api, logout_token()).status_code == 200


def test_an_event_of_the_same_number_is_another_message(gate_api: Api) -> None:
    """Providers number each kind by itself."""
    claims = {
        **{name: GOOD[name] for name in ("iss", "aud", "iat")},
        "jti": "1",
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "1002"},
        "events": {"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}},
    }
    event = sign({"alg": "HS256", "typ": "secevent+jwt"}, claims)
    assert gate_api("POST", "/-/events", data=event, content_type="application/secevent+jwt").status_code == 202
    assert send(gate_api, logout_token(jti="1")).status_code == 200
    assert not passes(gate_api)
    assert not passes(gate_api, sub="1002", sid="s-2")


def test_a_logout_token_counts_once(gate_api: Api) -> None:
    token = logout_token()
    assert send(gate_api, token).status_code == 200
    admin = mint(sub="admin", scope="blacklist:admin")
    assert gate_api("DELETE", "/blacklist", admin, json={"sid": "s-1"}).status_code == 200
    assert send(gate_api, token).status_code == 400
    assert passes(gate_api)


def test_another_gateway_on_the_same_store_knows_that_it_came(make_api: Make) -> None:
    token = logout_token()
    assert send(make_api(signals=SIGNALS), token).status_code == 200
    assert send(make_api(signals=SIGNALS), token).status_code == 400


def test_also_one_with_more_leeway_for_which_it_has_not_ended_yet(make_api: Make, clock: Clock) -> None:
    token = logout_token()
    assert send(make_api(signals=SIGNALS), token).status_code == 200
    clock.advance(150)
    assert send(make_api(signals=SIGNALS, leeway=60), token).json["error_description"] == (
        "The logout token was taken before."
    )


@pytest.mark.parametrize("nothing", [ABSENT, None])
def test_a_token_without_an_end_is_taken_while_it_is_young_where_that_is_set(make_api: Make, nothing: Any) -> None:
    api = make_api(signals=json.dumps([{"issuer": ISSUER, "audience": "api", "without_exp": 120}]))
    young, old = logout_token(exp=nothing), logout_token(exp=nothing, iat=int(NOW) - 120)
    assert [send(api, old).status_code, send(api, young).status_code] == [400, 200]
    assert not passes(api)


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"logout_token": logout_token()}},
        {"query_string": {"logout_token": logout_token()}},
        {"data": f"logout_token={logout_token()}&logout_token={logout_token()}", "content_type": FORM},
        {"data": b"logout_token=\xff", "content_type": FORM},
        {"data": logout_token(), "content_type": FORM},
        {},
    ],
    ids=range(6),
)
def test_the_token_comes_once_in_a_form(gate_api: Api, request_: dict[str, Any]) -> None:
    assert gate_api("POST", "/-/logout", **request_).status_code == 400
    assert passes(gate_api)


def test_it_is_posted(gate_api: Api) -> None:
    assert_refused(gate_api("GET", "/-/logout"), "method-not-allowed")


def test_no_credential_of_the_caller_is_looked_at(gate_api: Api) -> None:
    answer = gate_api("POST", "/-/logout", "garbage", data={"logout_token": logout_token()})
    assert answer.status_code == 200


def test_it_is_not_there_until_it_is_set(make_api: Make) -> None:
    api = make_api()
    assert_refused(send(api, logout_token()), "missing-credentials")
    answer = api("POST", "/-/logout", mint(), data={"logout_token": logout_token()})
    assert_refused(answer, "not-found")


def test_nothing_is_reported_as_done_while_the_store_fails_and_the_same_token_is_taken_later(
    make_api: Make, store_fails: Any
) -> None:
    api, token = make_api(signals=SIGNALS), logout_token()

    with store_fails("add"):
        assert_refused(send(api, token), "store-unavailable")
    assert passes(api)
    assert send(api, token).status_code == 200
    assert not passes(api)


def test_a_logout_token_is_no_access_token(gate_api: Api) -> None:
    assert_refused(gate_api("GET", "/", logout_token(exp=EXPIRES)), "malformed-token")


def test_who_did_it_stands_in_the_list_and_in_the_audit_record(gate_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    send(gate_api, logout_token())
    [entry] = gate_api("GET", "/blacklist/entries", mint(sub="admin", scope="blacklist:admin")).json["entries"]
    assert (entry["by"], entry["claim"], entry["issued_before"]) == (f"logout:{ISSUER}", {"sid": "s-1"}, None)
    records = [record.__dict__["record"] for record in caplog.records if record.name == "gateway.audit"]
    assert [record.get("action", record.get("signal")) for record in records] == ["add", "logout"]
