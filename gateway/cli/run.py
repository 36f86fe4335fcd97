"""gateway serve and demo."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import click

from gateway.app import build_app, build_blacklist
from gateway.blacklist.stores import store_warnings
from gateway.cli.options import Fault, check_settings, with_settings
from gateway.cli.tokens import mint
from gateway.config.announce import announce, warnings
from gateway.config.files import env_file, env_file_values
from gateway.config.settings import PREFIX, Settings, issuer_settings
from gateway.ops.exposition import Figure, collect_figures
from gateway.ops.logs import configure_logging
from gateway.parties import build_issuers
from gateway.server import listening
from gateway.server import serve as serve_app

LASTING = 600  # seconds; those of the alert GatewayEntriesVanished
# Settings of the first process, which SIGHUP does not renew.
AT_THE_START = (
    "host", "port", "workers", "threads", "queue_timeout", "drain_timeout", "keep_alive", "store", "replicas",
    "accept_lossy_store", "metrics_host", "metrics_port", "log_format", "log_level",
)  # fmt: skip
log = logging.getLogger("gateway")

# Lines for pasting hold nothing but a command that bash, zsh, fish, dash and PowerShell read alike: no comment, which
# an interactive zsh would run, no variable, no apostrophe. What comes of each stands above it.
STORY = """
The gateway is on {url}, in front of a sample API on {upstream}.
Paste the commands below into another terminal, one by one.

A request without a token: 401, missing-credentials.
curl -i {url}/info

The token of a user, in a file that curl reads: 200, and what the API answers.
echo "Authorization: Bearer {token}" > token.txt
curl -i {url}/info -H "@token.txt"

Blacklist the token, and use it again: 200, then 401, token-blacklisted.
curl -i -X POST {url}/blacklist -H "@token.txt"
curl -i {url}/info -H "@token.txt"

Restore it: 200, and 200 again.
curl -i -X DELETE {url}/blacklist -H "@token.txt"
curl -i {url}/info -H "@token.txt"

In a browser, {url}/-/console shows what becomes of a token.
Paste the one above there, or this one of an admin, who may see and blacklist everything:

{admin}

Ctrl-C ends both.
"""


@click.command()
@with_settings()
def serve(settings: Settings) -> None:
    """Run the gateway on the bundled server."""
    with _listening(settings) as sock, _held_signals():
        _serve(settings, sock)


@click.command()
@with_settings()
def demo(settings: Settings) -> None:
    """Run the gateway in front of a sample API.

    On 127.0.0.1, unless HOST is set. It prints lines to paste, and what comes of each.
    """
    if not issuer_settings(settings)[0].secret:
        raise Fault("demo signs its tokens with a shared secret, and none is set: `gateway serve` needs none")
    if "host" not in settings.model_fields_set:  # its secret is public
        settings = settings.model_copy(update={"host": "127.0.0.1"})
    with _listening(settings) as sock, _sample_upstream(settings.upstream), _held_signals():
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
        token = mint(settings, {"sub": "1001"}, lifetime=3600)
        admin = mint(settings, {"sub": "admin", "scope": settings.admin_scope}, lifetime=3600)
        url = f"http://{host}:{settings.port}"
        click.echo(STORY.format(url=url, upstream=settings.upstream, token=token, admin=admin))
        # The console's chart needs the metrics, on whatever port.
        _serve(
            settings, sock, host=settings.host, console=True, log_format="text", metrics_port=settings.metrics_port or 0
        )


def _serve(settings: Settings, sock: socket.socket, **forced: Any) -> None:
    """Serve until a signal ends it. Raises before the first worker starts for what cannot work."""
    settings = settings.model_copy(update=forced)
    configure_logging(settings.log_format, settings.log_level)
    build_issuers(settings)
    store = build_blacklist(settings).store
    announce(settings, store_warnings(settings.store))
    of_the_log = {"log_format": settings.log_format, "log_level": settings.log_level}  # one for all processes
    flags = {name: value for name, value in click.get_current_context().params.items() if value is not None} | forced

    has_env_file = bool(env_file_values(env_file()))

    def load(settings: Settings) -> Any:
        # The store is the one opened here: a worker that starts later must not take an emptied or other one for it.
        return build_app(settings.model_copy(update=of_the_log), store, forks=False)

    def renew() -> Callable[[], Any]:
        """Read all but the flags again: new secrets and keys are in force where SIGHUP asks for them, not before."""
        if has_env_file and not env_file_values(env_file()):
            # Removed, or just being written: defaults would come in its place, the public secret above all.
            raise ValueError(f"{env_file()} sets nothing any more")
        now = check_settings(flags)
        # A misspelt name, for one, is in force as little as before.
        for warning in warnings(now):
            log.warning(warning)
        if changed := [name for name in AT_THE_START if getattr(now, name) != getattr(settings, name)]:
            names = ", ".join(PREFIX + name.upper() for name in changed)
            log.warning("changed, but not in force until the gateway is restarted: %s", names)
        return partial(load, now)

    entries = [
        Figure("gateway_entries", "Live entries", store.count),
        Figure("gateway_entries_lasting", "Live entries that last ten minutes more", lambda: store.count(LASTING)),
    ]
    with contextlib.closing(store), collect_figures(settings.metrics_host, settings.metrics_port, entries) as beside:
        serve_app(
            partial(load, settings),
            sock=sock,
            workers=settings.workers,
            threads=settings.threads,
            queue_timeout=settings.queue_timeout,
            drain_timeout=settings.drain_timeout,
            keep_alive=settings.keep_alive,
            renew=renew,
            beside=beside,
        )


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Have signals wait for the server that takes them: raised just anywhere, SystemExit may be swallowed."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Listen while the block runs. Raises `Fault` where that, or listening for scrapes, is not possible."""
    # Until the server serves: a container's first process would not get it, and demo's upstream would stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # First, as what systemd passes goes to whoever listens first.
    with _listening_on(settings.host, settings.port, "--host, --port") as sock:
        if settings.metrics_port is not None:
            with _listening_on(settings.metrics_host, settings.metrics_port, "--metrics-host, --metrics-port"):
                pass
        yield sock


@contextlib.contextmanager
def _listening_on(host: str, port: int, flags: str) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        try:
            sock = stack.enter_context(listening(host, port))
        except (OSError, UnicodeError) as error:  # no name of a host, as IDNA sees it
            place = host if host.startswith("unix:") else f"{host}:{port}"
            raise Fault(f"cannot listen on {place} ({flags}): {getattr(error, 'strerror', '') or error}") from error
        yield sock


@contextlib.contextmanager
def _sample_upstream(url: str) -> Iterator[None]:
    """Run the sample API at the URL while the block runs."""
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 80
    with _listening_on(host, port, "--upstream"):
        pass
    command = [sys.executable, "-m", "gateway.cli.sample", "--host", host, "--port", str(port)]
    # A session of its own: Ctrl-C reaches the gateway, which ends the upstream after its last request.
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)  # noqa: S603
    parent = os.getpid()
    try:
        _wait_for(process, host, port)
        yield
    finally:
        if os.getpid() == parent:  # a forked worker leaves through here too
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise Fault("the sample API did not start: its error stands above")
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.05)
    raise Fault(f"the sample API does not answer on {host}:{port}")
