"""The rows of the table. A new row is one function that starts its servers, and one line at the end."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bench import HERE, PEERS, PEERS_BIN, Bench, Row, Running
from benchmarks.processes import LOAD, Failed, Server, free_port
from benchmarks.runner import BROWSER, BROWSER_ALONE, EQUAL, EQUAL_ALONE, MANY_TOKENS
from benchmarks.studies.scale import ENTRIES, fill
from benchmarks.tokens import ISSUER, SECRET, public_jwk
from benchmarks.web import ask
from gateway.blacklist.stores import open_store

ROOT = HERE.parent
SMALL = tuple(cell.name for cell in (BROWSER_ALONE, BROWSER, EQUAL_ALONE, EQUAL))

# --- this gateway ---


def _settings(bench: Bench, port: int, **more: str) -> dict[str, str]:
    settings = {
        "upstream": f"http://127.0.0.1:{bench.upstream}",
        "host": "127.0.0.1",
        "port": str(port),
        "workers": "1",
        "issuer": ISSUER,
        "secret": SECRET,
        "log_level": "warning",
        **more,
    }
    return {"PYTHONPATH": os.pathsep.join(sys.path)} | {f"GATEWAY_{name.upper()}": settings[name] for name in settings}


def _sqlite(bench: Bench, name: str) -> str:
    return f"sqlite:///{bench.work}/{name}.sqlite3"


def _blacklist(bench: Bench, port: int) -> None:
    status, _ = ask(port, "/blacklist", bench.tokens.blacklisted, "POST")
    if status != 200:
        raise Failed(f"POST /blacklist answered {status}")


def _serve(bench: Bench, name: str, folder: Path, port: int | Path, **settings: str) -> Server:
    """Start the gateway of a folder, on a port or a Unix socket."""
    if isinstance(port, Path):
        settings["host"] = f"unix:{port}"
    env = _settings(bench, port if isinstance(port, int) else 0, **{"store": _sqlite(bench, name), **settings})
    env["PYTHONPATH"] = os.pathsep.join([str(folder), *sys.path])
    return bench.server(name, [sys.executable, "-m", "gateway", "serve"], port, env)


def gateway(bench: Bench, name: str = "gateway", folder: Path = ROOT, **settings: str) -> Running:
    """Start the gateway of a folder."""
    port = free_port()
    server = _serve(bench, name, folder, port, **settings)
    _blacklist(bench, port)
    return Running(port, [server])


def gateway_compiled(bench: Bench, name: str = "gateway-compiled", **settings: str) -> Running:
    """Start what the container image has: this gateway with its path compiled, from a folder of its own."""
    return gateway(bench, name, folder=Path(_compiled().name), **settings)


@cache
def _compiled() -> TemporaryDirectory[str]:
    """Return a folder with the compiled package, which is there until the run ends."""
    folder = TemporaryDirectory()
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-build-isolation", "--target", folder.name]
    try:
        subprocess.run([*pip, str(ROOT)], check=True, timeout=600, env={**os.environ, "GATEWAY_COMPILE": "1"})
    except subprocess.SubprocessError as error:
        raise Failed("compiling failed: see docs/operations.md for what it takes") from error
    return folder


def gateway_filled(bench: Bench) -> Running:
    shutil.copy(Path(_filled().name) / "filled.sqlite3", bench.work / "filled.sqlite3")
    return gateway(bench, "filled")


@cache
def _filled() -> TemporaryDirectory[str]:
    """Return a folder with a store of many entries, which is there until the run ends."""
    folder = TemporaryDirectory()
    store = open_store(f"sqlite:///{folder.name}/filled.sqlite3")
    fill(store, ENTRIES)
    store.close()
    return folder


def gateway_redis(bench: Bench, name: str = "gateway-redis", start: Callable[..., Running] = gateway) -> Running:
    port, folder = free_port(), bench.work / f"{name}-data"
    folder.mkdir()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    redis = bench.server(f"{name}-server", command, port, core=LOAD)
    running = start(bench, name, store=f"redis://127.0.0.1:{port}/0")
    running.beside.append(redis)
    return running


def bare(bench: Bench) -> Running:
    port = free_port()
    command = [sys.executable, str(PEERS / "bare.py")]
    return Running(port, [bench.server("bare", command, port, _settings(bench, port))])


def gateway_tls(bench: Bench) -> Running:
    upstream = f"https://127.0.0.1:{bench.upstream_tls}"
    return gateway(bench, "gateway-tls", upstream=upstream, upstream_ca=str(bench.work / "upstream.pem"))


def gateway_signed(bench: Bench, algorithm: str) -> Running:
    """Return the gateway with public keys: their tokens are more than it remembers, so each is verified anew."""
    port = free_port()
    keys = bench.work / f"{algorithm}.jwks"
    keys.write_text(f'{{"keys": [{public_jwk(algorithm)}]}}')
    name = f"gateway-{algorithm.lower()}"
    env = _settings(bench, port, store=_sqlite(bench, name), jwks_url=str(keys), algorithms=algorithm)
    del env["GATEWAY_SECRET"]
    return Running(port, [bench.server(name, [sys.executable, "-m", "gateway", "serve"], port, env)])


def decision(bench: Bench, name: str = "decision") -> Running:
    return gateway(bench, name, trusted_proxies="1")


def auth_request(bench: Bench, name: str = "auth-request", folder: Path = ROOT, by_tcp: bool = False) -> Running:
    """Start nginx in front of the upstream, and the gateway that it asks: by a Unix socket, as they share a machine."""
    place = free_port() if by_tcp else bench.work / f"{name}.sock"
    asked = _serve(bench, f"{name}-decision", folder, place, trusted_proxies="1")
    if isinstance(place, Path):
        place.chmod(0o666)  # nginx, started by root, asks as nobody
    port = free_port()
    decision = f"127.0.0.1:{place}" if by_tcp else f"unix:{place}"
    config = bench.config("auth_request.conf", name=name, port=port, decision=decision)
    running = Running(port, [bench.server(name, ["nginx", "-c", config], port), asked])
    _blacklist(bench, port)
    return running


def auth_request_compiled(bench: Bench) -> Running:
    return auth_request(bench, "auth-request-compiled", folder=Path(_compiled().name))


def auth_request_tcp(bench: Bench) -> Running:
    return auth_request(bench, "auth-request-tcp", by_tcp=True)


# --- what people use today ---


def flask(bench: Bench) -> Running:
    port = free_port()
    command = [str(PEERS_BIN / "gunicorn"), "--worker-class", "gthread", "--workers", "1", "--threads", "8"]
    command += ["--bind", f"127.0.0.1:{port}", "--keep-alive", "75", "--chdir", str(PEERS), "flask_gateway:app"]
    env = {"UPSTREAM": f"http://127.0.0.1:{bench.upstream}", "SECRET": SECRET, "ISSUER": ISSUER}
    server = bench.server("flask", command, port, env)
    _blacklist(bench, port)
    return Running(port, [server])


def fastify(bench: Bench) -> Running:
    port = free_port()
    env = {"PORT": str(port), "UPSTREAM": f"http://127.0.0.1:{bench.upstream}", "SECRET": SECRET, "ISSUER": ISSUER}
    env |= {"DENIED": bench.tokens.jti, "NODE_ENV": "production"}
    return Running(port, [bench.server("fastify", ["node", str(PEERS / "fastify" / "gateway.js")], port, env)])


def envoy_signed(bench: Bench, algorithm: str) -> Running:
    return envoy(bench, f'{{"keys": [{public_jwk(algorithm)}]}}')


def envoy(bench: Bench, jwks: str = "") -> Running:
    port = free_port()
    key = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    jwks = jwks or json.dumps({"keys": [{"kty": "oct", "alg": "HS256", "k": key}]})
    config = bench.config("envoy.yaml", port=port, jwks=jwks)
    command = [str(PEERS_BIN / "envoy"), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    return Running(port, [bench.server("envoy", command, port)])


def haproxy(bench: Bench) -> Running:
    port = free_port()
    (bench.work / "denied.map").write_text(f"{bench.tokens.jti} denied\n")
    command = ["haproxy", "-db", "-f", bench.config("haproxy.cfg", port=port)]
    return Running(port, [bench.server("haproxy", command, port)])


def nginx(bench: Bench) -> Running:
    port = free_port()
    return Running(port, [bench.server("nginx", ["nginx", "-c", bench.config("nginx.conf", port=port)], port)])


# The first row is what the others are compared with.
ROWS = (
    Row("gateway", "this gateway", gateway),
    Row("compiled", "this gateway, compiled as in the image", gateway_compiled),
    Row("bare", "the same without auth and blacklist", bare, verifies=False, blacklists=False),
    Row("logging", "this gateway, writing its access log", partial(gateway, name="logging", log_level="info")),
    Row(
        "logging-compiled",
        "the same, compiled",
        partial(gateway_compiled, name="logging-compiled", log_level="info"),
        cells=SMALL,
    ),
    Row("filled", f"this gateway, {ENTRIES:,} entries", gateway_filled, cells=(BROWSER.name, MANY_TOKENS.name)),
    # redis-server shares the load generator's core, where 1 MiB answers starve it beyond the store's time-out.
    Row("redis", "this gateway, Redis store", gateway_redis, programs=("redis-server",), large=False),
    Row(
        "redis-compiled",
        "the same, compiled",
        partial(gateway_redis, name="redis-compiled", start=gateway_compiled),
        programs=("redis-server",),
        cells=SMALL,
    ),
    Row("tls", "this gateway, https upstream", gateway_tls, cells=(BROWSER.name,)),
    *(
        Row(
            f"{name}-{algorithm.lower()}",
            f"{title}, {algorithm} tokens never seen",
            partial(start, algorithm=algorithm),
            verifies=False,
            blacklists=False,
            tokens=algorithm,
            cells=(BROWSER.name,),
        )
        for algorithm in ("RS256", "ES256")
        for name, title, start in (("gateway", "this gateway", gateway_signed), ("envoy", "Envoy", envoy_signed))
    ),
    Row("flask", "Flask, flask-jwt-extended, requests.Session on gunicorn", flask),
    # node compiles for about four seconds, at six times the cost.
    Row("fastify", "fastify, @fastify/http-proxy, @fastify/jwt", fastify, programs=("node",), warm_up=6),
    Row("envoy", "Envoy, jwt_authn (no blacklist)", envoy, blacklists=False),
    Row("haproxy", "HAProxy, jwt_verify, deny map", haproxy, programs=("haproxy",)),
    Row("nginx", "nginx, bare proxy (no tokens)", nginx, verifies=False, blacklists=False),
    Row("auth-request", "nginx auth_request, this gateway's /-/auth by a Unix socket", auth_request),
    Row("auth-request-compiled", "the same, compiled", auth_request_compiled, cells=(BROWSER.name,)),
    Row(
        "auth-request-tcp", "nginx auth_request, this gateway's /-/auth by TCP", auth_request_tcp, cells=(BROWSER.name,)
    ),
    Row("decision", "this gateway's /-/auth alone", decision, path="/-/auth"),
)
