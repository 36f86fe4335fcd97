"""nginx as a cache in front of the gateway: what one caller got is not given to another."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import pytest
from helpers import mint
from outer_proxies import program
from outer_proxies import running as started
from processes import free_port
from recorder import Recorder, Talk, ok, response
from running import Running, ask

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not program("nginx"), reason="nginx is not installed")]

# A cache that keeps whatever an answer lets a shared cache keep, and gives it to everybody.
CONFIGURATION = """
user {user};
pid nginx.pid;
error_log stderr;
daemon off;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_temp_path proxy;
    proxy_cache_path cache keys_zone=all:1m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{gateway};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache all;
            proxy_cache_key $request_method$request_uri;
            proxy_cache_convert_head off;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
"""
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
STORABLE = ("Cache-Control", "public, max-age=600")
VALIDATORS = (("ETag", '"1"'), ("Last-Modified", DATE))
JSON = ("Content-Type", "application/json")


def answer(talk: Talk) -> None:
    """Answer `/info` and others as storable; `/info?as-it-is` must not be transformed."""
    request = talk.request
    extra = [("Cache-Control", "public, max-age=600, no-transform")] if "as-it-is" in request.target else [STORABLE]
    body = b'{"of": "the API"}'
    fields = [JSON, *extra, *VALIDATORS]
    if request.method == "HEAD":
        talk.send(response(b"", ("Content-Length", str(len(body))), *fields))
    else:
        talk.send(ok(body, *fields))


@contextmanager
def cache_before(gateway: int, directory: Path) -> Iterator[int]:
    """Run nginx as a cache; the value is its port."""
    port = free_port()
    (directory / "nginx.conf").write_text(CONFIGURATION.format(user=getuser(), port=port, gateway=gateway))
    command = [program("nginx") or "nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"]
    with started(command, port, directory):
        yield port


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    directory = tmp_path_factory.mktemp("cache")
    flags = ("--workers", "1", "--cors-origins", "https://app.test,https://two.test")
    with (
        Recorder(answer) as upstream,
        Running(directory, upstream.url, *flags) as gateway,
        cache_before(gateway.port, directory) as cache,
    ):
        yield cache


def bearer(subject: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {mint(sub=subject, jti=f'cache-{subject}')}")


def test_an_answer_with_somebodys_claims_is_never_given_to_another(port: int) -> None:
    for subject in ("1001", "1002", "1001"):
        told = ask(port, "GET /info", bearer(subject))
        assert json.loads(told.body)["token"]["sub"] == subject
        assert told.fields["X-Cache"] == "MISS"
        assert "private" in told.fields["Cache-Control"]
        assert not {"ETag", "Last-Modified"} & set(told.fields)
    assert ask(port, "GET /info").code == "missing-credentials"


def test_an_annotated_answer_is_not_revalidated_by_the_apis_validators(port: int) -> None:
    for field in (("If-None-Match", '"1"'), ("If-Modified-Since", DATE)):
        told = ask(port, "GET /info?validated", bearer("1001"), field)
        assert (told.status, json.loads(told.body)["token"]["sub"]) == (200, "1001")


def test_head_says_what_get_says(port: int) -> None:
    names = ("Cache-Control", "ETag", "Last-Modified", "Content-Type")
    got, headed = (ask(port, f"{method} /info?head", bearer("1001")) for method in ("GET", "HEAD"))
    assert headed.body == b""
    assert [headed.fields[name] for name in names] == [got.fields[name] for name in names]
    assert headed.fields["Content-Length"] in (None, str(len(got.body)))


def test_what_must_not_be_transformed_is_the_apis_own_and_may_be_stored(port: int) -> None:
    told = ask(port, "GET /info?as-it-is", bearer("1001"))
    assert told.body == b'{"of": "the API"}'
    assert (told.fields["ETag"], told.fields["Last-Modified"]) == ('"1"', DATE)
    assert ask(port, "GET /info?as-it-is", bearer("1001")).fields["X-Cache"] == "HIT"


def test_a_refusal_is_stored_for_nobody(port: int) -> None:
    for _ in range(2):
        refused = ask(port, "GET /orders?refused")
        assert (refused.code, refused.fields["X-Cache"]) == ("missing-credentials", "MISS")
    assert ask(port, "GET /orders?refused", bearer("1001")).status == 200


def test_a_refusal_for_one_origin_is_not_given_to_another(port: int) -> None:
    for origin in ("https://app.test", "https://two.test"):
        refused = ask(port, "GET /orders?origin", ("Origin", origin))
        assert refused.fields["Access-Control-Allow-Origin"] == origin


def test_an_answer_of_the_blacklist_is_stored_for_nobody(port: int) -> None:
    states = []
    for method in ("GET", "POST", "GET", "DELETE", "GET"):
        told = ask(port, f"{method} /blacklist", bearer("1003"))
        states.append(json.loads(told.body)["blacklisted"])
        assert told.fields["X-Cache"] != "HIT"
    assert states == [False, True, True, False, False]
