"""The kept corpus of the token parser's fuzzing, replayed: each input is a token or a refusal, nothing else."""

import base64
import hmac
from pathlib import Path

import pytest
from helpers import SECRET, Clock

from gateway.auth.bearer import bearer_token
from gateway.auth.keys import build_keys
from gateway.auth.tokens import Issuer, Verifier
from gateway.problems import Problem

CORPUS = sorted((Path(__file__).parent / "fuzz" / "corpus").iterdir())


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    keys = build_keys(secrets=[SECRET], public_key=None, jwks_url=None, algorithms=["HS256"], issuer="i")
    return Verifier([Issuer("https://www.discogs.com/", keys.algorithms, frozenset(), keys)], now=Clock())


def signed(data: bytes) -> str:
    header, _, payload = data.partition(b"\n")
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    parts.append(base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), b".".join(parts), "sha256")).rstrip(b"="))
    return b".".join(parts).decode()


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.name)
def test_an_input_of_the_corpus_is_a_token_or_a_refusal(verifier: Verifier, file: Path) -> None:
    data = file.read_bytes()
    outcomes = []
    for field in (data.decode("latin-1"), "Bearer " + signed(data)):
        try:
            outcomes.append(verifier.verify(bearer_token(field)).claims["iss"])
        except Problem as problem:
            outcomes.append(problem.code)
    admitted = outcomes[1] == "https://www.discogs.com/"
    assert admitted == (file.name in ("good", "surrogate", "kid", "exp-huge")), outcomes
