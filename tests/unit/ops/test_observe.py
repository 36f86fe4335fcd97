"""One record per request, whatever becomes of it, and nothing secret in it."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from wsgiref.validate import validator

import pytest
from helpers import Api, fingerprint, mint
from processes import ROOT
from sources import trees

from gateway.http.disconnected import ClientDisconnected
from gateway.http.problems import Problem
from gateway.http.wsgi import context
from gateway.ops.observe import Observe

TOKEN = mint(sub="1001", jti="a")


Records = list[dict[str, Any]]


@pytest.fixture
def records() -> Records:
    """Where the members of the records so far stand."""
    return []


@pytest.fixture
def answer(records: Records) -> Callable[..., Any]:
    """Run an app of the test's own under observation, without a server."""

    def run(app: Callable[..., Any], **environ: Any) -> Any:
        whole = {"REQUEST_METHOD": "GET", "REMOTE_ADDR": "192.0.2.1", **environ}
        return watched(app, records)(whole, lambda *_: None)

    return run


@pytest.fixture
def record(records: Records) -> Callable[[], dict[str, Any]]:
    """Return the members of the one record there is."""

    def only() -> dict[str, Any]:
        [found] = records
        return found

    return only


def watched(app: Callable[..., Any], records: Records) -> Observe:
    return Observe(app, lambda environ: "192.0.2.7", write=lambda message, members: records.append(members))


@pytest.fixture
def observed(gate: Any, records: Records) -> Api:
    return Api(validator(watched(gate, records)))


def test_a_request_that_passes_is_told_with_all_its_parts(observed: Api, record: Any) -> None:
    observed("PUT", "/orders/7?secret=1", TOKEN, headers={"X-Request-ID": "req-1"})
    told = record()
    assert told.pop("ms") >= told.pop("auth_ms") + told.pop("store_ms") > 0
    assert told == {
        "id": "req-1",
        "method": "PUT",
        "route": "upstream",
        "status": 200,
        "outcome": "passed",
        "client": "192.0.2.7",
        "token": fingerprint(TOKEN)[:12],
        "fingerprint": fingerprint(TOKEN),
        "subject": "1001",
    }


def test_what_a_client_may_make_long_is_cut(gate: Any, records: Records) -> None:
    long = "x" * 2000
    api = Api(Observe(gate, lambda environ: long, write=lambda _, members: records.append(members), in_detail=True))
    for token in (mint(sub=long), mint("another secret", iss=long), None):
        api(long.upper(), f"/{long}", token, headers={"X-Request-ID": long})
    assert len(records) == 3
    assert not [members for members in records if any(len(str(value)) > 256 for value in members.values())]


def test_a_refusal_is_told_by_its_code(observed: Api, record: Any) -> None:
    observed("GET", "/", mint("another secret"))
    told = record()
    assert (told["status"], told["outcome"], told["route"]) == (401, "bad-signature", "upstream")
    assert "token" not in told
    assert "subject" not in told
    assert "store_ms" not in told
    assert "auth_ms" in told


@pytest.mark.parametrize(
    ("path", "route"), [("/blacklist", "blacklist"), ("/blacklist/entries", "blacklist"), ("/-/live", "operators")]
)
def test_a_path_is_told_by_its_class_alone(observed: Api, record: Any, path: str, route: str) -> None:
    observed("GET", path, TOKEN)
    assert record()["route"] == route


def test_a_target_that_is_none_has_no_class(gate: Any, record: Any, answer: Any) -> None:
    list(answer(gate, RAW_URI="no-slash"))
    assert (record()["route"], record()["outcome"]) == ("none", "bad-request-target")


@pytest.mark.parametrize("inbound", ["x" * 129, "a b", "a\nb", 'a"b', "é", "", TOKEN[:128]])
def test_a_request_id_that_is_not_sane_is_replaced(gate: Any, record: Any, inbound: str, answer: Any) -> None:
    list(answer(gate, RAW_URI="/", HTTP_X_REQUEST_ID=inbound))
    assert re.fullmatch("[0-9a-f]{16}", record()["id"])


