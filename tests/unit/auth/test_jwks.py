"""Key sets of a provider: what of them is used, how they are fetched, how they rotate and how long they last."""

import base64
import gzip
import itertools
import json
import logging
import multiprocessing
import re
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from helpers import EXPIRES, Clock, b64
from hypothesis import given, settings
from hypothesis import strategies as st
from provider import Answer, Provider, Signer, certificate, content, drip, jwks, pem, private_key, send, signer, status
from recorder import until

from gateway.auth.fetch import MAX_BYTES, FetchPolicy, fetch_keys, follow
from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.keyset import MAX_TRIES, KeySet, KeysRefused
from gateway.auth.keytext import MAX_KEYS, read_keys
from gateway.auth.snapshot import Ignored, Snapshot
from gateway.auth.tokens import Verifier
from gateway.auth.watched import WatchedKeys
from gateway.http.problems import Problem

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
ALLOWED = frozenset(ALGORITHMS)
A, B, C = signer("RS256", "a"), signer("ES256", "b"), signer("EdDSA", "c")

# Steady enough for a test that moves the clock itself: nothing is fetched unless it is asked for.
STEADY: dict[str, Any] = {"refresh": 3600, "retry": 3600, "max_retry": 3600, "wait": 10}

Maker = Callable[..., WatchedKeys]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider([A, B, C]) as serving:
        yield serving


@pytest.fixture
def make_keys(provider: Provider) -> Iterator[Maker]:
    """Return a maker of the provider's keys, with a clock of its own if given, and a policy."""
    made: list[WatchedKeys] = []

    def make(url: str = provider.jwks_url, clock: Clock | None = None, **policy: Any) -> WatchedKeys:
        keys = build_keys(
            secrets=(), public_key=None, jwks_url=url, algorithms=ALGORITHMS, issuer=provider.issuer,
            policy=FetchPolicy(**{"ca_file": provider.ca_file, **STEADY, **policy}), now=clock or time.monotonic,
        )  # fmt: skip
        assert isinstance(keys, WatchedKeys)
        made.append(keys)
        return keys

    yield make
    provider.release()
    for keys in made:
        keys.close()


def verifies(keys: KeySet, token: str) -> bool:
    signing_input, _, signature = token.rpartition(".")
    header = jwt.get_unverified_header(token)
    return any(
        key.verifies(header["alg"], signing_input.encode(), jwt.utils.base64url_decode(signature))
        for key in keys.candidates(header.get("kid"), header["alg"])
    )


def accepts(keys: WatchedKeys, token: str) -> bool:
    """Verify as a request does: with the keys in force, and for an unknown kid with those after asking."""
    header = jwt.get_unverified_header(token)
    found = keys.current()
    if not found.candidates(header.get("kid"), header["alg"]):
        found = keys.renew()
    return verifies(found, token)


def is_unavailable(keys: WatchedKeys) -> bool:
    try:
        keys.current()
    except Problem as problem:
        return problem.code == "keys-unavailable"
    return False


# What of a set is used


