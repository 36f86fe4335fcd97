"""gateway poll-events: RFC 8936, with a real transmitter on loopback and the command as it is run."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from helpers import ABSENT, ISSUER, sign
from processes import ROOT
from provider import Provider, jwks, send, signer, status
from recorder import until
from transmitter import Transmitter

from gateway import Settings
from gateway.app import build_blacklist
from gateway.auth.issuers import Issuers
from gateway.http.problems import Problem
from gateway.parties import build_senders
from gateway.signals.events import Events
from gateway.signals.poll import Poller
from gateway.signals.record import Recorder
from gateway.signals.senders import Poll

IDP, SECRET = "https://idp.example.com/123456789/", "the transmitter's"
REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"


def event(jti: str, session: str, **claims: Any) -> str:
    """Return an event that ends a session."""
    members = {
        "iss": IDP,
        "jti": jti,
        "iat": int(time.time()),
        "aud": "us",
        "sub_id": {"format": "opaque", "id": session},
        "events": {REVOKED: {}},
        **claims,
    }
    payload = {name: value for name, value in members.items() if value is not ABSENT}
    return sign({"alg": "HS256", "typ": "secevent+jwt"}, payload, SECRET)


def environ(directory: Path, url: str, **members: Any) -> dict[str, str]:
    sender = {"issuer": IDP, "audience": "us", "about": ISSUER, "secret": SECRET, "poll_url": url, **members}
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GATEWAY_STORE": f"sqlite:///{directory}/blacklist.sqlite3",
        "GATEWAY_SIGNALS": json.dumps([sender]),
    }


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "poll-events", *flags]


def poll(directory: Path, url: str, **members: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--once"),
        env=environ(directory, url, **members),
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    blacklist = build_blacklist(Settings(store=f"sqlite:///{tmp_path}/blacklist.sqlite3"))
    yield blacklist
    blacklist.store.close()


def make_poller(blacklist: Any, url: str, keys: dict[str, str] | None = None, **settings: Any) -> Poller:
    sender = {"issuer": IDP, "audience": "us", "about": ISSUER, "poll_url": url, **(keys or {"secret": SECRET})}
    senders = build_senders(Settings(signals=json.dumps([sender]), **settings), [])
    events = Events(Recorder(blacklist, senders, 0, time.time), Issuers([]))
    return Poller(events, cast(Poll, senders.all[0].poll))


def sessions(blacklist: Any) -> set[str]:
    entries, _ = blacklist.store.page(1000)
    return {entry.claim[1] for entry in entries}


def test_every_event_is_taken_and_then_acknowledged_and_a_bad_one_is_reported(tmp_path: Path, store: Any) -> None:
    good = {f"e-{number}": event(f"e-{number}", f"s-{number}") for number in range(25)}
    bad = {
        "audience": event("audience", "x-1", aud="others"),
        "signature": event("signature", "x-2")[:-4] + "AAAA",
        "number": 7,
    }
    with Transmitter({**bad, **good}, authorization="Bearer ours", most=10) as transmitter:
        done = poll(tmp_path, transmitter.url, poll_authorization="Bearer ours")
    assert done.returncode == 0, done.stderr
    assert f"events of {transmitter.url.partition('?')[0]} go to sqlite:///{tmp_path}/blacklist.sqlite3" in done.stderr
    assert sessions(store) == {f"s-{number}" for number in range(25)}
    assert transmitter.sets == {}
    acks = [request["ack"] for request in transmitter.requests]
    assert [len(ack) for ack in acks] == [0, 7, 10, 8]
    assert all(request["returnImmediately"] is True for request in transmitter.requests)
    errors = {jti: fault["err"] for jti, fault in transmitter.faults.items()}
    assert errors == {"audience": "invalid_audience", "signature": "authentication_failed", "number": "invalid_request"}
    assert all(fault["description"] for fault in transmitter.faults.values())
    assert all(fields["Content-Language"] == "en" for _, fields in transmitter.asked)


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "gzip in spite of identity": gzip.compress,
    "a byte order mark": lambda text: b"\xef\xbb\xbf" + text,
}


@pytest.mark.parametrize("encode", ANSWERS.values(), ids=ANSWERS)
def test_events_come_as_key_sets_do_through_a_proxy_and_to_a_client_with_a_name(
    store: Any, encode: Callable[[bytes], bytes]
) -> None:
    url = "http://127.0.0.1:9/poll"
    with Transmitter({"e-1": event("e-1", "s-1")}) as proxy:
        proxy.encode = encode
        poller = make_poller(store, url, jwks_url="https://idp.test/", jwks_proxy=proxy.url.partition("/poll")[0])
        while poller.fetch(wait=False):
            pass
    assert sessions(store) == {"s-1"}
    assert proxy.sets == {}
    assert {path for path, _ in proxy.asked} == {url}
    assert all(fields["User-Agent"].startswith("jwt-blacklist-gateway/") for _, fields in proxy.asked)


def test_an_event_whose_key_cannot_be_fetched_keeps_no_other_back(store: Any) -> None:
    claims = {"iss": IDP, "aud": "us", "iat": int(time.time()), "events": {REVOKED: {}}}

    def sign_with(kid: str, jti: str) -> dict[str, str]:
        members = {**claims, "jti": jti, "sub_id": {"format": "opaque", "id": jti}}
        headers = {"typ": "secevent+jwt", "kid": kid}
        return {jti: jwt.encode(members, signer("RS256", kid).key, "RS256", headers=headers)}

    with (
        Provider([signer("RS256", "known")], plain=True) as provider,
        Transmitter(sign_with("known", "e-1")) as transmitter,
    ):
        poller = make_poller(store, transmitter.url, {"jwks_url": provider.jwks_url})
        assert poller.fetch(wait=False)
        provider.answer = status(503)
        transmitter.sets |= sign_with("newer", "e-2") | sign_with("known", "e-3")
        with pytest.raises(Problem, match="keys-unavailable"):
            poller.fetch(wait=False)
        assert sessions(store) == {"e-1", "e-3"}
        assert transmitter.sets.keys() == {"e-2", "e-3"}


@pytest.mark.parametrize("sets", [{}, {"e-1": event("e-1", "s-1")}, {"e-1": "no token"}], ids=["none", "good", "bad"])
def test_a_transmitter_that_never_ends_is_not_asked_for_ever(store: Any, sets: dict[str, str]) -> None:
    with Transmitter(sets) as transmitter:
        transmitter.keeps = transmitter.is_endless = True
        poller = make_poller(store, transmitter.url)
        asked = 1
        while poller.fetch(wait=False):
            asked += 1
    assert asked == 1 + len(sets)


@pytest.mark.slow
def test_an_event_that_comes_again_is_acknowledged_and_does_not_count_twice(tmp_path: Path, store: Any) -> None:
    sets = {"e-1": event("e-1", "s-1")}
    for lifted in (False, True):
        with Transmitter(sets) as transmitter:
            assert poll(tmp_path, transmitter.url).returncode == 0
        assert transmitter.sets == {}
        assert sessions(store) == (set() if lifted else {"s-1"})
        for entry in store.store.page(10)[0]:
            store.store.remove(entry.key)


@pytest.mark.slow
@pytest.mark.parametrize("status", [302, 401, 500])
def test_a_transmitter_that_refuses_is_told_of(tmp_path: Path, store: Any, status: int) -> None:
    with Transmitter({"e-1": event("e-1", "s-1")}) as transmitter:
        transmitter.status = status
        done = poll(tmp_path, transmitter.url)
    assert done.returncode == 2
    assert str(status) in done.stderr
    assert "Traceback" not in done.stderr
    assert sessions(store) == set()


@pytest.mark.slow
def test_a_transmitter_that_is_down_keeps_nobody_elses_events_back(tmp_path: Path, store: Any) -> None:
    down = {"issuer": "https://down.test/", "audience": "us", "about": ISSUER, "secret": "x", "poll_url": ""}
    with Transmitter({}) as gone:
        down["poll_url"] = gone.url
    with Transmitter({"e-1": event("e-1", "s-1")}) as transmitter:
        variables = environ(tmp_path, transmitter.url)
        variables["GATEWAY_SIGNALS"] = json.dumps([down, *json.loads(variables["GATEWAY_SIGNALS"])])
        done = subprocess.run(
            command("--once"), env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert (done.returncode, transmitter.sets, sessions(store)) == (2, {}, {"s-1"})
    assert f"{gone.url.partition('?')[0]}: no usable answer" in done.stderr


@pytest.mark.slow
def test_keys_that_take_longer_than_a_request_waits_are_waited_for(tmp_path: Path, store: Any) -> None:
    """Each run is a process of its own, which has no keys yet: else none would ever have any."""
    key = signer("RS256", "a")

    def answer_late(handler: Any) -> None:
        time.sleep(1.2)
        send(handler, jwks(key))

    claims = {"iss": IDP, "aud": "us", "iat": int(time.time()), "jti": "e-1", "events": {REVOKED: {}}}
    claims["sub_id"] = {"format": "opaque", "id": "s-1"}
    text = jwt.encode(claims, key.key, "RS256", headers={"typ": "secevent+jwt", "kid": "a"})
    with Provider([key], plain=True) as provider, Transmitter({"e-1": text}) as transmitter:
        provider.answer = answer_late
        done = poll(tmp_path, transmitter.url, secret=None, jwks_url=provider.jwks_url)
        assert (done.returncode, sessions(store)) == (0, {"s-1"}), done.stderr
        token = key.token(iss=ISSUER, exp=int(time.time()) + 600)
        variables = environ(tmp_path, transmitter.url) | {"GATEWAY_JWKS_URL": provider.jwks_url}
        revoke = [sys.executable, "-m", "gateway", "revoke", token]
        done = subprocess.run(revoke, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("store")
def test_who_revokes_a_token_waits_for_its_own_issuers_keys_alone(tmp_path: Path) -> None:
    key = signer("RS256", "a")
    with Provider([key], plain=True) as provider, Provider([key], plain=True) as other:
        issuers = [{"issuer": f"https://{n}.test/", "jwks_url": p.jwks_url} for n, p in enumerate((other, provider))]
        variables = environ(tmp_path, "") | {"GATEWAY_ISSUERS": json.dumps(issuers), "GATEWAY_SIGNALS": ""}
        for whose, returncode in (("https://1.test/", 0), ("https://nobody.test/", 2)):
            token = key.token(iss=whose, exp=int(time.time()) + 600)
            revoke = [sys.executable, "-m", "gateway", "revoke", token]
            done = subprocess.run(revoke, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == returncode, done.stderr
        assert provider.fetches > other.fetches == 0


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_transmitter_whose_answer_breaks_off_is_told_of(tmp_path: Path) -> None:
    def answer() -> None:
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"sets":')

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        done = poll(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(10)
    assert done.returncode == 2
    assert "no usable answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_nothing_and_acknowledges_nothing_that_is_not_there(
    tmp_path: Path, store: Any
) -> None:
    """It is killed again and again, at other moments; what was acknowledged by then is in the store."""
    count = 300
    sets = {f"e-{number}": event(f"e-{number}", f"s-{number}") for number in range(count)}
    with Transmitter(sets, most=7) as transmitter:
        for attempt in range(30):
            before = len(transmitter.requests)
            with subprocess.Popen(
                command(), env=environ(tmp_path, transmitter.url), cwd=tmp_path, stderr=subprocess.DEVNULL
            ) as process:
                until(lambda known=before: len(transmitter.requests) > known + 2, 30)  # type: ignore[misc]
                time.sleep(attempt % 10 * 0.003)
                process.send_signal(signal.SIGKILL)
            acknowledged = sets.keys() - transmitter.sets.keys()
            assert {jti.replace("e-", "s-") for jti in acknowledged} <= sessions(store)
            if not transmitter.sets:
                break
        assert poll(tmp_path, transmitter.url).returncode == 0
    assert transmitter.sets == {}
    assert sessions(store) == {f"s-{number}" for number in range(count)}


@pytest.mark.slow
def test_it_waits_at_the_transmitter_and_takes_what_comes(tmp_path: Path, store: Any) -> None:
    with Transmitter({}) as transmitter:
        with subprocess.Popen(
            command(), env=environ(tmp_path, transmitter.url), cwd=tmp_path, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                assert until(lambda: bool(transmitter.requests), 30)
                transmitter.sets["e-1"] = event("e-1", "s-1")
                assert until(lambda: not transmitter.sets, 30)
            finally:
                process.terminate()
                process.communicate()
        assert transmitter.requests[0]["returnImmediately"] is False
    assert sessions(store) == {"s-1"}
