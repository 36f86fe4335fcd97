"""What a log's audit records say of the entries that there should be."""

import io
import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import Clock

from gateway import Settings
from gateway.app import build_blacklist
from gateway.blacklist.keys import token_key
from gateway.blacklist.rules import Actor, ClaimTarget
from gateway.blacklist.stores import Entry, open_store
from gateway.cli.accept import _read_added, accept_store


def test_an_entry_that_somebody_failed_to_lift_is_still_to_be_there() -> None:
    a, b = "a" * 64, "b" * 64
    about = [(a, "add", True), (b, "add", True), (a, "remove", False), (b, "remove", True), ("a", "add", True)]
    records = [
        {"logger": "gateway.audit", "fingerprint": digits, "action": action, "changed": changed}
        for digits, action, changed in about
    ]
    assert list(_read_added(io.StringIO("\n".join(map(json.dumps, records))))) == [token_key(a)]


def test_what_a_clock_that_was_ahead_has_forgotten_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.entries.configure_logging", lambda *_: None)
    url, key, clock = f"sqlite:///{tmp_path}/blacklist.sqlite3", token_key("a" * 64), Clock(time.time())
    with closing(open_store(url, now=clock)) as store:
        store.add([Entry(key, "i", 0, int(clock()) + 600)])
        clock.advance(2 * 3600)
        store.add([Entry(token_key("b" * 64), "i", 0, None)])
    record = {"logger": "gateway.audit", "action": "add", "fingerprint": "a" * 64}
    (tmp_path / "log").write_text(json.dumps(record))
    done = CliRunner().invoke(accept_store, ["--store", url, "--audit", str(tmp_path / "log"), "--yes"])
    assert done.exit_code == 0, done.output
    assert "It lacks 1 of the log's 1 entries" in done.output
    with closing(open_store(url)) as store:
        assert not store.find([key])


LOGGED = {
    "a later cut-off": ({"issued_before": 2001}, True),
    "no cut-off": ({"issued_before": None}, True),
    "a later end": ({"until": 2_100_000_001}, True),
    "no end": ({"until": None}, True),
    "the same": ({}, False),
    "an earlier cut-off": ({"issued_before": 1999}, False),
    "times that are none": ({"until": "x"}, False),
}


@pytest.mark.parametrize(("changed", "is_missing"), LOGGED.values(), ids=LOGGED)
def test_an_entry_that_the_copy_has_as_it_was_before_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], is_missing: bool
) -> None:
    monkeypatch.setattr("gateway.cli.entries.configure_logging", lambda *_: None)
    url = f"sqlite:///{tmp_path}/blacklist.sqlite3"
    blacklist = build_blacklist(Settings(store=url))
    blacklist.add_targets([ClaimTarget("https://a.test/", "sub", "1001", 2000, 2_100_000_000)], Actor("me"))
    record = {"action": "add", "issuer": "https://a.test/", "claim": {"sub": "1001"}, "until": 2_100_000_000}
    line = json.dumps({"logger": "gateway.audit", "issued_before": 2000, **record, **changed})
    # What a power cut leaves in a log is no text, and others may write there what nobody can read.
    (tmp_path / "log").write_bytes(b"\xff\0\x86\n" + b"[" * 100_000 + b"\n" + line.encode() + b"\n")
    done = CliRunner().invoke(accept_store, ["--store", url, "--audit", str(tmp_path / "log"), "--yes"])
    assert done.exit_code == 0, done.output
    assert ("is the log in JSON" in done.output) is ("x" in changed.values())
    assert f"It lacks {int(is_missing)} of the log's {int('x' not in changed.values())} entries" in done.output


def test_another_issuers_entry_for_a_fingerprint_does_not_stand_for_that_of_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.entries.configure_logging", lambda *_: None)
    issuers = [{"issuer": name, "secret": name * 32} for name in "ab"]
    monkeypatch.setenv("GATEWAY_ISSUERS", json.dumps(issuers))
    url = f"sqlite:///{tmp_path}/blacklist.sqlite3"
    with closing(open_store(url)) as store:
        store.add([Entry(token_key(digit * 64), "a", 0, None, by_fingerprint=True) for digit in "01"])
    about = [{"fingerprint": "0" * 64, "issuer": "a"}, {"fingerprint": "1" * 64, "issuer": "b"}]
    lines = [json.dumps({"logger": "gateway.audit", "action": "add", **each}) for each in about]
    (tmp_path / "log").write_text("\n".join(lines))
    done = CliRunner().invoke(accept_store, ["--store", url, "--audit", str(tmp_path / "log"), "--yes"])
    assert done.exit_code == 0, done.output
    assert lines[1] in done.output
    assert "It lacks 1 of the log's 2 entries" in done.output


def test_an_end_that_was_given_with_a_fingerprint_is_not_that_of_the_tokens_own_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.cli.entries.configure_logging", lambda *_: None)
    url, named = f"sqlite:///{tmp_path}/blacklist.sqlite3", {"logger": "gateway.audit", "action": "add", "issuer": "i"}
    with closing(open_store(url)) as store:
        for digits, is_named in (("a" * 64, True), ("b" * 64, False)):
            store.add([Entry(token_key(digits), "i", 0, int(time.time()) + 600, by_fingerprint=is_named)])
    # The entry with an end was lifted; then the holder blacklisted the token.
    records = [{**named, "fingerprint": "a" * 64, "until": int(time.time()) + 600}]
    records += [{**named, "fingerprint": digits * 64} for digits in "ab"]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, records)))
    done = CliRunner().invoke(accept_store, ["--store", url, "--audit", str(tmp_path / "log"), "--yes"])
    assert "It lacks 1 of the log's 2 entries" in done.output
    lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [line["fingerprint"] for line in lines] == ["a" * 64]
