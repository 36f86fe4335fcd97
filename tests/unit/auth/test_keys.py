"""Sources of keys: what they accept, what they refuse by name, and which key a token is checked against."""

import base64
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from helpers import Clock
from provider import Provider, certificate, jwks, pem, private_key, private_pem, signer
from recorder import until

from gateway.auth.fetch import FetchPolicy
from gateway.auth.keys import Keys, build_keys
from gateway.auth.keyset import ALGORITHMS, ASYMMETRIC, HMAC, MAX_TRIES, Key, KeySet, KeysRefused
from gateway.auth.secrets import weak_secrets
from gateway.auth.watched import WatchedKeys
from gateway.http.problems import Problem

ISSUER = "https://issuer.test/"
LONG = "a secret that is long enough for every hash there is, RFC 7518 says!"
SIGNED = b"signing.input"


def keys_of(*secrets: str, **given: Any) -> Keys:
    return build_keys(
        **{"secrets": secrets, "public_key": None, "jwks_url": None, "algorithms": (), "issuer": ISSUER, **given}
    )


def signature(algorithm: str, key: Any, signed: bytes = SIGNED) -> bytes:
    return ALGORITHMS[algorithm].sign(signed, key)


def verifies(keys: KeySet, algorithm: str, made: bytes, kid: str | None = None) -> bool:
    return any(key.verifies(algorithm, SIGNED, made) for key in keys.candidates(kid, algorithm))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], str]:
    """Write a file whole, as a deployment does, and return its path."""

    def save(text: bytes) -> str:
        new, path = tmp_path / "new", tmp_path / "keys"
        new.write_bytes(text)
        os.replace(new, path)
        return str(path)

    return save


def test_what_fetches_keys_is_loaded_with_them_and_not_while_a_request_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)  # who imports it now, fails
    keys_of("secret").current()
    for source in ("https://issuer.test/jwks", json.dumps({"issuer": ISSUER, "jwks_uri": "https://issuer.test/jwks"})):
        with pytest.raises(ImportError):
            keys_of(jwks_url=source)


# Which algorithms


@pytest.mark.parametrize("algorithm", sorted(HMAC))
def test_a_secret_verifies_the_hmac_algorithms_that_are_allowed(algorithm: str) -> None:
    keys = keys_of(LONG, algorithms=[algorithm])
    assert keys.algorithms == {algorithm}
    for each in sorted(HMAC):
        assert verifies(keys.current(), each, signature(each, LONG.encode())) is (each == algorithm)


@pytest.mark.parametrize("algorithm", sorted(ASYMMETRIC))
def test_a_public_key_file_verifies_its_type_of_key(algorithm: str, saved: Callable[[bytes], str]) -> None:
    key = private_key(algorithm)
    keys = keys_of(public_key=saved(pem(key)))
    assert verifies(keys.current(), algorithm, signature(algorithm, key))
    assert not verifies(keys.current(), algorithm, signature(algorithm, private_key(algorithm, "another")))
    assert keys.renew() is keys.current()


def test_without_algorithms_a_secret_is_for_hs256_alone() -> None:
    keys = keys_of(LONG)
    assert keys.algorithms == {"HS256"}
    assert keys.age() == 0
    assert keys.renew() is keys.current()


@pytest.mark.parametrize("name", ["none", "None", "", "hs256", "HS256 ", "ES521", "RSA-OAEP", "HS"])
def test_what_is_no_signature_algorithm_is_refused_by_name(name: str) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': {name!r}"):
        keys_of(LONG, algorithms=[name])


def test_eddsa_brings_the_names_of_its_curves_along(saved: Callable[[bytes], str]) -> None:
    path = saved(pem(private_key("EdDSA")))
    assert keys_of(public_key=path, algorithms=["EdDSA"]).algorithms == {"EdDSA", "Ed25519", "Ed448"}
    only = keys_of(public_key=path, algorithms=["Ed25519"])
    assert only.algorithms == {"Ed25519"}
    assert verifies(only.current(), "Ed25519", signature("Ed25519", private_key("EdDSA")))
    with pytest.raises(KeysRefused, match="is an Ed25519 key, which fits none of the allowed algorithms"):
        keys_of(public_key=path, algorithms=["Ed448"])


# Secrets


def test_every_secret_verifies_and_the_newest_is_tried_first() -> None:
    keys = keys_of(LONG, "the older one").current()
    newest, older = keys.candidates("any kid", "HS256")
    assert newest.verifies("HS256", SIGNED, signature("HS256", LONG.encode()))
    assert older.verifies("HS256", SIGNED, signature("HS256", b"the older one"))