RSA, EC, OKP = A.jwk(), B.jwk(), C.jwk()
IGNORED = {
    "a private RSA key": ({**RSA, "d": "AQAB"}, r"private \(it has the member d\)"),
    "a private EC key": ({**EC, "d": "AQAB"}, "private"),
    "a secret": ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "private"),
    "a secret without k": ({"kty": "oct"}, "is a secret"),
    "an odd use": ({**RSA, "use": ["sig"]}, "its use is a list, not 'sig'"),
    "another use": ({**RSA, "use": "tls"}, "its use is 'tls', not 'sig'"),
    "a key that only signs": ({**RSA, "key_ops": ["sign"]}, "its key_ops has no 'verify'"),
    "key_ops as text": ({**RSA, "key_ops": "verify"}, "its key_ops is text, not a list"),
    "key_ops of numbers": ({**RSA, "key_ops": [1]}, "its key_ops has no 'verify'"),
    "a number as kid": ({**RSA, "kid": 7}, "a kid that is not text, but a number"),
    "a list as kid": ({**RSA, "kid": ["a"]}, "a kid that is not text, but a list"),
    "an unknown type": ({"kty": "LWE", "kid": "x"}, "kty that is not known: 'LWE'; it must be one of RSA, EC, OKP"),
    "no type": ({"kid": "x"}, "kty that is not known: null or absent"),
    "a list as type": ({**RSA, "kty": ["RSA"]}, "kty that is not known: a list"),
    "an unknown curve": (
        {**EC, "crv": "P-192", "alg": None},
        "crv that is not known: 'P-192'; it must be one of P-256",
    ),
    "no curve": ({**EC, "crv": None}, "crv that is not known: null or absent"),
    "a point beside the curve": ({**EC, "x": EC["y"]}, "x and y are no EC key"),
    "a short x": ({**EC, "x": b64(b"x" * 31)}, "a member x of 31 bytes; P-256 wants 32, leading zeros included"),
    "a short y": ({**EC, "y": "AAAA"}, "a member y of 3 bytes; P-256 wants 32"),
    "a sign byte before x": ({**EC, "x": b64(b"\0" + b"x" * 32)}, "a member x of 33 bytes; P-256 wants 32"),
    "a short x on a curve of Edwards": ({**OKP, "x": "AAAA"}, "a member x of 3 bytes; Ed25519 wants 32"),
    "no y": ({**EC, "y": None}, "lacks the member y"),
    "no modulus": ({"kty": "RSA", "e": "AQAB"}, "lacks the member n"),
    "an empty modulus": ({**RSA, "n": ""}, "lacks the member n"),
    "a number as modulus": ({**RSA, "n": 7}, "a member n that is a number, not base64url text"),
    "a modulus in another alphabet": ({**RSA, "n": "é"}, "a member n that is no base64url text"),
    "an even exponent": ({**RSA, "e": "Ag"}, "n and e are no RSA key"),
    "a list as algorithm": ({**RSA, "alg": ["RS256"]}, "an alg that signs no token: a list"),
    "an HMAC algorithm on an RSA key": ({**RSA, "alg": "HS256"}, "is an RSA key, which fits none"),
    "an algorithm that is not allowed": ({**RSA, "alg": "RS512"}, "is an RSA key, which fits none"),
    "a curve that is not the algorithm's": (
        signer("ES384", "x").jwk(alg="ES256"),
        "EC key on secp384r1, which fits none",
    ),
    "a short RSA key": (
        Signer("RS256", "x", private_key("RS256", "short", 1024)).jwk(),
        "has 1024 bits, and at least 2048 are needed",
    ),
    "text": ("RS256", "no JSON object"),
    "null": (None, "no JSON object"),
}
FOR_ENCRYPTION = {
    "by its use": {**RSA, "use": "enc"},
    "by its use and algorithm": {**RSA, "use": "enc", "alg": "RSA-OAEP"},
    "by its algorithm": {**RSA, "use": None, "alg": "RSA-OAEP-256"},
    "by its operations": {**RSA, "use": None, "alg": None, "key_ops": ["encrypt", "wrapKey"]},
    "by its curve": {"kty": "OKP", "crv": "X25519", "x": OKP["x"]},
    "by an agreement": {**EC, "use": "enc", "alg": "ECDH-ES+A256KW"},
}
# What makers in .NET and Java write for what is not there, and what else is beside the point.
AS_MADE = {
    "null for absent": dict.fromkeys(("use", "alg", "key_ops", "d", "p", "q", "oth", "x5c", "x5t", "k"), None),
    "empty for absent": {"use": "", "key_ops": [], "x5c": [], "d": "", "oth": [], "x5u": "", "x5t#S256": ""},
    "operations beside a use": {"key_ops": ["verify", "verify"], "use": "sig"},
    "signing and verifying": {"key_ops": ["sign", "verify"]},
    "certificates that are none": {"x5c": ["garbage"], "x5t": "garbage"},
    "members of its maker's": {"issuer": "https://login.test/{tenantid}/v2.0", "exp": 1, "ext": True, "_": {}},
}


def reasons(ignored: list[Ignored]) -> list[str]:
    return [each.reason for each in ignored]


@pytest.mark.parametrize(("member", "fault"), IGNORED.values(), ids=IGNORED)
def test_one_bad_key_is_ignored_by_name_and_the_others_serve(member: Any, fault: str) -> None:
    """The reason says which key, which member, what was found and what is wanted."""
    other = C if member != "RS256" else B
    keys, ignored = read_keys(jwks(other, member), ALLOWED)
    assert verifies(keys, other.token())
    assert len(ignored) == 1
    assert not ignored[0].expected
    assert re.match(rf"key 2 (\(kid .*\) )?of the JWKS .*{fault}", ignored[0].reason)
    assert len(keys.keys) == 1
    with pytest.raises(KeysRefused, match=f"no usable key; key 1 .*{fault}"):
        read_keys(jwks(member), ALLOWED)


