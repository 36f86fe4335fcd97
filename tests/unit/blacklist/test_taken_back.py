"""After success nothing that the request named passes, and nothing else is refused: through the whole gateway."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from helpers import ISSUER, NOW, SECRET, Api, Clock, assert_refused, fingerprint, mint, sign
from redis_servers import RedisServer, be_patient

from gateway import Gateway, Settings
from gateway.blacklist.rules import Blacklist
from gateway.blacklist.stores import Entry
from gateway.http.values import MOST_JOINED, find_claim

ADMIN = mint(sub="admin", scope="blacklist:admin", jti="admin", iat=int(NOW) - 10)
FORM = "application/x-www-form-urlencoded"
OTHER, THIRD = "https://other.test/", "https://third.test/"

Make = Callable[..., Api]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
def make(
    request: pytest.FixtureRequest, upstream: Any, clock: Clock, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Return a maker of clients of gateways with the given settings, all over one store."""
    url, made = store_url, []
    if request.param == "redis":
        be_patient(monkeypatch)
        server: RedisServer = request.getfixturevalue("redis_server")
        server.ask("FLUSHALL")
        url = server.url

    def api(**values: Any) -> Api:
        secret = {} if "issuers" in values else {"secret": SECRET}
        made.append(Gateway(upstream, Settings(store=url, **secret, **values), now=clock))
        return Api(made[-1])

    yield api
    for gateway in made:
        gateway._blacklist.store.close()


def passes(api: Api, token: str, refused_as: str = "token-blacklisted") -> bool:
    answer = api("GET", "/info", token)
    if answer.status_code != 200:
        assert_refused(answer, refused_as)
    return bool(answer.status_code == 200)


