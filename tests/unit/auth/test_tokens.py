"""A token's text -> Token, or why not: every trick that is known against a verifier, and every edge of time."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from helpers import ABSENT, EXPIRES, ISSUER, NOW, SECRET, Clock, b64, fingerprint, mint, sign, signature_spellings
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.keyset import KeySet
from gateway.auth.tokens import Verifier
from gateway.http.problems import Problem

HEADER = {"alg": "HS256", "typ": "JWT"}
CLAIMS = {"iss": ISSUER, "exp": EXPIRES, "sub": "1001"}
RSA_ISSUER, RSA_KEY = "https://rsa.test/", rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "RS256": RSA_KEY,
    "PS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public_bytes(key: Any, encoding: str = "PEM") -> bytes:
    return key.public_key().public_bytes(
        getattr(serialization.Encoding, encoding), serialization.PublicFormat.SubjectPublicKeyInfo
    )


def issuer(name: str = ISSUER, *, audience: tuple[str, ...] = (), secrets: Any = (SECRET,), **source: Any) -> Issuer:
    values = {"secrets": secrets, "public_key": None, "jwks_url": None, "algorithms": ("HS256",), **source}
    keys = build_keys(issuer=name, **values)
    return Issuer(name, keys.algorithms, frozenset(audience), keys)


def hmac_verifier(clock: Clock | None = None, **options: Any) -> Verifier:
    return Verifier([issuer()], now=clock or Clock(), **options)


def refusal(verifier: Verifier, text: str) -> str:
    with pytest.raises(Problem) as found:
        verifier.verify(text)
    assert found.value.kind.status.startswith("401")
    assert found.value.kind.error == "invalid_token"
    return found.value.code


@pytest.fixture
def verifier(clock: Clock) -> Verifier:
    return hmac_verifier(clock)


@pytest.fixture
def public_key_verifier(tmp_path: Path) -> Callable[[str], Verifier]:
    """Return a maker of verifiers of one asymmetric algorithm."""

    def make(algorithm: str) -> Verifier:
        path = tmp_path / "public.pem"
        path.write_bytes(public_bytes(KEYS[algorithm]))
        return Verifier([issuer(secrets=(), public_key=str(path), algorithms=(algorithm,))], now=Clock())

    return make


# What passes.


def test_a_good_token_carries_its_claims_issuer_and_fingerprint(verifier: Verifier) -> None:
    text = mint(sub="1001", jti="a", scope="x y")
    token = verifier.verify(text)
    assert token.claims == {"iss": ISSUER, "exp": EXPIRES, "sub": "1001", "jti": "a", "scope": "x y"}
    assert (token.text, token.issuer.name, token.expires_at) == (text, ISSUER, EXPIRES)
    assert token.fingerprint == fingerprint(text)


def test_the_text_of_a_token_does_not_show_it(verifier: Verifier) -> None:
    text = mint(sub="somebody")
    assert text not in repr(verifier.verify(text))
    assert "somebody" not in repr(verifier.verify(text))


def test_of_claims_only_exp_and_iss_are_required(verifier: Verifier) -> None:
    assert verifier.verify(sign(HEADER, {"iss": ISSUER, "exp": EXPIRES})).claims.keys() == {"iss", "exp"}


@pytest.mark.parametrize("value", [7001, -1, 0, 1.5, None, True, "", [1], {"a": 1}, "\ud800", "\0"])
@pytest.mark.parametrize("name", ["sub", "jti", "sid"])
def test_a_claim_of_any_type_passes_where_the_standard_wants_text(verifier: Verifier, name: str, value: Any) -> None:
    assert verifier.verify(mint(**{name: value})).claims[name] == value


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "jwt", "JOSE", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_an_ordinary_typ_passes(verifier: Verifier, typ: Any) -> None:
    header = {"alg": "HS256"} if typ is ABSENT else {"alg": "HS256", "typ": typ}
    assert verifier.verify(sign(header, CLAIMS))


# The text.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        "..",
        "." * 8192,
        "." * 1_000_000,
        "a" * 1_000_000,
        "é.é.é",
        "٣.٣.٣",
        mint().replace(".", " "),
        mint() + ".",
        "." + mint(),
        mint() + "=",
        mint() + "==",
        mint().replace(".", "=.", 1),
        mint() + "\n",
        "\n" + mint(),
        mint() + "\0",
        mint() + "+",
        mint() + "/",
        mint() + "é",
        mint() + "\ud800",
        mint() + "%3D",
        mint().rpartition(".")[0],
        mint().rpartition(".")[0] + ".",
        mint().rpartition(".")[0] + ".A",
        "A." + mint().partition(".")[2],
        sign(HEADER, CLAIMS) + "." + mint(),
    ],
)
def test_text_that_is_not_three_base64url_parts_is_malformed(verifier: Verifier, text: str) -> None:
    assert refusal(verifier, text) == "malformed-token"


def test_the_size_limit_is_inclusive(clock: Clock) -> None:
    text = mint(sub="x" * 1000)
    assert hmac_verifier(clock, max_bytes=len(text)).verify(text)
    assert refusal(hmac_verifier(clock, max_bytes=len(text) - 1), text) == "malformed-token"


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"[]",
        b'"text"',
        b"1",
        b"null",
        b"{}}",
        b"{",
        b"\xff",
        b'{"a":"\xe9"}',
        b"\0",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b"[" * 5000,
        b'{"a":' * 1100,
        b'{"a":1' + b"0" * 4400 + b"}",
    ],
)
def test_a_part_that_is_not_a_json_object_is_malformed(verifier: Verifier, part: bytes) -> None:
    assert refusal(verifier, sign(HEADER, part)) == "malformed-token"
    assert refusal(verifier, sign(part, CLAIMS)) == "malformed-token"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_a_part_in_another_encoding_than_utf_8_is_malformed(verifier: Verifier, encoding: str) -> None:
    assert refusal(verifier, sign(HEADER, json.dumps(CLAIMS).encode(encoding))) == "malformed-token"
    assert refusal(verifier, sign(json.dumps(HEADER).encode(encoding), CLAIMS)) == "malformed-token"


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ('{"alg":"HS256","alg":"HS256"}', CLAIMS),
        ('{"alg":"none","alg":"HS256"}', CLAIMS),
        ('{"alg":"HS256","\\u0061lg":"none"}', CLAIMS),
        (HEADER, f'{{"iss":"{ISSUER}","exp":1,"exp":{EXPIRES}}}'),
        (HEADER, f'{{"iss":"evil","exp":{EXPIRES},"iss":"{ISSUER}"}}'),
        (HEADER, f'{{"iss":"{ISSUER}","exp":{EXPIRES},"sub":"a","sub":"a"}}'),
        (HEADER, f'{{"iss":"{ISSUER}","exp":{EXPIRES},"x":[{{"a":1,"a":2}}]}}'),
    ],
)
def test_duplicate_members_are_malformed(verifier: Verifier, header: Any, payload: Any) -> None:
    """Two readers may take different ones of them; ours and the upstream's must agree."""
    assert refusal(verifier, sign(header, payload)) == "malformed-token"


