"""What a request to /blacklist names: one target, or a clear refusal."""

import io
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from helpers import finish, mint
from hypothesis import given
from hypothesis import strategies as st

from gateway.blacklist.body import LARGEST_BODY, Typed, body_members
from gateway.blacklist.target import Target, read_target, with_query
from gateway.http.problems import Problem

CLAIMS = ("jti", "sub", "sid")
TEXT = st.binary(min_size=1, max_size=20).map(lambda raw: raw.decode("latin-1"))
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def members(body: bytes | str, media_type: str = JSON, **environ: Any) -> Any:
    data = body.encode() if isinstance(body, str) else body
    whole = {"CONTENT_LENGTH": str(len(data)), "CONTENT_TYPE": media_type, "wsgi.input": io.BytesIO(data), **environ}
    return finish(body_members({key: value for key, value in whole.items() if value is not None}))


def detail(read: Any, *arguments: Any) -> str:
    """Return what a client is told of a request that is refused."""
    with pytest.raises(Problem) as refused:
        read(*arguments)
    return refused.value.detail


def test_what_is_misspelt_or_repeated_is_told_but_not_repeated() -> None:
    assert detail(read_target, {"sub": "1", "resaon": "x"}, CLAIMS).endswith("can be named; did you mean reason?")
    assert detail(read_target, {"user_id": "1"}, CLAIMS).endswith("can be named.")  # sid is another thing
    assert detail(read_target, {mint(): "x"}, CLAIMS).endswith("can be named.")
    assert detail(with_query, {}, {"sub": ["1", "2"]}, CLAIMS) == "sub is there more than once."


def refusal(function: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Problem) as refused:
        function(*arguments, **options)
    return refused.value.code


# The body.


@pytest.mark.parametrize("media_type", [JSON, FORM, "text/plain", "image/png", "nonsense", "", None])
@pytest.mark.parametrize("length", ["0", "", None])
def test_an_empty_body_is_no_body_whatever_its_type_says(media_type: Any, length: Any) -> None:
    assert members(b"", media_type, CONTENT_LENGTH=length) == {}


@pytest.mark.parametrize(
    "media_type",
    [
        JSON,
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        " application/json ",
    ],
)
def test_the_media_type_is_read_without_its_case_and_parameters(media_type: str) -> None:
    assert members('{"sub": "1001"}', media_type) == {"sub": "1001"}


@pytest.mark.parametrize(
    "media_type",
    ["", None, "text/plain", "text/json", "application/jsonx", "application/xml", "multipart/form-data", "json"],
)
def test_another_media_type_is_refused(media_type: Any) -> None:
    assert refusal(members, '{"sub": "1001"}', media_type) == "unsupported-media-type"


def test_a_form_is_read_like_json() -> None:
    assert members("token=a.b.c&token_type_hint=access_token&reason=a+b%20c", FORM) == {
        "token": "a.b.c",
        "token_type_hint": "access_token",
        "reason": "a b c",
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_end_of_a_file_is_no_part_of_a_form(end: str) -> None:
    """`wget --post-file` sends it; it made another subject of the last value, and that one was blacklisted."""
    assert members(f"reason=a%0A&sub=1001{end}", FORM) == {"reason": "a\n", "sub": "1001"}
    assert members(f"sub=1001%0D%0A{end}", FORM) == {"sub": "1001\r\n"}


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        "[]",
        "null",
        '"text"',
        "1",
        " ",
        "{",
        '{"sub": "a"',
        '{"sub": "a"} x',
        '{"sub": "a"}{"sub": "a"}',
        "{'sub': 'a'}",
        '{"sub": "a", "sub": "a"}',
        '{"sub": "a", "sub": "b"}',
        '{"token": "a", "\\u0074oken": "b"}',
        '{"sub": NaN}',
        '{"sub": Infinity}',
        '{"sub": 1' + "0" * 5000 + "}",
        b'{"sub": "\xff"}',
        b'\xef\xbb\xbf{"sub": "a"}',
        '{"sub": "a"}'.encode("utf-16"),
        "[" * 60_000,
        '{"a":' * 10_000,
        "\0",
    ],
)
def test_a_body_that_is_not_one_json_object_with_members_is_refused(body: bytes | str) -> None:
    assert refusal(members, body) == "invalid-request"