@pytest.mark.parametrize("member", FOR_ENCRYPTION.values(), ids=FOR_ENCRYPTION)
def test_a_key_for_encryption_is_no_fault_of_a_set(
    member: dict[str, Any], provider: Provider, make_keys: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    provider.keys = [A, {name: value for name, value in member.items() if value is not None}]
    with caplog.at_level(logging.DEBUG, "gateway"):
        assert accepts(make_keys(), A.token())
    assert [(record.levelname, "for encryption" in record.message) for record in caplog.records] == [("DEBUG", True)]
    with pytest.raises(KeysRefused, match=r"no usable key; key 1 .* for encryption"):
        read_keys(jwks(member), ALLOWED)


@pytest.mark.parametrize("made", AS_MADE.values(), ids=AS_MADE)
@pytest.mark.parametrize("key", [A, B, C], ids=["RS256", "ES256", "EdDSA"])
def test_a_key_is_taken_as_it_is_made(key: Signer, made: dict[str, Any]) -> None:
    text = json.dumps({"keys": [{**key.jwk(), **made}]}).encode()
    keys, ignored = read_keys(text, ALLOWED)
    assert not ignored
    assert verifies(keys, key.token())


def test_a_kid_that_is_null_or_empty_is_none() -> None:
    for kid in (None, ""):
        keys, _ = read_keys(json.dumps({"keys": [{**RSA, "kid": kid}]}).encode(), ALLOWED)
        assert verifies(keys, A.token())


def test_numbers_may_be_in_the_padded_alphabet_of_other_makers() -> None:
    raw = {name: base64.urlsafe_b64decode(RSA[name] + "==") for name in ("n", "e")}
    plain = {name: base64.b64encode(b"\0" + value).decode() for name, value in raw.items()}
    assert verifies(read_keys(jwks({**RSA, **plain}), ALLOWED)[0], A.token())


def test_a_jwk_with_an_algorithm_verifies_that_one_alone() -> None:
    keys, ignored = read_keys(jwks(A), ALLOWED)
    assert not ignored
    assert verifies(keys, A.token())
    assert not verifies(keys, Signer("PS256", "a", A.key).token())


def test_a_jwk_without_an_algorithm_verifies_the_allowed_ones_of_its_type() -> None:
    keys, _ = read_keys(jwks(A.jwk(alg=None, use=None)), frozenset(["RS256", "PS256", "ES256"]))
    assert verifies(keys, A.token())
    assert verifies(keys, Signer("PS256", "a", A.key).token())
    assert not verifies(keys, Signer("RS512", "a", A.key).token())


def renamed(token: str, algorithm: str, key: Signer) -> str:
    """Return the token, signed anew under another name of its algorithm."""
    payload = token.split(".")[1]
    signing_input = f"{b64(json.dumps({'alg': algorithm, 'kid': key.kid}).encode())}.{payload}"
    return f"{signing_input}.{b64(key.key.sign(signing_input.encode()))}"


@pytest.mark.parametrize("published", ["EdDSA", "Ed25519", None])
@pytest.mark.parametrize("used", ["EdDSA", "Ed25519"])
def test_ed25519_is_another_name_of_eddsa(published: str | None, used: str) -> None:
    keys = build_keys(
        secrets=(), public_key=None, jwks_url=jwks(C.jwk(alg=published)).decode(), algorithms=["EdDSA"], issuer="x"
    )
    assert {"EdDSA", "Ed25519"} <= keys.algorithms
    assert verifies(keys.current(), renamed(C.token(sub="1"), used, C))
    assert not verifies(keys.current(), renamed(C.token(sub="1"), "Ed448", C))


@pytest.mark.parametrize("version", ["https://login.test/{tenantid}/v2.0", "https://sts.test/{tenantid}/"])
@pytest.mark.parametrize("configured", ["{tenantid}", "work"])
def test_of_a_set_for_all_tenants_a_tenants_own_key_signs_for_that_tenant_alone(version: str, configured: str) -> None:
    """In Entra's set for all tenants the keys of personal accounts sign for no organisation."""
    name, alias = "https://login.test/{tenantid}/v2.0", "https://sts.test/{tenantid}/"

    def refusal(key: Signer, tenant: str, *published: Any) -> str:
        keys = build_keys(
            secrets=(), public_key=None, jwks_url=jwks(*published).decode(), algorithms=ALGORITHMS, issuer="x"
        )
        names = [each.replace("{tenantid}", configured) for each in (name, alias)]
        verifier = Verifier([Issuer(names[0], keys.algorithms, frozenset(), keys, aliases=(names[1],))])
        try:
            verifier.verify(key.token(iss=version.replace("{tenantid}", tenant), tid=tenant, exp=EXPIRES))
        except Problem as problem:
            return problem.code
        return ""

    of_all, of_one = A.jwk(issuer=name), B.jwk(issuer=name.replace("{tenantid}", "personal"))
    assert refusal(A, "work", of_all, of_one, C) == refusal(C, "work", of_all, of_one, C) == ""
    assert refusal(B, "work", of_all, of_one, C) == "unknown-key"
    if configured == "{tenantid}":
        assert refusal(B, "personal", of_all, of_one) == ""
    # In a set of another kind the member may mean anything.
    assert refusal(B, "work", of_one, C) == ""


def test_all_keys_of_one_kid_are_tried() -> None:
    twin, cousin = signer("RS256", "twin"), signer("ES256", "cousin")
    keys, ignored = read_keys(jwks(A, twin.jwk(kid="a"), cousin.jwk(kid="a")), ALLOWED)
    assert not ignored
    for key in (A, Signer("RS256", "a", twin.key), Signer("ES256", "a", cousin.key)):
        assert verifies(keys, key.token())
    assert not verifies(keys, Signer("RS256", "a", private_key("RS256", "forger")).token())


def test_the_keys_of_one_kid_are_bounded() -> None:
    many = [A.jwk()] * MAX_TRIES
    keys, ignored = read_keys(jwks(*many, C, signer("RS256", "late").jwk(kid="a")), ALLOWED)
    assert reasons(ignored) == ["key 18 (kid 'a') of the JWKS is one of more than 16 with this kid"]
    assert verifies(keys, C.token())


def test_a_thousand_keys_are_taken_and_no_more() -> None:
    keys, ignored = read_keys(jwks(*[C.jwk(kid=str(number)) for number in range(MAX_KEYS + 1)]), ALLOWED)
    assert reasons(ignored) == [f"the JWKS has more than {MAX_KEYS} keys: the rest"]
    assert MAX_KEYS == 1000
    assert verifies(keys, Signer("EdDSA", "999", C.key).token())


def test_a_key_without_a_kid_is_named_by_its_number_alone() -> None:
    _, ignored = read_keys(jwks(C, A.jwk(kid=None, use="enc")), ALLOWED)
    assert reasons(ignored) == ["key 2 of the JWKS is not for verifying, but for encryption"]


def test_a_long_kid_does_not_fill_the_log() -> None:
    _, ignored = read_keys(jwks(C, A.jwk(kid="x" * 10_000, use="enc")), ALLOWED)
    assert len(ignored[0].reason) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
    | st.sampled_from([*RSA.values(), *EC.values(), *C.jwk().values(), "oct", "d", "verify"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*RSA, *EC, "key_ops", "d"]), inner),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None)