@pytest.mark.parametrize(
    "inbound", ["a", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233-abcdef", "a/1;o=1", "x" * 128]
)
def test_a_sane_request_id_is_kept(observed: Api, record: Any, inbound: str) -> None:
    observed("GET", "/", headers={"X-Request-ID": inbound})
    assert record()["id"] == inbound


@pytest.mark.parametrize(("subject", "told"), [(7001, "7001"), ("x" * 500, "x" * 128)])
def test_a_subject_is_told_as_text_of_bounded_length(observed: Api, record: Any, subject: Any, told: str) -> None:
    observed("GET", "/", mint(sub=subject))
    assert record()["subject"] == told


def test_a_subject_that_is_no_name_is_left_out(observed: Api, record: Any) -> None:
    observed("GET", "/", mint(sub={"email": "a@b.test"}))
    assert "subject" not in record()


def test_the_upstreams_part_is_told(record: Any, answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        context(environ).upstream_status, context(environ).upstream_seconds = 503, 0.001
        start_response("503 Service Unavailable", [])
        return [b"down"]

    assert answer(app) == [b"down"]
    assert record()["upstream_status"] == 503
    assert record()["outcome"] == "passed"
    assert record()["upstream_ms"] == 1


def test_the_time_of_a_part_that_fails_counts(record: Any, answer: Any) -> None:
    def app(environ: Any, start_response: Any) -> None:
        context(environ).store_seconds = 0.002
        raise Problem("store-unavailable")

    with pytest.raises(Problem):
        answer(app)
    assert record()["store_ms"] == 2
    assert (record()["status"], record()["outcome"]) == (503, "store-unavailable")


def stream(*pieces: bytes, error: Exception | None = None, closed: list[bool] | None = None) -> Callable[..., Any]:
    """Return an app that streams the pieces, and then maybe fails."""

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces
            if error:
                raise error

        def close(self) -> None:
            if closed is not None:
                closed.append(True)

    def app(environ: Any, start_response: Any) -> Body:
        start_response("200 OK", [])
        return Body()

    return app


def test_a_stream_is_told_when_it_is_closed(records: Records, answer: Any) -> None:
    closed: list[bool] = []
    body = answer(stream(b"a", b"b", closed=closed))
    assert list(body) == [b"a", b"b"]
    assert records == []
    body.close()
    assert [told["outcome"] for told in records] == ["passed"]
    assert closed == [True]


@pytest.mark.parametrize(("refusal", "status"), [("token-expired", 401), ("", 499), ("shut-down", 503)])
def test_an_answer_that_ends_before_it_begins_has_the_status_of_why(
    record: Any, answer: Any, refusal: str, status: int
) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        yield b""
        context(environ).refusal = refusal
        yield b""

    body = answer(app)
    assert list(islice(body, 2)) == [b"", b""]
    body.close()
    assert (record()["status"], record()["outcome"]) == (status, refusal or "client-left")


def test_a_client_that_leaves_amid_the_answer_is_no_error(record: Any, answer: Any) -> None:
    body = answer(stream(b"a", b"b"))
    assert next(iter(body)) == b"a"
    body.close()
    assert (record()["status"], record()["outcome"]) == (200, "client-left")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Problem("upstream-timeout"), "upstream-timeout"),
        (ClientDisconnected(), "client-left"),
        (RuntimeError("a bug"), "internal-error"),
    ],
)
def test_an_answer_that_is_cut_off_says_why(record: Any, error: Exception, outcome: str, answer: Any) -> None:
    body = answer(stream(b"a", error=error))
    with pytest.raises(type(error)):
        list(body)
    body.close()
    assert record()["outcome"] == outcome


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [(ClientDisconnected(), 499, "client-left"), (KeyError("a bug"), 500, "internal-error")],
)
def test_what_the_app_raises_is_told_and_raised(
    answer: Any, record: Any, error: Exception, status: int, outcome: str
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    with pytest.raises(type(error)):
        answer(app)
    assert (record()["status"], record()["outcome"]) == (status, outcome)


def test_a_request_has_one_id_in_the_answer_and_in_the_log(observed: Api, records: Records) -> None:
    answer = observed("GET", "/", TOKEN)
    assert answer.headers["X-Request-Id"] == records[-1]["id"]
    assert observed("GET", "/", TOKEN, headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"


def test_the_id_goes_upstream_in_place_of_one_that_is_not_sane() -> None:
    environ: dict[str, Any] = {"HTTP_X_REQUEST_ID": "a b"}
    Observe(lambda environ, start_response: [], lambda environ: "192.0.2.7")(environ, print)
    assert environ["HTTP_X_REQUEST_ID"] != "a b"
    assert environ["HTTP_X_REQUEST_ID"] == environ["gateway.context"].request_id


def test_the_cause_and_the_trace_are_logged(records: Records) -> None:
    def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["gateway.context"].cause = "connection refused"
        start_response("502 Bad Gateway", [])
        return [b""]

    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    environ = {"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-01"}
    Observe(failing, lambda _: "192.0.2.7", write=lambda message, members: records.append(members))(environ, print)
    assert (records[-1]["cause"], records[-1]["trace"]) == ("connection refused", trace)


@pytest.mark.parametrize(
    "bad",
    [
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ", ".join(["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] * 2),
    ],
)  # fmt: skip
def test_a_trace_that_is_none_is_not_logged(records: Records, bad: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    environ = {"REQUEST_METHOD": "GET", "HTTP_TRACEPARENT": bad}
    Observe(app, lambda _: "192.0.2.7", write=lambda message, members: records.append(members))(environ, print)
    assert "trace" not in records[-1]


def test_no_record_shows_more_of_a_token_than_fingerprint_and_subject(observed: Api, records: Records) -> None:
    """Wherever a client may have put it."""
    for path in ("/", f"/{TOKEN}", f"/?access_token={TOKEN}"):
        observed("GET", path, TOKEN, headers={"X-Request-ID": TOKEN, "Cookie": f"jwt={TOKEN}", "Referer": f"/{TOKEN}"})
    observed("POST", "/blacklist", TOKEN, json={"token": TOKEN})
    text = json.dumps(records)
    assert len(records) == 4
    assert not any(part in text for part in TOKEN.split("."))


def names(tree: ast.AST) -> Iterator[Any]:
    """Yield the members that the code gives names to: in a dictionary's text, or one by one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant))
        elif (
            isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.slice, ast.Constant)
        ):
            yield node.slice.value


def test_docs_operations_explains_every_member() -> None:
    functions = {
        each.name: each for each in trees()["gateway/ops/observe.py"].body if isinstance(each, ast.FunctionDef)
    }
    places: list[ast.AST] = [functions[name] for name in ("_members", "_details")]
    calls = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    places += [each.value for call in calls for each in call.keywords if each.arg == "log"]
    section = (ROOT / "docs/operations.md").read_text().partition("\n## Logs")[2].partition("\n## ")[0]
    assert {name for place in places for name in names(place)} <= set(re.findall(r"`(\w+)`", section))


def test_a_wrong_issuer_is_told_beside_those_that_are_right(observed: Api, record: Any) -> None:
    observed("GET", "/", mint(iss="https://elsewhere.test/\r\nx: y"))
    told = record()
    assert (told["outcome"], told["found_issuer"]) == ("wrong-issuer", "https://elsewhere.test/\r\nx: y")
    assert told["expected_issuer"] == "https://www.discogs.com/"
    assert r"test/\r\nx" in json.dumps(told), "as every line escapes it"


def test_a_line_names_a_token_as_an_admin_blacklists_it(observed: Api, records: Records) -> None:
    observed("GET", "/", TOKEN)
    named = {"fingerprint": records[-1]["fingerprint"]}
    admin = mint(sub="admin", scope="blacklist:admin")
    assert observed("POST", "/blacklist", admin, json=named).status_code == 200
    observed("GET", "/", TOKEN)
    assert records[-1]["outcome"] == "token-blacklisted"
    assert records[-1]["fingerprint"] == named["fingerprint"]


def test_probes_that_find_nothing_amiss_are_told_apart(gate: Any) -> None:
    loud: Records = []
    quiet: Records = []
    api = Api(
        Observe(
            gate,
            lambda environ: "192.0.2.7",
            write=lambda message, members: loud.append(members),
            write_probe=lambda message, members: quiet.append(members),
        )
    )
    for path in ("/-/live", "/-/ready", "/-/openapi.json", "/"):
        api("GET", path)
    assert api("POST", "/-/ready").status_code == 405
    assert [len(quiet), len(loud)] == [2, 3]


def test_in_detail_a_line_says_how_a_request_was_judged(gate: Any, records: Records) -> None:
    watched = Observe(gate, lambda environ: "", write=lambda message, members: records.append(members), in_detail=True)
    api = Api(watched)
    api("GET", "/", TOKEN)
    api("GET", "/", mint("another secret"))
    good, bad = records
    assert (good["remembered"], good["issuer"], "detail" in good) == (False, "https://www.discogs.com/", False)
    assert bad["detail"] == "The token's signature does not verify."
