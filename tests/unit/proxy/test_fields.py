"""RFC 9110's field rules, on environs made by hand."""

import re
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.grammar import is_token
from gateway.http.problems import Problem
from gateway.proxy.exchange import Upstream
from gateway.proxy.fields import RequestFields, response_fields
from gateway.proxy.forwarded import client_address


def environ(**values: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "api.test",
        **values,
    }


def rules(**options: Any) -> RequestFields:
    options = {"preserve_host": True, "trusted_proxies": 0, "own": (), **options}
    return RequestFields("upstream.test:8080", **options)


def sent(trusted_proxies: int = 0, **values: str) -> dict[str, str]:
    return rules(trusted_proxies=trusted_proxies).make(environ(**values))


OWN = {"Host", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"}


def test_fields_of_the_client_go_on() -> None:
    fields = sent(HTTP_ACCEPT="*/*", HTTP_X_REQUEST_ID="\xe9", HTTP_COOKIE="a=1; b=2", CONTENT_TYPE="text/plain")
    assert {name: value for name, value in fields.items() if name not in OWN} == {
        "Accept": "*/*",
        "X-Request-Id": "\xe9",
        "Cookie": "a=1; b=2",
        "Content-Type": "text/plain",
    }


@pytest.mark.parametrize("trusted_proxies", [0, 1])
def test_a_field_of_the_holder_goes_on_whole_whatever_it_is_called(trusted_proxies: int) -> None:
    maker = rules(own=["X-Forwarded-User"], trusted_proxies=trusted_proxies)
    assert maker.make(environ(HTTP_X_FORWARDED_USER="alice,admin"))["X-Forwarded-User"] == "alice,admin"
    assert "X-Forwarded-User" not in maker.make(environ())


def test_nothing_is_added_but_what_a_gateway_says_of_itself() -> None:
    assert sent().keys() == OWN


def test_framing_and_servers_variables_do_not_go_on() -> None:
    fields = sent(
        CONTENT_LENGTH="5", HTTP_CONTENT_LENGTH="6", HTTP_CONTENT_TYPE="x/y", SERVER_NAME="a", REQUEST_URI="/"
    )
    assert fields.keys() == OWN


@pytest.mark.parametrize(
    "name",
    [
        "CONNECTION", "KEEP_ALIVE", "PROXY_AUTHENTICATE", "PROXY_AUTHORIZATION", "PROXY_CONNECTION", "TE", "TRAILER",
        "TRANSFER_ENCODING", "UPGRADE", "EXPECT",
    ],
)  # fmt: skip
def test_hop_by_hop_fields_end_here(name: str) -> None:
    assert sent(**{f"HTTP_{name}": "x"}).keys() == OWN


@pytest.mark.parametrize(
    "connection", ["close, X-Private", "x-private", ' , "quoted, text",X-PRIVATE\t,', "keep-alive,x-private"]
)
def test_fields_named_by_connection_end_here(connection: str) -> None:
    assert sent(HTTP_CONNECTION=connection, HTTP_X_PRIVATE="1", HTTP_X_PUBLIC="2").keys() == OWN | {"X-Public"}


def test_connection_takes_away_nothing_the_upstream_relies_on() -> None:
    """CVE-2024-45410, CVE-2026-29054: in any case of letters."""
    names = ["Authorization", "X-Token-Claims", "Cookie", "Content-Type", "Host", "Via", "X-Forwarded-For", "Forwarded"]
    values = {"HTTP_AUTHORIZATION": "Bearer x", "HTTP_X_TOKEN_CLAIMS": "y", "HTTP_COOKIE": "z", "CONTENT_TYPE": "a/b"}
    make = rules(own=["X-Token-Claims"]).make
    for connection in (", ".join(names), ", ".join(names).lower(), ", ".join(names).upper()):
        assert set(names) <= make(environ(HTTP_CONNECTION=connection, **values)).keys()


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40))
def test_no_connection_field_breaks_anything(connection: str) -> None:
    assert sent(HTTP_CONNECTION=connection, HTTP_FORWARDED=connection, HTTP_X_FORWARDED_FOR=connection).keys() >= OWN


def test_names_never_have_an_underscore_or_what_no_name_may_have() -> None:
    fields = sent(**{"HTTP_X_USER": "1", "HTTP_X USER": "2", "HTTP_X:USER": "3", "HTTP_": "4", "HTTP_\xe9": "5"})
    assert fields.keys() == OWN | {"X-User"}