@given(st.sampled_from([RSA, EC, C.jwk(), {}]), st.dictionaries(st.sampled_from([*RSA, *EC, "key_ops"]), JSON))
def test_no_jwk_however_odd_is_anything_but_used_or_ignored(base: dict[str, Any], changes: dict[str, Any]) -> None:
    good = C.jwk(kid="good")
    keys, ignored = read_keys(json.dumps({"keys": [{**base, **changes}, good]}).encode(), ALLOWED)
    assert keys.candidates("good", "EdDSA")
    assert len(ignored) <= 1


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_text_however_odd_is_anything_but_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind, and no other exception
        read_keys(text, ALLOWED)


# How it is fetched


@pytest.mark.parametrize("key", [A, B, C], ids=["RS256", "ES256", "EdDSA"])
def test_the_first_question_waits_for_the_first_fetch(key: Signer, provider: Provider, make_keys: Maker) -> None:
    keys = make_keys()
    assert keys.age() == float("inf")
    assert accepts(keys, key.token(sub="1"))
    assert provider.fetches == 1
    assert keys.age() >= 0


def test_keys_that_come_while_a_question_begins_to_wait_for_them_are_fetched_once(
    provider: Provider, make_keys: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = make_keys()
    look = keys._snapshot.current

    def look_and_be_slow() -> KeySet:
        try:
            return look()
        finally:
            assert until(lambda: keys._done)

    monkeypatch.setattr(keys._snapshot, "current", look_and_be_slow)
    assert accepts(keys, A.token(sub="1"))
    assert provider.fetches == 1


def test_building_fetches_nothing(provider: Provider, make_keys: Maker) -> None:
    known = set(threading.enumerate())  # other tests' may still be ending
    make_keys()
    assert provider.paths == []
    assert set(threading.enumerate()) <= known


def test_a_fetch_carries_no_credentials_of_ours(
    provider: Provider, make_keys: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login gateway password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
    keys = make_keys(clock=(clock := Clock()))
    keys.current()
    clock.advance(60)
    keys.renew()
    assert provider.fetches == 2  # the answer to the first set a cookie
    for fields in provider.fields:
        assert not {"authorization", "cookie", "proxy-authorization"} & {name.lower() for name in fields}


BAD_ANSWERS = {
    "an error": status(500),
    "another success": lambda handler: send(handler, jwks(A), 203),
    "nothing": content(b""),
    "HTML": content(b"<html>sign in</html>"),
    "a list": content(b"[]"),
    "no keys": content(b'{"keys": []}'),
    "keys that are none": content(b'{"keys": {"a": 1}}'),
    "deep nesting": content(b'{"keys": ' + b"[" * 200_000),
    "bad UTF-8": content(b'{"keys": ["\xff"]}'),
    "UTF-16": content(jwks(A).decode().encode("utf-16")),
    "a duplicate member": content(b'{"keys": [], ' + jwks(A)[1:]),
    "a lone surrogate": content(b'{"keys": [{"kty": "\\ud800", "kid": "\\ud800"}]}'),
    "only private keys": content(jwks({**RSA, "d": "AQAB"})),
    "gzip cut off": content(gzip.compress(jwks(A))[:-9], Content_Encoding="gzip"),
    "gzip that is damaged": content(gzip.compress(jwks(A))[:20] + b"damaged", Content_Encoding="gzip"),
    "gzip of too much": content(gzip.compress(jwks(A) + b" " * MAX_BYTES), Content_Encoding="gzip"),
    "compressed otherwise": content(zlib.compress(jwks(A)), Content_Encoding="deflate"),
    "half of it": content(jwks(A)[:100], Content_Length=str(len(jwks(A)))),
    "too much": content(b" " * (MAX_BYTES + 1) + jwks(A)),
    "no HTTP": lambda handler: handler.wfile.write(b"SSH-2.0-nothing\r\n") and None,
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_answer_is_a_failed_fetch_and_never_a_crash(answer: Any, provider: Provider, make_keys: Maker) -> None:
    provider.answer = answer
    keys = make_keys(clock=(clock := Clock()))
    assert is_unavailable(keys)
    provider.answer = None
    clock.advance(30)
    assert accepts(keys, A.token())


ODD_ANSWERS = {
    "gzip in spite of identity": content(gzip.compress(jwks(A)), Content_Encoding="gzip"),
    "gzip that is not said": content(gzip.compress(jwks(A))),
    "a byte order mark": content(b"\xef\xbb\xbf" + jwks(A)),
    "blank lines around": content(b"\n\n" + jwks(A) + b"\n\n"),
    "another media type": content(jwks(A), Content_Type="text/html"),
    "one bare key": content(json.dumps(A.jwk()).encode()),
    "PEM": content(pem(A.key), Content_Type="application/x-pem-file"),
    "other members": content(json.dumps({"keys": [A.jwk()], "jwks_uri": None, "issuer": "x"}).encode()),
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_an_odd_answer_with_good_keys_is_taken(answer: Any, provider: Provider, make_keys: Maker) -> None:
    provider.answer = answer
    assert accepts(make_keys(), A.token())


def test_certificates_by_kid_are_taken(provider: Provider, make_keys: Maker) -> None:
    """As Google publishes them for Firebase."""
    made = Signer("ES256", "7f2", private_key("ES256", "certificate"))
    text = {"7f2": certificate()[0].decode(), "bad": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
    provider.answer = content(json.dumps(text).encode())
    keys = make_keys()
    assert accepts(keys, made.token())
    assert not accepts(keys, Signer("ES256", "bad", made.key).token())


def test_we_say_who_we_are(provider: Provider, make_keys: Maker) -> None:
    make_keys().current()
    assert re.fullmatch(r"jwt-blacklist-gateway/[0-9.]+\S*", provider.fields[0]["User-Agent"])


FAULTS = {
    "404": (status(404), r"https://127.0.0.1:\d+/jwks answered 404$"),
    "a redirect": (
        status(302, Location="https://u:p@other.test/keys?token=x"),
        "answered 302, a redirect to https://other.test/keys, which is not followed: set that address",
    ),
    "a redirect for terminals": (status(302, Location="https://other.test/\x1b[2J"), r"https://other.test/\[2J, which"),
    "a page": (content(b"<!doctype html>"), "the key set is HTML or XML"),
    "nothing": (content(b""), "the key set is empty"),
    "text": (content(b"nothing here"), "neither PEM nor JSON"),
    "a list": (content(b"[]"), "is not one JSON object"),
    "another object": (content(b'{"status": "UP"}'), "neither 'keys' nor 'kty'"),
    "keys that are none": (content(b'{"keys": {"a": 1}}'), "member 'keys' is no list"),
}


@pytest.mark.parametrize(("answer", "told"), FAULTS.values(), ids=FAULTS)
def test_what_was_found_is_told(answer: Any, told: str, provider: Provider, make_keys: Maker) -> None:
    provider.answer = answer
    with pytest.raises(KeysRefused, match=told):
        make_keys().ask()


def test_why_a_provider_cannot_be_reached_is_told(provider: Provider, make_keys: Maker, unused_port: int) -> None:
    for url, policy, told in [
        (f"https://127.0.0.1:{unused_port}/jwks", {}, "Connection refused"),
        ("https://nowhere.invalid/jwks", {}, "not known|resolution|No address"),
        (provider.jwks_url, {"ca_file": None}, "its certificate is not trusted: self.signed.*JWKS_CA names"),
        (provider.jwks_url, {"proxy": f"http://127.0.0.1:{unused_port}"}, "the proxy cannot be reached"),
    ]:
        with pytest.raises(KeysRefused, match=told):
            make_keys(url, **policy).ask()
    provider.hold()
    with pytest.raises(KeysRefused, match="no answer in time"):
        make_keys(read=0.05).ask()


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_keys_are_fetched_through_a_proxy(make_keys: Maker) -> None:
    with Provider([A], plain=True) as provider, Provider([B], plain=True) as proxy:
        assert accepts(make_keys(provider.jwks_url, proxy=proxy.issuer), B.token())
        assert (provider.paths, proxy.paths) == ([], [provider.jwks_url])


def test_a_body_that_never_ends_meets_a_time_limit(provider: Provider) -> None:
    provider.answer = drip
    with pytest.raises(KeysRefused, match="took too long"):
        fetch_keys(provider.jwks_url, (provider.issuer,), FetchPolicy(ca_file=provider.ca_file, total=0.05))


def test_a_redirect_is_not_followed(provider: Provider, make_keys: Maker) -> None:
    with Provider([A], plain=True) as elsewhere:
        for code in (301, 302, 303, 307, 308):
            provider.answer = status(code, Location=elsewhere.jwks_url)
            assert is_unavailable(make_keys())
        assert elsewhere.paths == []


def test_a_certificate_that_nobody_vouches_for_is_refused(provider: Provider, make_keys: Maker) -> None:
    assert is_unavailable(make_keys(ca_file=None))
    assert provider.fetches == 0


def test_a_provider_that_is_not_there_is_unavailable(make_keys: Maker) -> None:
    assert is_unavailable(make_keys("https://127.0.0.1:1/jwks"))


def test_a_largest_allowed_set_is_read_whole(provider: Provider, make_keys: Maker) -> None:
    text = jwks(A)
    provider.answer = content(text + b" " * (MAX_BYTES - len(text)))
    assert accepts(make_keys(), A.token())


def test_a_chunked_answer_is_read(provider: Provider, make_keys: Maker) -> None:
    def chunked(handler: Any) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (jwks(A)[:50], jwks(A)[50:], b""):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))

    provider.answer = chunked
    assert accepts(make_keys(), A.token())


@pytest.mark.parametrize(
    "url",
    ["http://issuer.test/jwks", "http://127.0.0.1.test/jwks", "http://localhost.test/", "ftp://localhost/jwks", "https:///jwks",
     "https://user:password@issuer.test/jwks", "https://issuer.test/jwks#keys", "http://[::1/jwks", "http://0.0.0.0/"],
)  # fmt: skip
def test_a_url_that_is_not_safe_is_refused_at_start(url: str, make_keys: Maker) -> None:
    with pytest.raises(
        KeysRefused, match="a JWKS URL must be https, or http on loopback or of a host of JWKS_INSECURE_HTTP"
    ) as refused:
        make_keys(url)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://issuer.test/jwks?p=1", "http://localhost:1/j", "http://127.1.2.3/", "http://[::1]/"]
)
def test_https_and_loopback_are_accepted(url: str, make_keys: Maker) -> None:
    make_keys(url)


def test_plain_http_is_accepted_of_named_hosts_alone(make_keys: Maker) -> None:
    named = frozenset(("keycloak", "idp.test:8080"))
    for url in ("http://keycloak:8080/jwks", "http://Keycloak/jwks", "http://idp.test:8080/"):
        make_keys(url, insecure_hosts=named)
    for url in (
        "http://idp.test/",
        "http://idp.test:80/",
        "http://keycloak.test/",
        "http://user@keycloak/",
        "ftp://keycloak/",
    ):
        with pytest.raises(KeysRefused, match="must be https"):
            make_keys(url, insecure_hosts=named)


# Found through metadata


def test_the_key_set_is_found_through_openid_metadata(provider: Provider, make_keys: Maker) -> None:
    assert accepts(make_keys(provider.metadata_url), A.token())
    assert provider.paths == ["/.well-known/openid-configuration", "/jwks"]


def test_the_key_set_is_found_through_authorization_server_metadata(provider: Provider, make_keys: Maker) -> None:
    assert accepts(make_keys(f"{provider.issuer}/.well-known/oauth-authorization-server"), A.token())


@pytest.mark.parametrize("place", ["/.well-known/oauth-authorization-server/realms/a", "/metadata", "/jwks.json?v=2"])
def test_metadata_is_known_by_its_content(place: str, provider: Provider, make_keys: Maker) -> None:
    metadata = {"issuer": provider.issuer, "jwks_uri": provider.jwks_url}

    def answer(handler: Any) -> None:
        send(handler, json.dumps(metadata).encode() if handler.path == place else jwks(A))

    provider.answer = answer
    assert accepts(make_keys(provider.issuer + place), A.token())


@pytest.mark.parametrize(
    "place",
    ["/realms/a/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/realms/a",
     "/.well-known/openid-configuration/realms/a"],
)  # fmt: skip
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("nothing", [status(404), content(b"<html>"), content(b'{"error": "not found"}')], ids=range(3))
def test_of_the_issuers_own_address_the_metadata_is_found(place: str, slash: str, nothing: Answer) -> None:
    with Provider([A], plain=True) as provider:
        issuer = f"{provider.issuer}/realms/a"
        provider.nothing = nothing
        provider.metadata = {"issuer": issuer}
        provider.places = {place}
        keys = build_keys(
            secrets=(), public_key=None, jwks_url=issuer + slash, algorithms=ALGORITHMS, issuer=issuer,
            policy=FetchPolicy(**STEADY),
        )  # fmt: skip
        assert verifies(keys.current(), A.token())
        assert provider.paths[-2:] == [place, "/jwks"]


def test_metadata_may_name_the_issuer_by_an_alias(provider: Provider) -> None:
    provider.metadata = {"issuer": "https://outside.test/"}
    policy = FetchPolicy(ca_file=provider.ca_file, aliases=("https://outside.test/",))
    assert json.loads(fetch_keys(provider.metadata_url, ("x", *policy.aliases), policy))


def test_metadata_that_leads_to_metadata_is_refused(provider: Provider, make_keys: Maker) -> None:
    provider.metadata = {"jwks_uri": provider.metadata_url}
    with pytest.raises(KeysRefused, match="leads to further metadata"):
        make_keys(provider.metadata_url).ask()


@pytest.mark.parametrize(
    "metadata",
    [{"issuer": "https://issuer.test"}, {"issuer": None}, {"issuer": ["x"]}, {"jwks_uri": "http://127.0.0.1:1/jwks"}]
    + [{"jwks_uri": uri} for uri in (None, 7, "", "/jwks", "file:///etc/passwd", "http://issuer.test/jwks")],
)
def test_metadata_of_another_issuer_or_unsafe_is_refused(metadata: dict[str, Any], provider: Provider) -> None:
    provider.metadata = metadata
    with pytest.raises(KeysRefused, match=r"metadata at .* (is another issuer's|leads to)|JWKS URL"):
        fetch_keys(provider.metadata_url, (provider.issuer,), FetchPolicy(ca_file=provider.ca_file))
    assert provider.fetches == 0


def test_a_loopback_provider_may_do_without_tls() -> None:
    with Provider([A], plain=True) as plain:
        assert json.loads(fetch_keys(plain.metadata_url, (plain.issuer,), FetchPolicy())) == {"keys": [A.jwk()]}


# Rotation


def test_a_new_keys_first_token_is_accepted_and_an_old_keys_is_refused(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    assert accepts(keys, A.token())
    before, new = keys.current(), signer("RS256", "new")
    provider.keys = [new]
    clock.advance(30)
    assert accepts(keys, new.token())
    assert keys.current() is not before
    assert not accepts(keys, A.token())
    assert provider.fetches == 2


def test_keys_may_rotate_right_after_the_start(provider: Provider, make_keys: Maker) -> None:
    """The first fetch is no unknown kid's, and begins no cool-down; the second one does."""
    keys = make_keys(clock=Clock())
    assert accepts(keys, A.token())
    provider.keys = [new := signer("RS256", "new")]
    assert accepts(keys, new.token())
    provider.keys = [A]
    assert not accepts(keys, A.token())
    assert provider.fetches == 2


def test_keys_are_refreshed_in_the_background_without_any_request(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(refresh=0.01)
    assert accepts(keys, A.token())
    provider.keys = [B]
    provider.wait_for(provider.fetches + 2)  # the first of them is used by now
    assert not verifies(keys.current(), A.token())
    assert verifies(keys.current(), B.token())


def test_the_same_text_stays_the_same_key_set(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    before = keys.current()
    clock.advance(30)
    assert keys.renew() is before
    assert provider.fetches == 2
    assert keys.age() == 0


def test_a_key_that_replaced_another_under_its_kid_is_fetched(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    assert accepts(keys, A.token())
    replaced = Signer("RS256", "a", private_key("RS256", "replaced"))
    provider.keys = [replaced]
    clock.advance(30)
    verifier = Verifier([Issuer(provider.issuer, keys.algorithms, frozenset(), keys)], now=Clock())
    claims = {"iss": provider.issuer, "exp": EXPIRES}
    assert verifier.verify(replaced.token(**claims))
    for _ in range(5):
        with pytest.raises(Problem, match="bad-signature"):
            verifier.verify(Signer("RS256", "a", private_key("RS256", "forger")).token(**claims))
    assert provider.fetches == 2
    clock.advance(30)
    with pytest.raises(Problem, match="bad-signature"):
        verifier.verify(A.token(**claims))
    assert provider.fetches == 3


@pytest.mark.parametrize("answer", [None, status(503), content(b"garbage")], ids=["good", "failing", "garbage"])
def test_a_thousand_tokens_that_nothing_verifies_are_one_fetch_per_cool_down(
    answer: Any, provider: Provider, make_keys: Maker
) -> None:
    keys = make_keys(clock=(clock := Clock()))
    good = keys.current()
    provider.answer = answer
    for cool_down in range(1, 4):
        clock.advance(30)
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(lambda _: keys.renew(), range(1000))
            assert all(each is good for each in found)
        assert provider.fetches == 1 + cool_down


def test_questions_that_cannot_be_answered_are_one_fetch_per_cool_down(provider: Provider, make_keys: Maker) -> None:
    provider.answer = status(503)
    keys = make_keys(clock=Clock())
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: is_unavailable(keys), range(200)))
    assert provider.fetches == 1


def test_the_first_request_asks_for_keys_that_were_not_there_when_its_worker_started(
    provider: Provider, make_keys: Maker
) -> None:
    provider.answer = status(503)
    keys = make_keys(clock=Clock())
    keys.start()
    assert until(lambda: keys._done == 1)
    provider.answer = None
    assert not is_unavailable(keys)
    assert provider.fetches == 2


def test_a_fetch_is_never_made_in_the_thread_of_a_request() -> None:
    threads: list[str] = []
    keys = build_keys(
        secrets=(), public_key=None, jwks_url="https://issuer.test/jwks", algorithms=ALGORITHMS, issuer="x",
        policy=FetchPolicy(cool_down=0, **STEADY),
    )  # fmt: skip
    assert isinstance(keys, WatchedKeys)
    keys._load = lambda: threads.append(threading.current_thread().name) or jwks(A)  # type: ignore[func-returns-value]
    for _ in range(3):
        keys.renew()
    keys.close()
    assert threads == ["gateway-keys"] * len(threads)
    assert len(threads) >= 3


def test_a_provider_that_hangs_does_not_hold_a_request(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()), wait=0.01, read=60)
    assert until(lambda: not is_unavailable(keys))
    good = keys.current()
    provider.hold()
    clock.advance(30)
    assert keys.renew() is good
    provider.wait_for(2)
    clock.advance(30)
    assert keys.renew() is good
    assert keys._done == 1  # the provider still has not answered
    assert accepts(keys, A.token())


def test_a_token_that_comes_while_a_fetch_is_under_way_is_verified_with_a_later_one(
    provider: Provider, make_keys: Maker
) -> None:
    keys = make_keys(clock=(clock := Clock()))
    keys.current()
    answered = threading.Event()

    def slowly(handler: Any) -> None:
        text = jwks(A)  # what was published when the fetch came in
        answered.wait(10)
        send(handler, text)

    provider.answer = slowly
    clock.advance(30)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(keys.renew)
        provider.wait_for(2)
        provider.answer = content(jwks(A, signer("ES256", "new")))
        clock.advance(30)
        second = threads.submit(accepts, keys, signer("ES256", "new").token())
        assert until(lambda: keys._asked == 3)
        answered.set()
        assert second.result()
        assert not first.result().candidates("new", "ES256")


# Outage


def test_the_last_good_keys_serve_until_the_limit(
    provider: Provider, make_keys: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_keys(clock=(clock := Clock()), limit=3600)
    good = keys.current()
    provider.answer = status(503)
    for _ in range(120):
        clock.advance(30)
        assert keys.renew() is good
    assert keys.age() == 3600
    assert caplog.messages == [f"issuer '{provider.issuer}': no newer keys: {provider.jwks_url} answered 503"]
    clock.advance(1)
    assert is_unavailable(keys)
    provider.answer = None
    clock.advance(30)
    assert accepts(keys, A.token())
    assert caplog.messages[-1] == f"issuer '{provider.issuer}': keys are renewed"


@pytest.mark.parametrize(
    "served",
    [[], [{**RSA, "d": "AQAB"}], [{**RSA, "use": "enc"}], [{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}]],
    ids=["none", "private", "for encryption", "unknown"],
)
def test_a_set_without_a_usable_key_withdraws_those_it_had(
    provider: Provider, make_keys: Maker, caplog: pytest.LogCaptureFixture, served: list[Any]
) -> None:
    keys = make_keys(clock=(clock := Clock()))
    assert accepts(keys, A.token())
    provider.keys = served
    clock.advance(30)
    with pytest.raises(Problem, match="keys-unavailable"):
        keys.renew()
    assert is_unavailable(keys)
    assert "there is no usable key" in caplog.text
    provider.keys = [A]
    clock.advance(30)
    assert accepts(keys, A.token())


def test_keys_that_are_withdrawn_while_somebody_asks_for_them_are_no_crash() -> None:
    asked: list[Callable[[], object]] = []

    def now() -> float:
        if asked:  # another thread, at the worst moment
            asked.pop()()
        return 0.0

    snapshot = Snapshot("x", partial(read_keys, allowed=ALLOWED), 10, now)
    for ask in (snapshot.current, snapshot.age):
        snapshot.take(lambda: jwks(A))
        asked.append(lambda: snapshot.renew(jwks))
        ask()
        assert snapshot.age() == float("inf")


def test_a_failed_fetch_is_tried_again_without_any_request(provider: Provider, make_keys: Maker) -> None:
    provider.answer = status(503)
    keys = make_keys(retry=0.001, max_retry=0.01)
    assert is_unavailable(keys)
    provider.wait_for(5)
    provider.answer = None
    assert until(lambda: not is_unavailable(keys))
    assert accepts(keys, A.token())


def test_what_a_set_leaves_out_is_logged_once_per_change(
    provider: Provider, make_keys: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_keys(clock=(clock := Clock()))
    for served in ([A, B.jwk(use="tls")], [A, B.jwk(use="tls")], [A], [A, C.jwk(d="x")]):
        provider.keys = served
        clock.advance(30)
        assert accepts(keys, A.token())
        keys.renew()
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "key 2 (kid 'b') of the JWKS is not for verifying: its use is 'tls', not 'sig'; it is ignored",
        "key 2 (kid 'c') of the JWKS is private (it has the member d), and has no place in a published set; "
        "it is ignored",
    ]


def test_a_clock_set_back_neither_holds_a_request_nor_stops_fetching(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()), wait=10)
    keys.current()
    clock.advance(-1_000_000)
    provider.keys = [signer("ES256", "new")]
    assert accepts(keys, signer("ES256", "new").token())


def test_a_clock_that_leaps_ahead_costs_one_fetch(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    keys.current()
    clock.advance(10_000_000)
    assert accepts(keys, A.token())
    assert provider.fetches == 2


def test_a_closed_source_fetches_no_more(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(refresh=0.001)
    keys.current()
    keys.close()
    assert keys._thread is not None
    keys._thread.join(10)
    assert not keys._thread.is_alive()


# Processes


def _rotated_in_a_child(keys: WatchedKeys, tokens: list[str], answers: Any) -> None:
    answers.send([accepts(keys, token) for token in tokens])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker_has_a_thread_of_its_own(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(cool_down=0)
    assert accepts(keys, A.token())
    new = signer("EdDSA", "new")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    with keys._changed:  # as another thread may, at the moment of the fork
        provider.keys = [new]
        child = context.Process(target=_rotated_in_a_child, args=(keys, [new.token(), A.token()], theirs))
        child.start()
    assert ours.poll(10)
    assert ours.recv() == [True, False]
    child.join(10)
    assert child.exitcode == 0


# Under load


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_keys_rotate_under_load_without_one_wrong_answer(algorithm: str, provider: Provider, make_keys: Maker) -> None:
    """A published key's token passes at once, a forged one never, and in the end no withdrawn key's does."""
    generations = [signer(algorithm, f"generation {number}") for number in range(10)]
    tokens = {each.kid: each.token(sub="1") for each in generations}
    forged = {each.kid: Signer(algorithm, each.kid, private_key(algorithm, "forger")).token() for each in generations}
    provider.keys, keys = generations[:1], make_keys(cool_down=0)
    ended, wrong, answers = threading.Event(), [], []

    def ask() -> None:
        while not ended.is_set():
            for each in provider.keys:
                if not accepts(keys, tokens[each.kid]) and each in provider.keys:
                    wrong.append(f"refused: {each.kid}")
                if accepts(keys, forged[each.kid]):
                    wrong.append(f"forged, and accepted: {each.kid}")
                answers.append(each.kid)

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask) for _ in range(4)]
        for older, newer in itertools.pairwise(generations):
            provider.keys, mark = [newer, older], len(answers)
            assert until(lambda mark=mark: len(answers) > mark + 50 or any(each.done() for each in asking))
        ended.set()
        for each in asking:
            each.result()
    assert wrong == []
    assert [kid for kid, token in tokens.items() if accepts(keys, token)] == [each.kid for each in generations[-2:]]


def test_what_is_ignored_is_told_once_though_the_text_differs_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """Some providers write their keys in another order, or the date, each time."""
    texts = (json.dumps({"keys": [A.jwk(), {"kty": kty}], "made": n}).encode() for n, kty in enumerate(["x", "x", "y"]))
    snapshot = Snapshot("https://a.test/", partial(read_keys, allowed=ALLOWED), 60, time.monotonic)
    for _ in range(3):
        snapshot.renew(lambda: next(texts))
    assert [message.split("not known: ")[1][:3] for message in caplog.messages] == ["'x'", "'y'"]


@pytest.mark.parametrize("found", [None, ["https://a.test/jwks"], "file:///etc/passwd", "/jwks", "http://a.test/jwks"])
def test_a_key_sets_address_that_metadata_gives_is_told_apart_from_ones_own(found: object) -> None:
    text = json.dumps({"issuer": "https://a.test/", "jwks_uri": found}).encode()
    with pytest.raises(KeysRefused, match=r"the jwks_uri in the metadata at \S+x cannot be used: .* https"):
        follow(text, "https://a.test/x", ("https://a.test/",), FetchPolicy())
