"""POST /-/events: Security Event Tokens of SSF 1.0, with the events of CAEP 1.0 and RISC 1.0."""

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers import ABSENT, ISSUER, NOW, Api, Clock, assert_refused, mint, sign
from processes import ROOT

from gateway.signals.event_kinds import ACTIONS

IDP, SECRET = "https://idp.example.com/123456789/", "the transmitter's"
CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
SSF = "https://schemas.openid.net/secevent/ssf/event-type/"
OAUTH = "https://schemas.openid.net/secevent/oauth/event-type/"
SENDER = {
    "issuer": IDP,
    "audience": "https://sp.example2.net/caep",
    "about": ISSUER,
    "secret": SECRET,
    "email_claim": "email",
    "device_claim": "device",
    "tenant": "123456789",
    "state": "as expected",
    "extra_events": ["assurance-level-change", "device-compliance-change", "risk-level-change"],
}
THEN = int(NOW) - 100  # when it happened
ISS_SUB = {"format": "iss_sub", "iss": IDP, "sub": "1001"}
SESSION = {"format": "opaque", "id": "s-1"}
ADMIN = mint(sub="admin", scope="blacklist:admin")
numbers = itertools.count()

Make = Callable[..., Api]


def event(uri: str, _subject: Any = ISS_SUB, _header: Any = None, _secret: str = SECRET, **members: Any) -> str:
    """Return a good event with these members of its payload; `_claims` are claims instead of its own."""
    own = members.pop("_claims", {})
    claims = {
        "iss": IDP,
        "jti": f"set-{next(numbers)}",
        "iat": int(NOW) - 5,
        "aud": "https://sp.example2.net/caep",
        "sub_id": _subject,
        "events": {uri: {"event_timestamp": THEN, **members}},
        **own,
    }
    payload = {name: value for name, value in claims.items() if value is not ABSENT}
    return sign({"alg": "HS256", "typ": "secevent+jwt", **(_header or {})}, payload, _secret)


def send(api: Api, token: str, **options: Any) -> Any:
    return api("POST", "/-/events", data=token, **{"content_type": "application/secevent+jwt", **options})


def passes(api: Api, **claims: Any) -> bool:
    members = {"iat": THEN - 50, "sub": "1001", "sid": "s-1", "email": "a@example.test", "device": "d-1", "jti": "t-1"}
    return bool(api("GET", "/", mint(**{**members, **claims})).status_code == 200)


def entries(api: Api) -> list[Any]:
    found: list[Any] = api("GET", "/blacklist/entries", ADMIN).json["entries"]
    return found


@pytest.fixture
def gate_api(make_api: Make) -> Api:
    return make_api(signals=json.dumps([SENDER]))


USERS: dict[str, tuple[str, dict[str, Any]]] = {
    "session-revoked": (CAEP, {"initiating_entity": "policy"}),
    "credential-change": (CAEP, {"credential_type": "fido2-roaming", "change_type": "revoke"}),
    "token-claims-change": (CAEP, {"claims": {"role": "ro-admin"}}),
    "assurance-level-change": (
        CAEP,
        {"namespace": "NIST-AAL", "current_level": "nist-aal1", "change_direction": "decrease"},
    ),
    "account-disabled": (RISC, {"reason": "hijacking"}),
    "account-purged": (RISC, {}),
    "credential-compromise": (RISC, {"credential_type": "password"}),
    "sessions-revoked": (RISC, {}),
    "risk-level-change": (CAEP, {"principal": "USER", "current_level": "HIGH", "previous_level": "LOW"}),
}


@pytest.mark.parametrize("name", USERS)
def test_what_was_issued_before_the_event_is_refused_and_what_came_after_passes(gate_api: Api, name: str) -> None:
    schema, members = USERS[name]
    answer = send(gate_api, event(schema + name, **members))
    assert (answer.status_code, answer.data, answer.headers["Cache-Control"]) == (202, b"", "no-store")
    assert not passes(gate_api)
    assert not passes(gate_api, iat=THEN)
    assert passes(gate_api, iat=THEN + 1)
    assert passes(gate_api, sub="1002")