# The header.


@pytest.mark.parametrize(
    "algorithm",
    ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS256\0", "HS384", "RS256", "ES256", "EdDSA", "dir"],
)
def test_an_algorithm_that_is_not_allowed_is_refused(verifier: Verifier, algorithm: str) -> None:
    assert refusal(verifier, sign({"alg": algorithm}, CLAIMS)) == "algorithm-not-allowed"


@pytest.mark.parametrize("algorithm", [["HS256"], ["none", "HS256"], [], {"HS256": 1}, None, True, 256, 1.5])
def test_an_algorithm_that_is_no_text_is_refused(verifier: Verifier, algorithm: Any) -> None:
    assert refusal(verifier, sign({"alg": algorithm}, CLAIMS)) == "algorithm-not-allowed"
    assert refusal(verifier, sign({}, CLAIMS)) == "algorithm-not-allowed"


@pytest.mark.parametrize("signature", ["AA", "A" * 43, b64(b"\0" * 32)])
@pytest.mark.parametrize("algorithm", ["none", "None", "NONE"])
def test_algorithm_none_is_refused_with_any_signature(verifier: Verifier, algorithm: str, signature: str) -> None:
    head = sign({"alg": algorithm}, CLAIMS).rpartition(".")[0]
    assert refusal(verifier, f"{head}.{signature}") == "algorithm-not-allowed"
    assert refusal(verifier, f"{head}.") == "malformed-token"


