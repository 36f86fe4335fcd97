"""Coverage-guided fuzzing of the token parser: `make fuzz`.

Whatever the bytes, the verifier returns a token or raises `Problem`: any other exception ends the run with the
input that caused it. `tests/test_corpus.py` replays the corpus in every run of the tests.
"""

import base64
import contextlib
import hmac
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["gateway.auth", "gateway.strict_json"]):
    from gateway.auth.bearer import bearer_token
    from gateway.auth.keys import build_keys
    from gateway.auth.tokens import Issuer, Verifier
    from gateway.problems import Problem

SECRET = "discogs"
KEYS = build_keys(secrets=[SECRET], public_key=None, jwks_url=None, algorithms=["HS256"], issuer="i")
VERIFIER = Verifier([Issuer("https://www.discogs.com/", KEYS.algorithms, frozenset(), KEYS)], remembered=16)


def signed(data: bytes) -> str:
    """Return a token whose header and payload are the data's two lines, rightly signed: so the claims are reached."""
    header, _, payload = data.partition(b"\n")
    signing_input = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload))
    signature = hmac.digest(SECRET.encode(), signing_input, "sha256")
    return (signing_input + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def attempt(data: bytes) -> None:
    """Try the data as an Authorization field, and as header and payload of a signed token."""
    for field in (data.decode("latin-1"), "Bearer " + signed(data)):
        with contextlib.suppress(Problem):
            VERIFIER.verify(bearer_token(field))


if __name__ == "__main__":
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()