def done(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.get_data(as_text=True)
    members: dict[str, Any] = answer.json
    return members


def take_back(api: Api, admin: str = ADMIN, **members: Any) -> dict[str, Any]:
    answer = done(api("POST", "/blacklist", admin, json=members))
    assert answer["blacklisted"] is True
    return answer


def spelled(**claims: str) -> str:
    """Return a good token whose claims are spelled in JSON as they are given."""
    members = {"iss": json.dumps(ISSUER), "exp": str(int(NOW) + 10**6), **claims}
    return sign({"alg": "HS256"}, "{" + ", ".join(f'"{name}": {text}' for name, text in members.items()) + "}")


# Clocks.


@pytest.mark.parametrize("name", ["jti", "sub", "sid"])
def test_what_an_issuer_dated_ahead_is_taken_back_too(make: Make, clock: Clock, name: str) -> None:
    api = make(leeway=30)
    ahead = mint(**{name: "a"}, iat=int(NOW) + 20)
    assert passes(api, ahead)
    take_back(api, **{name: "a"})
    assert not passes(api, ahead)
    assert done(api("GET", "/blacklist", ahead))["blacklisted"]
    clock.advance(60)
    assert not passes(api, ahead)


@pytest.mark.parametrize("name", ["jti", "sid"])
def test_what_is_not_valid_yet_is_taken_back_for_when_it_is(make: Make, clock: Clock, name: str) -> None:
    api, ahead = make(), mint(**{name: "a"}, iat=int(NOW) + 6)
    take_back(api, **{name: "a"})
    clock.advance(8)
    assert not passes(api, ahead)


def test_a_session_that_has_ended_does_not_come_back_with_a_refresh(make: Make, clock: Clock) -> None:
    api = make()
    answer = take_back(api, sid="S1")
    assert (answer["issued_before"], answer["until"], answer["issuer"]) == (None, None, ISSUER)
    clock.advance(1000)
    assert not passes(api, mint(sid="S1", iat=int(NOW) + 1000))
    assert passes(api, mint(sid="S2", iat=int(NOW) + 1000))


def test_which_claims_have_a_cut_off_is_set(make: Make) -> None:
    api = make(cut_off_claims="sid")
    assert take_back(api, sub="1001")["issued_before"] is None
    assert take_back(api, sid="a")["issued_before"] == NOW + 1
    assert take_back(api, jti="a")["issued_before"] is None


def test_a_cut_off_is_none_now_or_whenever_it_is_said_to_be(make: Make, clock: Clock) -> None:
    api = make()
    assert take_back(api, sub="1001", issued_before=int(NOW) + 1000)["issued_before"] == NOW + 1000
    clock.advance(999)
    assert not passes(api, mint(sub="1001", iat=int(NOW) + 999))
    assert passes(api, mint(sub="1001", iat=int(NOW) + 1000 - 1, jti="x")) is False
    clock.advance(1)
    assert passes(api, mint(sub="1001", iat=int(NOW) + 1000))
    assert take_back(api, sub="1001", issued_before=None)["issued_before"] is None
    assert take_back(api, sub="1001")["issued_before"] is None
    assert not passes(api, mint(sub="1001", iat=int(NOW) + 1000))


def test_an_entry_ends_when_it_is_said_to(make: Make, clock: Clock) -> None:
    api = make()
    assert take_back(api, sub="1001", until=int(NOW) + 10)["until"] == NOW + 10
    assert take_back(api, sub="1001", until=int(NOW) + 5)["until"] == NOW + 10
    clock.advance(9.9)
    assert not passes(api, mint(sub="1001", iat=int(NOW)))
    clock.advance(0.1)
    assert passes(api, mint(sub="1001", iat=int(NOW)))
    assert_refused(api("POST", "/blacklist", ADMIN, json={"sub": "a", "until": int(NOW) + 10}), "invalid-request")


@pytest.mark.parametrize("writer", [0, 30, 300])
@pytest.mark.parametrize("reader", [0, 30, 300])
def test_a_tokens_entry_outlives_the_leeway_of_any_gateway(
    make: Make, clock: Clock, writer: float, reader: float
) -> None:
    token = mint(iat=int(NOW), exp=int(NOW) + 10, jti="a")
    assert done(make(leeway=writer)("POST", "/blacklist", token))["blacklisted"]
    reading = make(leeway=reader)
    for moment in (0, 9, 10 + reader - 1):
        clock.seconds = NOW + moment
        assert_refused(reading("GET", "/info", token), "token-blacklisted")
    clock.seconds = NOW + 10 + reader
    assert_refused(reading("GET", "/info", token), "token-expired")


@pytest.mark.parametrize("name", ["sub", "sid"])
def test_what_is_forgotten_would_be_refused_for_its_age(make: Make, clock: Clock, name: str) -> None:
    api = make(max_token_age=2, leeway=1)
    token = mint(**{name: "a"}, iat=int(NOW) + 1, exp=int(NOW) + 600)
    take_back(api, mint(sub="admin", scope="blacklist:admin", iat=int(NOW)), **{name: "a"})
    for _ in range(400):
        assert api("GET", "/info", token).status_code == 401
        clock.advance(1)


@pytest.mark.parametrize("writer", [0, 0.5, 30])
@pytest.mark.parametrize("reader", [0, 30, 300])
def test_now_covers_what_passes_on_gateways_with_more_leeway_too(
    make: Make, clock: Clock, writer: float, reader: float
) -> None:
    writing, reading = make(leeway=writer), make(leeway=reader)
    tokens = {iat: mint(sub="1001", iat=int(NOW) + iat) for iat in (0, reader, reader + 1, 500)}
    assert passes(reading, tokens[reader])
    take_back(writing, sub="1001")
    assert [passes(reading, tokens[iat]) for iat in (0, reader)] == [False, False]
    assert done(reading("GET", "/blacklist?sub=1001", ADMIN))["issued_before"] == NOW + 1 + max(reader, -(-writer // 1))
    clock.advance(500)
    assert passes(reading, tokens[500])
    assert [passes(reading, tokens[iat]) for iat in (0, reader)] == [False, False]
    take_back(reading, sub="1001")
    assert not passes(reading, mint(sub="1001", iat=int(NOW) + 500 + reader))


def test_a_cut_off_that_is_named_is_the_same_on_every_gateway(make: Make) -> None:
    take_back(make(), sub="1001", issued_before=int(NOW) + 2)
    assert passes(make(leeway=30), mint(sub="1001", iat=int(NOW) + 2))


def test_a_later_now_is_kept_beside_a_later_cut_off(make: Make, clock: Clock) -> None:
    far, near, reading = make(leeway=300), make(), make(leeway=300)
    take_back(far, sub="1001")
    clock.advance(100)
    take_back(near, sub="1001")
    assert not passes(reading, mint(sub="1001", iat=int(NOW) + 400))
    clock.advance(1)
    assert passes(reading, mint(sub="1001", iat=int(NOW) + 401))


@pytest.mark.parametrize("name", ["sub", "sid"])
def test_what_counts_for_the_sign_in_is_not_forgotten_with_the_age_of_tokens(
    make: Make, clock: Clock, name: str
) -> None:
    """From a sign-in of before, tokens are refreshed for as long as its session lasts."""
    api = make(auth_time=True, max_token_age=100, cut_off_claims="sub,sid")
    take_back(api, mint(sub="admin", scope="blacklist:admin", iat=int(NOW)), **{name: "a"})
    clock.advance(10_000)
    refreshed = mint(**{name: "a"}, iat=int(NOW) + 10_000, auth_time=int(NOW) - 5)
    assert not passes(api, refreshed, "sign-in-required")
    assert passes(api, mint(**{name: "a"}, iat=int(NOW) + 10_000, auth_time=int(NOW) + 5000))


# Values.

SPELLINGS = ["7001", "7001.0", "7.001e3", "70010e-1", '"7001"']
MEDIA: dict[str, Callable[[Api, str, str], Any]] = {
    "json": lambda api, method, text: api(
        method, "/blacklist", ADMIN, data=f'{{"sub": {text}}}', content_type="application/json"
    ),
    "form": lambda api, method, text: api(
        method, "/blacklist", ADMIN, data=urlencode({"sub": text.strip('"')}), content_type=FORM
    ),
    "query": lambda api, method, text: api(method, "/blacklist?" + urlencode({"sub": text.strip('"')}), ADMIN),
}


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_number_and_its_text_are_one_subject_wherever_they_stand(make: Make, medium: str, spelling: str) -> None:
    api, ask = make(), MEDIA[medium]
    tokens = [spelled(sub=each) for each in SPELLINGS]
    assert done(ask(api, "POST", spelling))["claim"] == {"sub": "7001"}
    assert [passes(api, token) for token in tokens] == [False] * len(tokens)
    assert [passes(api, spelled(sub=other)) for other in ("7002", '"07001"', '"7001 "', "7001.5", "true")] == [True] * 5
    for each in SPELLINGS:
        assert done(ask(api, "GET", each))["blacklisted"]
    assert done(ask(api, "DELETE", SPELLINGS[0]))["changed"]
    assert [passes(api, token) for token in tokens] == [True] * len(tokens)


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("12345678901234567890", "12345678901234567890"),
        ("12345678901234567890.0", "12345678901234567890"),
        ("1e25", "1" + "0" * 25),
        ("9007199254740993.0", "9007199254740993"),
    ],
)
def test_no_digit_is_lost(make: Make, spelling: str, text: str) -> None:
    api = make()
    neighbour = text[:-1] + str((int(text[-1]) + 1) % 10)
    answer = done(api("POST", "/blacklist", ADMIN, data=f'{{"sub": {spelling}}}', content_type="application/json"))
    assert answer["claim"] == {"sub": text}
    assert str(answer["request"]["params"]["sub"]) == text
    for sub in (spelling, text, f'"{text}"', f"{text}.0"):
        assert not passes(api, spelled(sub=sub))
    for sub in (neighbour, f'"{neighbour}"', f"{neighbour}.0"):
        assert passes(api, spelled(sub=sub))
    assert done(api("GET", "/blacklist/entries", ADMIN))["entries"][0]["claim"] == {"sub": text}
    # Whatever gives claims back gives all digits: /info, introspection, the application within.
    found = done(api("GET", "/info", spelled(sub="1", number=spelling)))["token"]["number"]
    assert Decimal(str(found)) == Decimal(text)


@pytest.mark.parametrize("number", ["0.12345678901234567890123", "1e-30", "-0.5", "1.5", "9007199254740993.5"])
def test_no_digit_of_a_fraction_is_lost_either(make: Make, number: str) -> None:
    api = make()
    answer = done(api("POST", "/blacklist", ADMIN, data=f'{{"sub": {number}}}', content_type="application/json"))
    assert Decimal(answer["claim"]["sub"]) == Decimal(str(answer["request"]["params"]["sub"])) == Decimal(number)
    assert not passes(api, spelled(sub=number))
    assert passes(api, spelled(sub=f"{number[:-1]}7"))


@pytest.mark.parametrize("query", ["sub=M%FCller", "sub=%ff", "sub=a%80b", "sub=%EF%BF%BD"])
def test_what_is_not_utf_8_names_nobody(make: Make, query: str) -> None:
    """Latin-1's Müller is not the one whom anybody else writes so, nor is whatever else cannot be read."""
    api = make()
    for method in ("GET", "POST", "DELETE"):
        assert_refused(api(method, f"/blacklist?{query}", ADMIN), "invalid-request")
    assert_refused(api("GET", f"/blacklist/entries?{query}", ADMIN), "invalid-request")
    assert_refused(api("POST", "/blacklist", ADMIN, data=query, content_type=FORM), "invalid-request")
    assert passes(api, mint(sub="M\ufffdller"))
    take_back(api, sub="\ufffd")
    assert not passes(api, mint(sub="\ufffd"))


def test_claims_that_are_joined_are_named_by_a_list_of_their_values(make: Make) -> None:
    api, name = (
        make(signals=json.dumps([{"issuer": ISSUER, "audience": "a", "device_claim": "device"}])),
        "sub & device",
    )
    for value in ("1001", '["1001"]', '["1001", "d", "e"]', '["1001", null]', '["1001", ["d"]]', "[1001, 2", "{}"):
        assert_refused(api("POST", "/blacklist", ADMIN, json={name: value}), "invalid-request")
    assert_refused(api("POST", "/blacklist?" + urlencode({name: b'["M\xfcller", "d"]'}), ADMIN), "invalid-request")
    for value in ('["1001","d"]', ' [1001.0,  "d"] ', '["1001", "\\u0064"]'):
        assert take_back(api, **{name: value})["claim"] == {name: '["1001", "d"]'}
    assert [passes(api, mint(sub=1001, device=device)) for device in ("d", "e")] == [False, True]
    assert done(api("DELETE", "/blacklist?" + urlencode({name: '["1001","d"]'}), ADMIN))["changed"]
    assert passes(api, mint(sub=1001, device="d"))
    # Of a million values not all are made before the token is refused.
    many = [*range(1000)]
    assert len(find_claim({"sub": many, "device": many}, name)) == MOST_JOINED
    assert_refused(api("GET", "/info", mint(sub=many[:64], device=many)), "invalid-claim")


def test_each_member_of_a_list_counts(make: Make) -> None:
    api = make(blacklist_claims="groups,sub")
    take_back(api, groups="staff")
    assert not passes(api, mint(groups=["staff", "vpn"]))
    assert not passes(api, mint(groups=[7, None, {}, ["x"], "staff"]))
    assert not passes(api, mint(groups="staff"))
    assert passes(api, mint(groups=["vpn"]))
    assert passes(api, mint(groups=[["staff"]]))
    take_back(api, groups=7)
    assert not passes(api, mint(groups=["x", 7.0]))
    assert_refused(api("POST", "/blacklist", ADMIN, json={"groups": ["staff"]}), "invalid-request")


def test_a_list_of_too_many_members_is_refused(make: Make) -> None:
    api = make(blacklist_claims="groups,realm.roles")
    names = [f"g{number}" for number in range(65)]
    assert passes(api, mint(groups=names[:64]))
    assert_refused(api("GET", "/info", mint(groups=names)), "invalid-claim")
    assert_refused(api("GET", "/info", mint(realm={"roles": names})), "invalid-claim")
    assert passes(api, mint(other=names))
    take_back(api, groups="g63")
    assert not passes(api, mint(groups=names[:64]))


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_of_a_token_in_the_request_no_fault_is_told_as_the_callers_own(make: Make, method: str) -> None:
    answer = make(blacklist_claims="groups")(method, "/blacklist", ADMIN, json={"token": mint(groups=[*range(65)])})
    assert_refused(answer, "invalid-request")


def test_a_name_with_dots_is_a_claim_or_else_a_path(make: Make) -> None:
    api = make(blacklist_claims="realm_access.sid,realm_access.roles")
    take_back(api, **{"realm_access.sid": "r1", "reason": "left"})
    take_back(api, **{"realm_access.roles": "admin"})
    assert not passes(api, mint(realm_access={"sid": "r1"}))
    assert not passes(api, mint(**{"realm_access.sid": "r1"}))
    assert not passes(api, mint(realm_access={"sid": "r2", "roles": ["user", "admin"]}))
    assert passes(api, mint(**{"realm_access.sid": "r2", "realm_access": {"sid": "r1"}}))
    assert passes(api, mint(realm_access="r1", sid="r1"))
    assert passes(api, mint(realm_access={"sid": {"r1": 1}}))


# Fingerprints.


def test_a_fingerprint_names_a_token_that_nobody_holds(make: Make, clock: Clock) -> None:
    api, token = make(), mint(sub="1001", iat=int(NOW))
    answer = take_back(api, fingerprint=fingerprint(token).upper(), reason="seen in a log")
    assert (answer["fingerprint"], answer["issuer"], answer["until"]) == (fingerprint(token), ISSUER, None)
    assert not passes(api, token)
    assert passes(api, mint(sub="1001", iat=int(NOW) - 1))
    assert done(api("GET", f"/blacklist?fingerprint={fingerprint(token)[:12]}", ADMIN))["blacklisted"]
    assert done(api("DELETE", "/blacklist", ADMIN, json={"fingerprint": fingerprint(token)[:12]}))["changed"]
    assert passes(api, token)


def test_an_entry_is_named_by_the_beginning_of_its_fingerprint(make: Make) -> None:
    api, token = make(), mint(sub="1001")
    beginning = {"fingerprint": fingerprint(token)[:12]}
    for method in ("GET", "POST", "DELETE"):
        assert_refused(api(method, "/blacklist", ADMIN, json=beginning), "invalid-request")
    done(api("POST", "/blacklist", token))
    assert done(api("POST", "/blacklist", ADMIN, json=beginning))["changed"] is False
    assert done(api("GET", "/blacklist", ADMIN, json=beginning))["fingerprint"] == fingerprint(token)
    assert done(api("DELETE", "/blacklist", ADMIN, json=beginning))["changed"] is True
    assert passes(api, token)


def test_of_a_fingerprint_nothing_is_said_that_its_claims_may_belie(make: Make) -> None:
    api, token = make(), mint(sub="1001", iat=int(NOW))
    take_back(api, sub="1001")
    for method in ("GET", "DELETE"):
        answer = done(api(method, "/blacklist", ADMIN, json={"fingerprint": fingerprint(token)}))
        assert (answer["blacklisted"], answer["changed"], answer["entries"]) == (False, False, [])
        assert answer["message"] == ("The token has no entry of its own; one for a claim of it may still blacklist it.")


def test_an_end_that_was_given_with_a_fingerprint_is_not_that_of_whoever_gives_none(make: Make, clock: Clock) -> None:
    api, token, named = make(), mint(sub="1001"), {"fingerprint": fingerprint(mint(sub="1001"))}
    assert take_back(api, **named, until=int(NOW) + 10)["until"] == int(NOW) + 10
    answer = take_back(api, **named)
    assert (answer["changed"], answer["until"]) == (True, None)
    assert take_back(api, **named)["changed"] is False
    clock.advance(10)
    assert not passes(api, token)
    assert done(api("DELETE", "/blacklist", ADMIN, json=named))["changed"]
    take_back(api, **named, until=int(NOW) + 20)
    assert done(api("POST", "/blacklist", token))["changed"]
    clock.advance(10)
    assert not passes(api, token)
    assert take_back(api, **named)["changed"] is False  # the entry ends after the token


# Issuers.


@pytest.fixture
def several(make: Make) -> Api:
    issuers = [
        {"issuer": ISSUER, "secret": "discogs"},
        {"issuer": OTHER, "secret": "other", "aliases": ["https://other.test"]},
        {"issuer": THIRD, "secret": "third", "administers": [OTHER]},
        {"issuer": "ops", "secret": "ops", "administers": "*"},
    ]
    return make(issuers=json.dumps(issuers))


def other(**claims: Any) -> str:
    return mint("other", iss=OTHER, **claims)


OTHERS_ADMIN = other(sub="b", scope="blacklist:admin")
THIRDS_ADMIN = mint("third", iss=THIRD, sub="c", scope="blacklist:admin")
OPS = mint("ops", iss="ops", sub="ops", scope="blacklist:admin")


def listed(api: Api, admin: str, query: str = "") -> list[tuple[str, Any]]:
    entries = done(api("GET", "/blacklist/entries" + query, admin))["entries"]
    return [(entry["issuer"], entry.get("claim") or entry["fingerprint"]) for entry in entries]


def test_an_admin_sees_the_entries_of_the_own_issuer_and_of_those_it_administers(several: Api, clock: Clock) -> None:
    take_back(several, sub="1001")
    clock.advance(1)
    take_back(several, OTHERS_ADMIN, sub="1001")
    token = other(jti="x")
    clock.advance(1)
    done(several("POST", "/blacklist", token))
    mine, theirs = (ISSUER, {"sub": "1001"}), [(OTHER, fingerprint(token)), (OTHER, {"sub": "1001"})]
    assert listed(several, ADMIN) == [mine]
    assert listed(several, OTHERS_ADMIN) == listed(several, THIRDS_ADMIN) == theirs
    assert listed(several, OPS) == [*theirs, mine]
    assert listed(several, OPS, f"?issuer={ISSUER}") == [mine]
    assert listed(several, OPS, "?claim=sub") == [theirs[1], mine]
    assert listed(several, THIRDS_ADMIN, "?issuer=https://other.test") == theirs
    assert listed(several, THIRDS_ADMIN, "?limit=1") == theirs[:1]
    assert listed(several, OTHERS_ADMIN, "?sub=1001") == theirs[1:]
    assert_refused(several("GET", f"/blacklist/entries?issuer={OTHER}", ADMIN), "insufficient-scope")
    assert_refused(several("GET", "/blacklist/entries?issuer=nobody", ADMIN), "insufficient-scope")
    assert_refused(several("GET", "/blacklist/entries?issuer=nobody", OPS), "invalid-request")


@pytest.mark.parametrize(("admin", "whose"), [(OTHERS_ADMIN, OTHER), (THIRDS_ADMIN, THIRD), (OPS, "ops")])
def test_users_of_another_issuer_are_logged_out_where_it_is_administered(
    several: Api, admin: str, whose: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.audit")
    victim, own = other(sub="1001", iat=int(NOW)), mint(sub="1001", iat=int(NOW))
    answer = take_back(several, admin, sub="1001", issuer="https://other.test")
    assert answer["issuer"] == OTHER
    (record,) = [vars(each)["record"] for each in caplog.records if each.name == "gateway.audit"]
    # Each issuer may have an admin of that name.
    assert (record["issuer"], record["by_issuer"]) == (OTHER, whose)
    assert (passes(several, victim), passes(several, own)) == (False, True)
    assert not passes(several, mint("other", iss="https://other.test", sub="1001", iat=int(NOW)))
    assert done(several("DELETE", "/blacklist", admin, json={"sub": "1001", "issuer": OTHER}))["changed"]
    assert passes(several, victim)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_whatever_is_of_an_issuer_that_is_not_administered_is_refused_and_noted(
    several: Api, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    victim = other(jti="x", iat=int(NOW))
    done(several("POST", "/blacklist", victim))
    caplog.set_level(logging.INFO, "gateway.audit")
    for named in ({"sub": "1001", "issuer": OTHER}, {"fingerprint": fingerprint(victim)[:12]}):
        caplog.clear()
        answer = several(method, "/blacklist", ADMIN, json=named)
        assert_refused(answer, "insufficient-scope")
        (record,) = [vars(each)["record"] for each in caplog.records if each.name == "gateway.audit"]
        assert (record["action"], record["by"], record["issuer"]) == ("refuse", "admin", OTHER)
        assert record["asked"] == {"GET": "state", "POST": "add", "DELETE": "remove"}[method]
    assert not passes(several, victim)


def test_a_fingerprint_of_anothers_token_takes_back_nothing_of_theirs(several: Api) -> None:
    victim = other(jti="x", iat=int(NOW))
    answer = take_back(several, fingerprint=fingerprint(victim))
    assert answer["message"] == f"The token is blacklisted, if it is of {ISSUER}."
    assert passes(several, victim)
    refused = several("POST", "/blacklist", OTHERS_ADMIN, json={"fingerprint": fingerprint(victim)})
    assert_refused(refused, "insufficient-scope")
    done(several("POST", "/blacklist", OTHERS_ADMIN, json={"token": victim}))
    assert not passes(several, victim)
    assert_refused(
        several("DELETE", "/blacklist", ADMIN, json={"fingerprint": fingerprint(victim)}), "insufficient-scope"
    )
    assert not passes(several, victim)


@pytest.mark.parametrize(
    ("admin", "applies", "limits"),
    [
        (ADMIN, False, f", if it is of {ISSUER}"),
        (THIRDS_ADMIN, True, f", if it is of {THIRD} or of an issuer that this one administers"),
        (OPS, True, ""),
    ],
)
def test_a_fingerprint_takes_back_a_token_of_an_issuer_that_is_administered_too(
    several: Api, admin: str, applies: bool, limits: str
) -> None:
    """Whose token it is, the digits do not tell."""
    victim = other(jti="x", iat=int(NOW))
    answer = take_back(several, admin, fingerprint=fingerprint(victim))
    assert answer["message"] == f"The token is blacklisted{limits}."
    assert passes(several, victim) is not applies
    assert passes(several, other(jti="y", iat=int(NOW)))


def test_of_the_only_issuer_a_fingerprint_is_said_to_be_blacklisted_without_conditions(make: Make) -> None:
    answer = take_back(make(), fingerprint=fingerprint(mint(jti="x")))
    assert answer["message"] == "The token is blacklisted."


def test_an_entry_of_a_fingerprint_gets_a_later_end_also_after_its_issuer_was_renamed(make: Make) -> None:
    token, issuer = other(jti="x"), {"issuer": OTHER, "secret": "other"}
    named = {"fingerprint": fingerprint(token)}
    take_back(make(issuers=json.dumps([issuer])), OTHERS_ADMIN, **named, until=int(NOW) + 10)
    api = make(issuers=json.dumps([{**issuer, "issuer": THIRD, "aliases": [OTHER]}]))
    answer = take_back(api, OTHERS_ADMIN, **named)
    assert (answer["changed"], answer["until"], answer["issuer"]) == (True, None, THIRD)
    assert not passes(api, token)
    assert done(api("DELETE", "/blacklist", OTHERS_ADMIN, json=named))["changed"]


@pytest.mark.parametrize(("admin", "name"), [(THIRDS_ADMIN, THIRD), (OPS, "ops")])
def test_what_was_blacklisted_by_fingerprint_stays_so_when_its_issuer_is_administered_no_more(
    several: Api, make: Make, admin: str, name: str
) -> None:
    victim, named = other(jti="x"), {"fingerprint": fingerprint(other(jti="x"))}
    take_back(several, admin, **named)
    issuers = [{"issuer": OTHER, "secret": "other"}, {"issuer": name, "secret": name if name == "ops" else "third"}]
    api = make(issuers=json.dumps(issuers))
    assert not passes(api, victim)
    assert take_back(api, admin, **named)["changed"] is False
    renamed = {"issuer": "https://new.test/", "aliases": [OTHER], "secret": "other"}
    assert not passes(make(issuers=json.dumps([renamed, issuers[1]])), victim)
    assert done(api("DELETE", "/blacklist", admin, json=named))["changed"]
    assert passes(api, victim)
    # What is added from now on counts for the own tokens alone.
    take_back(api, admin, **named)
    assert passes(api, victim)
    assert passes(make(issuers=json.dumps(issuers)), victim)
    # Where more are administered than before, an entry is made anew for them.
    assert take_back(several, admin, **named)["changed"] is True
    assert not passes(api, victim)


def test_a_tokens_own_entry_stays_when_an_alias_becomes_an_issuer_of_its_own(several: Api, make: Make) -> None:
    token = mint("other", iss="https://other.test", jti="x")
    done(several("POST", "/blacklist", token))
    issuers = [{"issuer": OTHER, "secret": "other"}, {"issuer": "https://other.test", "secret": "other"}]
    assert not passes(make(issuers=json.dumps(issuers)), token)


@pytest.mark.parametrize("tenant", ["", "{tenantid}"])
def test_entries_of_a_name_that_has_become_an_alias_go_on(make: Make, clock: Clock, tenant: str) -> None:
    old, new, secret = "https://old.test/" + tenant, "https://new.test/" + tenant, "s" * 32
    was, now = (name.replace(tenant or "-", "one") for name in (old, new))
    admin, *tokens = (
        mint(secret, iss=iss, tid="one", sub=sub, iat=int(NOW), **more)
        for iss, sub, more in ((now, "admin", {"scope": "blacklist:admin"}), (now, "1001", {}), (was, "1001", {}))
    )
    admin_before = mint(secret, iss=was, tid="one", sub="a", iat=int(NOW), scope="blacklist:admin")
    issuer = {"secret": secret, "aliases": []}
    take_back(make(issuers=json.dumps([{**issuer, "issuer": old}])), admin_before, sub=1001, reason="lost")
    api = make(issuers=json.dumps([{**issuer, "issuer": new, "aliases": [old]}, {"issuer": "x", "secret": "x"}]))
    assert [passes(api, token) for token in tokens] == [False, False]
    (entry,) = done(api("GET", "/blacklist", tokens[0]))["entries"]
    assert entry == {"kind": "claim"}
    assert listed(api, admin) == listed(api, admin, "?sub=1001") == [(was, {"sub": "1001"})]
    assert take_back(api, admin, sub=1001)["issuer"] == now
    lifted = done(api("DELETE", "/blacklist", admin, json={"sub": "1001"}))
    assert (lifted["changed"], lifted["blacklisted"]) == (True, False)
    assert [passes(api, token) for token in tokens] == [True, True]


def test_an_entry_of_another_issuers_admin_shows_whoever_does_not_administer_that_its_kind_alone(several: Api) -> None:
    victim = other(jti="x")
    take_back(several, OPS, fingerprint=fingerprint(victim), reason="a secret")
    shown = [done(several("GET", "/blacklist", admin, json={"token": victim})) for admin in (OTHERS_ADMIN, OPS)]
    assert [each["entries"][0].get("reason") for each in shown] == [None, "a secret"]
    assert shown[0]["entries"] == [{"kind": "token"}]


def test_under_restore_admin_an_admin_lifts_no_token_of_an_issuer_that_its_own_does_not_administer(make: Make) -> None:
    issuers = [{"issuer": ISSUER, "secret": "discogs"}, {"issuer": OTHER, "secret": "other"}]
    api, victim = make(issuers=json.dumps(issuers), restore="admin"), other(jti="x")
    done(api("POST", "/blacklist", victim))
    assert_refused(api("DELETE", "/blacklist", ADMIN, json={"token": victim}), "insufficient-scope")
    assert not passes(api, victim)
    assert done(api("DELETE", "/blacklist", OTHERS_ADMIN, json={"token": victim}))["changed"]


def test_a_blacklisted_admin_is_told_no_more_than_a_holder(make: Make) -> None:
    api = make()
    done(api("POST", "/blacklist", ADMIN, json={"reason": "stolen"}))
    assert done(api("GET", "/blacklist", ADMIN))["entries"] == [{"kind": "token"}]


def test_an_entry_of_a_fingerprint_for_another_issuer_is_not_confirmed(several: Api) -> None:
    victim = other(jti="x", iat=int(NOW))
    named = {"fingerprint": fingerprint(victim)}
    take_back(several, **named)
    assert_refused(several("POST", "/blacklist", OPS, json=named), "invalid-request")
    assert take_back(several, OPS, **named, issuer=ISSUER)["changed"] is False
    done(several("DELETE", "/blacklist", ADMIN, json=named))
    take_back(several, **named, until=int(NOW) + 10)
    assert_refused(several("POST", "/blacklist", OPS, json=named), "invalid-request")
    done(several("DELETE", "/blacklist", OPS, json={**named, "issuer": ISSUER}))
    take_back(several, OPS, **named)
    assert not passes(several, victim)
    # Its holder's own entry would end sooner.
    assert done(several("POST", "/blacklist", OTHERS_ADMIN, json={"token": victim}))["changed"] is False
    assert not passes(several, victim)


@pytest.mark.interpreted
def test_a_token_is_blacklisted_however_often_its_fingerprint_is_taken_for_another_issuers(
    several: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, left = other(jti="x", iat=int(NOW)), [None] * 3
    add_one = Blacklist._add_one

    def add_one_after_another(blacklist: Blacklist, entry: Entry) -> Any:
        if left and not entry.by_fingerprint:
            left.pop()
            take_back(several, fingerprint=fingerprint(victim))
        return add_one(blacklist, entry)

    monkeypatch.setattr(Blacklist, "_add_one", add_one_after_another)
    answer = done(several("POST", "/blacklist", victim))
    assert (answer["blacklisted"], answer["changed"]) == (True, True)
    assert not passes(several, victim)


def do_once_a_fingerprint_was_looked_for(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    find = Blacklist.find_fingerprint

    def find_and_act(blacklist: Blacklist, digits: str) -> Any:
        found = find(blacklist, digits)
        monkeypatch.undo()
        act()
        return found

    monkeypatch.setattr(Blacklist, "find_fingerprint", find_and_act)


@pytest.mark.interpreted
@pytest.mark.parametrize("had_an_entry", [True, False])
def test_who_lifts_a_fingerprint_lifts_no_entry_that_another_issuers_token_got_meanwhile(
    several: Api, monkeypatch: pytest.MonkeyPatch, had_an_entry: bool
) -> None:
    victim = other(jti="x", iat=int(NOW))
    named = {"fingerprint": fingerprint(victim)}
    if had_an_entry:
        take_back(several, **named)
    do_once_a_fingerprint_was_looked_for(monkeypatch, lambda: done(several("POST", "/blacklist", victim)))
    assert done(several("DELETE", "/blacklist", ADMIN, json=named))["changed"] is False
    assert not passes(several, victim)


@pytest.mark.interpreted
def test_a_fingerprint_that_another_issuers_admin_takes_meanwhile_is_not_said_to_be_blacklisted(
    several: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"fingerprint": fingerprint(mint("ops", iss="ops", jti="x"))}
    do_once_a_fingerprint_was_looked_for(monkeypatch, lambda: take_back(several, OTHERS_ADMIN, **named))
    assert_refused(several("POST", "/blacklist", OPS, json=named), "invalid-request")


def test_an_end_that_an_administering_issuer_gave_is_not_that_of_the_tokens_own_entry(
    several: Api, clock: Clock
) -> None:
    victim = other(jti="x", iat=int(NOW))
    take_back(several, OPS, fingerprint=fingerprint(victim), until=int(NOW) + 10, reason="lost")
    assert done(several("POST", "/blacklist", victim))["changed"] is True
    assert listed(several, OTHERS_ADMIN) == [(OTHER, fingerprint(victim))]
    assert done(several("GET", "/blacklist", OTHERS_ADMIN, json={"token": victim}))["entries"][0]["reason"] == "lost"
    clock.advance(10)
    assert not passes(several, victim)


def test_the_entries_of_one_value_are_of_all_issuers_that_the_reader_administers(several: Api, clock: Clock) -> None:
    for admin in (ADMIN, OTHERS_ADMIN, OPS):
        take_back(several, admin, sub=1001)
        take_back(several, admin, sub="else")
        clock.advance(1)
    found = [(name, {"sub": "1001"}) for name in ("ops", OTHER, ISSUER)]
    assert listed(several, OPS, "?sub=1001") == listed(several, OPS, "?sub=1.001e3") == found
    assert listed(several, THIRDS_ADMIN, "?sub=1001") == [found[1]]
    assert listed(several, OPS, f"?sub=1001&issuer={ISSUER}") == listed(several, ADMIN, "?sub=1001") == [found[2]]
    first = done(several("GET", "/blacklist/entries?sub=1001&limit=1", OPS))
    rest = done(several("GET", f"/blacklist/entries?sub=1001&cursor={first['next_cursor']}", OPS))
    assert [each["issuer"] for each in (*first["entries"], *rest["entries"])] == ["ops", OTHER, ISSUER]


def test_a_tenants_id_is_one_in_either_case(make: Make) -> None:
    issuers = [
        {"issuer": "https://e.test/{tenantid}/", "secret": "e"},
        {"issuer": "ops", "secret": "ops", "administers": "*"},
    ]
    api = make(issuers=json.dumps(issuers))
    token = mint("e", iss="https://e.test/ab-c/", tid="ab-c", sub="1", iat=int(NOW))
    neighbour = mint("e", iss="https://e.test/ab-d/", tid="ab-d", sub="1", iat=int(NOW))
    assert take_back(api, OPS, sub="1", issuer="https://e.test/AB-C/")["issuer"] == "https://e.test/ab-c/"
    assert (passes(api, token), passes(api, neighbour)) == (False, True)


def test_what_lacks_the_scope_is_noted_too(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.audit")
    token = mint(sub="1001")
    answer = make()("POST", "/blacklist", token, json={"sub": "1002"})
    assert_refused(answer, "insufficient-scope")
    assert answer.json["scope"] == "blacklist:admin"
    (record,) = [vars(each)["record"] for each in caplog.records if each.name == "gateway.audit"]
    assert (record["action"], record["by"], record["by_fingerprint"]) == ("refuse", "1001", fingerprint(token))


# Scopes.


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"scp": "read blacklist:admin"}, "scope,scp"),
        ({"scp": ["blacklist:admin"]}, "scope,scp"),
        ({"permissions": ["read", "blacklist:admin"]}, "permissions"),
        ({"roles": "blacklist:admin"}, "scope,roles"),
        ({"realm_access": {"roles": ["blacklist:admin"]}}, "realm_access.roles"),
        ({"cognito:groups": ["blacklist:admin"]}, "cognito:groups"),
    ],
)
def test_scopes_stand_where_they_are_said_to(make: Make, claims: Any, named: str) -> None:
    admin = mint(sub="admin", **claims)
    assert make(admin_claims=named)("GET", "/blacklist/entries", admin).status_code == 200
    assert_refused(make(admin_claims="elsewhere")("GET", "/blacklist/entries", admin), "insufficient-scope")


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("blacklist:admin", {"GET": True, "POST": True, "DELETE": True, "list": True}),
        ("blacklist:revoke", {"GET": False, "POST": True, "DELETE": False, "list": False}),
        ("blacklist:read", {"GET": True, "POST": False, "DELETE": False, "list": True}),
        ("blacklist:revoke blacklist:read", {"GET": True, "POST": True, "DELETE": False, "list": True}),
        ("read", {"GET": False, "POST": False, "DELETE": False, "list": False}),
    ],
)
def test_each_scope_may_do_its_part(make: Make, scope: str, may: dict[str, bool]) -> None:
    api, token = make(), mint(sub="somebody", scope=scope)
    for named in ({"sub": "1001"}, {"fingerprint": "0" * 64}):
        answers = {method: api(method, "/blacklist", token, json=named) for method in ("GET", "POST", "DELETE")}
        answers["list"] = api("GET", "/blacklist/entries", token)
        assert {what: answer.status_code == 200 for what, answer in answers.items()} == may