@pytest.mark.parametrize(
    "body", ["token", "token=a&token=b", "sub=a&sub=a", "&", "sub=%ff", b"sub=\xff", "=", "sub=a&&sub=b", "\0"]
)
def test_a_form_that_is_not_well_formed_is_refused(body: bytes | str) -> None:
    def read() -> Target:
        return read_target(members(body, FORM), CLAIMS)

    assert refusal(read) == "invalid-request"


def test_a_body_too_large_is_not_read_to_its_end() -> None:
    body = io.BytesIO(b"x" * 10_000_000)
    assert refusal(members, b"", CONTENT_LENGTH="10000000", **{"wsgi.input": body}) == "payload-too-large"
    assert body.tell() <= LARGEST_BODY + 1


@pytest.mark.parametrize("length", ["-1", "+3", "1_0", "0x3", "3, 3", "3.0", "٣", " 3", "a", "9" * 5000])
def test_a_length_that_is_not_a_number_is_refused(length: str) -> None:
    assert refusal(members, "abc", CONTENT_LENGTH=length) == "invalid-request"


def test_a_body_that_ends_early_is_refused() -> None:
    """What is left of `sub=1001` may be `sub=10`."""
    assert refusal(members, "sub=10", FORM, CONTENT_LENGTH="8") == "invalid-request"


def test_a_body_without_length_is_read_to_its_end_where_the_server_ends_it() -> None:
    assert members('{"sub": "a"}', CONTENT_LENGTH=None, **{"wsgi.input_terminated": True}) == {"sub": "a"}
    large = {"wsgi.input": io.BytesIO(b"x" * 100_000), "wsgi.input_terminated": True}
    assert refusal(members, b"", CONTENT_LENGTH=None, **large) == "payload-too-large"


def test_a_body_whose_end_nobody_knows_is_refused() -> None:
    """Taken for no body, it would blacklist the caller's own token."""
    assert refusal(members, '{"sub": "a"}', CONTENT_LENGTH=None, HTTP_TRANSFER_ENCODING="chunked") == "invalid-request"


def test_a_body_that_comes_in_pieces_is_read_whole() -> None:
    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(1)

    assert members(b"", CONTENT_LENGTH="12", **{"wsgi.input": Dripping(b'{"sub": "a"}')}) == {"sub": "a"}


# The target.


@pytest.mark.parametrize(
    ("named", "target"),
    [
        ({}, Target()),
        ({"reason": "lost"}, Target(reason="lost")),
        ({"token": "a.b.c"}, Target("a.b.c")),
        ({"token": "a.b.c", "token_type_hint": "refresh_token"}, Target("a.b.c")),
        ({"token": "a.b.c", "reason": "lost"}, Target("a.b.c", reason="lost")),
        ({"jti": "a"}, Target(claim=("jti", ("a",)))),
        ({"sub": 7001}, Target(claim=("sub", ("7001",)))),
        ({"sub": "7001"}, Target(claim=("sub", ("7001",)))),
        ({"sub": "7.001e3"}, Target(claim=("sub", ("7.001e3",)))),
        ({"sub": Typed("7001")}, Target(claim=("sub", ("7001",)))),
        ({"sub": Typed("7.001e3")}, Target(claim=("sub", ("7001", "7.001e3")))),
        ({"sid": 1.5, "issued_before": 0}, Target(claim=("sid", ("1.5",)), cut_off=0)),
        ({"sub": "a", "issued_before": 1000, "reason": "b"}, Target(claim=("sub", ("a",)), cut_off=1000, reason="b")),
        ({"sub": "a", "issued_before": Typed("1000")}, Target(claim=("sub", ("a",)), cut_off=1000)),
        ({"sub": "a", "issued_before": None}, Target(claim=("sub", ("a",)), cut_off=None)),
        ({"sub": "a", "issued_before": Typed("null")}, Target(claim=("sub", ("a",)), cut_off=None)),
        ({"sub": "a", "until": 2000, "issuer": "b"}, Target(claim=("sub", ("a",)), until=2000, issuer="b")),
        ({"sub": "a", "until": None}, Target(claim=("sub", ("a",)))),
        ({"fingerprint": "0A" * 6}, Target(fingerprint="0a" * 6)),
        ({"fingerprint": "0a" * 32, "until": 2000}, Target(fingerprint="0a" * 32, until=2000)),
        ({"sub": "\ud800"}, Target(claim=("sub", ("\ud800",)))),
        ({"sub": "\0"}, Target(claim=("sub", ("\0",)))),
    ],
)
def test_members_name_one_target(named: Any, target: Target) -> None:
    assert read_target(named, CLAIMS) == target