@pytest.mark.parametrize(
    "extension",
    [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": "b64"},
        {"crit": None},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"b64": True},
        {"b64": False},
        {"b64": 0},
        {"zip": "DEF"},
        {"zip": None},
    ],
)
def test_an_extension_of_the_header_is_refused(verifier: Verifier, extension: dict[str, Any]) -> None:
    assert refusal(verifier, sign({**HEADER, **extension}, CLAIMS)) == "malformed-token"


@pytest.mark.parametrize(
    "typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "DPOP+JWT", "application/logout+jwt", None, 1, []]
)
def test_a_token_of_another_kind_is_refused(verifier: Verifier, typ: Any) -> None:
    assert refusal(verifier, sign({"alg": "HS256", "typ": typ}, CLAIMS)) == "malformed-token"


@pytest.mark.parametrize("kid", ["", "../../dev/null", "/dev/null", "' OR 1=1 --", "\0", "\ud800", "x" * 4000])
def test_a_kid_is_nothing_but_a_name(verifier: Verifier, kid: str) -> None:
    assert verifier.verify(sign({**HEADER, "kid": kid}, CLAIMS))
    assert refusal(verifier, sign({**HEADER, "kid": kid}, CLAIMS, "")) == "bad-signature"


@pytest.mark.parametrize("kid", [1, True, [], {}, ["a"]])
def test_a_kid_that_is_not_text_is_refused(verifier: Verifier, kid: Any) -> None:
    assert refusal(verifier, sign({**HEADER, "kid": kid}, CLAIMS)) == "malformed-token"


@pytest.mark.parametrize("name", ["jku", "x5u"])
def test_a_token_never_says_where_its_keys_are(public_key_verifier: Callable[[str], Verifier], name: str) -> None:
    foreign = rsa.generate_private_key(65537, 2048)
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(foreign.public_key()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        headers = {name: f"http://127.0.0.1:{listener.getsockname()[1]}/keys", "jwk": jwk}
        forged = jwt.encode(CLAIMS, foreign, "RS256", headers=headers)
        assert refusal(public_key_verifier("RS256"), forged) == "bad-signature"
        assert public_key_verifier("RS256").verify(jwt.encode(CLAIMS, RSA_KEY, "RS256", headers=headers))
        with pytest.raises(BlockingIOError):
            listener.accept()


# The signature.


def test_the_issuer_decides_the_keys_and_the_algorithms(tmp_path: Path) -> None:
    """With an HMAC issuer and an RSA issuer side by side, neither's keys or algorithms serve the other."""
    path = tmp_path / "public.pem"
    path.write_bytes(public_bytes(RSA_KEY))
    rsa_issuer = issuer(RSA_ISSUER, secrets=(), public_key=str(path), algorithms=("RS256",))
    verifier = Verifier([issuer(), rsa_issuer], now=Clock())
    of_rsa = {**CLAIMS, "iss": RSA_ISSUER}
    assert verifier.verify(mint()).issuer.name == ISSUER
    assert verifier.verify(jwt.encode(of_rsa, RSA_KEY, "RS256")).issuer.name == RSA_ISSUER
    assert refusal(verifier, jwt.encode(CLAIMS, RSA_KEY, "RS256")) == "algorithm-not-allowed"
    assert refusal(verifier, sign(HEADER, of_rsa)) == "algorithm-not-allowed"
    assert refusal(verifier, sign(HEADER, of_rsa, public_bytes(RSA_KEY))) == "algorithm-not-allowed"


@pytest.mark.parametrize("secret", ["", "discog", "Discogs", "discogs ", "discogs\n"])
def test_another_secret_does_not_verify(verifier: Verifier, secret: str) -> None:
    assert refusal(verifier, mint(secret)) == "bad-signature"


def test_a_signature_of_another_token_does_not_verify(verifier: Verifier) -> None:
    head, signature = mint(sub="1001").rpartition(".")[0], mint(sub="1002").rpartition(".")[2]
    assert refusal(verifier, f"{head}.{signature}") == "bad-signature"


@pytest.mark.parametrize("length", [1, 31, 33, 64, 4000])
def test_a_signature_of_another_length_does_not_verify(verifier: Verifier, length: int) -> None:
    assert refusal(verifier, mint().rpartition(".")[0] + "." + b64(b"x" * length)) == "bad-signature"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_spellings_of_a_signature_share_the_fingerprint(
    public_key_verifier: Callable[[str], Verifier], algorithm: str
) -> None:
    text = jwt.encode(CLAIMS, KEYS[algorithm], algorithm)
    verifier, spellings = public_key_verifier(algorithm), signature_spellings(text)
    assert len(spellings) == 15
    assert {verifier.verify(spelling).fingerprint for spelling in spellings} == {fingerprint(text)}


# The claims.


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (ABSENT, "missing-claim"),
        (None, "missing-claim"),
        (str(EXPIRES), "invalid-claim"),
        (f" {EXPIRES} ", "invalid-claim"),
        ("9_999_999_999", "invalid-claim"),
        ("٩٩٩٩٩٩٩٩٩٩", "invalid-claim"),
        ("+9999999999", "invalid-claim"),
        ("", "invalid-claim"),
        (True, "invalid-claim"),
        (False, "invalid-claim"),
        ([], "invalid-claim"),
        ([EXPIRES], "invalid-claim"),
        ({}, "invalid-claim"),
        (0, "token-expired"),
        (-1, "token-expired"),
        (-(2**63), "token-expired"),
        (-(10**400), "token-expired"),
        (-1e308, "token-expired"),
    ],
)
def test_an_exp_that_is_not_a_number_to_come_is_refused(verifier: Verifier, value: Any, code: str) -> None:
    assert refusal(verifier, mint(exp=value)) == code


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_an_exp_that_is_no_finite_number_is_refused(verifier: Verifier, value: str) -> None:
    text = sign(HEADER, f'{{"iss":"{ISSUER}","exp":{value}}}')
    assert refusal(verifier, text) in ("malformed-token", "invalid-claim")


