"""Public paths are the exact bytes that are set, whatever else a client says (FIELD: exemption confusion)."""

from typing import Any

import pytest
from helpers import Api, assert_refused, mint

PREFLIGHT = {"Origin": "https://app.test", "Access-Control-Request-Method": "DELETE"}


@pytest.fixture
def api(make_gate: Any) -> Api:
    """A client of a gate with public paths, without checkers: odd targets are the point here."""
    return Api(make_gate(public_paths="/health,/static/*,/a/../b", pass_preflight=True))


def ask(api: Api, target: str, method: str = "GET", token: str | None = None, **headers: str) -> Any:
    raw = {"REQUEST_URI": target, "RAW_URI": target}
    return api(method, "/", token, headers=headers, environ_overrides=raw)


@pytest.mark.parametrize(
    "target", ["/health", "/health?x=1", "/static/", "/static/app.js", "/static/a/b.css?v=1", "/a/../b"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE", "OPTIONS"])
def test_a_public_path_needs_no_token(api: Api, upstream: Any, target: str, method: str) -> None:
    assert ask(api, target, method).status_code == 200
    assert "gateway.claims" not in upstream.requests[-1]


@pytest.mark.parametrize(
    "target",
    [
        "/secret?x=/health",
        "/secret?/health",
        "/secret/health",
        "/health/",
        "/health/x",
        "/healthy",
        "/Health",
        "/HEALTH",
        "/%48ealth",
        "/%68ealth",
        "/health%2f",
        "/health%3f",
        "/health;x",
        "/./health",
        "/x/../health",
        "/health/../secret",
        "/static",
        "/Static/x",
        "/static/../secret",
        "/static/..",
        "/static/.",
        "/static/./x",
        "/static/%2e%2e/secret",
        "/static/%2E%2E%2Fsecret",
        "/static/..%2fsecret",
        "/static/%252e%252e/secret",
        "/static/..;/secret",
        "/static/..\\secret",
        "/static//secret",
        "/static/x//../../secret",
        "/static/a/../../secret",
        "/static/\xc0\xae\xc0\xae/secret",
        "/static/%00",
        "/static/a;b",
        "/static%2fx",
        "/x/static/a",
    ],
)
def test_every_other_spelling_needs_a_token(api: Api, upstream: Any, target: str) -> None:
    assert_refused(ask(api, target), "missing-credentials")
    assert not upstream.requests
    assert ask(api, target, token=mint()).status_code == 200
    assert upstream.requests[-1]["REQUEST_URI"] == target


@pytest.mark.parametrize("target", ["/secret#/health", "//health", "//evil.test/health", "/health#x", "/static/ x"])
def test_a_target_that_is_no_target_is_refused(api: Api, upstream: Any, target: str) -> None:
    assert_refused(ask(api, target), "bad-request-target")
    assert_refused(ask(api, target, token=mint()), "bad-request-target")
    assert not upstream.requests


@pytest.mark.parametrize(
    "name",
    [
        "X-Forwarded-Uri",
        "X-Forwarded-Path",
        "X-Forwarded-Prefix",
        "X-Forwarded-Method",
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
        "X-Accel-Redirect",
        "Script-Name",
        "Path-Info",
    ],
)
def test_no_field_of_the_client_selects_the_rule(api: Api, upstream: Any, name: str) -> None:
    assert_refused(ask(api, "/secret", **{name: "/health"}), "missing-credentials")
    assert_refused(ask(api, "/blacklist", **{name: "/health"}), "missing-credentials")
    assert not upstream.requests


@pytest.mark.parametrize("agent", ["GoogleHC/1.0", "kube-probe/1.30", "ELB-HealthChecker/2.0"])
def test_no_user_agent_is_exempt(api: Api, agent: str) -> None:
    assert_refused(ask(api, "/secret", **{"User-Agent": agent}), "missing-credentials")


@pytest.mark.parametrize("host", ["a/health?", "a/b@c", "health", "127.0.0.1/health"])
def test_the_host_decides_nothing(api: Api, host: str) -> None:
    assert_refused(ask(api, "/secret", Host=host), "missing-credentials")


@pytest.mark.parametrize("paths", ["/*", "/blacklist,/blacklist/*,/-/*,/-/auth"])
def test_the_gateways_own_routes_are_never_public(make_api: Any, paths: str) -> None:
    api = make_api(public_paths=paths, pass_preflight=True)
    for path in ("/blacklist", "/blacklist/entries", "/-/auth", "/-/x"):
        assert_refused(api("GET", path), "missing-credentials")
        assert_refused(api("OPTIONS", path, headers=PREFLIGHT), "missing-credentials")


@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        ("", "missing-credentials"),
        ("Basic eDp5, Bearer garbage", "unsupported-scheme"),
        ("Bearer", "malformed-credentials"),
        ("Bearer garbage", "malformed-token"),
        (f"Bearer {mint(exp=1)}", "token-expired"),
        (f"Bearer {mint(iss='https://evil.test/')}", "wrong-issuer"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_credentials_that_are_there_are_judged_also_where_none_are_needed(
    api: Api, method: str, credentials: str, code: str
) -> None:
    for path in ("/health", "/static/x"):
        assert_refused(ask(api, path, method, Authorization=credentials, **PREFLIGHT), code)


@pytest.mark.parametrize(
    "credentials",
    [
        "Bearer\xa0{}", "bearer\x85{}", "\xa0Bearer {}", "\xc2\xa0Bearer {}", "Bearer\xe2\x80\x83{}", "x Bearer {}",
        "Basic Bearer {}", "Basic eDp5,\xa0Bearer\xa0{}", "{}", "\xa0{}\xa0", "Basic eDp5, {}", "{},Basic eDp5",
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/health", "/static/x"])
def test_no_way_to_write_a_token_that_some_read_as_one_passes_unchecked(
    api: Api, upstream: Any, target: str, credentials: str
) -> None:
    """Frameworks split at blanks that HTTP does not know, look for `Bearer` in the middle, or do without."""
    answer = ask(api, target, Authorization=credentials.format(mint()))
    assert answer.status_code in (400, 401)
    assert not upstream.requests


@pytest.mark.parametrize("method", ["COPY", "MOVE", "copy"])
def test_what_names_a_second_path_needs_a_token(make_gate: Any, upstream: Any, method: str) -> None:
    """WebDAV writes to the `Destination`, which nobody has shown a token for."""
    api = Api(make_gate(public_paths="/static/*", trusted_proxies=1))
    assert_refused(ask(api, "/static/x", method, Destination="/secret/x"), "missing-credentials")
    for said in (method, f"GET, {method}"):  # the proxy's own word, and as a server joins it with the client's
        asked = {"X-Forwarded-Uri": "/static/x", "X-Forwarded-Method": said}
        assert_refused(ask(api, "/-/auth", **asked), "missing-credentials")
    assert not upstream.requests
    assert ask(api, "/static/x", method, token=mint(), Destination="/static/y").status_code == 200


@pytest.mark.parametrize(
    "credentials",
    ["Basic eDp5", "DPoP x", "Digest username=bearer", 'Hawk id="a,b"', "ApiKey Bearer", "key", "JWT a.b.c"],
)
def test_other_schemes_pass_untouched_on_a_public_path_alone(api: Api, upstream: Any, credentials: str) -> None:
    assert ask(api, "/health", "POST", Authorization=credentials).status_code == 200
    assert upstream.requests[-1]["HTTP_AUTHORIZATION"] == credentials
    assert_refused(ask(api, "/secret", Authorization=credentials), "unsupported-scheme")
    assert_refused(ask(api, "/secret", "OPTIONS", Authorization=credentials, **PREFLIGHT), "unsupported-scheme")


def test_a_preflight_passes_as_nothing_but_a_preflight(api: Api, upstream: Any) -> None:
    more = {
        "Cookie": "a=1", "X-HTTP-Method-Override": "DELETE", "X-HTTP-Method": "DELETE", "X-Method-Override": "DELETE",
        "X-Original-URL": "/admin", "X-Rewrite-URL": "/admin", "Content-Type": "text/plain", "X-Kept": "1",
        "X-Real-Method": "DELETE", "Method-Override": "DELETE", "X-HTTP-Override": "DELETE", "Cookie2": "$Version=1",
        "Upgrade": "websocket", "Destination": "/x",
    }  # fmt: skip
    raw = {"REQUEST_URI": "/secret", "RAW_URI": "/secret"}
    answer = api("OPTIONS", "/", headers={**PREFLIGHT, **more}, data=b"_method=DELETE", environ_overrides=raw)
    assert answer.status_code == 200
    seen = upstream.requests[-1]
    assert seen["HTTP_X_KEPT"] == "1"
    names = ["HTTP_" + name.upper().replace("-", "_") for name in more if name != "X-Kept"]
    assert not {"CONTENT_LENGTH", "CONTENT_TYPE", *names} & set(seen)
    assert seen["wsgi.input"].read() == b""


def test_no_field_makes_another_path_of_a_public_one(api: Api, upstream: Any) -> None:
    fields = ["X-Original-URL", "X-Original-URI", "X-Rewrite-URL", "X-Script-Name", "Script-Name", "X.Rewrite.Url"]
    fields += ["Destination"]  # with `X-HTTP-Method-Override: MOVE`
    assert ask(api, "/health", **dict.fromkeys(fields, "/secret")).status_code == 200
    assert "/secret" not in upstream.requests[-1].values()
    assert ask(api, "/secret", token=mint(), **dict.fromkeys(fields, "/x")).status_code == 200
    assert upstream.requests[-1]["HTTP_X_ORIGINAL_URL"] == "/x"


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "X-Script-Name"])
def test_where_a_field_says_where_the_app_is_mounted_no_path_is_public(api: Api, upstream: Any, name: str) -> None:
    """gunicorn makes such an environ of a client's field SCRIPT_NAME, and the app sees /secret."""
    raw = {"RAW_URI": "/static/secret", "SCRIPT_NAME": "/static", "PATH_INFO": "/secret"}
    assert_refused(api("GET", "/", headers={name: "/static"}, environ_overrides=raw), "missing-credentials")
    assert api("GET", "/", mint(), headers={name: "/static"}, environ_overrides=raw).status_code == 200
    assert api("GET", "/", environ_overrides=raw).status_code == 200
    assert upstream.requests[-1]["SCRIPT_NAME"] == "/static"


def test_a_prefix_that_a_client_names_makes_no_public_path(make_gate: Any) -> None:
    """Behind werkzeug's ProxyFix, on a server that does not give the raw target (granian)."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    gate = ProxyFix(make_gate(public_paths="/static/*"), x_prefix=1)

    def serve(environ: Any, start_response: Any) -> Any:
        if "HTTP_X_RAW" not in environ:
            del environ["RAW_URI"], environ["REQUEST_URI"]
        return gate(environ, start_response)

    api, prefix = Api(serve), {"X-Forwarded-Prefix": "/static"}
    assert_refused(api("GET", "/secret", headers=prefix), "missing-credentials")
    assert api("GET", "/secret", mint(), headers=prefix).status_code == 200
    assert api("GET", "/static/x").status_code == 200
    assert api("GET", "/static/x", headers={**prefix, "X-Raw": "1"}).status_code == 200


def test_a_blacklisted_token_is_refused_on_a_public_path_too(api: Api) -> None:
    api("POST", "/blacklist", mint())
    assert_refused(ask(api, "/health", token=mint()), "token-blacklisted")


def test_a_preflight_passes_where_that_is_set(api: Api, upstream: Any) -> None:
    assert ask(api, "/secret", "OPTIONS", **PREFLIGHT).status_code == 200
    assert upstream.requests[-1]["REQUEST_METHOD"] == "OPTIONS"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", {}),
        ("OPTIONS", {"Origin": "https://app.test"}),
        ("OPTIONS", {"Access-Control-Request-Method": "DELETE"}),
        ("OPTIONS", {**PREFLIGHT, "Origin": ""}),
        ("OPTIONS", {**PREFLIGHT, "Access-Control-Request-Method": ""}),
        ("GET", PREFLIGHT),
        ("POST", {**PREFLIGHT, "X-HTTP-Method-Override": "OPTIONS"}),
        ("options", PREFLIGHT),
    ],
)
def test_what_only_resembles_a_preflight_needs_a_token(api: Api, method: str, headers: Any) -> None:
    assert_refused(ask(api, "/secret", method, **headers), "missing-credentials")


def test_a_preflight_needs_a_token_by_default(make_api: Any) -> None:
    assert_refused(make_api()("OPTIONS", "/info", headers=PREFLIGHT), "missing-credentials")
