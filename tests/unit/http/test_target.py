"""The request target: what is decided on is what is sent on, byte for byte, or the request is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from gateway.http.problems import Problem
from gateway.http.target import is_decision, is_own, request_target


def environ(raw: str | None, method: str = "GET", host: str = "api.test", **more: Any) -> dict[str, Any]:
    given = {} if raw is None else {"REQUEST_URI": raw}
    return {"REQUEST_METHOD": method, "HTTP_HOST": host, **given, **more}


@pytest.mark.parametrize(
    "raw",
    [
        "/",
        "/?",
        "/info",
        "/info?a=1?b=2",
        "/a//b",
        "/a/../b",
        "/a/./b",
        "/%2e%2e/a",
        "/a%2Fb",
        "/a%",
        "/%zz",
        "/a;b=c",
        "/\\evil.test",
        "/a@b:c",
        '/[1]|{}^`"<>',
        "/%00",
        "/\xe9",
        "/?a= b".replace(" ", "%20"),
    ],
)
def test_a_target_stays_as_it_is(raw: str) -> None:
    target = request_target(environ(raw))
    assert target.raw == raw
    assert (target.path, target.query) == (raw.partition("?")[0], raw.partition("?")[2])


@pytest.mark.parametrize(
    "raw",
    [
        "//evil.test/x",
        "//",
        "///",
        "@evil.test/",
        "evil.test",
        "info",
        "?a",
        "/secret#/health",
        "/#",
        "/a b",
        "/a\tb",
        "/a\r\nX: y",
        "/a\0",
        "/a\x7f",
        "\\x",
        "*",
        "ftp://api.test/",
        "http:///",
        "http:api.test",
        "http://evil.test/x",
        "http://api.test.evil.test/x",
        "http://api.test@evil.test/",
        "http://evil.test@api.test/",
        "http://api.test:81/",
        "http://api.test//evil.test/",
        "http://api.test/#x",
        "http://api.test\\evil.test/",
        "file:///etc/passwd",
    ],
)
def test_a_target_that_could_lead_elsewhere_is_refused(raw: str) -> None:
    with pytest.raises(Problem) as refused:
        request_target(environ(raw))
    assert refused.value.code == "bad-request-target"


@pytest.mark.parametrize(
    ("raw", "origin"),
    [
        ("http://api.test/info?a=1", "/info?a=1"),
        ("HTTP://API.TEST/info", "/info"),
        ("https://api.test", "/"),
        ("http://api.test?a=1", "/?a=1"),
        ("http://api.test/%2e%2e/a", "/%2e%2e/a"),
        ("http://api.test:/a", "/a"),
    ],
)
def test_an_absolute_uri_of_the_host_itself_is_read_as_its_path(raw: str, origin: str) -> None:
    assert request_target(environ(raw)).raw == origin


@pytest.mark.parametrize("raw", ["http://api.test/open", None])
@pytest.mark.parametrize("script", ["", "http:"])
def test_an_absolute_uri_that_the_server_did_not_read_is_refused(raw: str | None, script: str) -> None:
    """wsgiref gives it as the path, and what mounts an app has it see `//api.test/open`."""
    parts = {"SCRIPT_NAME": script, "PATH_INFO": "http://api.test/open".removeprefix(script)}
    with pytest.raises(Problem) as refused:
        request_target(environ(raw, **parts))
    assert refused.value.code == "bad-request-target"
    assert request_target(environ("http://api.test/open", PATH_INFO="/open")).raw == "/open"


def test_options_for_a_whole_host_is_a_star() -> None:
    """RFC 9112 section 3.2.4."""
    assert request_target({**environ("http://api.test"), "REQUEST_METHOD": "OPTIONS"}).raw == "*"


def test_a_star_goes_with_options_alone() -> None:
    assert request_target(environ("*", "OPTIONS")).raw == "*"
    with pytest.raises(Problem):
        request_target(environ("*", "GET"))


@pytest.mark.parametrize("raw", ["api.test:443", "evil.test:443", "[::1]:443", "//x", "http://evil.test/"])
def test_connect_is_not_supported_wherever_it_leads(raw: str) -> None:
    with pytest.raises(Problem) as refused:
        request_target(environ(raw, "CONNECT"))
    assert refused.value.code == "upgrade-unsupported"


def test_the_servers_raw_target_comes_before_what_it_decoded() -> None:
    decoded = {"PATH_INFO": "/open", "QUERY_STRING": "", "SCRIPT_NAME": ""}
    assert request_target(environ("/sec%72et", **decoded)).path == "/sec%72et"
    assert request_target(environ(None, RAW_URI="/raw", **decoded)).path == "/raw"


def test_a_query_that_a_test_client_leaves_out_of_the_raw_target_is_read() -> None:
    builder = EnvironBuilder("/blacklist", query_string={"sub": "1001"})
    assert request_target(builder.get_environ()).raw == "/blacklist?sub=1001"
    assert request_target(environ("/a?b", QUERY_STRING="c")).raw == "/a?b"


def test_without_a_raw_target_one_is_made_from_the_parts() -> None:
    parts = {"SCRIPT_NAME": "/app", "PATH_INFO": "/a b/\xc3\xa9?#", "QUERY_STRING": "x=%20"}
    assert request_target(environ(None, **parts)).raw == "/app/a%20b/%C3%A9%3F%23?x=%20"
    assert request_target(environ(None)).raw == "/"


def test_a_target_is_read_once() -> None:
    """Whatever a stage within writes into the environ, the decision stands on what came."""
    given = environ("/info")
    first = request_target(given)
    given["REQUEST_URI"] = "/other"
    assert request_target(given) is first


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a", {"a": ""}),
        ("a=&b=", {"a": "", "b": ""}),
        ("a=1&a=2&a=3", {"a": ["1", "2", "3"]}),
        ("a=1+2%203", {"a": "1 2 3"}),
        ("%61=%C3%A9", {"a": "é"}),
        ("a=\xc3\xa9", {"a": "é"}),
        ("a=%ff", {"a": "\ufffd"}),
        ("a=%zz", {"a": "%zz"}),
        ("a;b=1", {"a;b": "1"}),
        ("&&", {}),
        ("=1", {"": "1"}),
    ],
)
def test_params_are_the_decoded_query(query: str, params: Any) -> None:
    assert request_target(environ(f"/?{query}")).params() == params


@pytest.mark.parametrize("path", ["/blacklist", "/blacklist/", "/blacklist/entries", "/-/", "/-/live", "/-/x/y"])
def test_the_gateways_own_routes(path: str) -> None:
    assert is_own(path)


@pytest.mark.parametrize(
    "path", ["/", "/blacklists", "/BLACKLIST", "/%62lacklist", "/x/blacklist", "/-", "/-x", "/a/-/b"]
)
def test_every_other_path_is_the_upstreams(path: str) -> None:
    assert not is_own(path)


def test_a_decision_may_have_the_path_it_is_about_behind_it() -> None:
    assert is_decision("/-/auth")
    assert is_decision("/-/auth/info")
    assert not is_decision("/-/authx")


@given(st.binary(max_size=50).map(lambda raw: raw.decode("latin-1")) | st.text("/.%#?@:\\ ahtp", max_size=20))
def test_any_target_begins_with_exactly_one_slash_or_is_refused(raw: str) -> None:
    try:
        target = request_target(environ(raw))
    except Problem:
        return
    assert target.raw[:1] == "/"
    assert target.raw[:2] != "//"
    assert not set(target.raw) & set("# \r\n\t\0")
