"""Key sets of a provider: what of them is used, how they are fetched, how they rotate and how long they last."""

import gzip
import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from helpers import Clock
from hypothesis import given, settings
from hypothesis import strategies as st
from provider import Provider, Signer, content, drip, jwks, private_key, send, signer, status
from recorder import until

from gateway.auth.jwks import MAX_BYTES, fetch_jwks
from gateway.auth.keys import FetchPolicy, JwksKeys, KeySet, KeysRefused, build_keys
from gateway.auth.keytext import MAX_JWKS_KEYS, read_jwks
from gateway.http.problems import Problem

ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
A, B, C = signer("RS256", "a"), signer("ES256", "b"), signer("EdDSA", "c")

# Steady enough for a test that moves the clock itself: nothing is fetched unless it is asked for.
STEADY: dict[str, Any] = {"refresh": 3600, "retry": 3600, "max_retry": 3600, "patience": 10}

Maker = Callable[..., JwksKeys]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider([A, B, C]) as serving:
        yield serving


@pytest.fixture
def make_keys(provider: Provider) -> Iterator[Maker]:
    """Return a maker of the provider's keys, with a clock of its own if given, and a policy."""
    made: list[JwksKeys] = []

    def make(url: str = provider.jwks_url, clock: Clock | None = None, **policy: Any) -> JwksKeys:
        keys = build_keys(
            secrets=(), public_key=None, jwks_url=url, algorithms=ALGORITHMS, issuer=provider.issuer,
            policy=FetchPolicy(**{"ca_file": provider.ca_file, **STEADY, **policy}), now=clock or time.monotonic,
        )  # fmt: skip
        assert isinstance(keys, JwksKeys)
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


def accepts(keys: JwksKeys, token: str) -> bool:
    """Verify as a request does: with the keys in force, and for an unknown kid with those after asking."""
    header = jwt.get_unverified_header(token)
    found = keys.current()
    if not found.candidates(header.get("kid"), header["alg"]):
        found = keys.unknown(header.get("kid"))
    return verifies(found, token)


def is_unavailable(keys: JwksKeys) -> bool:
    try:
        keys.current()
    except Problem as problem:
        return problem.code == "keys-unavailable"
    return False


# What of a set is used


RSA, EC = A.jwk(), B.jwk()
IGNORED = {
    "a private RSA key": ({**RSA, "d": "AQAB"}, "private"),
    "a private EC key": ({**EC, "d": "AQAB"}, "private"),
    "a secret": ({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}, "private"),
    "a secret without k": ({"kty": "oct"}, "private"),
    "a key for encryption": ({**RSA, "use": "enc"}, "not for verifying"),
    "an odd use": ({**RSA, "use": ["sig"]}, "not for verifying"),
    "a key that only signs": ({**RSA, "key_ops": ["sign"]}, "not for verifying"),
    "key_ops as text": ({**RSA, "key_ops": "verify"}, "not for verifying"),
    "key_ops as null": ({**RSA, "key_ops": None}, "not for verifying"),
    "a number as kid": ({**RSA, "kid": 7}, "kid that is not text"),
    "a list as kid": ({**RSA, "kid": ["a"]}, "kid that is not text"),
    "an unknown type": ({"kty": "LWE", "kid": "x"}, "cannot be read"),
    "no type": ({"kid": "x"}, "cannot be read"),
    "a list as type": ({**RSA, "kty": ["RSA"]}, "cannot be read"),
    "an unknown curve": ({**EC, "crv": "P-192", "alg": None}, "cannot be read"),
    "a point beside the curve": ({**EC, "x": EC["y"]}, "cannot be read"),
    "no modulus": ({"kty": "RSA", "e": "AQAB"}, "cannot be read"),
    "a number as modulus": ({**RSA, "n": 7}, "cannot be read"),
    "an even exponent": ({**RSA, "e": "Ag"}, "cannot be read"),
    "an encryption algorithm": ({**RSA, "alg": "RSA-OAEP"}, "cannot be read"),
    "a list as algorithm": ({**RSA, "alg": ["RS256"]}, "cannot be read"),
    "an HMAC algorithm on an RSA key": ({**RSA, "alg": "HS256"}, "cannot be read"),
    "an algorithm that is not allowed": ({**RSA, "alg": "RS512"}, "fits none"),
    "a curve that is not the algorithm's": (signer("ES384", "x").jwk(alg="ES256"), "fits none"),
    "a short RSA key": (Signer("RS256", "x", private_key("RS256", "short", 1024)).jwk(), "less than 2048 bits"),
    "text": ("RS256", "no JSON object"),
    "null": (None, "no JSON object"),
}


@pytest.mark.parametrize(("member", "fault"), IGNORED.values(), ids=IGNORED)
def test_one_bad_key_is_ignored_by_name_and_the_others_serve(member: Any, fault: str) -> None:
    keys, ignored = read_jwks(jwks(C, member), ALGORITHMS)
    assert verifies(keys, C.token())
    assert len(ignored) == 1
    assert ignored[0].startswith("key 2 (kid ")
    assert fault in ignored[0]
    assert not any(keys.candidates(None, name) for name in ALGORITHMS if name != "EdDSA")