@pytest.mark.parametrize("value", [EXPIRES + 0.5, 2**63, 10**18, 10**400, 1e308, 253_402_300_800])
def test_an_absurd_exp_passes(verifier: Verifier, value: Any) -> None:
    assert verifier.verify(mint(exp=value))


@pytest.mark.parametrize("value", ["1", "", True, False, None, [], {}])
@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_time_that_is_not_a_number_is_refused(verifier: Verifier, name: str, value: Any) -> None:
    assert refusal(verifier, mint(**{name: value})) == "invalid-claim"


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize("value", [2**63, 10**400, 1e308])
def test_a_time_far_ahead_is_not_yet_valid(verifier: Verifier, name: str, value: Any) -> None:
    assert refusal(verifier, mint(**{name: value})) == "token-not-yet-valid"


@pytest.mark.parametrize("value", [0, -1, -(10**400), -1e308, NOW - 0.5])
@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_time_long_past_passes(verifier: Verifier, name: str, value: Any) -> None:
    assert verifier.verify(mint(**{name: value}))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (ABSENT, "missing-claim"),
        (None, "missing-claim"),
        ("", "wrong-issuer"),
        ("htt", "wrong-issuer"),
        (ISSUER[:-1], "wrong-issuer"),
        (ISSUER + "/", "wrong-issuer"),
        (ISSUER.upper(), "wrong-issuer"),
        (" " + ISSUER, "wrong-issuer"),
        (ISSUER + "\0", "wrong-issuer"),
        ([ISSUER], "wrong-issuer"),
        ({"iss": ISSUER}, "wrong-issuer"),
        (1, "wrong-issuer"),
        (True, "wrong-issuer"),
        ([], "wrong-issuer"),
    ],
)
def test_an_iss_that_is_not_exactly_the_issuer_is_refused(verifier: Verifier, value: Any, code: str) -> None:
    assert refusal(verifier, mint(iss=value)) == code


@pytest.mark.parametrize("value", [ABSENT, "api", ["api"], ["a", "b"], [], "", None, 1, {}])
def test_aud_is_checked_only_where_an_audience_is_set(verifier: Verifier, value: Any) -> None:
    assert verifier.verify(mint(aud=value))