@pytest.mark.parametrize(
    "key", ["HTTP_X.FORWARDED.FOR", "HTTP_X_FORWARDED.HOST", "HTTP_X!FORWARDED~PROTO", "HTTP_TRANSFER.ENCODING"]
)
def test_what_ends_here_ends_here_in_every_spelling_that_an_upstream_may_fold(key: str) -> None:
    """lighttpd makes `_` of whatever is neither letter nor digit."""
    assert sent(**{key: "1", "HTTP_X.Y": "2"}).keys() == OWN | {"X.Y"}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "\u20ac"])
def test_a_value_that_would_break_a_line_is_refused(value: str) -> None:
    with pytest.raises(Problem, match="invalid-request"):
        sent(HTTP_X_NAME=value)


def test_authorization_goes_on() -> None:
    assert sent(HTTP_AUTHORIZATION="Bearer x")["Authorization"] == "Bearer x"


# --- Host, Via


def test_host_is_the_clients_or_the_upstreams() -> None:
    assert sent()["Host"] == "api.test"
    assert rules(preserve_host=False).make(environ())["Host"] == "upstream.test:8080"
    without = environ()
    del without["HTTP_HOST"]
    fields = rules().make(without)
    assert fields["Host"] == "upstream.test:8080"
    assert "X-Forwarded-Host" not in fields


@pytest.mark.parametrize("host", ["a", "a.b:80", "[::1]:8080", "a_b", "xn--a", "1.2.3.4:", "a%20b"])
def test_a_host_may_be_what_a_uri_allows(host: str) -> None:
    assert sent(HTTP_HOST=host)["Host"] == host


