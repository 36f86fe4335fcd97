"""What is fuzzed: for each reader of foreign bytes a function that takes any, and fails where a promise is broken.

`make fuzz` runs them guided by coverage, `tests/wire/test_corpus.py` over the kept corpus in every run of the tests.
"""

from __future__ import annotations

import base64
import hmac
import json
from contextlib import suppress
from io import BytesIO
from typing import Any

from helpers import finish

from gateway.auth.bearer import bearer_token
from gateway.auth.issuers import Issuer
from gateway.auth.keys import build_keys
from gateway.auth.tokens import Verifier
from gateway.blacklist.body import body_members
from gateway.blacklist.stores.base import Entry
from gateway.blacklist.target import read_target
from gateway.cli.options import faults
from gateway.config.settings import Settings
from gateway.gate.annotate import with_members
from gateway.http.grammar import is_token
from gateway.http.problems import Problem
from gateway.http.target import request_target
from gateway.http.wsgi import Context
from gateway.proxy.answer import final_head, parse
from gateway.proxy.fields import RequestFields, response_fields
from gateway.server.head import HeadReader, Room
from gateway.server.request import Request, base_environ, read_request

ISSUER, SECRET = "https://www.discogs.com/", "discogs"
KEYS = build_keys(secrets=[SECRET], public_key=None, jwks_url=None, algorithms=["HS256"], issuer="i")
VERIFIER = Verifier([Issuer(ISSUER, KEYS.algorithms, frozenset(), KEYS)], cache_size=16)
CONNECTION = base_environ(("127.0.0.1", 80), ("127.0.0.1", 1024))
FIELDS = RequestFields("api", preserve_host=True, trusted_proxies=1, own=["X-Token-Claims"])


def token(data: bytes) -> str:
    """Verify the data as an Authorization field, and as header and payload (two lines) of a signed token."""
    outcome = ""
    for field in (data.decode("latin-1"), "Bearer " + _signed(data)):
        try:
            VERIFIER.verify(bearer_token(field))
            outcome = "read"
        except Problem as problem:
            outcome = problem.code
    return outcome


def _signed(data: bytes) -> str:
    header, _, payload = data.partition(b"\n")
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    parts.append(base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), b".".join(parts), "sha256")).rstrip(b"="))
    return b".".join(parts).decode()


def body(data: bytes) -> str:
    """Read the data (its media type, a line's end, the body) as a request to /blacklist would be."""
    media_type, _, content = data.partition(b"\n")
    environ = {
        "CONTENT_TYPE": media_type.decode("latin-1"),
        "CONTENT_LENGTH": str(len(content)),
        "wsgi.input": BytesIO(content),
    }
    try:
        members = finish(body_members(environ))
        target = read_target(members, ("jti", "sub", "sid"))
    except Problem as problem:
        return problem.code
    named = members.keys() & {"token", "fingerprint", "jti", "sub", "sid"}
    assert bool(named) != target.is_own  # so nothing is taken for the caller
    name, values = target.claim or ("", ())
    cut_off = None if target.cut_off == "by claim" else target.cut_off
    for value in values:
        entry = Entry("claim:", "issuer", 1, target.until, (name, value), cut_off, reason=target.reason)
        assert Entry.from_json("claim:", json.loads(json.dumps(entry.to_json(), allow_nan=False))) == entry
    return "read"


def head(data: bytes) -> str:
    """Receive the data as a connection would: in one piece and byte by byte it means the same requests."""
    whole = _received(data, len(data))
    assert whole == _received(data, 1)
    return "read" if whole and whole[-1] != ("refused",) else "refused"


def _received(data: bytes, size: int) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    reader, request, content = HeadReader(Room()), None, b""
    for start in range(0, len(data), size or 1):
        part = data[start : start + size]
        while part:
            try:
                if request is None:
                    head, used = reader.feed(part)
                    request = None if head is None else read_request(head)
                    content = b""
                else:
                    assert request.framing is not None
                    more, used = request.framing.feed(part, 65536)
                    content += more
            except Problem:
                return [*found, ("refused",)]
            assert used > 0, "a connection would turn for ever"
            part = part[used:]
            if request is not None and (request.problem or request.framing is None or request.framing.ended):
                found.append(_outcome(request, content))
                if request.closes:
                    return found
                request = None
    return found


def _outcome(request: Request, content: bytes) -> tuple[Any, ...]:
    if request.problem:
        return ("refused",)
    environ = {**CONNECTION, **request.fields, **request.line}
    with suppress(Problem):
        target = request_target(environ)
        fields = FIELDS.make(environ)
        assert not set("\r\n\0 ") & set(target.raw)
        assert not set("\r\n\0") & set("".join([*fields, *fields.values()]))
    return request.line, request.fields, content


def answer(data: bytes) -> str:
    """Read the data as the upstream's answer: its head as libcurl gives it, its body as one to be annotated."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    try:
        found = final_head(lines, Context())
        if not found:
            return "unfinished"
        content = b"".join(lines[len(found) + 1 :])[:-1]
        status, reason, fields = parse(found)
        sent = response_fields(list(fields), status)
    except Problem:
        return "refused"
    assert 200 <= status <= 999
    assert all(is_token(name) for name, _ in sent)
    assert not set("\r\n\0") & set(reason + "".join(value for _, value in sent))
    assert not {"connection", "transfer-encoding"} & {name.lower() for name, _ in sent}
    annotated = with_members(content, {"request": {}, "token": {"sub": "1"}})
    if annotated is not None:
        assert json.loads(annotated).keys() == json.loads(content).keys() | {"request", "token"}
    return "read"


def settings(data: bytes) -> str:
    """Read the data (lines of name=value) as settings: they are settings, or there is a page of faults."""
    pairs = [line.partition("=")[::2] for line in data.decode(errors="surrogateescape").split("\n")]
    given: dict[str, Any] = {name: value for name, value in pairs if name in Settings.model_fields}
    try:
        Settings(_env_file=None, **given)
    except ValueError as error:
        told = list(faults(error))
        assert told
        "\n".join(told).encode()
        return "refused"
    return "read"


TARGETS = {target.__name__: target for target in (token, body, head, answer, settings)}
