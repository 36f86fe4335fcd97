"""A page of another origin in real Chromium: it reads why it was refused, and logs its user out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import mint
from recorder import Recorder, Talk, ok
from running import Running

pytestmark = pytest.mark.slow

PAGE = ok(b"<!DOCTYPE html><title>app</title>", ("Content-Type", "text/html"))
# What a page sees of an answer; of one that it may not read, the name of the error alone.
ASK = """
const [url, options, done] = arguments;
fetch(url, options).then(
    async (answer) => done({
        status: answer.status, body: await answer.text(), challenge: answer.headers.get("WWW-Authenticate"),
        id: answer.headers.get("X-Request-Id"),
    }),
    (error) => done({error: error.name}),
);
"""


@pytest.fixture(scope="module")
def app() -> Iterator[Recorder]:
    """Serve the page of the app, an origin of its own."""
    with Recorder(PAGE) as recorder:
        yield recorder


def api(talk: Talk) -> None:
    """Answer preflights and requests, open to every origin."""
    open_to_all = ("Access-Control-Allow-Origin", "*")
    if talk.request.method == "OPTIONS":
        talk.send(ok(b"", open_to_all, ("Access-Control-Allow-Headers", "authorization")))
    else:
        talk.send(ok(b"orders", open_to_all))


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with Recorder(api) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def gateway(app: Recorder, upstream: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--workers", "1", "--cors-origins", app.url, "--pass-preflight", "yes")
    with Running(tmp_path_factory.mktemp("browser"), upstream.url, *flags) as running:
        yield running


def ask(driver: Any, page: str, url: str, token: str, method: str = "GET", **options: Any) -> Any:
    """Let the page fetch the URL with the token."""
    if not driver.current_url.startswith(page):
        driver.get(page)
    fields = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
    return driver.execute_async_script(ASK, url, {"method": method, "headers": fields, **options})


def code(seen: Any) -> str:
    return str(json.loads(seen["body"])["type"]).removeprefix("urn:jwt-gateway:")


def test_a_page_of_another_origin_reads_why_it_was_refused(driver: Any, app: Recorder, gateway: Running) -> None:
    seen = ask(driver, app.url, f"{gateway.url}/orders", mint(exp=1))
    assert (seen["status"], code(seen)) == (401, "token-expired")
    assert 'error="invalid_token"' in seen["challenge"]
    assert seen["id"]


def test_it_logs_its_user_out(driver: Any, app: Recorder, gateway: Running) -> None:
    token = mint(sub="1001", jti="browser")
    orders, blacklist = f"{gateway.url}/orders", f"{gateway.url}/blacklist"
    assert ask(driver, app.url, orders, token)["body"] == "orders"
    options = {"headers": {"Content-Type": "application/json"}, "body": '{"reason": "logout"}'}
    seen = ask(driver, app.url, blacklist, token, "POST", **options)
    assert (seen["status"], json.loads(seen["body"])["blacklisted"]) == (200, True)
    assert code(ask(driver, app.url, orders, token)) == "token-blacklisted"
    assert json.loads(ask(driver, app.url, blacklist, token)["body"])["blacklisted"]
    assert not json.loads(ask(driver, app.url, blacklist, token, "DELETE")["body"])["blacklisted"]
    assert ask(driver, app.url, orders, token)["body"] == "orders"


def test_a_preflight_carries_nothing_to_the_api(
    driver: Any, app: Recorder, upstream: Recorder, gateway: Running
) -> None:
    upstream.requests.clear()
    assert ask(driver, app.url, f"{gateway.url}/preflighted", mint(jti="preflight"))["body"] == "orders"
    preflight, request = upstream.requests
    assert (preflight.method, preflight.field("Origin")) == ("OPTIONS", app.url)
    assert not {"authorization", "cookie", "x-token-claims"} & preflight.names
    assert request.field("X-Token-Claims")


def test_a_page_of_an_origin_that_is_not_set_reads_nothing_and_logs_nobody_out(driver: Any, gateway: Running) -> None:
    token = mint(sub="1001", jti="elsewhere")
    with Recorder(PAGE) as elsewhere:
        assert ask(driver, elsewhere.url, f"{gateway.url}/orders", mint(exp=1)) == {"error": "TypeError"}
        for method in ("GET", "POST"):
            assert ask(driver, elsewhere.url, f"{gateway.url}/blacklist", token, method) == {"error": "TypeError"}
    assert gateway.get("/orders", token).status == 200