@pytest.mark.parametrize("value", ["api", ["api"], ["other", "api"], ["api", "api"], "second"])
def test_a_token_for_the_audience_passes(value: Any) -> None:
    assert Verifier([issuer(audience=("api", "second"))], now=Clock()).verify(mint(aud=value))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (ABSENT, "missing-claim"),
        (None, "missing-claim"),
        ([], "wrong-audience"),
        ("", "wrong-audience"),
        ("ap", "wrong-audience"),
        ("apis", "wrong-audience"),
        ("API", "wrong-audience"),
        ("api second", "wrong-audience"),
        (["other"], "wrong-audience"),
        ([["api"]], "wrong-audience"),
        (["api", 1], "wrong-audience"),
        ([None], "wrong-audience"),
        ({"api": 1}, "wrong-audience"),
        (1, "wrong-audience"),
        (True, "wrong-audience"),
    ],
)
def test_a_token_for_another_audience_is_refused(value: Any, code: str) -> None:
    assert refusal(Verifier([issuer(audience=("api", "second"))], now=Clock()), mint(aud=value)) == code


def test_what_is_wrong_with_the_claims_of_a_forged_token_is_not_told(verifier: Verifier) -> None:
    assert refusal(verifier, mint("wrong", exp=1)) == "bad-signature"


# Time.


@pytest.mark.parametrize("leeway", [0, 30])
def test_a_token_expires_at_its_exp_and_not_before(clock: Clock, leeway: int) -> None:
    verifier, text = hmac_verifier(clock, leeway=leeway), mint(exp=int(NOW) + 100)
    clock.seconds = NOW + 100 + leeway - 0.001
    assert verifier.verify(text)
    clock.seconds = NOW + 100 + leeway
    assert refusal(verifier, text) == "token-expired"
    clock.advance(0.001)
    assert refusal(verifier, text) == "token-expired"


@pytest.mark.parametrize("leeway", [0, 30])
@pytest.mark.parametrize("name", ["nbf", "iat"])
def test_a_token_is_valid_from_its_nbf_and_iat_on(clock: Clock, name: str, leeway: int) -> None:
    verifier, text = hmac_verifier(clock, leeway=leeway), mint(**{name: int(NOW) + 100})
    clock.seconds = NOW + 100 - leeway - 0.001
    assert refusal(verifier, text) == "token-not-yet-valid"
    clock.seconds = NOW + 100 - leeway
    assert verifier.verify(text)


def test_with_a_greatest_age_a_token_must_say_when_it_was_issued(clock: Clock) -> None:
    verifier, text = hmac_verifier(clock, max_age=60, leeway=5), mint(iat=int(NOW))
    assert refusal(verifier, mint()) == "missing-claim"
    clock.seconds = NOW + 64.999
    assert verifier.verify(text)
    clock.seconds = NOW + 65
    assert refusal(verifier, text) == "token-expired"


def test_a_clock_that_steps_back_and_forth_is_followed(verifier: Verifier, clock: Clock) -> None:
    text = mint(nbf=int(NOW), exp=int(NOW) + 100)
    assert verifier.verify(text)
    clock.seconds = NOW + 100
    assert refusal(verifier, text) == "token-expired"
    clock.seconds = NOW - 1
    assert refusal(verifier, text) == "token-not-yet-valid"
    clock.seconds = NOW + 50
    assert verifier.verify(text)


def test_a_genuine_token_is_told_from_a_valid_one(verifier: Verifier) -> None:
    expired = verifier.genuine(mint(exp=1))
    assert verifier.has_expired(expired)
    assert not verifier.has_expired(verifier.genuine(mint(nbf=int(NOW) + 100)))


# The cache.


def test_a_token_is_verified_once_and_cached(verifier: Verifier) -> None:
    assert verifier.verify(mint()) is verifier.verify(mint())


def test_no_more_tokens_are_cached_than_the_limit(clock: Clock) -> None:
    verifier = hmac_verifier(clock, cache_size=5)
    first = verifier.verify(mint(sub=0))
    for number in range(20):
        verifier.verify(mint(sub=number))
        assert len(verifier._cached) <= 5
    assert verifier.verify(mint(sub=0)) is not first


def test_long_tokens_take_the_room_of_several(clock: Clock) -> None:
    """16,384 tokens with a hundred groups each would take half a gigabyte of each worker."""
    verifier = hmac_verifier(clock, cache_size=16)
    texts = [mint(sub=number, groups="x" * 5000) for number in range(16)]
    for text in texts:
        verifier.verify(text)
    assert 3 <= sum(map(verifier.has_cached, texts)) <= 16 * 2048 / len(texts[0])
    assert verifier.has_cached(texts[-1])


