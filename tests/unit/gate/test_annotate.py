"""The request and the token's claims join the upstream's JSON, and nothing else changes."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorder import Recorder, ok
from werkzeug.middleware.lint import LintMiddleware
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from gateway.gate.annotate import LIMIT_BYTES, Annotate, with_members
from gateway.http.problems import Problem
from gateway.http.wsgi import context
from gateway.proxy.exchange import Upstream

JSON = ("Content-Type", "application/json")
CLAIMS = {"sub": "1001", "iss": "https://issuer.test/"}


class Body:
    """A body that knows whether it was closed, and how often."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.pieces

    def close(self) -> None:
        self.closed += 1


class App:
    """An app that answers as told and has_cached the request."""

    def __init__(self, *pieces: bytes, status: str = "200 OK", fields: Iterable[tuple[str, str]] = (JSON,)) -> None:
        self.body = Body(pieces)
        self.status, self.fields = status, list(fields)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.environ = environ
        start_response(self.status, self.fields)
        return self.body


def ask(app: Any, path: str = "/info", method: str = "GET", paths: Iterable[str] = ("/info",), **environ: Any) -> Any:
    base = EnvironBuilder(path, method=method).get_environ()
    body, status, headers = run_wsgi_app(
        Annotate(app, paths), {**base, "gateway.claims": CLAIMS, **environ}, buffered=True
    )
    if hasattr(body, "close"):
        body.close()
    return status, headers, b"".join(body)


def annotated(app: Any, path: str = "/info", **options: Any) -> Any:
    _, headers, body = ask(app, path, **options)
    assert headers.getlist("Content-Length") == [str(len(body))]
    return json.loads(body)


REQUEST = {"method": "GET", "path": "/info", "params": {}}


def test_request_and_token_join_the_object() -> None:
    assert annotated(App(b'{"a": 1}')) == {"a": 1, "request": REQUEST, "token": CLAIMS}


def test_without_a_token_there_is_no_token() -> None:
    environ = EnvironBuilder("/info").get_environ()
    body = run_wsgi_app(Annotate(App(b"{}"), ["/info"]), environ, buffered=True)[0]
    assert json.loads(b"".join(body)) == {"request": REQUEST}


def test_params_are_decoded_and_the_path_is_not() -> None:
    answer = annotated(App(b"{}"), "/info?a=%20+&b=&c=1&c=%C3%A9", method="POST")
    assert answer["request"] == {"method": "POST", "path": "/info", "params": {"a": "  ", "b": "", "c": ["1", "é"]}}


def test_the_upstreams_own_members_stay() -> None:
    own = {"request": 1, "token": None}
    assert annotated(App(json.dumps(own).encode())) == own
    assert annotated(App(b'{"token": "mine"}')) == {"token": "mine", "request": REQUEST}


def test_the_upstreams_bytes_stay() -> None:
    text = b' {"n": 1.10, "n": 1e400, "big": 12345678901234567890.5, "s": "\\u00e9\xc3\xa9"\n} \n'
    body = ask(App(text))[2]
    start, _, end = text.rpartition(b"}")
    assert body.startswith(start + b', "request": ')
    assert body.endswith(b"}" + end)


@given(
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text())), st.sampled_from([None, 2])
)
def test_any_object_gains_its_members(own: dict[str, Any], indent: int | None) -> None:
    members = {"request": {"a": "}"}, "token": {"b": '"\ud800'}}
    data = with_members(json.dumps(own, indent=indent).encode(), members)
    assert data is not None
    assert json.loads(data) == {**members, **own}


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/problem+json", "application/vnd.a+json;v=1"],
)
def test_every_json_is_annotated(media_type: str) -> None:
    assert "request" in annotated(App(b"{}", fields=[("content-type", media_type)]))


def test_a_body_in_pieces_is_put_together() -> None:
    assert annotated(App(b'{"a"', b"", b": 1", b"}")) == {"a": 1, "request": REQUEST, "token": CLAIMS}