@pytest.mark.parametrize(
    "host", ["a/b", "a?b", "a@b", "a, b", "a,b", "a b", "a:b", "a:1:2", "::1", "a#b", "\xe9", "a" * 1025]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(Problem, match="invalid-request"):
        sent(HTTP_HOST=host)


def test_via_is_appended_and_alike_for_all_workers() -> None:
    pseudonym = rules().pseudonym
    assert rules().pseudonym == pseudonym
    assert sent()["Via"] == f"1.1 {pseudonym}"
    assert sent(HTTP_VIA="1.0 a, 1.1 b", SERVER_PROTOCOL="HTTP/1.0")["Via"] == f"1.0 a, 1.1 b, 1.0 {pseudonym}"


def test_a_request_that_was_here_before_is_refused() -> None:
    with pytest.raises(Problem, match="loop-detected"):
        sent(HTTP_VIA=f"1.1 other, {sent()['Via']}, 1.1 another")


# --- X-Forwarded-*, Forwarded


def forwarded(trusted_proxies: int, **values: str) -> dict[str, str]:
    fields = sent(trusted_proxies, **values)
    return {name: value for name, value in fields.items() if "Forwarded" in name}


INBOUND = {
    "HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.7",
    "HTTP_X_FORWARDED_PROTO": "gopher, https",
    "HTTP_X_FORWARDED_HOST": "evil.test, shop.test",
    "HTTP_X_FORWARDED_PREFIX": "/evil, /shop",
    "HTTP_FORWARDED": 'for="a, b";host=evil.test, for=198.51.100.7;proto=https',
}


def test_who_is_asked_says_who_asked() -> None:
    assert forwarded(0) == {
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "api.test",
        "Forwarded": "for=192.0.2.1;proto=http;host=api.test",
    }


def test_nothing_inbound_is_believed_of_nobody() -> None:
    assert forwarded(0, **INBOUND) == forwarded(0)


def test_one_proxy_is_believed_for_one_element() -> None:
    assert forwarded(1, **INBOUND) == {
        "X-Forwarded-For": "198.51.100.7, 192.0.2.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.test",
        "X-Forwarded-Prefix": "/shop",
        "Forwarded": "for=198.51.100.7;proto=https;host=shop.test, for=192.0.2.1",
    }


def test_two_proxies_are_believed_for_two_elements() -> None:
    fields = forwarded(2, **INBOUND)
    assert fields["X-Forwarded-For"] == "203.0.113.9, 198.51.100.7, 192.0.2.1"
    assert fields["Forwarded"] == (
        "for=203.0.113.9;proto=gopher;host=evil.test, for=198.51.100.7;proto=https;host=shop.test, for=192.0.2.1"
    )


@pytest.mark.parametrize(
    ("inbound", "expected"),
    [
        ({"HTTP_X_FORWARDED_PROTO": "https"}, ("192.0.2.1", "https", "api.test")),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.9"}, ("203.0.113.9, 192.0.2.1", "http", "api.test")),
        (
            {"HTTP_X_FORWARDED_FOR": "2001:db8::1", "HTTP_X_FORWARDED_PROTO": "https"},
            ("2001:db8::1, 192.0.2.1", "https", "api.test"),
        ),
        ({"HTTP_FORWARDED": 'for="[2001:db8::1]";proto=https'}, ("2001:db8::1, 192.0.2.1", "https", "api.test")),
        (
            {"HTTP_FORWARDED": 'evil, For="a, b" ; HOST="shop.test:8443";proto=https'},
            ("a, b, 192.0.2.1", "https", "shop.test:8443"),
        ),
        ({"HTTP_FORWARDED": "proto=gopher", "HTTP_X_FORWARDED_PROTO": "https"}, ("192.0.2.1", "https", "api.test")),
        ({"HTTP_X_FORWARDED_PROTO": "gopher, https"}, ("192.0.2.1", "https", "api.test")),
    ],
)  # fmt: skip
def test_both_ways_of_saying_it_agree_whichever_was_trusted(
    inbound: dict[str, str], expected: tuple[str, str, str]
) -> None:
    fields = forwarded(1, **inbound)
    assert (fields["X-Forwarded-For"], fields["X-Forwarded-Proto"], fields["X-Forwarded-Host"]) == expected
    assert re.findall(r"proto=([^;,]+)", fields["Forwarded"]) == [expected[1]]
    assert re.findall(r'host="?([^";,]+)', fields["Forwarded"]) == [expected[2]]


def test_an_ipv4_address_on_a_socket_for_both_is_ipv4() -> None:
    environ_of_both = environ(REMOTE_ADDR="::ffff:192.0.2.9")
    assert client_address(environ_of_both, 0) == "192.0.2.9"
    assert sent(REMOTE_ADDR="::ffff:192.0.2.9")["X-Forwarded-For"] == "192.0.2.9"
    assert "for=192.0.2.9;" in sent(REMOTE_ADDR="::FFFF:192.0.2.9")["Forwarded"]
    assert client_address(environ(HTTP_X_FORWARDED_FOR="::ffff:203.0.113.9"), 1) == "203.0.113.9"
    assert client_address(environ(HTTP_FORWARDED='for="[::ffff:203.0.113.9]"'), 1) == "203.0.113.9"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:c633:6407", "198.51.100.7"),
        ("0:0:0:0:0:FFFF:198.51.100.7", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:80", "198.51.100.7"),
        ("::ffff:nonsense", "::ffff:nonsense"),
        ("unknown", "unknown"),
        ("_hidden:80", "_hidden"),
    ],
)
def test_the_log_has_an_address_without_its_port_however_a_proxy_writes_it(said: str, expected: str) -> None:
    assert client_address(environ(HTTP_X_FORWARDED_FOR=said), 1) == expected
    assert client_address(environ(HTTP_FORWARDED=f'for="{said}"'), 1) == expected


@pytest.mark.parametrize("begun", ['"6.6.6.6', '"6.6.6.6\\', '6.6.6.6"', '"a", "6.6.6.6', '"a\\", 6.6.6.6', ',,"'])
def test_no_quote_of_a_client_hides_what_the_proxy_adds(begun: str) -> None:
    """A proxy that appends to what the client sent: its own element is the last one."""
    for added in ("203.0.113.9", "2001:db8::1"):
        node = f'for="[{added}]"' if ":" in added else f"for={added}"
        for inbound in (
            {"HTTP_X_FORWARDED_FOR": f"{begun}, {added}", "HTTP_X_FORWARDED_HOST": f"{begun}, shop.test"},
            {"HTTP_FORWARDED": f"for={begun}, {node};host=shop.test"},
        ):
            assert client_address(environ(**inbound), 1) == added
            fields = forwarded(1, **inbound)
            assert fields["X-Forwarded-For"] == f"{added}, 192.0.2.1"
            assert fields["X-Forwarded-Host"] == "shop.test"
            assert "6.6.6.6" not in "".join(fields.values())


def test_elements_with_quotes_that_end_stay_whole() -> None:
    certificate = 'Hash=a;Subject="CN=x,O=y"'
    fields = forwarded(1, HTTP_X_FORWARDED_CLIENT_CERT=f"Hash=evil,{certificate}")
    assert fields["X-Forwarded-Client-Cert"] == certificate


