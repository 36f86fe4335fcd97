"""SIGHUP: a running gateway takes new secrets and keys, and no request under way is lost."""

import http.client
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGKILL
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from helpers import ISSUER, mint
from recorder import Recorder, ok, until
from running import Running

from gateway.cli import tokens
from gateway.config.settings import Settings

pytestmark = pytest.mark.slow

PATIENCE = 60.0  # seconds, on a machine that does much else
OLD, NEW = "the old secret of more than 32 bytes", "the new secret of more than 32 bytes"


class Load:
    """Requests all the time, over connections that are kept and over new ones; `seen` counts what came of them."""

    def __init__(self, gateway: Running, token: str) -> None:
        self.seen: Counter[object] = Counter()
        self._gateway, self._token, self._ended = gateway, token, threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._kept, self._new, self._new)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _new(self) -> None:
        while not self._ended.is_set():
            self._count(lambda: self._gateway.get("/", self._token).status)

    def _kept(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port)

        def ask() -> int:
            connection.request("POST", "/", b"x" * 70000, {"Authorization": f"Bearer {self._token}"})
            response = connection.getresponse()
            response.read()
            return response.status

        while not self._ended.is_set():
            self._count(ask)
        connection.close()

    def _count(self, ask: Callable[[], int]) -> None:
        try:
            self.seen[ask()] += 1
        except (OSError, http.client.HTTPException) as error:
            self.seen[repr(error)] += 1

    def goes_on(self) -> bool:
        """Wait for more requests to be answered."""
        before = self.seen.total()
        return until(lambda: self.seen.total() > before + 10, PATIENCE)


@contextmanager
def started(directory: Path, workers: str = "2", **environ: str) -> Iterator[Running]:
    flags = ["--workers", workers, "--queue-timeout", "60"]  # a busy machine is no overload
    with Recorder(ok()) as upstream, Running(directory, upstream.url, *flags, **environ) as gateway:
        yield gateway


def renew(gateway: Running, is_in_force: Callable[[], bool]) -> None:
    gateway.signal(SIGHUP)
    # Old and new workers answer side by side for a moment.
    assert until(lambda: all(is_in_force() for _ in range(10)), PATIENCE), gateway.log


def test_a_secret_is_rotated_without_losing_a_request(tmp_path: Path) -> None:
    secrets, old, new = tmp_path / "secret", mint(OLD), mint(NEW)
    secrets.write_text(OLD)
    with started(tmp_path, GATEWAY_SECRET_FILE=str(secrets)) as gateway:
        assert (gateway.get("/", old).status, gateway.get("/", new).status) == (200, 401)
        with Load(gateway, old) as load:
            secrets.write_text(f"{NEW}\n{OLD}\n")
            assert load.goes_on()
            renew(gateway, lambda: gateway.get("/", new).status == 200)
            assert load.goes_on()
        assert set(load.seen) == {200}, gateway.log[-3000:]
        with Load(gateway, new) as load:
            secrets.write_text(NEW)
            renew(gateway, lambda: gateway.get("/", old).status == 401)
            assert load.goes_on()
        assert set(load.seen) == {200}, gateway.log[-3000:]


def test_a_blacklisted_token_stays_blacklisted_through_it_and_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    token = mint(jti="gone")
    with started(tmp_path) as gateway:
        assert "restarted" not in gateway.log
        changed = ("KEEP_ALIVE=9", "READ_TIMEOUT=9", "RESTOR=admin", "LOG_LEVEL=debug")
        (tmp_path / ".env").write_text("".join(f"GATEWAY_{each}\n" for each in changed))
        assert gateway.request("POST", "/blacklist", token).status == 200
        with Load(gateway, token) as load:
            for _ in range(2):
                gateway.signal(SIGHUP)
                assert load.goes_on()
        assert set(load.seen) == {401}
        named = "not in force until the gateway is restarted: GATEWAY_KEEP_ALIVE, GATEWAY_LOG_LEVEL"
        assert until(lambda: named in gateway.log), gateway.log[-3000:]
        assert "remembered" not in gateway.log, "lines at debug have it"
        assert "GATEWAY_READ_TIMEOUT" not in gateway.log
        assert "GATEWAY_RESTOR sets nothing; did you mean GATEWAY_RESTORE?" in gateway.log


def test_a_fault_keeps_the_old_secrets_and_is_told(tmp_path: Path) -> None:
    secrets = tmp_path / "secret"
    secrets.write_text(OLD)
    with started(tmp_path, "1", GATEWAY_SECRET_FILE=str(secrets)) as gateway:
        with Load(gateway, mint(OLD)) as load:
            assert load.goes_on()
            secrets.write_text("")
            gateway.signal(SIGHUP)
            assert until(lambda: "is empty" in gateway.log, PATIENCE)
            assert load.goes_on()
        assert set(load.seen) == {200}, gateway.log[-3000:]
        os.kill(gateway.workers[0], SIGKILL)
        assert gateway.get("/", mint(OLD)).status == 200, "they are those of a worker that starts later, too"


def pem(key: ed25519.Ed25519PrivateKey) -> tuple[str, bytes]:
    """Return the private and the public key as PEM."""
    encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none).decode()
    return private, key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_file_of_public_keys_needs_no_signal(tmp_path: Path) -> None:
    (first, first_public), (second, second_public) = (pem(ed25519.Ed25519PrivateKey.generate()) for _ in range(2))
    keys = tmp_path / "keys.pem"
    keys.write_bytes(first_public)
    settings: Any = Settings(issuer=ISSUER, algorithms="EdDSA")
    old, new = (tokens.mint(settings, {"sub": "1"}, lifetime=600, key=key.encode()) for key in (first, second))
    with started(tmp_path, GATEWAY_PUBLIC_KEY=str(keys), GATEWAY_ALGORITHMS="EdDSA") as gateway:
        assert (gateway.get("/", old).status, gateway.get("/", new).status) == (200, 401)
        with Load(gateway, old) as load:
            keys.write_bytes(first_public + second_public)
            assert until(lambda: gateway.get("/", new).status == 200, PATIENCE)
            assert load.goes_on()
        assert set(load.seen) == {200}, gateway.log[-3000:]
        keys.write_bytes(second_public)
        assert until(lambda: {gateway.get("/", old).status for _ in range(10)} == {401}, PATIENCE)