# Answers that explain.


def test_an_answer_tells_what_blacklists_to_those_who_may_know(make: Make) -> None:
    api, token = make(), mint(sub="1001", jti="a", iat=int(NOW) - 10)
    take_back(api, sub="1001", reason="left")
    done(api("POST", "/blacklist", token, json={"reason": "lost"}))
    answer = done(api("GET", "/blacklist", ADMIN, json={"token": token}))
    told = {entry["reason"]: (entry["by"], entry["issuer"], "claim" in entry) for entry in answer["entries"]}
    assert told == {"left": ("admin", ISSUER, True), "lost": ("1001", ISSUER, False)}
    mine = done(api("GET", "/blacklist", token))["entries"]
    assert sorted(mine, key=str) == [{"kind": "claim"}, {"kind": "token"}]
    lifted = done(api("DELETE", "/blacklist", token))
    assert (lifted["blacklisted"], lifted["changed"], lifted["entries"]) == (True, True, [{"kind": "claim"}])
    assert "claim" in lifted["message"]


def test_a_second_change_without_a_reason_keeps_the_first_ones(make: Make, clock: Clock) -> None:
    api = make()
    take_back(api, sub="1001", reason="stolen")
    clock.advance(10)
    (entry,) = take_back(api, sub="1001")["entries"]
    assert (entry["reason"], entry["issued_before"]) == ("stolen", NOW + 11)