NOTHING: dict[str, tuple[str, dict[str, Any]]] = {
    "a new credential": (CAEP + "credential-change", {"credential_type": "pin", "change_type": "create"}),
    "more assurance": (
        CAEP + "assurance-level-change",
        {"namespace": "NIST-AAL", "current_level": "nist-aal2", "change_direction": "increase"},
    ),
    "a device that complies": (
        CAEP + "device-compliance-change",
        {"previous_status": "not-compliant", "current_status": "compliant"},
    ),
    "a new session": (CAEP + "session-established", {}),
    "an enabled account": (RISC + "account-enabled", {}),
    "an unknown event": ("https://example.test/event", {}),
    "an unknown event with a time of its own kind": ("https://example.test/event", {"event_timestamp": "today"}),
    "less risk": (CAEP + "risk-level-change", {"principal": "USER", "current_level": "MEDIUM"}),
    "a verification of its own": (SSF + "verification", {}),
    "a verification of its own, with null": (SSF + "verification", {"state": None}),
    "a verification": (SSF + "verification", {"state": "as expected"}),
    "a stream's update": (SSF + "stream-updated", {"status": "paused"}),
}


@pytest.mark.parametrize(("uri", "members"), NOTHING.values(), ids=NOTHING)
def test_what_ends_nothing_is_acknowledged(gate_api: Api, uri: str, members: dict[str, Any]) -> None:
    assert send(gate_api, event(uri, **members)).status_code == 202
    assert passes(gate_api)
    assert entries(gate_api) == []


def test_docs_signals_names_every_event_that_is_acted_on() -> None:
    page = (ROOT / "docs/signals.md").read_text()
    assert [uri for uri in ACTIONS if f"`{uri.rpartition('/')[2]}`" not in page] == []


@pytest.mark.parametrize("name", ["assurance-level-change", "device-compliance-change"])
def test_optional_events_are_acknowledged_alone_until_they_are_set(make_api: Make, name: str) -> None:
    api = make_api(signals=json.dumps([{**SENDER, "extra_events": []}]))
    assert send(api, event(CAEP + name)).status_code == 202
    assert entries(api) == []


PRINCIPALS = {"USER": "sub", "SESSION": "sid", "DEVICE": "device", "user": "sub", "GROUP": "", "x\n" * 99: ""}


@pytest.mark.parametrize(("principal", "claim"), PRINCIPALS.items(), ids=map(repr, PRINCIPALS))
def test_a_risk_is_that_of_whatever_the_event_calls_its_principal(
    gate_api: Api, principal: str, claim: str, caplog: pytest.LogCaptureFixture
) -> None:
    members = {"principal": principal, "current_level": "HIGH"}
    answer = send(gate_api, event(CAEP + "risk-level-change", {"format": "opaque", "id": "r-1"}, **members))
    assert answer.status_code == (202 if claim else 400)
    assert [each["claim"] for each in entries(gate_api)] == ([{claim: "r-1"}] if claim else [])
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


COMPLIANCE = {"previous_status": "compliant", "current_status": "not-compliant"}
URI = CAEP + "session-revoked"
TENANT = {"format": "opaque", "id": "123456789"}
SUBJECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "an opaque session": (SESSION, {"sid": "s-1"}),
    "one session's names": ({"format": "aliases", "identifiers": [SESSION]}, {"sid": "s-1"}),
    "a session": ({"format": "complex", "session": SESSION}, {"sid": "s-1"}),
    "a user's session": ({"format": "complex", "session": SESSION, "user": ISS_SUB, "tenant": TENANT}, {"sid": "s-1"}),
    "a session of an unmatched user": (
        {"format": "complex", "session": SESSION, "user": {"format": "phone_number", "phone_number": "+1"}},
        {"sid": "s-1"},
    ),
    "a user, and null for the rest": ({"format": "complex", "user": ISS_SUB, "session": None}, {"sub": "1001"}),
    "all sessions of a user": (
        {"format": "complex", "user": ISS_SUB, "session": {"format": "opaque", "id": "ALL"}},
        {"sub": "1001"},
    ),
    "a session on a device": ({"format": "complex", "session": SESSION, "device": SESSION}, {"sid": "s-1"}),
    "a user": ({"format": "complex", "user": ISS_SUB}, {"sub": "1001"}),
    "a user of the tenant": ({"format": "complex", "user": ISS_SUB, "tenant": TENANT}, {"sub": "1001"}),
    "a user of our own issuer": ({"format": "iss_sub", "iss": ISSUER, "sub": "1001"}, {"sub": "1001"}),
    "an email": ({"format": "email", "email": "a@example.test"}, {"email": "a@example.test"}),
    "a token": ({"format": "jwt_id", "iss": ISSUER, "jti": "t-1"}, {"jti": "t-1"}),
    "a device": ({"format": "complex", "device": {"format": "opaque", "id": "d-1"}}, {"device": "d-1"}),
    "one user's names": (
        {"format": "aliases", "identifiers": [ISS_SUB, {"format": "email", "email": "a@example.test"}]},
        {"sub": "1001"},
    ),
}