def test_a_refused_token_is_not_cached(verifier: Verifier) -> None:
    assert refusal(verifier, mint("wrong")) == "bad-signature"
    assert not verifier._cached


class ChangingKeys:
    """A source whose keys a test replaces."""

    def __init__(self, keys: KeySet) -> None:
        self.algorithms = frozenset(("HS256",))
        self.keys = keys

    def current(self) -> KeySet:
        return self.keys

    renew = ask = current

    def age(self) -> float:
        return 0.0


def test_a_cached_token_goes_with_the_key_that_verified_it(clock: Clock) -> None:
    old, new = (issuer(secrets=(secret,)).keys.current() for secret in ("old", "new"))
    keys = ChangingKeys(old)
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)], now=clock)
    assert verifier.verify(mint("old"))
    keys.keys = new
    assert refusal(verifier, mint("old")) == "bad-signature"
    assert verifier.verify(mint("new"))
    keys.keys = old
    assert refusal(verifier, mint("new")) == "bad-signature"


@pytest.mark.parametrize("many", [1, 2, 3, 5])
def test_tokens_that_have_room_are_verified_once_under_each_of_their_issuers_keys(clock: Clock, many: int) -> None:
    keys = ChangingKeys(issuer().keys.current())
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)], cache_size=5, now=clock)
    texts = [mint(sub=number) for number in range(many)]
    for _ in range(12):  # some providers' key sets differ each time they are fetched
        keys.keys = issuer().keys.current()
        verified = [verifier.verify(text) for text in texts]
        assert [verifier.verify(text) for text in texts] == verified


def test_keys_that_are_unavailable_refuse_cached_tokens_too(clock: Clock) -> None:
    keys = ChangingKeys(issuer().keys.current())
    verifier = Verifier([Issuer(ISSUER, keys.algorithms, frozenset(), keys)], now=clock)
    assert verifier.verify(mint())

    def gone() -> KeySet:
        raise Problem("keys-unavailable")

    keys.current = gone  # type: ignore[method-assign]
    with pytest.raises(Problem) as refused:
        verifier.verify(mint())
    assert refused.value.code == "keys-unavailable"


def test_threads_that_crowd_each_other_out_all_get_their_own_token(clock: Clock) -> None:
    verifier, wrong = hmac_verifier(clock, cache_size=3), []

    def verify_many(thread: int) -> None:
        for number in range(100):
            sub = f"{thread}-{number % 7}"
            if verifier.verify(mint(sub=sub)).claims["sub"] != sub:
                wrong.append(sub)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(verify_many, range(8)))
    assert not wrong
    assert len(verifier._cached) <= 3 + 8


# Whatever else there may be.

TEXT = st.binary(max_size=20).map(lambda raw: raw.decode("latin-1"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "iss", "exp", "nbf", "iat", "aud", "sub"]) | TEXT


@given(
    header=st.dictionaries(NAMES, JSON, max_size=5),
    payload=st.dictionaries(NAMES, JSON, max_size=5),
    complete=st.booleans(),
)
def test_any_signed_json_is_a_token_or_a_refusal(
    header: dict[str, Any], payload: dict[str, Any], complete: bool
) -> None:
    if complete:
        header, payload = {**header, "alg": "HS256"}, {"iss": ISSUER, "exp": EXPIRES, **payload}
    try:
        token = hmac_verifier().verify(sign(header, payload))
    except Problem as problem:
        found = problem.kind.error
    else:
        found = token.claims["iss"]
    assert found in ("invalid_token", ISSUER)


@given(TEXT | st.text("ab.-_=+/%", max_size=300))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(Problem):
        hmac_verifier().verify(text)


@given(st.data())
def test_one_letter_changed_is_another_spelling_or_a_refusal(data: st.DataObject) -> None:
    text = mint(sub="1001")
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("AZaz09-_=.+ \n"))
    changed = text[:place] + letter + text[place + 1 :]
    try:
        token = hmac_verifier().verify(changed)
    except Problem:
        return
    assert token.fingerprint == fingerprint(text)