DER = base64.b64decode(b"".join(pem(private_key("ES256")).splitlines()[1:-1]))
# Others stand in test_confusion.py.
NO_SECRETS = {
    "private PEM": private_pem(private_key("ES256")).decode(),
    "certificate": certificate()[0].decode(),
    "first line of a PEM": "-----BEGIN PUBLIC KEY-----",
    "last line of a PEM": "-----END PUBLIC KEY-----",
    "body of a PEM as base64url": base64.urlsafe_b64encode(DER).decode(),
    "JWK": '{"kty": "oct", "k": "c2VjcmV0"}',
    "lone surrogate": "\ud800",
    "empty": "",
}


@pytest.mark.parametrize("text", NO_SECRETS.values(), ids=NO_SECRETS)
def test_a_secret_that_is_a_keys_text_or_empty_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': secret 2 is ") as refused:
        keys_of(LONG, text)
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("count", [0, MAX_TRIES + 1])
def test_no_secret_and_too_many_secrets_are_refused(count: int) -> None:
    with pytest.raises(KeysRefused, match=f"not {count}$"):
        keys_of(*[LONG] * count)


def test_a_base64_secret_is_a_secret() -> None:
    text = base64.b64encode(os.urandom(48)).decode()
    assert verifies(keys_of(text).current(), "HS256", signature("HS256", text.encode()))


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_a_secret_may_be_bytes(encode: Callable[[bytes], bytes], padded: bool) -> None:
    """As jjwt, .NET and Kong keep them."""
    for data in (bytes(range(224, 256)), b"\0" * 31 + b"\xff", b"text of thirty-two bytes or more!!"):
        text = encode(data).decode()
        keys = keys_of("base64:" + (text if padded else text.rstrip("="))).current()
        assert verifies(keys, "HS256", signature("HS256", data))
        assert not verifies(keys, "HS256", signature("HS256", text.encode()))


@pytest.mark.parametrize("text", ["", "=", "a", "a b", "a%", "é", "AA\n", "-----BEGIN PUBLIC KEY-----"])
def test_a_secret_that_should_be_base64_and_is_not_is_refused(text: str) -> None:
    with pytest.raises(KeysRefused, match=r"secret 1 is not base64 after 'base64:'"):
        keys_of(f"base64:{text}")


def test_the_bytes_of_a_key_are_no_secret() -> None:
    for data in (DER, pem(private_key("RS256")), base64.b64encode(DER), jwks(signer("RS256", "a"))):
        with pytest.raises(KeysRefused, match="secret 1 is the text of a key"):
            keys_of("base64:" + base64.b64encode(data).decode())


def test_weak_secrets_are_counted_and_verify_without_a_warning() -> None:
    assert weak_secrets(["discogs", "x" * 31, "x" * 32], ["HS256"]) == 2
    assert weak_secrets(["x" * 32, "x" * 64], ["HS256", "HS512"]) == 1
    assert weak_secrets(["x"], ["RS256"]) == 0
    assert weak_secrets(["base64:" + base64.b64encode(b"x" * size).decode() for size in (31, 32)], ["HS256"]) == 1
    assert verifies(keys_of("discogs").current(), "HS256", signature("HS256", b"discogs"))  # warnings are errors here


# Public key files


def test_a_file_may_hold_several_keys_and_certificates(saved: Callable[[bytes], str]) -> None:
    text = b"the new one\n" + pem(private_key("RS256")) + certificate()[0] + pem(private_key("EdDSA"))
    keys = keys_of(public_key=saved(text)).current()
    assert verifies(keys, "RS256", signature("RS256", private_key("RS256")), kid="any")
    assert verifies(keys, "ES256", signature("ES256", private_key("ES256", "certificate")))
    assert verifies(keys, "EdDSA", signature("EdDSA", private_key("EdDSA")))


GOOD = pem(private_key("RS256"))
BAD_FILES = {
    "a private key": (GOOD + private_pem(private_key("ES256")), "PEM key 2 is private"),
    "a short RSA key": (
        pem(private_key("RS256", "short", 1024)),
        "PEM key 1 has 1024 bits, and at least 2048 are needed",
    ),
    "a key of another type": (
        GOOD + pem(private_key("ES256")),
        "PEM key 2 is an EC key on secp256r1, which fits none of the allowed algorithms",
    ),
    "garbage in armour": (
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        r"PEM key 1 \(PUBLIC KEY\) cannot be read",
    ),
    "no key": (b"nothing", "neither PEM nor JSON"),
    "too many keys": (GOOD * 17, "1 to 16 PEM public keys, not 17"),
}


@pytest.mark.parametrize(("text", "fault"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_public_key_file_is_refused_at_start_for(text: bytes, fault: str, saved: Callable[[bytes], str]) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': .*{fault}"):
        keys_of(public_key=saved(text), algorithms=["RS256"])


@pytest.mark.parametrize("source", ["public_key", "jwks_url"])
def test_a_file_that_is_not_there_is_refused_at_start(source: str, tmp_path: Path) -> None:
    with pytest.raises(KeysRefused, match="cannot be read: No such file or directory"):
        keys_of(**{source: str(tmp_path / "none")})


# The text itself


ONE = pem(private_key("RS256")).decode()
PEM_TEXTS = {
    "as it is": ONE,
    "line ends as two letters": ONE.replace("\n", "\\n"),
    "line ends of Windows": ONE.replace("\n", "\r\n"),
    "blanks for line ends": ONE.replace("\n", " "),
    "no line ends": ONE.replace("\n", ""),
    "indented": ONE.replace("\n", "\n    "),
    "text around": f"# the key of 2026\n{ONE}# end",
    "base64 alone": "".join(ONE.splitlines()[1:-1]),
    "base64 alone, in lines": "\n".join(ONE.splitlines()[1:-1]),
    "two": ONE + pem(private_key("RS256", "another")).decode(),
}


@pytest.mark.parametrize("text", PEM_TEXTS.values(), ids=PEM_TEXTS)
@pytest.mark.parametrize("setting", ["public_key", "jwks_url"])
def test_pem_may_be_given_as_text(setting: str, text: str) -> None:
    keys = keys_of(**{setting: text})
    assert verifies(keys.current(), "RS256", signature("RS256", private_key("RS256")))
    assert keys.age() == 0


def test_a_certificate_may_be_given_as_text() -> None:
    keys = keys_of(public_key=certificate()[0].decode()).current()
    assert verifies(keys, "ES256", signature("ES256", private_key("ES256", "certificate")))


KEY = signer("ES256", "a")
JSON_TEXTS = {
    "a JWKS": jwks(KEY).decode(),
    "a JWKS with a byte order mark": "\ufeff" + jwks(KEY).decode(),
    "a JWKS in lines": json.dumps({"keys": [KEY.jwk()]}, indent=2),
    "one JWK": json.dumps(KEY.jwk()),
    "PEM by kid": json.dumps({"a": pem(KEY.key).decode()}),
}


@pytest.mark.parametrize("text", JSON_TEXTS.values(), ids=JSON_TEXTS)
@pytest.mark.parametrize("setting", ["public_key", "jwks_url"])
@pytest.mark.parametrize("in_a_file", [True, False])
def test_what_a_text_of_keys_is_is_known_by_its_content(
    setting: str, text: str, in_a_file: bool, saved: Callable[[bytes], str]
) -> None:
    keys = keys_of(**{setting: saved(text.encode()) if in_a_file else text})
    assert verifies(keys.current(), "ES256", signature("ES256", KEY.key), kid="a")


def test_a_file_may_hold_the_providers_metadata(saved: Callable[[bytes], str]) -> None:
    with Provider([KEY], plain=True) as provider:
        metadata = json.dumps({"issuer": ISSUER, "jwks_uri": provider.jwks_url})
        for source in (saved(metadata.encode()), metadata):
            keys = keys_of(jwks_url=source)
            assert verifies(keys.ask(), "ES256", signature("ES256", KEY.key), kid="a")
        other = keys_of(jwks_url=metadata, issuer="https://other.test/")
        with pytest.raises(KeysRefused, match=r"is another issuer's: 'https://issuer\.test/'"):
            other.ask()


# Several sources


def test_each_algorithm_has_keys_of_its_family(saved: Callable[[bytes], str]) -> None:
    path = saved(GOOD)
    for given, fault in [
        ({"public_key": path, "algorithms": ["HS256"]}, "only HMAC"),
        ({"jwks_url": "https://issuer.test/jwks", "algorithms": ["HS256"]}, "only HMAC"),
        ({"public_key": path, "jwks_url": path, "algorithms": ["RS256"]}, "set one of them"),
        ({"algorithms": ["RS256"]}, "need a public key or a JWKS"),
        ({"algorithms": ["HS256", "RS256"]}, "need a public key or a JWKS"),
    ]:
        with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': .*{fault}"):
            keys_of(LONG, **given)
    with pytest.raises(KeysRefused, match="only HMAC"):
        keys_of(public_key=path, algorithms=["HS256"])
    with pytest.raises(KeysRefused, match="need 1 to 16 secrets, not 0"):
        keys_of(public_key=path, algorithms=["HS256", "RS256"])


def test_a_secret_beside_public_key_algorithms_verifies_nothing(saved: Callable[[bytes], str]) -> None:
    keys = keys_of(LONG, public_key=saved(GOOD), algorithms=["RS256"]).current()
    assert not verifies(keys, "HS256", signature("HS256", LONG.encode()))


@pytest.mark.parametrize("algorithms", [(), ("HS256", "RS256")])
def test_secrets_and_public_keys_of_one_issuer_verify_their_own_family_alone(
    algorithms: tuple[str, ...], saved: Callable[[bytes], str]
) -> None:
    """As Supabase's projects have while they go over to public keys."""
    each = signer("RS256", "a")
    keys = keys_of(LONG, jwks_url=saved(jwks(each)), algorithms=algorithms)
    found = keys.current()
    assert {"HS256", "RS256"} <= keys.algorithms
    assert "HS512" not in keys.algorithms
    for kid in (None, "a", "a kid of the secret's"):
        assert verifies(found, "HS256", signature("HS256", LONG.encode()), kid)
        assert not verifies(found, "HS256", signature("HS256", pem(each.key)), kid)
        assert not verifies(found, "RS256", signature("HS256", LONG.encode()), kid)
        assert not verifies(found, "HS256", signature("RS256", each.key), kid)
    assert verifies(found, "RS256", signature("RS256", each.key), "a")
    assert not verifies(found, "RS256", signature("RS256", each.key), "another")


# Files that change


def becomes(keys: Keys, algorithm: str, made: bytes) -> bool:
    return until(lambda: verifies(keys.current(), algorithm, made))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of keys looked at twenty times a second."""
    monkeypatch.setattr("gateway.auth.keys.LOOK_SECONDS", 0.05)


@pytest.mark.usefixtures("soon")
def test_a_changed_file_is_a_new_key_set_and_the_removed_key_stops_verifying(saved: Callable[[bytes], str]) -> None:
    old, new = private_key("ES256", "old"), private_key("ES256", "new")
    keys = keys_of(public_key=saved(pem(old)))
    before = keys.current()
    saved(pem(new))
    assert becomes(keys, "ES256", signature("ES256", new))
    assert keys.current() is not before
    assert not verifies(keys.current(), "ES256", signature("ES256", old))


def test_an_unchanged_file_stays_the_same_key_set(saved: Callable[[bytes], str]) -> None:
    text = jwks(signer("ES256", "a"))
    keys = keys_of(jwks_url=saved(text), now=(clock := Clock()))
    before = keys.current()
    saved(text)
    clock.advance(5)
    assert keys.renew() is before
    assert until(lambda: keys.age() == 0)
    assert keys.current() is before


@pytest.mark.usefixtures("soon")
def test_a_broken_file_leaves_the_last_good_keys_until_the_limit(
    saved: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = keys_of(public_key=saved(GOOD), now=clock, policy=FetchPolicy(limit=60))
    good = keys.current()
    saved(b"half a ke")
    for _ in range(3):
        clock.advance(20)
        assert keys.renew() is good
    assert until(lambda: caplog.records)
    clock.advance(1)
    with pytest.raises(Problem, match="keys-unavailable"):
        keys.current()
    saved(GOOD)
    assert until(lambda: len(caplog.records) > 1)
    assert keys.current() is good
    assert caplog.messages == [
        f"issuer '{ISSUER}': no newer keys: the key set is neither PEM nor JSON",
        f"issuer '{ISSUER}': keys are renewed",
    ]


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("text", [b"", b"\n"])
def test_a_file_that_is_emptied_withdraws_its_keys(saved: Callable[[bytes], str], text: bytes) -> None:
    """Whoever takes the only key out, as it has leaked, wants its tokens to end now, and not in a day."""
    keys = keys_of(public_key=saved(GOOD))
    assert keys.current()
    saved(text)
    assert until(lambda: keys.age() == float("inf"))
    with pytest.raises(Problem, match="keys-unavailable"):
        keys.current()
    with pytest.raises(KeysRefused, match="the key set is empty"):  # at the start it is a mistake, also beside a secret
        keys_of(LONG, public_key=saved(text), algorithms=("HS256", "ES256"))
    saved(GOOD)
    assert until(lambda: keys.age() < float("inf"))
    assert keys.current()


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_empty_while_it_is_written_keeps_its_keys(
    saved: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = keys_of(public_key=saved(GOOD))
    good, found = keys.current(), []
    monkeypatch.setattr("gateway.auth.keys.time", SimpleNamespace(sleep=lambda _: found.append(saved(GOOD))))
    saved(b"")
    assert until(lambda: found)
    assert keys.current() is keys.renew() is good


@pytest.mark.usefixtures("soon")
def test_a_clock_set_back_does_not_stop_the_looking(saved: Callable[[bytes], str]) -> None:
    clock = Clock()
    keys = keys_of(public_key=saved(GOOD), now=clock)
    assert keys.current()
    saved(pem(private_key("ES256")))
    clock.advance(-500)
    assert becomes(keys, "ES256", signature("ES256", private_key("ES256")))


def test_a_disk_that_hangs_holds_no_request(saved: Callable[[bytes], str], tmp_path: Path) -> None:
    keys = keys_of(public_key=saved(GOOD))
    good = keys.current()
    os.mkfifo(tmp_path / "hanging")
    os.replace(tmp_path / "hanging", tmp_path / "keys")  # whoever opens it waits for a writer
    assert isinstance(keys, WatchedKeys)
    for _ in range(100):
        assert keys.current() is keys.renew() is good
    assert until(lambda: keys._asked > keys._done)
    with open(tmp_path / "keys", "wb") as writer:
        writer.write(pem(private_key("ES256")))
    assert becomes(keys, "ES256", signature("ES256", private_key("ES256")))
    keys.close()
    saved(GOOD)


def test_a_file_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(KeysRefused, match="has more than"):
        keys_of(public_key="/dev/zero")


def test_a_jwks_may_be_a_file_by_path_or_url(saved: Callable[[bytes], str], caplog: pytest.LogCaptureFixture) -> None:
    path = saved(jwks(signer("RS256", "a"), signer("ES256", "b").jwk(use="tls")))
    for place in (path, f"file://{path}"):
        assert keys_of(jwks_url=place).current().candidates("a", "RS256")
    assert caplog.messages[0] == (
        f"issuer '{ISSUER}': key 2 (kid 'b') of the JWKS is not for verifying: its use is 'tls', not 'sig'; "
        "it is ignored"
    )


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"keys": 1}', b'{"keys": []}'])
def test_a_jwks_file_that_is_none_is_refused_at_start(text: bytes, saved: Callable[[bytes], str]) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': "):
        keys_of(jwks_url=saved(text))


# Which key


def key(kid: str | None, *algorithms: str) -> Key:
    return Key(kid, frozenset(algorithms), b"")


def test_the_kid_picks_the_key_and_the_key_decides_the_algorithm() -> None:
    a, b, unnamed = key("a", "RS256"), key("b", "ES256"), key(None, "RS256")
    keys = KeySet([a, b, unnamed])
    assert keys.candidates("a", "RS256") == (a,)
    assert keys.candidates("a", "PS256") == ()
    assert keys.candidates("b", "RS256") == ()
    assert keys.candidates("c", "RS256") == ()
    assert keys.candidates(None, "RS256") == (a, unnamed)


def test_keys_without_a_kid_serve_any_kid() -> None:
    keys = KeySet([key(None, "RS256")])
    assert len(keys.candidates("anything", "RS256")) == 1


def test_a_token_without_kid_is_tried_against_a_bounded_number_of_keys() -> None:
    keys = KeySet(key(str(number), "RS256") for number in range(50))
    assert len(keys.candidates(None, "RS256")) == MAX_TRIES
    assert len(keys.candidates("49", "RS256")) == 1


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_no_signature_however_odd_raises(algorithm: str) -> None:
    material = LONG.encode() if algorithm in HMAC else private_key(algorithm).public_key()
    odd: list[Any] = [b"", b"\0", b"\xff" * 64, b"\0" * 64, b"x" * 256, b"x" * 100_000, "text", None, 1]
    only = Key(None, frozenset({algorithm}), material)
    assert [only.verifies(algorithm, SIGNED, made) for made in odd] == [False] * len(odd)


def test_a_key_never_shows_its_material(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        (only,) = keys_of("a very secret text").current().candidates(None, "HS256")
    assert "secret text" not in repr(only) + caplog.text


def test_pyjwt_still_offers_the_algorithms_this_relies_on() -> None:
    assert set(ALGORITHMS) == set(jwt.algorithms.get_default_algorithms()) - {"none", "ES521"} | {"Ed25519", "Ed448"}