@pytest.mark.parametrize(("subject", "claim"), SUBJECTS.values(), ids=SUBJECTS)
def test_a_subject_is_found_by_the_claim_that_tells_it(gate_api: Api, subject: Any, claim: dict[str, Any]) -> None:
    is_email = subject["format"] == "email"
    uri = RISC + "identifier-changed" if is_email else CAEP + "session-revoked"
    assert send(gate_api, event(uri, subject)).status_code == 202
    assert not passes(gate_api)
    assert claim in [entry["claim"] for entry in entries(gate_api)]
    (name,) = claim
    assert passes(gate_api, **{name: "another"}) or subject["format"] == "aliases"
    for_good = name in ("sid", "jti")
    assert passes(gate_api, iat=THEN + 50) != for_good


TOGETHER: dict[str, tuple[Any, dict[str, str]]] = {
    "a user on a device": ({"user": ISS_SUB, "device": {"format": "opaque", "id": "d-1"}}, {"device": "d-2"}),
    "a user of a tenant": ({"user": ISS_SUB, "tenant": TENANT}, {"tid": "another"}),
    "an email on a device": (
        {"user": {"format": "email", "email": "a@example.test"}, "device": {"format": "opaque", "id": "d-1"}},
        {"email": "b@example.test"},
    ),
    "a device of a tenant": ({"tenant": TENANT, "device": {"format": "opaque", "id": "d-1"}}, {"device": "d-2"}),
    "all of it": ({"user": ISS_SUB, "device": {"format": "opaque", "id": "d-1"}, "tenant": TENANT}, {"sub": "1002"}),
    "a whole tenant": ({"tenant": TENANT}, {"tid": "another"}),
}


@pytest.mark.parametrize(("parts", "another"), TOGETHER.values(), ids=TOGETHER)
def test_parts_that_claims_tell_must_all_hold(make_api: Make, parts: Any, another: dict[str, str]) -> None:
    api = make_api(signals=json.dumps([{**SENDER, "tenant_claim": "tid"}]))
    assert send(api, event(URI, {"format": "complex", **parts})).status_code == 202
    assert not passes(api, tid="123456789")
    assert passes(api, **{"tid": "123456789", **another})
    assert passes(api, tid="123456789", iat=THEN + 1)
    [entry] = entries(api)
    lifted = api("DELETE", "/blacklist", ADMIN, json=entry["claim"])
    assert lifted.json["changed"], lifted.data
    assert passes(api, tid="123456789")


def test_parts_that_no_claims_tell_are_refused(make_api: Make) -> None:
    sender = {name: value for name, value in SENDER.items() if name not in ("device_claim", "tenant")}
    api = make_api(signals=json.dumps([sender]))
    for parts in (TOGETHER["a user on a device"][0], TOGETHER["a user of a tenant"][0]):
        assert "cannot be matched" in send(api, event(URI, {"format": "complex", **parts})).json["description"]
    assert entries(api) == []


