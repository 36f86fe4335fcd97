"""A worker process. Its main thread tells the master that it lives; the listener's threads serve."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from gateway.http.draining import begin_drain
from gateway.http.wsgi import App
from gateway.server.listener import Listener
from gateway.server.streams import watch_streams

OPEN_FILES = 65536
FILES_PER_CONNECTION = 6  # itself, the upstream's and an upload's spare, two by which libcurl wakes itself; and room
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
HANDLED = (*ENDING, signal.SIGHUP, signal.SIGCHLD)  # the master's: blocked while it forks


@dataclass(frozen=True, slots=True)
class Options:
    """How a worker serves; times in seconds."""

    threads: int
    queue_timeout: float  # how long a request may wait for a thread before it counts as overload
    drain_timeout: float  # what requests in flight have at the end
    keep_alive: float  # how long a connection may be idle between requests


class Worker:
    """Serves the application from `sock` until a signal ends it, or its master has gone.

    `pulse` is the pipe's end into which it writes a byte a second.
    """

    def __init__(self, application: App, sock: socket.socket, options: Options, pulse: int):
        self._application, self._socket, self._options, self._pulse = application, sock, options, pulse
        self._ending = False
        self._drain_seconds = options.drain_timeout
        self._woken, wakes = os.pipe()
        for end in (self._woken, wakes):
            os.set_blocking(end, False)
        self._poller = select.poll()
        self._poller.register(self._woken, select.POLLIN)
        self._poller.register(pulse, 0)  # an error is told of: that nobody has the other end any more
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)  # every signal writes to it
        for number in ENDING:
            signal.signal(number, _do_nothing)  # `_watch` reads the number: compiled code may never call a handler
        # A terminal's Ctrl-C and hang-up reach the whole process group. Of SIGHUP the master takes care.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def run(self) -> None:
        """Serve; then finish what is in flight, within its time."""
        # What was loaded stays. A full collection that looks at it again stops everybody for milliseconds.
        gc.collect()
        gc.freeze()
        listener = Listener(
            self._application,
            self._socket,
            threads=self._options.threads,
            connections=_open_files() // FILES_PER_CONNECTION,
            queue_timeout=self._options.queue_timeout,
            keep_alive=self._options.keep_alive,
        )
        watch_streams(self._application, listener.contexts)
        while not self._ending:
            self._watch(1.0)
        begin_drain()
        listener.close()
        began = time.monotonic()
        while listener.is_busy() and time.monotonic() - began < self._drain_seconds:
            self._watch(0.1)
        listener.reset_remaining()
        if close := getattr(self._application, "close", None):
            close()

    def _watch(self, seconds: float) -> None:
        """Tell the master that this process lives, else it kills it; wait for a signal or its end, at most so long."""
        try:
            os.write(self._pulse, b".")
        except BlockingIOError:  # it has not read for hours
            pass
        except BrokenPipeError:  # it has gone, and the system's poll does not tell
            self._ending = True
        for descriptor, _ in self._poller.poll(seconds * 1000):
            if descriptor == self._woken:
                numbers = os.read(descriptor, 4096)
                self._ending |= not set(ENDING).isdisjoint(numbers)
                if signal.SIGQUIT in numbers:
                    self._drain_seconds = 0.0
            else:
                self._poller.unregister(descriptor)
                self._ending = True


def _do_nothing(number: int, frame: object) -> None:
    pass


def _open_files() -> int:
    """Raise this process's limit of open files as far as is useful and allowed, and return it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for files in (OPEN_FILES, 10240):  # macOS allows no more than OPEN_MAX, whatever it says
        wanted = files if hard == resource.RLIM_INFINITY else min(hard, files)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft
