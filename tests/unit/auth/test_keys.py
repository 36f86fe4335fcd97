"""Sources of keys: what they accept, what they refuse by name, and which key a token is checked against."""

import base64
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from helpers import Clock
from provider import certificate, jwks, pem, private_key, private_pem, signer

from gateway.auth.keys import FetchPolicy, Keys, KeySet, KeysRefused, build_keys, family, weak_secrets
from gateway.auth.keyset import ALGORITHMS, ASYMMETRIC, HMAC, MAX_TRIES, Key
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
    assert keys.unknown("x") is keys.current()


def test_without_algorithms_a_secret_is_for_hs256_alone() -> None:
    keys = keys_of(LONG)
    assert keys.algorithms == {"HS256"}
    assert keys.age() == 0
    assert keys.unknown("x") is keys.current()


def test_an_rsa_public_key_is_bound_to_the_allowed_algorithms(saved: Callable[[bytes], str]) -> None:
    key = private_key("RS256")
    keys = keys_of(public_key=saved(pem(key)), algorithms=["RS256"]).current()
    assert verifies(keys, "RS256", signature("RS256", key))
    assert not verifies(keys, "PS256", signature("PS256", key))


def test_a_key_refuses_an_algorithm_that_is_not_its_own() -> None:
    key = Key("a", frozenset({"RS256"}), private_key("RS256").public_key())
    assert not key.verifies("PS256", SIGNED, signature("PS256", private_key("RS256")))


@pytest.mark.parametrize("mixture", [("HS256", "RS256"), ("ES256", "HS512"), ("HS384", "EdDSA")])
def test_hmac_is_never_mixed_with_public_key_algorithms(mixture: tuple[str, ...]) -> None:
    with pytest.raises(KeysRefused, match="must not be mixed"):
        family(mixture)


@pytest.mark.parametrize("name", ["none", "None", "", "hs256", "HS256 ", "ES521", "RSA-OAEP", "HS"])
def test_what_is_no_signature_algorithm_is_refused_by_name(name: str) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': {name!r}"):
        keys_of(LONG, algorithms=[name])


def test_the_algorithms_of_public_keys_are_one_family() -> None:
    assert family(["RS256", "PS512", "ES256", "EdDSA"]) == "asymmetric"
    assert family(["HS256", "HS512"]) == "HMAC"


# Secrets


def test_every_secret_verifies_and_the_newest_is_tried_first() -> None:
    keys = keys_of(LONG, "the older one").current()
    newest, older = keys.candidates("any kid", "HS256")
    assert newest.verifies("HS256", SIGNED, signature("HS256", LONG.encode()))
    assert older.verifies("HS256", SIGNED, signature("HS256", b"the older one"))


DER = base64.b64decode(b"".join(pem(private_key("ES256")).splitlines()[1:-1]))
NO_SECRETS = {
    "PEM": pem(private_key("RS256")).decode(),
    "private PEM": private_pem(private_key("ES256")).decode(),
    "certificate": certificate()[0].decode(),
    "first line of a PEM": "-----BEGIN PUBLIC KEY-----",
    "last line of a PEM": "-----END PUBLIC KEY-----",
    "body of a PEM": base64.b64encode(DER).decode(),
    "body of a PEM in lines": base64.encodebytes(DER).decode(),
    "body of a PEM as base64url": base64.urlsafe_b64encode(DER).decode(),
    "SSH": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqVYqWSCFVg2PbLl9zRKjg0eZnKbWZAEZ3Q0qVqk0vO a@b",
    "JWK": '{"kty": "oct", "k": "c2VjcmV0"}',
    "JWKS": jwks(signer("RS256", "a")).decode(),
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


def test_weak_secrets_are_counted_and_verify_without_a_warning() -> None:
    assert weak_secrets(["discogs", "x" * 31, "x" * 32], ["HS256"]) == 2
    assert weak_secrets(["x" * 32, "x" * 64], ["HS256", "HS512"]) == 1
    assert weak_secrets(["x"], ["RS256"]) == 0
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
    "a private key": (GOOD + private_pem(private_key("ES256")), "key 2 of the public key file is private"),
    "a short RSA key": (pem(private_key("RS256", "short", 1024)), "key 1 .* has less than 2048 bits"),
    "a key of another type": (GOOD + pem(private_key("ES256")), "key 2 .* fits none of the allowed algorithms"),
    "garbage in armour": (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "key 1 .* cannot be read"),
    "no key": (b"nothing", "1 to 16 PEM public keys, not 0"),
    "too many keys": (GOOD * 17, "1 to 16 PEM public keys, not 17"),
}