UNMATCHED: dict[str, Any] = {
    "a group": {"format": "complex", "user": ISS_SUB, "group": SESSION},
    "an application": {"format": "complex", "session": SESSION, "application": SESSION},
    "an organisation": {"format": "complex", "org_unit": SESSION},
    "a part we do not know": {"format": "complex", "user": ISS_SUB, "robot": SESSION},
    "a whole tenant": {"format": "complex", "tenant": TENANT},
    "another tenant": {"format": "complex", "user": ISS_SUB, "tenant": {"format": "opaque", "id": "987"}},
    "another tenant's session": {"format": "complex", "session": SESSION, "tenant": {"format": "opaque", "id": "987"}},
    "a session of another issuer's user": {
        "format": "complex",
        "session": SESSION,
        "user": {"format": "iss_sub", "iss": "https://other.test/", "sub": "1001"},
    },
    "another issuer's user": {"format": "iss_sub", "iss": "https://other.test/", "sub": "1001"},
    "a phone number": {"format": "phone_number", "phone_number": "+12065550100"},
    "a DID": {"format": "did", "url": "did:example:123456"},
    "a SAML assertion": {"format": "saml_assertion_id", "issuer": "i", "assertion_id": "a"},
    "names none of which is known": {"format": "aliases", "identifiers": [{"format": "phone_number"}]},
    "another issuer's token": {"format": "jwt_id", "iss": "https://other.test/", "jti": "t-1"},
}


@pytest.mark.parametrize("subject", UNMATCHED.values(), ids=UNMATCHED)
def test_what_cannot_be_told_exactly_is_refused_and_never_guessed(
    gate_api: Api, subject: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answer = send(gate_api, event(CAEP + "session-revoked", subject))
    assert (answer.status_code, answer.json["err"]) == (400, "invalid_request")
    assert "cannot be matched" in answer.json["description"]
    [record] = [each for each in caplog.records if each.name == "gateway.signals"]
    assert "cannot be matched" in record.getMessage()
    assert record.record["sender"] == IDP  # type: ignore[attr-defined]
    assert passes(gate_api)
    assert entries(gate_api) == []


BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "invalid_request"),
    "no JWT": ("garbage", "invalid_request"),
    "a JSON object": ("{}", "invalid_request"),
    "unsigned": (sign({"alg": "none", "typ": "secevent+jwt"}, {"iss": IDP}), "invalid_key"),
    "another algorithm": (
        sign({"alg": "HS512", "typ": "secevent+jwt"}, {"iss": IDP}, SECRET, "sha512"),
        "invalid_key",
    ),
    "a foreign signature": (event(URI, _secret="foreign"), "authentication_failed"),
    "no type": (event(URI, _header={"typ": ""}), "invalid_request"),
    "type JWT": (event(URI, _header={"typ": "JWT"}), "invalid_request"),
    "a logout token's type": (event(URI, _header={"typ": "logout+jwt"}), "invalid_request"),
    "a critical extension": (event(URI, _header={"crit": ["b64"], "b64": True}), "invalid_request"),
    "no issuer": (event(URI, _claims={"iss": ABSENT}), "invalid_issuer"),
    "another issuer": (event(URI, _claims={"iss": ISSUER}), "invalid_issuer"),
    "no audience": (event(URI, _claims={"aud": ABSENT}), "invalid_request"),
    "another audience": (event(URI, _claims={"aud": ["https://other.test"]}), "invalid_audience"),
    "no number": (event(URI, _claims={"jti": ABSENT}), "invalid_request"),
    "no time of issue": (event(URI, _claims={"iat": ABSENT}), "invalid_request"),
    "issued in the future": (event(URI, _claims={"iat": int(NOW) + 60}), "invalid_request"),
    "older than its number is kept": (event(URI, _claims={"iat": int(NOW) - 91 * 86_400}), "invalid_request"),
    "a sub": (event(URI, _claims={"sub": "1001"}), "invalid_request"),
    "an exp": (event(URI, _claims={"exp": int(NOW) + 60}), "invalid_request"),
    "no subject": (event(URI, _claims={"sub_id": ABSENT}), "invalid_request"),
    "a subject that is text": (event(URI, "1001"), "invalid_request"),
    "a subject without format": (event(URI, {"iss": IDP, "sub": "1001"}), "invalid_request"),
    "a subject without sub": (event(URI, {"format": "iss_sub", "iss": IDP}), "invalid_request"),
    "a complex subject without parts": (event(URI, {"format": "complex"}), "invalid_request"),
    "a complex part that is text": (event(URI, {"format": "complex", "session": "s-1"}), "invalid_request"),
    "a complex subject in another": (
        event(URI, {"format": "complex", "user": {"format": "complex", "user": ISS_SUB}}),
        "invalid_request",
    ),
    "no events": (event(URI, _claims={"events": ABSENT}), "invalid_request"),
    "empty events": (event(URI, _claims={"events": {}}), "invalid_request"),
    "events that are a list": (event(URI, _claims={"events": [URI]}), "invalid_request"),
    "an event that is null": (event(URI, _claims={"events": {URI: None}}), "invalid_request"),
    "no subject anywhere": (event(URI, _claims={"sub_id": ABSENT}, subject=None), "invalid_request"),
    "an older subject without parts": (event(URI, _claims={"sub_id": ABSENT}, subject={}), "invalid_request"),
    "an older subject that is text": (event(URI, _claims={"sub_id": ABSENT}, subject="1001"), "invalid_request"),
    "an older complex subject in another": (
        event(URI, _claims={"sub_id": ABSENT}, subject={"user": {"user": ISS_SUB}}),
        "invalid_request",
    ),
    "an older subject of a type that is no text": (
        event(URI, _claims={"sub_id": ABSENT}, subject={"subject_type": 1, "iss": IDP, "sub": "1001"}),
        "invalid_request",
    ),
    "a time that is text": (event(URI, event_timestamp="2026-01-01"), "invalid_request"),
    "a time before all": (event(URI, event_timestamp=-62_135_596_800), "invalid_request"),
    "a credential that changed somehow": (
        event(CAEP + "credential-change", credential_type="pin", change_type="lost"),
        "invalid_request",
    ),
    "a credential of no type": (event(CAEP + "credential-change", change_type="revoke"), "invalid_request"),
    "no claims that changed": (event(CAEP + "token-claims-change"), "invalid_request"),
    "a device that complies somehow": (
        event(CAEP + "device-compliance-change", previous_status="compliant", current_status="perhaps"),
        "invalid_request",
    ),
    "a level of no namespace": (event(CAEP + "assurance-level-change", current_level="1"), "invalid_request"),
    "another state": (event(SSF + "verification", state="another"), "invalid_state"),
    "an identifier that is none": (event(RISC + "identifier-changed"), "invalid_request"),
    "a compromise of nothing": (event(RISC + "credential-compromise"), "invalid_request"),
    "a risk of some level": (event(CAEP + "risk-level-change", principal="USER", current_level="9"), "invalid_request"),
    "a stream that is somehow": (event(SSF + "stream-updated", status="perhaps"), "invalid_request"),
}