@pytest.mark.parametrize(
    ("body", "media_type", "words"),
    [
        ('{"sub": "1"}', FORM, "Content-Type: application/json"),
        ('{"sub": "1",\n "reason": }', "application/json", "line 2, column 12"),
        ('{"sub": "1", "sub": "2"}', "application/json", "duplicate member"),
        ("[1]", "application/json", "not an object"),
        (b'{"sub": "\xff"}', "application/json", "UTF-8"),
        ('{"sub": ' + "1" * 5000 + "}", "application/json", "unique members: a number is too large."),
    ],
)
def test_a_body_that_cannot_be_read_is_told_why(make: Make, body: Any, media_type: str, words: str) -> None:
    answer = make()("POST", "/blacklist", ADMIN, data=body, content_type=media_type)
    assert_refused(answer, "invalid-request")
    assert words in answer.json["detail"]


# Signing in again.


def test_with_auth_time_a_refresh_does_not_help_and_a_new_sign_in_does(make: Make, clock: Clock) -> None:
    api = make(auth_time=True)
    take_back(api, sub="1001")
    clock.advance(100)
    refreshed = mint(sub="1001", iat=int(NOW) + 100, auth_time=int(NOW) - 50)
    answer = api("GET", "/info", refreshed)
    assert_refused(answer, "sign-in-required")
    challenge = answer.headers["WWW-Authenticate"]
    assert 'error="insufficient_user_authentication"' in challenge
    assert 'max_age="99"' in challenge
    assert passes(api, mint(sub="1001", iat=int(NOW) + 100, auth_time=int(NOW) + 1))
    assert not passes(api, mint(sub="1001", iat=int(NOW)))
    assert passes(api, mint(sub="1001", iat=int(NOW) + 100))
    assert not passes(api, mint(sub="1001", iat=int(NOW) + 100, auth_time="soon"), "sign-in-required")
    assert passes(make(), refreshed)