def test_who_is_behind_a_unix_socket_has_no_address() -> None:
    """RFC 7239 section 6: an address, `unknown`, or a name that begins with `_`."""
    assert sent(REMOTE_ADDR="unix")["X-Forwarded-For"] == "unknown"
    assert sent(REMOTE_ADDR="unix")["Forwarded"] == "for=unknown;proto=http;host=api.test"
    assert forwarded(1, REMOTE_ADDR="unix", HTTP_X_FORWARDED_FOR="::1")["X-Forwarded-For"] == "::1, unknown"


def test_a_trusted_proxy_that_says_nothing_leaves_what_is_seen_here() -> None:
    assert forwarded(3) == forwarded(0)


def test_addresses_and_hosts_are_quoted_where_the_grammar_asks() -> None:
    element = sent(REMOTE_ADDR="2001:db8::1", HTTP_HOST="[::1]:80")["Forwarded"]
    assert element == 'for="[2001:db8::1]";proto=http;host="[::1]:80"'
    assert sent(REMOTE_ADDR="")["Forwarded"].startswith("for=unknown;")


def test_the_client_is_whom_the_outermost_trusted_proxy_saw() -> None:
    chain = environ(HTTP_X_FORWARDED_FOR="spoofed, 203.0.113.9, 198.51.100.7")
    assert [client_address(chain, hops) for hops in range(4)] == ["192.0.2.1", "198.51.100.7", "203.0.113.9", "spoofed"]
    assert client_address(chain, 9) == "spoofed"
    assert client_address(environ(), 2) == "192.0.2.1"


# --- methods


@pytest.mark.parametrize("method", ["GET", "get", "M-SEARCH", "X.Y", "PURGE!"])
def test_a_method_is_any_token(method: str) -> None:
    assert is_token(method)


@pytest.mark.parametrize("method", ["", "A B", "P{OST", "A/B", "GET\r\n", "\xe9"])
def test_a_method_that_is_no_token_is_refused(method: str) -> None:
    with closing(Upstream("http://127.0.0.1:9")) as app, pytest.raises(Problem, match="invalid-request"):
        app(environ(REQUEST_METHOD=method), lambda *_: None)


# --- response fields


def test_response_fields_keep_order_repeats_and_spelling() -> None:
    lines = [
        ("set-cookie", "a=1; Expires=Thu, 01 Jan 1970"),
        ("X-A", "1"),
        ("Set-Cookie", "b"),
        ("x-a", "\xe9"),
        ("E", ""),
    ]
    assert response_fields(lines, 200) == lines


def test_hop_by_hop_response_fields_end_here() -> None:
    lines = [
        ("Connection", "close, X-Private"),
        ("x-private", "1"),
        ("connection", "X-Other"),
        ("X-Other", "2"),
        ("TE", "x"),
    ]
    lines += [("Keep-Alive", "timeout=5"), ("Upgrade", "h2c"), ("Trailer", "X-T"), ("Proxy-Authenticate", "Basic")]
    assert response_fields([*lines, ("X-Kept", "3"), ("Server", "x")], 200) == [("X-Kept", "3"), ("Server", "x")]


@pytest.mark.parametrize("status", [200, 304, 404])
def test_content_length_goes_on(status: int) -> None:
    assert response_fields([("Content-Length", "5")], status) == [("Content-Length", "5")]


def test_content_length_ends_here_where_it_is_no_framing() -> None:
    assert response_fields([("Content-Length", "5"), ("Transfer-Encoding", "chunked")], 200) == []
    assert response_fields([("Content-Length", "0")], 204) == []


@pytest.mark.parametrize("lengths", [["5", "5"], ["5, 5"], ["5,5", "5"]])
def test_content_lengths_that_agree_are_one(lengths: list[str]) -> None:
    lines = [("Content-Length", length) for length in lengths]
    assert response_fields(lines, 200) == [("Content-Length", "5")]


@pytest.mark.parametrize("lengths", [["5", "6"], ["5, 6"], [""], ["-1"], ["+5"], ["0x5"], ["9" * 5000], ["five"]])
def test_content_lengths_that_mean_nothing_are_malformed(lengths: list[str]) -> None:
    with pytest.raises(Problem, match="upstream-protocol"):
        response_fields([("Content-Length", length) for length in lengths], 200)