@pytest.mark.parametrize("typ", ["JWT", "", None, "application/jwt", "secevent+jwt"])
def test_a_sender_may_be_let_off_the_type(make_api: Make, typ: str | None) -> None:
    """As authentik sends events."""
    api = make_api(signals=json.dumps([{**SENDER, "without_typ": True}]))
    members = {"alg": "HS256", **({} if typ is None else {"typ": typ})}
    subject = {"session": SESSION, "user": {"format": "email", "email": "b@example.test"}}
    claims = {"iss": IDP, "jti": f"set-{typ}", "iat": int(NOW), "aud": ["x", SENDER["audience"]], "txn": "t"}
    payload = {**claims, "events": {URI: {"subject": subject, "initiating_entity": "user"}}}
    assert send(api, sign(members, payload, SECRET)).status_code == 202
    assert not passes(api)
    assert passes(api, sid="s-2")
    for header in ({"typ": "logout+jwt"}, {"typ": "at+jwt"}, {"typ": 1}):
        assert send(api, event(URI, _header=header)).json["err"] == "invalid_request"


def test_the_log_names_both_issuers_of_an_event_of_another(gate_api: Api, caplog: pytest.LogCaptureFixture) -> None:
    send(gate_api, event(URI, _claims={"iss": "https://typo.test"}))
    send(gate_api, event(URI, _claims={"iss": {"anything": "x" * 40_000}}))
    found, odd = [each.record for each in caplog.records if each.name == "gateway.signals"]  # type: ignore[attr-defined]
    assert (found["found_issuer"], found["expected_issuer"]) == ("https://typo.test", IDP)
    assert len(odd["found_issuer"]) <= 200


