"""An OpenID provider for tests: real HTTPS on loopback, keys that rotate, failures on demand, every fetch counted.

with Provider([signer("RS256", "a")]) as provider:
    provider.jwks_url, provider.metadata_url, provider.issuer, provider.ca_file
    provider.keys = [signer("ES256", "b")]       # rotate
    provider.answer = status(503)                # fail; None serves the keys again
    provider.fetches, provider.paths, provider.wait_for(3)
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

PATIENCE = 10.0  # seconds after which a test that waits has failed
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "ES256K": ec.SECP256K1()}

Answer = Callable[[BaseHTTPRequestHandler], None]


@cache
def private_key(algorithm: str, number: str | int = 0, bits: int = 2048) -> Any:
    """Return a private key for the algorithm, for each number another one, made once."""
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, bits)
    if algorithm == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if algorithm in ("EdDSA", "Ed25519"):
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(CURVES[algorithm])


def pem(key: Any) -> bytes:
    """Return the public half of a private key as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Any) -> bytes:
    """Return a private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True)
class Signer:
    """One signing key of a provider."""

    algorithm: str
    kid: str | None
    key: Any

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Return the public JWK; a member given as None is left out."""
        public = jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.key.public_key(), as_dict=True)
        public.pop("key_ops", None)
        all_members = {**public, "use": "sig", "alg": self.algorithm, "kid": self.kid, **members}
        return {name: value for name, value in all_members.items() if value is not None}

    def token(self, **claims: Any) -> str:
        """Return a token of these claims, with this kid."""
        headers = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.key, self.algorithm, headers=headers)


def signer(algorithm: str, kid: str | None = None) -> Signer:
    """Return a signer; the same arguments have the same key."""
    return Signer(algorithm, kid, private_key(algorithm, kid or 0))


def jwks(*keys: Signer | dict[str, Any]) -> bytes:
    """Return the text of a JWKS."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, Signer) else key for key in keys]}).encode()


def send(handler: BaseHTTPRequestHandler, body: bytes, code: int = 200, **fields: str) -> None:
    """Answer with a body; `_` in a field's name stands for `-`."""
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), "Content_Type": "application/json", **fields}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def content(body: bytes, **fields: str) -> Answer:
    """Return an answer: 200 with this body."""
    return lambda handler: send(handler, body, **fields)


def status(code: int, **fields: str) -> Answer:
    """Return an answer: this status code, with a body nobody should use."""
    return lambda handler: send(handler, b'{"keys": []}', code, **fields)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a body that never ends: one byte at a time, until the client is gone."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()


class Provider:
    """See the module. `issuer` is the base URL; `plain` speaks http; `hold()` lets fetches hang."""

    def __init__(self, keys: Sequence[Signer | dict[str, Any]] = (), *, plain: bool = False) -> None:
        self.keys = keys
        self.answer: Answer | None = None
        self.metadata: dict[str, Any] = {}
        self.places: set[str] | None = None  # where there is metadata: None means everywhere
        self.nothing = status(404)  # what there is elsewhere
        self.paths: list[str] = []
        self.fields: list[Any] = []
        self._counted = threading.Condition()
        self._released = threading.Event()
        self._released.set()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._files = tempfile.TemporaryDirectory()
        self.ca_file = str(Path(self._files.name, "ca.pem"))
        if not plain:
            self._server.socket = _tls(self._files.name).wrap_socket(self._server.socket, server_side=True)
        self.issuer = f"http{'' if plain else 's'}://127.0.0.1:{self._server.server_port}"
        self.jwks_url = f"{self.issuer}/jwks"
        self.metadata_url = f"{self.issuer}/.well-known/openid-configuration"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Provider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._files.cleanup()

    @property
    def fetches(self) -> int:
        """How many times the key set was asked for."""
        return self.paths.count("/jwks")

    def wait_for(self, fetches: int) -> None:
        """Wait until the key set was asked for so many times."""
        with self._counted:
            assert self._counted.wait_for(lambda: self.fetches >= fetches, PATIENCE), self.paths

    def hold(self) -> None:
        """Let every fetch hang from now on, until `release`."""
        self._released.clear()

    def release(self) -> None:
        """Answer those that hang."""
        self._released.set()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with provider._counted:
                    provider.paths.append(self.path)
                    provider.fields.append(self.headers)
                    provider._counted.notify_all()
                provider._released.wait()
                provider._respond(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _respond(self, handler: BaseHTTPRequestHandler) -> None:
        if self.places is not None and handler.path not in {*self.places, "/jwks"}:
            self.nothing(handler)
        elif "/.well-known/" in handler.path:
            metadata = {"issuer": self.issuer, "jwks_uri": self.jwks_url, **self.metadata}
            send(handler, json.dumps(metadata).encode())
        elif self.answer:
            self.answer(handler)
        else:
            send(handler, jwks(*self.keys), Set_Cookie="provider=1")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """A client that hangs up early is part of many tests."""


@cache
def certificate() -> tuple[bytes, bytes]:
    """Return a self-signed certificate for 127.0.0.1 and its key, both PEM."""
    key = private_key("ES256", "certificate")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM), private_pem(key)


def _tls(folder: str) -> ssl.SSLContext:
    paths = Path(folder, "ca.pem"), Path(folder, "key.pem")
    for path, text in zip(paths, certificate(), strict=True):
        path.write_bytes(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    return context