@pytest.mark.parametrize(("member", "fault"), IGNORED.values(), ids=IGNORED)
def test_a_set_of_nothing_usable_is_refused(member: Any, fault: str) -> None:
    with pytest.raises(KeysRefused, match=f"no usable key; key 1 .*{fault}"):
        read_jwks(jwks(member), ALGORITHMS)


def test_a_jwk_with_an_algorithm_verifies_that_one_alone() -> None:
    keys, ignored = read_jwks(jwks(A), ALGORITHMS)
    assert not ignored
    assert verifies(keys, A.token())
    assert not verifies(keys, Signer("PS256", "a", A.key).token())


def test_a_jwk_without_an_algorithm_verifies_the_allowed_ones_of_its_type() -> None:
    keys, _ = read_jwks(jwks(A.jwk(alg=None, use=None)), ["RS256", "PS256", "ES256"])
    assert verifies(keys, A.token())
    assert verifies(keys, Signer("PS256", "a", A.key).token())
    assert not verifies(keys, Signer("RS512", "a", A.key).token())


def test_the_first_of_two_keys_with_one_kid_and_algorithm_counts() -> None:
    twin, cousin = signer("RS256", "twin"), signer("ES256", "cousin")
    keys, ignored = read_jwks(jwks(A, twin.jwk(kid="a"), cousin.jwk(kid="a")), ALGORITHMS)
    assert ignored == ["key 2 (kid 'a') of the JWKS has the kid of an earlier key"]
    assert verifies(keys, A.token())
    assert not verifies(keys, Signer("RS256", "a", twin.key).token())
    assert verifies(keys, Signer("ES256", "a", cousin.key).token())  # RFC 7517 section 4.5 allows it


def test_more_keys_than_anyone_publishes_are_ignored() -> None:
    _, ignored = read_jwks(jwks(*[C.jwk(kid=str(number)) for number in range(MAX_JWKS_KEYS + 1)]), ALGORITHMS)
    assert ignored == [f"the JWKS has more than {MAX_JWKS_KEYS} keys: the rest"]


def test_a_long_kid_does_not_fill_the_log() -> None:
    _, ignored = read_jwks(jwks(C, A.jwk(kid="x" * 10_000, use="enc")), ALGORITHMS)
    assert len(ignored[0]) < 200


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
    keys, ignored = read_jwks(json.dumps({"keys": [{**base, **changes}, good]}).encode(), ALGORITHMS)
    assert keys.candidates("good", "EdDSA")
    assert len(ignored) <= 1


@settings(deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_text_however_odd_is_anything_but_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind, and no other exception
        read_jwks(text, ALGORITHMS)


# How it is fetched


@pytest.mark.parametrize("key", [A, B, C], ids=["RS256", "ES256", "EdDSA"])
def test_the_first_question_waits_for_the_first_fetch(key: Signer, provider: Provider, make_keys: Maker) -> None:
    keys = make_keys()
    assert keys.age() == float("inf")
    assert accepts(keys, key.token(sub="1"))
    assert provider.fetches == 1
    assert keys.age() >= 0


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
    keys.unknown("new")
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
    "a byte order mark": content(b"\xef\xbb\xbf" + jwks(A)),
    "a duplicate member": content(b'{"keys": [], ' + jwks(A)[1:]),
    "a lone surrogate": content(b'{"keys": [{"kty": "\\ud800", "kid": "\\ud800"}]}'),
    "only private keys": content(jwks({**RSA, "d": "AQAB"})),
    "gzip": content(gzip.compress(jwks(A)), Content_Encoding="gzip"),
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


def test_a_body_that_never_ends_meets_a_time_limit(provider: Provider) -> None:
    provider.answer = drip
    with pytest.raises(KeysRefused, match="took too long"):
        fetch_jwks(provider.jwks_url, provider.issuer, FetchPolicy(ca_file=provider.ca_file, total=0.05))


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
    with pytest.raises(KeysRefused, match="a JWKS URL must be https, or http on loopback") as refused:
        make_keys(url)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://issuer.test/jwks?p=1", "http://localhost:1/j", "http://127.1.2.3/", "http://[::1]/"]
)
def test_https_and_loopback_are_accepted(url: str, make_keys: Maker) -> None:
    make_keys(url)


# Found through metadata


def test_the_key_set_is_found_through_openid_metadata(provider: Provider, make_keys: Maker) -> None:
    assert accepts(make_keys(provider.metadata_url), A.token())
    assert provider.paths == ["/.well-known/openid-configuration", "/jwks"]


def test_the_key_set_is_found_through_authorization_server_metadata(provider: Provider, make_keys: Maker) -> None:
    assert accepts(make_keys(f"{provider.issuer}/.well-known/oauth-authorization-server"), A.token())