def test_what_speaks_of_the_old_bytes_is_dropped_and_all_else_stays() -> None:
    stale = [
        "ETag",
        "Last-Modified",
        "Accept-Ranges",
        "CDN-Cache-Control",
        "Akamai-Cache-Control",
        "X-LiteSpeed-Cache-Control",
        "Edge-Control",
        "Surrogate-Control",
        "X-Accel-Expires",
        "Content-MD5",
        "Digest",
        "Repr-Digest",
        "content-digest",
    ]
    kept = [JSON, ("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Date", "x")]
    headers = ask(App(b"{}", fields=[*kept, ("Content-Length", "2"), *((name, "x") for name in stale)]))[1]
    assert headers.to_wsgi_list()[:-1] == [*kept, ("Cache-Control", "private")]
    assert headers.to_wsgi_list()[-1][0] == "Content-Length"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([], "private"),
        (["public"], "private"),
        (["Public, max-age=60, s-maxage=600", "immutable"], "private, max-age=60"),
        (["private"], "private"),
        (['private="x-y", no-cache'], "private, no-cache"),
        (["no-store"], "no-store"),
        (["public, no-store, must-revalidate"], "no-store, must-revalidate"),
        (["no-cache, must-revalidate"], "private, no-cache, must-revalidate"),
        (['no-cache="a, public", max-age=5'], 'private, no-cache="a, public", max-age=5'),
        (['x="a, no-store, b"', "public"], 'private, x="a, no-store, b"'),
        (['x="a, no-transform, b"'], 'private, x="a, no-transform, b"'),
        (["must-understand, no-store, s-maxage=60, max-age=5"], "no-store, max-age=5"),
    ],
)
def test_an_answer_with_somebodys_claims_is_for_no_shared_cache(said: list[str], expected: str) -> None:
    headers = ask(App(b"{}", fields=[JSON, *(("Cache-Control", value) for value in said)]))[1]
    assert headers.getlist("Cache-Control") == [expected]


def test_head_has_the_fields_of_get_but_for_the_length() -> None:
    fields = [JSON, ("ETag", "x"), ("Last-Modified", "x"), ("Content-Length", "2"), ("X-Kept", "1")]
    of_get = ask(App(b"{}", fields=fields))[1].to_wsgi_list()
    app = App(b"", fields=fields)
    of_head = ask(app, method="HEAD", HTTP_ACCEPT_ENCODING="gzip")[1].to_wsgi_list()
    assert of_head == of_get[:-1]
    assert app.environ["HTTP_ACCEPT_ENCODING"] == "identity"
    untouched = [("Content-Type", "text/plain"), ("ETag", "x"), ("Content-Length", "2")]
    assert ask(App(b"", fields=untouched), method="HEAD")[1].to_wsgi_list() == untouched


def test_the_upstream_is_asked_for_identity_coding() -> None:
    app = App(b"{}")
    ask(app, HTTP_ACCEPT_ENCODING="gzip, br")
    assert app.environ["HTTP_ACCEPT_ENCODING"] == "identity"