@pytest.mark.parametrize(("text", "fault"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_public_key_file_is_refused_at_start_for(text: bytes, fault: str, saved: Callable[[bytes], str]) -> None:
    with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': .*{fault}"):
        keys_of(public_key=saved(text), algorithms=["RS256"])


@pytest.mark.parametrize("source", ["public_key", "jwks_url"])
def test_a_file_that_is_not_there_is_refused_at_start(source: str, tmp_path: Path) -> None:
    with pytest.raises(KeysRefused, match="cannot be read \\(FileNotFoundError\\)"):
        keys_of(**{source: str(tmp_path / "none")})


# Mixtures of sources


def test_each_issuer_has_one_kind_of_key(saved: Callable[[bytes], str]) -> None:
    path = saved(GOOD)
    for given, fault in [
        ({"public_key": path, "algorithms": ["HS256"]}, "only HMAC"),
        ({"jwks_url": "https://issuer.test/jwks", "algorithms": ["HS256"]}, "only HMAC"),
        ({"public_key": path}, "a secret and public keys"),
        ({"public_key": path, "jwks_url": path, "algorithms": ["RS256"]}, "set one of them"),
        ({"algorithms": ["RS256"]}, "need a public key file or a JWKS"),
    ]:
        with pytest.raises(KeysRefused, match=f"issuer '{ISSUER}': .*{fault}"):
            keys_of(LONG, **given)


def test_a_secret_beside_public_key_algorithms_verifies_nothing(saved: Callable[[bytes], str]) -> None:
    keys = keys_of(LONG, public_key=saved(GOOD), algorithms=["RS256"]).current()
    assert not verifies(keys, "HS256", signature("HS256", LONG.encode()))


# Files that change


def test_a_changed_file_is_a_new_key_set_and_the_removed_key_stops_verifying(saved: Callable[[bytes], str]) -> None:
    clock, old, new = Clock(), private_key("ES256", "old"), private_key("ES256", "new")
    keys = keys_of(public_key=saved(pem(old)), now=clock)
    before = keys.current()
    saved(pem(new))
    assert keys.current() is before  # looked at once a second
    clock.advance(1)
    assert verifies(keys.current(), "ES256", signature("ES256", new))
    assert not verifies(keys.current(), "ES256", signature("ES256", old))


def test_an_unchanged_file_stays_the_same_key_set(saved: Callable[[bytes], str]) -> None:
    clock, text = Clock(), jwks(signer("ES256", "a"))
    keys = keys_of(jwks_url=saved(text), now=clock)
    before = keys.current()
    saved(text)
    clock.advance(5)
    assert keys.current() is before
    assert keys.age() == 0


def test_a_broken_file_leaves_the_last_good_keys_until_the_limit(
    saved: Callable[[bytes], str], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = keys_of(public_key=saved(GOOD), now=clock, policy=FetchPolicy(limit=60))
    good = keys.current()
    saved(b"half a ke")
    for _ in range(60):
        clock.advance(1)
        assert keys.current() is good
    assert [record.message for record in caplog.records] == [
        f"issuer '{ISSUER}': no newer keys: the public key file must hold 1 to 16 PEM public keys, not 0"
    ]
    clock.advance(1)
    with pytest.raises(Problem, match="keys-unavailable"):
        keys.current()
    saved(GOOD)
    clock.advance(1)
    assert keys.current() is good
    assert caplog.messages[-1] == f"issuer '{ISSUER}': keys are renewed"


def test_a_clock_set_back_does_not_stop_the_looking(saved: Callable[[bytes], str]) -> None:
    clock = Clock()
    keys = keys_of(public_key=saved(GOOD), now=clock)
    saved(pem(private_key("ES256")))
    clock.advance(-500)
    assert verifies(keys.current(), "ES256", signature("ES256", private_key("ES256")))


def test_a_jwks_may_be_a_file_by_path_or_url(saved: Callable[[bytes], str], caplog: pytest.LogCaptureFixture) -> None:
    path = saved(jwks(signer("RS256", "a"), signer("ES256", "b").jwk(use="enc")))
    for place in (path, f"file://{path}"):
        assert keys_of(jwks_url=place).current().candidates("a", "RS256")
    assert caplog.messages[0] == f"issuer '{ISSUER}': key 2 (kid 'b') of the JWKS is not for verifying; it is ignored"


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
    assert (keys.knows("a"), keys.knows("c"), keys.knows(None)) == (True, False, True)


def test_keys_without_a_kid_serve_any_kid() -> None:
    keys = KeySet([key(None, "RS256")])
    assert len(keys.candidates("anything", "RS256")) == 1
    assert keys.knows("anything")


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "\x00", "", "A"])
def test_a_hostile_kid_is_only_ever_looked_up(kid: str) -> None:
    assert KeySet([key("a", "RS256")]).candidates(kid, "RS256") == ()


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
    assert set(ALGORITHMS) == set(jwt.algorithms.get_default_algorithms()) - {"none", "ES521"}