def test_a_sign_in_that_lies_ahead_is_no_way_around_a_cut_off(make: Make) -> None:
    """No cut-off "now" covers it: milliseconds, for one."""
    api, times = make(auth_time=True, leeway=30), [int(NOW) + 30, int(NOW) + 31, int(NOW) * 1000, 1e300]
    for iat in ({}, {"iat": int(NOW)}):
        tokens = [mint(sub="1001", auth_time=each, **iat) for each in times]
        assert passes(api, tokens[0])
        for token in tokens[1:]:
            assert not passes(api, token, "token-not-yet-valid")
        assert passes(make(), tokens[-1])
        take_back(api, sub="1001")
        assert not passes(api, tokens[0], "sign-in-required")
        done(api("DELETE", "/blacklist", ADMIN, json={"sub": "1001"}))


def test_who_is_locked_out_is_not_asked_to_sign_in(make: Make) -> None:
    api = make(auth_time=True)
    take_back(api, sub="1001", issued_before=int(NOW) + 1000)
    take_back(api, sid="a")
    for claims in ({"sub": "1001"}, {"sid": "a"}):
        assert_refused(api("GET", "/info", mint(iat=int(NOW), auth_time=int(NOW), **claims)), "token-blacklisted")


def test_who_must_sign_in_may_still_ask_about_the_own_token(make: Make) -> None:
    api, token = make(auth_time=True), mint(sub="1001", iat=int(NOW), auth_time=int(NOW) - 5)
    take_back(api, sub="1001")
    assert done(api("GET", "/blacklist", token))["blacklisted"]
    assert api("GET", "/blacklist", token, json={"sub": "1002"}).status_code == 401


# The answer before the body.


def test_a_body_that_is_announced_as_too_long_is_refused_before_it_is_sent(make: Make) -> None:
    class Unsent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("the body is asked for")

    api = make()
    refused = api(
        "POST", "/blacklist", ADMIN, input_stream=Unsent(), environ_overrides={"CONTENT_LENGTH": str(64 * 1024 + 1)}
    )
    assert_refused(refused, "payload-too-large")