@pytest.mark.parametrize(("token", "error"), BAD.values(), ids=BAD)
def test_a_bad_event_is_refused_and_changes_nothing(gate_api: Api, token: str, error: str) -> None:
    answer = send(gate_api, token)
    assert (answer.status_code, answer.json["err"]) == (400, error)
    assert answer.json["description"]
    assert answer.headers["Content-Language"] == "en"
    assert passes(gate_api)
    assert entries(gate_api) == []


@pytest.mark.parametrize("media_type", ["", "application/jwt", "application/x-www-form-urlencoded"])
def test_the_body_is_one_event_and_says_so(gate_api: Api, media_type: str) -> None:
    assert send(gate_api, event(URI), content_type=media_type).json["err"] == "invalid_request"
    assert passes(gate_api)


def test_an_event_that_takes_nothing_back_asks_nothing_of_the_store(
    gate_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.blacklist.stores.sqlite.store import SqliteStore

    monkeypatch.delattr(SqliteStore, "add")
    assert send(gate_api, event(CAEP + "session-presented")).status_code == 202


def test_an_event_that_comes_again_is_acknowledged_and_does_not_count_twice(gate_api: Api) -> None:
    token = event(URI)
    assert send(gate_api, token).status_code == 202
    assert gate_api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"}).json["changed"]
    assert send(gate_api, token).status_code == 202
    assert passes(gate_api)
    assert entries(gate_api) == []


OLDER: dict[str, tuple[str, dict[str, Any]]] = {
    "with nulls": (CAEP + "session-revoked", {"format": None, "user": ISS_SUB, "session": None}),
    "Okta's": (CAEP + "session-revoked", {"user": ISS_SUB}),
    "Okta's of a credential": (CAEP + "credential-change", ISS_SUB),
    "Google's": (RISC + "account-disabled", {"subject_type": "iss-sub", "iss": IDP, "sub": "1001"}),
    "Google's with an email": (
        OAUTH + "tokens-revoked",
        {"subject_type": "id_token_claims", "iss": IDP, "sub": "1001", "email": "b@example.test"},
    ),
    "of several names": (
        RISC + "sessions-revoked",
        {
            "subject_type": "aliases",
            "identifiers": [
                {"subject_type": "phone-number", "phone_number": "+1"},
                {"subject_type": "email", "email": "a@example.test"},
            ],
        },
    ),
}


@pytest.mark.parametrize(("uri", "subject"), OLDER.values(), ids=OLDER)
def test_a_subject_may_stand_in_its_event_and_a_time_in_milliseconds(
    gate_api: Api, uri: str, subject: dict[str, Any]
) -> None:
    members = {"subject": subject, "event_timestamp": THEN * 1000 + 643}
    if uri.endswith("credential-change"):
        members |= {"credential_type": "password", "change_type": "revoke"}
    for nothing in (ABSENT, None):
        assert send(gate_api, event(uri, nothing, **members)).status_code == 202
    assert not passes(gate_api)
    assert not passes(gate_api, iat=THEN)
    assert passes(gate_api, iat=THEN + 1)
    assert passes(gate_api, sub="1002", email="c@example.test")


def test_null_is_what_is_not_there(gate_api: Api) -> None:
    """Some makers write every member that they know."""
    nothing = dict.fromkeys(("sub", "exp", "nbf", "toe", "txn"))
    assert send(gate_api, event(URI, event_timestamp=None, _claims=nothing)).status_code == 202
    assert not passes(gate_api)


def test_the_subject_of_the_whole_message_counts_before_that_of_an_event(gate_api: Api) -> None:
    assert send(gate_api, event(URI, subject={**ISS_SUB, "sub": "1002"})).status_code == 202
    assert not passes(gate_api)
    assert passes(gate_api, sub="1002")


def test_each_event_has_its_own_subject_where_the_message_has_none(gate_api: Api) -> None:
    two = {
        uri: {"subject": {**ISS_SUB, "sub": sub}}
        for uri, sub in {URI: "1001", RISC + "account-disabled": "1002", CAEP + "session-presented": "1003"}.items()
    }
    assert send(gate_api, event(URI, ABSENT, _claims={"events": two})).status_code == 202
    assert [passes(gate_api, sub=sub, sid=sub) for sub in ("1001", "1002", "1003")] == [False, False, True]


def test_a_sender_names_itself_by_any_of_its_names(make_api: Make) -> None:
    """As Google does, whose tokens are `https://accounts.google.com`'s and whose events have a final slash."""
    api = make_api(signals=json.dumps([{"issuer": ISSUER, "aliases": [IDP], "audience": SENDER["audience"]}]))
    subject = {"subject_type": "iss-sub", "iss": IDP, "sub": "1001"}
    token = event(RISC + "sessions-revoked", ABSENT, subject=subject, _secret="discogs")
    assert send(api, token).status_code == 202
    assert not passes(api)
    assert passes(api, sub="1002")


def test_a_session_and_a_user_of_different_issuers_are_nobody(make_api: Make) -> None:
    other = "https://other.test/"
    api = make_api(
        issuers=json.dumps([{"issuer": ISSUER, "secret": "discogs"}, {"issuer": other, "secret": "other"}]),
        signals=json.dumps([{**SENDER, "about": [ISSUER, other]}]),
    )
    session = {"format": "iss_sub", "iss": ISSUER, "sub": "s-1"}
    user = {"format": "iss_sub", "iss": other, "sub": "1001"}
    answer = send(api, event(URI, {"format": "complex", "session": session, "user": user}))
    assert (answer.status_code, answer.json["err"]) == (400, "invalid_request")
    assert passes(api)


def test_a_time_far_ahead_locks_nobody_out(gate_api: Api, clock: Clock) -> None:
    assert send(gate_api, event(URI, event_timestamp=int(NOW) * 10)).status_code == 202
    assert not passes(gate_api, iat=int(NOW))
    clock.advance(60)
    assert passes(gate_api, iat=int(NOW) + 31)


def test_what_a_fast_clock_issued_before_the_event_is_refused(gate_api: Api, clock: Clock) -> None:
    ahead = int(NOW) + 20
    token = event(URI, event_timestamp=ahead, _claims={"iat": ahead})
    assert send(gate_api, token).status_code == 202
    clock.advance(60)
    assert not passes(gate_api, iat=ahead)
    assert passes(gate_api, iat=ahead + 1)


@pytest.mark.parametrize(
    ("claims", "passing"),
    [({"toe": THEN}, THEN + 1), ({}, int(NOW) + 1), ({"iat": int(NOW) + 9}, int(NOW) + 9)],
    ids=["toe", "none", "ahead"],
)
def test_without_its_time_an_event_counts_from_when_it_happened_or_came(
    gate_api: Api, clock: Clock, claims: Any, passing: int
) -> None:
    token = event(URI, _claims={**claims, "events": {URI: {}}})
    assert send(gate_api, token).status_code == 202
    clock.advance(20)
    assert not passes(gate_api, iat=passing - 1)
    assert passes(gate_api, iat=passing)


LATE = RISC + "account-disabled"
SEVERAL: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "of its own": ({URI: {"event_timestamp": THEN - 900}, LATE: {"event_timestamp": THEN}}, {}, THEN + 1),
    "the message's": ({URI: {"event_timestamp": THEN - 900}, LATE: {}}, {"toe": THEN}, THEN + 1),
    "not told": ({URI: {"event_timestamp": THEN - 900}, LATE: {}}, {}, int(NOW) + 1),
    "null": ({LATE: {"event_timestamp": None}}, {}, int(NOW) + 1),
    "0": ({LATE: {"event_timestamp": 0}}, {"toe": THEN}, THEN + 1),
    "of an event that ends nothing": (
        {CAEP + "session-presented": {"event_timestamp": THEN - 900}, LATE: {}},
        {},
        int(NOW) + 1,
    ),
    "longer than any": ({LATE: {"event_timestamp": 10**400}}, {}, int(NOW) + 31),
}