@pytest.mark.parametrize(
    "named",
    [
        {"unknown": 1},
        {"sub": "a", "unknown": 1},
        {"Sub": "a"},
        {"iss": "a"},
        {"aud": "a"},
        {"token": "a.b.c", "sub": "a"},
        {"sub": "a", "jti": "a"},
        {"sub": "a", "jti": "a", "sid": "a"},
        {"token": ""},
        {"token": None},
        {"token": 1},
        {"token": ["a.b.c"]},
        {"sub": ""},
        {"sub": None},
        {"sub": True},
        {"sub": False},
        {"sub": []},
        {"sub": ["a"]},
        {"sub": {}},
        {"sub": {"a": 1}},
        {"sub": float("inf")},
        {"reason": 1},
        {"reason": None},
        {"reason": ["lost"]},
        {"reason": "x" * 1001},
        {"sub": "a", "issued_before": "1000"},
        {"sub": "a", "issued_before": "null"},
        {"sub": "a", "issued_before": 253_402_300_800},
        {"sub": "a", "until": "2000"},
        {"sub": "a", "until": 253_402_300_800},
        {"sub": "a", "issuer": ""},
        {"sub": "a", "issuer": 1},
        {"issuer": "a"},
        {"until": 2000},
        {"token": "a.b.c", "until": 2000},
        {"token": "a.b.c", "issuer": "a"},
        {"fingerprint": "0a" * 32, "issued_before": 1000},
        {"fingerprint": "0a" * 32, "sub": "a"},
        {"fingerprint": "0a" * 5},
        {"fingerprint": "0a" * 33},
        {"fingerprint": "0g" * 32},
        {"fingerprint": 1},
        {"sub": "a", "issued_before": True},
        {"sub": "a", "issued_before": -1},
        {"sub": "a", "issued_before": 1.5},
        {"sub": "a", "issued_before": ""},
        {"sub": "a", "issued_before": "now"},
        {"sub": "a", "issued_before": "-1"},
        {"sub": "a", "issued_before": "1e3"},
        {"sub": "a", "issued_before": "1_000"},
        {"sub": "a", "issued_before": "٣"},
        {"sub": "a", "issued_before": "2025-01-01T00:00:00Z"},
        {"sub": "a", "issued_before": [1]},
        {"issued_before": 1000},
        {"token": "a.b.c", "issued_before": 1000},
    ],
)
def test_members_that_are_unknown_mistyped_or_double_are_refused(named: Any) -> None:
    assert refusal(read_target, named, CLAIMS) == "invalid-request"


def test_the_query_names_claims_beside_the_body() -> None:
    assert with_query({}, {"sub": "1001", "page": "2"}, CLAIMS) == {"sub": "1001"}
    assert with_query({"reason": "left"}, {"sub": "1001"}, CLAIMS) == {"sub": "1001", "reason": "left"}
    assert refusal(with_query, {"sub": "1002"}, {"sub": "1001"}, CLAIMS) == "invalid-request"


def named_by(body: bytes | str, media_type: str) -> Target | str:
    try:
        return read_target(members(body, media_type), CLAIMS)
    except Problem as problem:
        return problem.code


@given(
    st.binary(max_size=50) | st.text('{}[]":,&=%+ sub0d', max_size=50).map(str.encode), st.sampled_from([JSON, FORM])
)
def test_any_body_names_a_target_or_is_refused(body: bytes, media_type: str) -> None:
    assert isinstance(named_by(body, media_type), Target) or named_by(body, media_type) == "invalid-request"


@given(st.dictionaries(st.sampled_from(["token", "sub", "jti", "reason"]), TEXT, min_size=1))
def test_a_form_and_json_say_the_same(named: dict[str, str]) -> None:
    by_form, by_json = named_by(urlencode(named), FORM), named_by(json.dumps(named), JSON)
    if isinstance(by_form, Target) and by_form.claim:
        # Where there is nothing but text it may be a number, too.
        name, values = by_form.claim
        by_form = by_form._replace(claim=(name, values[-1:]))
    assert by_form == by_json
