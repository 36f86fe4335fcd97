"""The processes of `gateway serve`: gunicorn's master keeps as many workers alive as there should be.

SIGTERM and SIGINT finish what is in flight; SIGHUP brings in new workers, which load the app anew,
and lets the old ones finish. Of gunicorn, only its management of processes is used.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from gateway.http.draining import begin_drain
from gateway.server.listener import BACKLOG, Listener
from gateway.server.response import Application

log = logging.getLogger("gateway.server")

RESPAWN_PAUSE = 1.0  # seconds before a worker that cannot load the app makes room for the next
EXIT_MARGIN = 5  # seconds that a worker has for its exit, after its drain's time is over
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OPEN_FILES = 65536
FILES_PER_CONNECTION = 5  # at most: itself, its body's file, the upstream's, and two by which libcurl wakes itself


class Pool(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's configuration: given here alone, not by its environment variable and file."""

    def __init__(
        self,
        load: Callable[[], Application],
        *,
        host: str,
        port: int,
        workers: int,
        threads: int,
        queue_timeout: float,
        drain_timeout: float,
    ) -> None:
        self.load = load
        self.threads = threads
        self.queue_timeout = queue_timeout
        self.drain_timeout = drain_timeout
        self._options = {
            "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            "backlog": BACKLOG,
            "workers": workers,
            "worker_class": ServingWorker,
            "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108 - heartbeats
            "logger_class": _Log,
            "graceful_timeout": math.ceil(drain_timeout) + EXIT_MARGIN,
            "control_socket_disable": True,
            "when_ready": _say_where,
        }
        super().__init__()

    def load_config(self) -> None:
        """Take the options given."""
        for name, value in self._options.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        """Serve until a signal ends it; then raise SystemExit."""
        Master(self).run()


class _Log(logging.LoggerAdapter[logging.Logger]):
    """gunicorn's logger is ours. What it says at every step is for debugging."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(log, {})

    def info(self, msg: object, *args: Any, **kwargs: Any) -> None:
        self.debug(msg, *args, **kwargs)

    def reopen_files(self) -> None:
        """Do nothing: where the log goes is not decided here."""

    close_on_exec = reopen_files


def _say_where(master: Arbiter) -> None:
    log.info("listening at %s", " ".join(str(listener) for listener in master.LISTENERS))


class Master(Arbiter):  # type: ignore[misc]  # gunicorn ships no types
    """The master process: it replaces workers that died, and serves nothing itself."""

    _halts = False

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        """End the workers, and exit."""
        self._halts = True
        super().halt(reason, exit_status)

    def reap_workers(self) -> None:
        """Take note of workers that ended. A second one that could not start would halt what halts: a trace, exit 1."""
        try:
            super().reap_workers()
        except HaltServer:
            if not self._halts:
                raise

    def handle_int(self) -> None:
        """Drain at Ctrl-C too; a second one does not wait."""
        self.handle_term()

    def handle_hup(self) -> None:
        """Bring in new workers; the main loop then drains the oldest, as there are too many."""
        if self._loads():
            for _ in range(self.num_workers):
                self.spawn_worker()

    def spawn_worker(self) -> int:
        """Fork a worker. A signal to end that comes before the worker can take it waits, where it was lost."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            return int(super().spawn_worker())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _loads(self) -> bool:
        """Tell whether the app can be loaded now, tried in a process of its own."""
        pid = os.fork()
        if pid == 0:
            try:
                self.app.load()
                os._exit(0)
            except BaseException:
                log.exception("the app does not load; the running workers stay")
                os._exit(1)
        return os.waitpid(pid, 0)[1] == 0


class ServingWorker(Worker):  # type: ignore[misc]  # gunicorn ships no types
    """A worker process. Its main thread watches; the listener's threads serve."""

    def load_wsgi(self) -> None:
        """Load the app. At the start, failing ends the master too; later, the next worker may fare better."""
        try:
            super().load_wsgi()
        except (Exception, SystemExit):
            log.exception("the app does not load")
            if self.age <= self.cfg.workers:
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            time.sleep(RESPAWN_PAUSE)
            sys.exit(1)

    def init_signals(self) -> None:
        """Let Ctrl-C, which reaches the whole process group, drain as the master's SIGTERM does."""
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin the drain."""
        begin_drain()
        self.alive = False

    def run(self) -> None:
        """Serve until told to stop or orphaned; then finish what is in flight."""
        listener = Listener(
            self.wsgi,
            self.sockets[0].sock,
            threads=self.app.threads,
            connections=_open_files() // FILES_PER_CONNECTION,
            queue_timeout=self.app.queue_timeout,
        )
        while self.alive and os.getppid() == self.ppid:
            self._watch(listener, 1.0)
        begin_drain()
        listener.close()
        deadline = time.monotonic() + self.app.drain_timeout
        while listener.is_busy() and time.monotonic() < deadline:
            self._watch(listener, 0.1)
        listener.cut()

    def _watch(self, listener: Listener, seconds: float) -> None:
        self.notify()  # the master kills a worker that says nothing for 30 s; however busy, this thread speaks
        listener.tidy()
        if select.select([self.PIPE[0]], [], [], seconds)[0]:  # every signal writes to the pipe
            os.read(self.PIPE[0], 4096)


def _open_files() -> int:
    """Raise this process's limit of open files as far as is useful and allowed, and return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return files