@pytest.mark.parametrize(("events", "claims", "passing"), SEVERAL.values(), ids=SEVERAL)
def test_no_event_counts_from_before_it_happened(
    gate_api: Api, clock: Clock, events: Any, claims: Any, passing: int
) -> None:
    assert send(gate_api, event(URI, _claims={"events": events, **claims})).status_code == 202
    clock.advance(40)
    assert not passes(gate_api, iat=passing - 1)
    assert passes(gate_api, iat=passing)
    [entry] = entries(gate_api)
    assert entry["reason"].startswith(("account-disabled", "session-revoked"))


def test_sessions_can_stand_for_their_user_where_tokens_have_none(make_api: Make) -> None:
    api = make_api(signals=json.dumps([{**SENDER, "sessions": "subject"}]))
    assert send(api, event(URI, {"format": "complex", "session": SESSION, "user": ISS_SUB})).status_code == 202
    assert not passes(api, sid="without")


EMAIL = {"format": "email", "email": "a@example.test"}


@pytest.mark.parametrize(
    "subject",
    [
        SESSION,
        {"format": "aliases", "identifiers": [SESSION]},
        {"format": "complex", "session": SESSION},
        {"format": "complex", "session": SESSION, "user": EMAIL},
    ],
    ids=["opaque", "names", "a part", "a user that cannot be matched"],
)
def test_a_session_without_its_user_is_refused_where_tokens_have_no_sessions(make_api: Make, subject: Any) -> None:
    api = make_api(signals=json.dumps([{**SENDER, "sessions": "subject", "email_claim": None}]))
    answer = send(api, event(URI, subject))
    assert (answer.status_code, answer.json["err"]) == (400, "invalid_request")
    assert "cannot be matched" in answer.json["description"]
    assert entries(api) == []


