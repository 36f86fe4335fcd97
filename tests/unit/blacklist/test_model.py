"""Whatever is asked for in whatever order: what was named is refused by every gateway, and nothing else is.

The rules once more, in a few lines, against two gateways over one store, through all of the gateway. Issuers' clocks
differ from theirs, their LEEWAYs from each other; values stand in every spelling, in lists and on paths.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from helpers import ABSENT, Api, Clock, fingerprint, mint, sign
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from redis_servers import MEMORY, RedisServer, be_patient

from gateway import Gateway, Settings

CLAIMS, CUT_OFF_CLAIMS = ("jti", "sub", "groups", "realm.sid"), ("sub", "groups")
ISSUERS = {
    "a": {"issuer": "a", "secret": "a" * 32},
    "b": {"issuer": "b", "secret": "b" * 32, "aliases": ["b2"]},
    "ops": {"issuer": "ops", "secret": "o" * 32, "administers": "*"},
}
FAR = 10**7  # seconds, longer than any run

# What a value is, and how else it may be spelled: in JSON, and where there is nothing but text.
IN_JSON = {
    "7": ["7", "7.0", "0.7e1", "70E-1", '"7"', r'"\u0037"'],
    "9007199254740993": ["9007199254740993", "9007199254740993.0", '"9007199254740993"'],
    "9007199254740992": ["9007199254740992", "9007199254740992e0", '"9007199254740992"'],
    "7.0": ['"7.0"'],
    "07": ['"07"'],
    "é": ['"é"', r'"\u00e9"'],
}
AS_TEXT = {**{value: [value] for value in IN_JSON}, "7": ["7", "7.0", "7e0"]}
MAY_BE_SEVEN = AS_TEXT["7"]

Change = Callable[["World"], None]


class Entry(NamedTuple):
    """What blacklists: everything, or what was issued before a cut-off that is named, or "now" on each gateway."""

    everything: bool = False
    named: int = 0
    now: int = 0
    ends: float = math.inf

    def joined(self, other: "Entry") -> "Entry":
        """Return both as one: none beats any cut-off, the later one and the later end win."""
        latest = Entry(*(max(pair) for pair in zip(self, other, strict=True)))
        return latest._replace(named=0, now=0) if latest.everything else latest


@dataclass
class Token:
    """A token with a number, and what it is to the model."""

    issuer: str
    claims: dict[str, list[str]]
    iat: Any
    auth_time: Any
    exp: int
    text: str = ""


@dataclass
class World:
    """Gateways with these LEEWAYs over one store, and what the model knows of it."""

    clock: Clock
    gates: list[Gateway]
    leeways: tuple[float, ...]
    auth_time: bool
    max_age: int | None
    tokens: list[Token] = field(default_factory=list)
    entries: dict[Any, Entry] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=count)

    def ask(self, gate: int, method: str, issuer: str, path: str = "/blacklist", **options: Any) -> Any:
        """Ask as an admin of the issuer, whose token is fresh."""
        admin = mint(
            ISSUERS[issuer]["secret"],  # type: ignore[arg-type]
            iss=issuer,
            sub="admin",
            jti=f"admin {next(self.numbers)}",
            scope="blacklist:admin",
            iat=math.floor(self.clock()),
        )
        return Api(self.gates[gate])(method, path, admin, **options)

    def passes(self, gate: int, token: Token) -> bool:
        """Ask for anything with the token."""
        answers: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/", "RAW_URI": "/", "wsgi.url_scheme": "http", "SERVER_NAME": "h",
            "SERVER_PORT": "80", "HTTP_AUTHORIZATION": f"Bearer {token.text}",
        }  # fmt: skip
        list(self.gates[gate](environ, lambda status, fields: answers.append(status)))  # type: ignore[arg-type]
        return answers == ["200 OK"]

    # The model.

    def may_pass(self, gate: int, token: Token) -> bool:
        now, leeway = self.clock(), self.leeways[gate]
        lives = now < token.exp + leeway and (token.iat is ABSENT or token.iat <= now + leeway)
        if self.max_age is not None:
            lives = lives and token.iat is not ABSENT and now < token.iat + self.max_age + leeway
        return lives and not any(self._strikes(entry, token, leeway) for entry in self.against(token))

    def against(self, token: Token) -> list[Entry]:
        keys = [(token.issuer, name, value) for name, values in token.claims.items() for value in values]
        found = [self.entries[key] for key in (token.text, *keys) if key in self.entries]
        return [entry for entry in found if self.clock() < entry.ends]

    def _strikes(self, entry: Entry, token: Token, leeway: float) -> bool:
        issued = token.auth_time if self.auth_time and token.auth_time is not ABSENT else token.iat
        cut_off = max(entry.named, entry.now and entry.now + math.ceil(leeway))
        return entry.everything or issued is ABSENT or issued < cut_off

    def add(self, key: Any, entry: Entry) -> bool:
        """Add an entry; return whether that changes anything."""
        known = self.entries.get(key)
        known = None if known is None or self.clock() >= known.ends else known
        self.entries[key] = known.joined(entry) if known else entry
        return self.entries[key] != known

    def over(self, gate: int, token: Token) -> bool:
        ends = token.exp if self.max_age is None or token.iat is ABSENT else min(token.exp, token.iat + self.max_age)
        return self.clock() >= ends + self.leeways[gate]


@st.composite
def minting(draw: Any) -> Change:
    issuer = draw(st.sampled_from(["a", "b"]))
    spelled: dict[str, str] = {"iss": json.dumps(draw(st.sampled_from(["b", "b2"])) if issuer == "b" else "a")}
    claims: dict[str, list[str]] = {}
    for name in draw(st.lists(st.sampled_from(CLAIMS), min_size=1, max_size=3, unique=True)):
        claims[name] = draw(st.lists(st.sampled_from(sorted(IN_JSON)), min_size=1, max_size=2, unique=True))
        each = [draw(st.sampled_from(IN_JSON[value])) for value in claims[name]]
        junk = draw(st.sampled_from([[], ["null"], ["{}", "true"]]))
        text = each[0] if len(each) == 1 and not junk else "[" + ", ".join([*each, *junk]) + "]"
        outer, _, inner = name.partition(".")
        spelled[outer] = f'{{"{inner}": {text}}}' if inner and draw(st.booleans()) else text
        if inner and spelled[outer] == text:
            spelled[name] = spelled.pop(outer)
    skew, signed_in = draw(st.integers(0, 7)), draw(st.sampled_from([None, None, 0, 60, 5000]))
    lasts = draw(st.sampled_from([5, 400, FAR, FAR]))

    def change(world: World) -> None:
        now, most = math.floor(world.clock()), [math.floor(leeway) for leeway in world.leeways]
        ahead = [None, -50, -1, 0, *most, *(leeway + 1 for leeway in most)][skew]
        iat = ABSENT if ahead is None else now + ahead
        auth_time = ABSENT if signed_in is None or ahead is None else now + ahead - signed_in
        times = {"iat": iat, "auth_time": auth_time, "exp": now + lasts, "n": next(world.numbers)}
        members = {**spelled, **{name: str(time) for name, time in times.items() if time is not ABSENT}}
        payload = "{" + ", ".join(f'"{name}": {text}' for name, text in members.items()) + "}"
        token = Token(issuer, claims, iat, auth_time, now + lasts)
        world.tokens.append(replace(token, text=sign({"alg": "HS256"}, payload, ISSUERS[issuer]["secret"])))  # type: ignore[arg-type]

    return change


@st.composite
def claim_changes(draw: Any) -> Change:
    place, which, spelt, gate = (draw(st.integers(0, most)) for most in (5, 5, 5, 1))
    asks = draw(st.sampled_from(["own", "own", "ops", "another"]))
    medium, method = draw(st.sampled_from(["json", "form", "query"])), draw(st.sampled_from(["POST"] * 3 + ["DELETE"]))
    before = draw(st.sampled_from(["by claim", "by claim", "by claim", None, -20, 0, 1, 40]))
    until = draw(st.sampled_from([None, None, None, 1, 30, 500]))

    def change(world: World) -> None:
        """Take back, or lift, a claim that one of the tokens has."""
        now, token = math.floor(world.clock()), world.tokens[place % len(world.tokens)]
        had = [(name, value) for name, values in token.claims.items() for value in values]
        name, value = had[which % len(had)]
        spellings = (IN_JSON if medium == "json" else AS_TEXT)[value]
        spelling, whose = spellings[spelt % len(spellings)], token.issuer
        admin = {"own": whose, "ops": "ops", "another": "b" if whose == "a" else "a"}[asks]
        beside: dict[str, Any] = {"issuer": "b2" if whose == "b" and asks == "ops" else whose}
        if method == "POST":
            beside |= {} if before == "by claim" else {"issued_before": before if before is None else now + before}
            beside |= {} if until is None else {"until": now + until}
        if medium == "json":
            body = "{" + ", ".join([f'"{name}": {spelling}', *(f'"{k}": {json.dumps(v)}' for k, v in beside.items())])
            answer = world.ask(gate, method, admin, data=body + "}", content_type="application/json")
        else:
            text = urlencode({name: spelling, **{k: "null" if v is None else v for k, v in beside.items()}})
            if medium == "form":
                answer = world.ask(gate, method, admin, data=text, content_type="application/x-www-form-urlencoded")
            else:
                answer = world.ask(gate, method, admin, f"/blacklist?{text}")
        if asks == "another":
            assert answer.status_code == 403
            return
        assert answer.status_code == 200, answer.text
        # Where there is nothing but text, it may be a number, and is the text, too.
        meant = {value} if medium == "json" else {spelling, "7" if spelling in MAY_BE_SEVEN else spelling}
        keys = [(whose, name, each) for each in meant]
        if method == "DELETE":
            changed = [world.entries.pop(key, Entry(ends=0)).ends > world.clock() for key in keys]
        else:
            entry = Entry(ends=math.inf if until is None else now + until)
            if before is None or (before == "by claim" and name not in CUT_OFF_CLAIMS):
                entry = entry._replace(everything=True)
            elif before == "by claim":
                entry = entry._replace(now=now + 1, named=now + 1 + math.ceil(world.leeways[gate]))
            else:
                entry = entry._replace(named=now + int(before))
            changed = [world.add(key, entry) for key in keys]
        assert answer.json["blacklisted"] is (method == "POST")
        if world.max_age is None:  # else an entry may have been forgotten, which nobody notices
            assert answer.json["changed"] is any(changed)

    return change


@st.composite
def token_changes(draw: Any) -> Change:
    place, gate = draw(st.integers(0, 9)), draw(st.integers(0, 1))
    method, by = draw(st.sampled_from(["POST", "POST", "DELETE"])), draw(st.sampled_from(["token", "fingerprint"]))

    def change(world: World) -> None:
        token = world.tokens[place % len(world.tokens)]
        named = {by: token.text} if by == "token" else {by: fingerprint(token.text), "issuer": token.issuer}
        answer = world.ask(gate, method, token.issuer, json=named)
        assert answer.status_code == 200, answer.text
        known = world.entries.get(token.text)
        if by == "token" and world.over(gate, token):
            assert (answer.json["changed"], answer.json["message"]) == (False, "The token has expired.")
        elif method == "DELETE":
            found = world.entries.pop(token.text, Entry(ends=0)).ends > world.clock()
            assert answer.json["changed"] is found
        elif by == "fingerprint" and known and world.clock() < known.ends:
            assert answer.json["changed"] is False
        else:
            entry = Entry(everything=True, ends=token.exp + 300 if by == "token" else math.inf)
            assert answer.json["changed"] is world.add(token.text, entry)

    return change


@st.composite
def waiting(draw: Any) -> Change:
    seconds = draw(st.sampled_from([0.25, 1, 2, 30, 61, 310, 1000]))
    return lambda world: world.clock.advance(seconds)


ANY = st.one_of(minting(), claim_changes(), claim_changes(), claim_changes(), token_changes(), waiting())
CHANGES = st.lists(ANY, min_size=6, max_size=14)
RULES = st.tuples(
    st.sampled_from([(0, 0), (0, 30), (30, 0), (0.5, 300), (300, 0)]), st.booleans(), st.sampled_from([None, None, 100])
)
FIRST = st.lists(minting(), min_size=3, max_size=5)

_settings: dict[Any, Settings] = {}


def run(url: str, rules: Any, changes: list[Change]) -> None:
    leeways, auth_time, max_age = rules
    clock = Clock()
    for leeway in leeways:
        key = (leeway, auth_time, max_age)
        if key not in _settings:  # to read them takes longer than all the rest
            _settings[key] = Settings(
                issuers=json.dumps(list(ISSUERS.values())), blacklist_claims=CLAIMS, cut_off_claims=CUT_OFF_CLAIMS,
                leeway=leeway, auth_time=auth_time, max_token_age=max_age,
            )  # fmt: skip
    opened = [_settings[leeway, auth_time, max_age].model_copy(update={"store": url}) for leeway in leeways]
    world = World(clock, [Gateway(upstream, each, now=clock) for each in opened], leeways, auth_time, max_age)
    try:
        for change in changes:
            change(world)
            for gate in (0, 1):
                passing = [world.passes(gate, token) for token in world.tokens]
                expected = [world.may_pass(gate, token) for token in world.tokens]
                if passing != expected:
                    note(f"{world.tokens=} {world.entries=} {clock()=} {gate=} {rules=}")
                assert passing == expected
    finally:
        for each in world.gates:
            each._blacklist.store.close()


def upstream(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]


def run_on_sqlite(rules: Any, first: list[Change], changes: list[Change]) -> None:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        run(f"sqlite:///{directory}/blacklist.sqlite3", rules, [*first, *changes])


@settings(max_examples=8)
@given(RULES, FIRST, CHANGES)
def test_what_was_named_is_refused_by_every_gateway_and_nothing_else_is(
    rules: Any, first: list[Change], changes: list[Change]
) -> None:
    run_on_sqlite(rules, first, changes)


@pytest.mark.slow
@settings(max_examples=80)
@given(RULES, FIRST, CHANGES)
def test_what_was_named_is_refused_and_nothing_else_is_at_length(
    rules: Any, first: list[Change], changes: list[Change]
) -> None:
    run_on_sqlite(rules, first, changes)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RULES, FIRST, CHANGES)
def test_what_was_named_is_refused_and_nothing_else_is_on_redis(
    monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, rules: Any, first: list[Change], changes: list[Change]
) -> None:
    be_patient(monkeypatch)
    redis_server.ask("FLUSHALL")
    run(redis_server.url, rules, [*first, *changes])