@pytest.mark.parametrize(
    "metadata",
    [{"issuer": "https://issuer.test"}, {"issuer": None}, {"issuer": ["x"]}, {"jwks_uri": "http://127.0.0.1:1/jwks"}]
    + [{"jwks_uri": uri} for uri in (None, 7, "", "/jwks", "file:///etc/passwd", "http://issuer.test/jwks")],
)
def test_metadata_of_another_issuer_or_unsafe_is_refused(metadata: dict[str, Any], provider: Provider) -> None:
    provider.metadata = metadata
    with pytest.raises(KeysRefused, match=r"metadata|JWKS URL"):
        fetch_jwks(provider.metadata_url, provider.issuer, FetchPolicy(ca_file=provider.ca_file))
    assert provider.fetches == 0


def test_a_loopback_provider_may_do_without_tls() -> None:
    with Provider([A], plain=True) as plain:
        assert json.loads(fetch_jwks(plain.metadata_url, plain.issuer, FetchPolicy())) == {"keys": [A.jwk()]}


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
    assert keys.unknown("x") is before
    assert provider.fetches == 2
    assert keys.age() == 0


def test_a_kid_that_is_known_or_absent_fetches_nothing(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    keys.current()
    clock.advance(3600)
    assert keys.unknown("a") is keys.unknown(None) is keys.current()
    assert provider.fetches == 1


@pytest.mark.parametrize("answer", [None, status(503), content(b"garbage")], ids=["good", "failing", "garbage"])
def test_a_thousand_random_kids_are_one_fetch_per_cool_down(answer: Any, provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()))
    good = keys.current()
    provider.answer = answer
    for cool_down in range(1, 4):
        clock.advance(30)
        with ThreadPoolExecutor(8) as threads:
            found = threads.map(keys.unknown, [os.urandom(8).hex() for _ in range(1000)])
            assert all(each is good for each in found)
        assert provider.fetches == 1 + cool_down


def test_questions_that_cannot_be_answered_are_one_fetch_per_cool_down(provider: Provider, make_keys: Maker) -> None:
    provider.answer = status(503)
    keys = make_keys(clock=Clock())
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: is_unavailable(keys), range(200)))
    assert provider.fetches == 1


def test_a_fetch_is_never_made_in_the_thread_of_a_request() -> None:
    threads: list[str] = []
    keys = build_keys(
        secrets=(), public_key=None, jwks_url="https://issuer.test/jwks", algorithms=ALGORITHMS, issuer="x",
        policy=FetchPolicy(cool_down=0, **STEADY),
    )  # fmt: skip
    assert isinstance(keys, JwksKeys)
    keys._fetch = lambda: threads.append(threading.current_thread().name) or jwks(A)  # type: ignore[func-returns-value]
    for kid in ("x", "y", "z"):
        keys.unknown(kid)
    keys.close()
    assert threads == ["gateway-jwks"] * len(threads)
    assert len(threads) >= 3


def test_a_provider_that_hangs_does_not_hold_a_request(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()), patience=0.01, read=60)
    assert until(lambda: not is_unavailable(keys))
    good = keys.current()
    provider.hold()
    clock.advance(30)
    assert keys.unknown("new") is good
    provider.wait_for(2)
    clock.advance(30)
    assert keys.unknown("newer") is good
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
        first = threads.submit(keys.unknown, "nobody's")
        provider.wait_for(2)
        provider.answer = content(jwks(A, signer("ES256", "new")))
        clock.advance(30)
        second = threads.submit(accepts, keys, signer("ES256", "new").token())
        assert until(lambda: keys._asked == 3)
        answered.set()
        assert second.result()
        assert not first.result().knows("nobody's")


# Outage


def test_the_last_good_keys_serve_until_the_limit(
    provider: Provider, make_keys: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    keys = make_keys(clock=(clock := Clock()), limit=3600)
    good = keys.current()
    provider.answer = status(503)
    for _ in range(120):
        clock.advance(30)
        assert keys.unknown("x") is good
    assert keys.age() == 3600
    assert caplog.messages == [f"issuer '{provider.issuer}': no newer keys: the provider answered 503"]
    clock.advance(1)
    assert is_unavailable(keys)
    provider.answer = None
    clock.advance(30)
    assert accepts(keys, A.token())
    assert caplog.messages[-1] == f"issuer '{provider.issuer}': keys are renewed"


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
    for served in ([A, B.jwk(use="enc")], [A, B.jwk(use="enc")], [A], [A, C.jwk(d="x")]):
        provider.keys = served
        clock.advance(30)
        assert accepts(keys, A.token())
        keys.unknown("x")
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "key 2 (kid 'b') of the JWKS is not for verifying; it is ignored",
        "key 2 (kid 'c') of the JWKS is private, and has no place in a published set; it is ignored",
    ]


def test_a_clock_set_back_neither_holds_a_request_nor_stops_fetching(provider: Provider, make_keys: Maker) -> None:
    keys = make_keys(clock=(clock := Clock()), patience=10)
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


def _rotated_in_a_child(keys: JwksKeys, tokens: list[str], answers: Any) -> None:
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
