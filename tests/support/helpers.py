"""What the tests of the gate share: tokens made byte by byte, a clock to move, and the shape of answers."""

import base64
import hashlib
import hmac
import json
from collections.abc import Generator
from typing import Any, TypeVar

from gateway.http.problems import KINDS

ISSUER = "https://www.discogs.com/"
SECRET = "discogs"
EXPIRES = 2_053_218_952  # the assignment's
NOW = 1_800_000_000.0  # where every test's clock starts
T = TypeVar("T")
ABSENT = object()  # as a claim's value: leave the claim out


def finish(steps: Generator[bytes, None, T]) -> T:
    """Return what a stage returns that may pause, where it need not."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value


class Clock:
    """Epoch seconds that only a test moves."""

    def __init__(self, seconds: float = NOW) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def b64(data: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def as_bytes(part: Any) -> bytes:
    """Return bytes as they are, text as UTF-8 and anything else as JSON."""
    if isinstance(part, bytes):
        return part
    return (part if isinstance(part, str) else json.dumps(part)).encode()


def sign(header: Any, payload: Any, secret: str | bytes = SECRET, digest: str = "sha256") -> str:
    """Return header and payload, whatever they are, signed with HMAC."""
    signing_input = f"{b64(as_bytes(header))}.{b64(as_bytes(payload))}"
    return f"{signing_input}.{b64(hmac.digest(as_bytes(secret), signing_input.encode(), digest))}"


def mint(_secret: str = SECRET, _header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Return a good HS256 token with these claims; ABSENT leaves one out."""
    members = {"iss": ISSUER, "exp": EXPIRES, **claims}
    payload = {name: value for name, value in members.items() if value is not ABSENT}
    return sign({"alg": "HS256", "typ": "JWT", **(_header or {})}, payload, _secret)


def fingerprint(token: str) -> str:
    """Return the SHA-256 of the signing input."""
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


def signature_spellings(token: str) -> set[str]:
    """Return every text that differs from the token in its signature's unused last bits alone."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    head, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    texts = (signature[:-1] + letter for letter in alphabet)
    return {f"{head}.{text}" for text in texts if base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) == raw} - {
        token
    }


class Api:
    """A client of the gate that speaks of tokens; answers are werkzeug's, read to their end and closed."""

    def __init__(self, app: Any) -> None:
        from werkzeug.test import Client

        self._client = Client(app)

    def __call__(self, method: str, path: str, token: str | None = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._client.open(path, method=method, headers=headers, buffered=True, **options)


def assert_refused(answer: Any, code: str) -> None:
    """Assert that the answer is the refusal of that code, in all its parts (RFC 9457, RFC 6750)."""
    if not answer.data:
        raise AssertionError(f"an answer {answer.status} without a body")
    problem = json.loads(answer.data)
    assert problem["type"] == f"urn:jwt-gateway:{code}", problem
    assert problem["success"] is False
    assert problem["title"] == KINDS[code].title
    assert problem["detail"]
    assert answer.status_code == problem["status"] == int(KINDS[code].status[:3])
    assert answer.mimetype == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)
    assert ("WWW-Authenticate" in answer.headers) == (
        answer.status_code in (401, 403) or code == "malformed-credentials"
    )