@pytest.mark.parametrize(("users", "status"), [(30, 202), (31, 202), (32, 400), (500, 400)])
def test_aliases_of_several_parts_make_no_more_entries_than_a_store_can_take(
    gate_api: Api, users: int, status: int
) -> None:
    user, device = ([{"format": "opaque", "id": f"{n}"} for n in range(count)] for count in (users, 32))
    parts = {name: {"format": "aliases", "identifiers": each} for name, each in (("user", user), ("device", device))}
    assert send(gate_api, event(URI, {"format": "complex", **parts})).status_code == status
    assert passes(gate_api, sub="7", device="8") is (status == 400)


def test_a_stream_with_an_authorization_needs_it(make_api: Make) -> None:
    api = make_api(signals=json.dumps([{**SENDER, "authorization": "Bearer of-the-stream"}]))
    for fields in ({}, {"Authorization": "Bearer another"}):
        assert send(api, event(URI), headers=fields).json["err"] == "authentication_failed"
    assert passes(api)
    assert send(api, event(URI), headers={"Authorization": "Bearer of-the-stream"}).status_code == 202


def test_who_may_not_send_events_is_told_so(make_api: Make) -> None:
    senders = [{**SENDER, "takes": ["logout"]}, {"issuer": ISSUER, "audience": "x"}]
    api = make_api(signals=json.dumps(senders))
    assert send(api, event(URI)).json["err"] == "access_denied"


@pytest.mark.parametrize(
    "told", [{"en": "Landspeed Policy Violation: C076E82F"}, "Landspeed Policy Violation: C076E82F"]
)
def test_what_the_sender_says_of_it_is_the_entrys_reason(gate_api: Api, told: Any) -> None:
    send(gate_api, event(URI, reason_admin=told))
    [entry] = entries(gate_api)
    assert entry["reason"] == "session-revoked: Landspeed Policy Violation: C076E82F"
    assert entry["by"] == f"events:{IDP}"


def test_nothing_is_acknowledged_while_the_store_fails(make_api: Make, store_fails: Any) -> None:
    api, token = make_api(signals=json.dumps([SENDER])), event(URI)
    with store_fails("add"):
        assert_refused(send(api, token), "store-unavailable")
    assert passes(api)
    assert send(api, token).status_code == 202
    assert not passes(api)