UNTOUCHED = {
    "an array": App(b"[1]"),
    "text": App(b'{"a": 1}', fields=[("Content-Type", "text/plain")]),
    "no type": App(b'{"a": 1}', fields=[]),
    "lookalike": App(b'{"a": 1}', fields=[("Content-Type", "application/jsonx")]),
    "coded": App(b"\x1f\x8b", fields=[JSON, ("Content-Encoding", "gzip")]),
    "coded only by name": App(b'{"a": 1}', fields=[JSON, ("Content-Encoding", "br")]),
    "not JSON": App(b'{"a": '),
    "a byte order mark": App(b'\xef\xbb\xbf{"a": 1}'),
    "UTF-16": App('{"a": 1}'.encode("utf-16")),
    "deeply nested": App(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a huge number": App(b'{"a": ' + b"9" * 5000 + b"}"),
    "not to be transformed": App(b'{"a": 1}', fields=[JSON, ("Cache-Control", "public, No-Transform")]),
    "empty": App(b""),
    "not 200": App(b'{"a": 1}', status="201 Created"),
    "partial": App(b'{"a": 1}', status="206 Partial Content"),
    "a failure": App(b'{"a": 1}', status="500 Oops"),
    "too large": App(b'{"a": "', b"x" * LIMIT_BYTES, b'"}'),
    "too large by its length": App(b"{}", fields=[JSON, ("Content-Length", str(LIMIT_BYTES + 1))]),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_everything_else_passes_untouched(name: str) -> None:
    model = UNTOUCHED[name]
    pieces = list(model.body.pieces)
    fields = [*model.fields, ("ETag", "x")]
    app = App(*pieces, status=model.status, fields=fields)
    model.body.pieces = iter(pieces)
    status, headers, body = ask(app)
    assert (status, headers.to_wsgi_list(), body) == (model.status, fields, b"".join(pieces))
    assert app.body.closed >= 1


@pytest.mark.parametrize(
    ("path", "method"), [("/other", "HEAD"), ("/other", "GET"), ("/info/", "GET"), ("/%69nfo", "GET"), ("/INFO", "GET")]
)
def test_requests_that_are_not_meant_cost_nothing(path: str, method: str) -> None:
    app = App(b"{}")
    environ = EnvironBuilder(path, method=method).get_environ() | {"RAW_URI": path, "HTTP_ACCEPT_ENCODING": "gzip"}
    assert Annotate(app, ["/info"])(environ, lambda *_: None) is app.body
    assert app.environ["HTTP_ACCEPT_ENCODING"] == "gzip"


def test_a_path_may_be_a_prefix() -> None:
    for path in ("/api/", "/api/x/y"):
        assert "request" in annotated(App(b"{}"), path, paths=["/info", "/api/*"])
    assert ask(App(b"{}"), "/api", paths=["/info", "/api/*"])[2] == b"{}"
    assert "request" in annotated(App(b"{}"), "/anything", paths=["/*"])
    assert ask(App(b"{}"), "/info", paths=[])[2] == b"{}"


def test_the_body_is_closed_on_every_path() -> None:
    for app in (App(b"{}"), App(b"[]"), App(b"{}", status="404 Not Found")):
        ask(app)
        assert app.body.closed == 1


def test_a_body_that_is_cut_off_is_refused_as_a_whole() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"{"
        raise Problem("upstream-unreachable")

    app = App()
    app.body = Body(pieces())
    status, _, body = ask(app)
    assert (status, json.loads(body)["type"]) == ("502 Bad Gateway", "urn:jwt-gateway:upstream-unreachable")
    assert app.body.closed == 1


def pausing_environ() -> dict[str, Any]:
    environ = EnvironBuilder("/info").get_environ()
    context(environ).pause = lambda seconds, descriptors=None, *, body=False: None
    return environ


def test_while_the_app_pauses_it_pauses_too() -> None:
    app = App(b"", b'{"a"', b"", b": 1}")
    body = iter(Annotate(app, ["/info"])(pausing_environ(), lambda *_: None))
    assert (next(body), next(body)) == (b"", b"")
    assert json.loads(next(body)) == {"a": 1, "request": REQUEST}


def test_what_is_no_json_is_not_held_back_by_a_pause() -> None:
    app = App(b"", b"data: 1", fields=[("Content-Type", "text/event-stream")])
    started: list[Any] = []
    body = iter(Annotate(app, ["/info"])(pausing_environ(), lambda *head: started.append(head)))
    assert next(body) == b""
    assert started == [("200 OK", [("Content-Type", "text/event-stream")])]


def test_a_large_body_flows_on_as_it_comes() -> None:
    read = 0

    def pieces() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 65536

    app = App()
    app.body = Body(pieces())
    body = Annotate(app, ["/info"])(EnvironBuilder("/info").get_environ(), lambda *_: None)
    assert read == 17  # as many as the limit takes
    assert sum(map(len, body)) == 100 * 65536
    body.close()  # type: ignore[attr-defined]
    assert app.body.closed == 1


def test_an_app_may_start_its_response_late_or_write() -> None:
    def late(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [JSON])
        yield b"{}"

    def writing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [JSON])(b"{")
        return [b"}"]

    for app in (late, writing):
        assert annotated(app) == {"request": REQUEST, "token": CLAIMS}


def test_both_checkers_of_wsgi_agree() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = b"{}" if environ["PATH_INFO"] == "/info" else b"[]"
        start_response("200 OK", [JSON, ("Content-Length", "2")])
        return [body]

    client = Client(validator(Annotate(LintMiddleware(app), ["/*"])))
    for path in ("/info", "/list"):
        answer = client.get(path)
        assert (path == "/info") == ("request" in answer.json)
        answer.close()


def test_an_upstreams_json_is_annotated_over_the_wire() -> None:
    with Recorder(ok(b'{"a": 1}', JSON, ("ETag", "x"))) as upstream, closing(Upstream(upstream.url)) as app:
        assert annotated(app)["a"] == 1
        assert upstream.last.field("Accept-Encoding") == "identity"
