"""The master process: it keeps as many workers alive as there should be, renews and ends them, and serves nothing.

SIGTERM and SIGINT finish what is in flight, SIGQUIT or a second SIGINT ends at once. SIGHUP brings in new workers,
which load the application anew; once all of them serve, the old ones finish what they have. SIGUSR1 and SIGUSR2 do
nothing: programs that rotate logs send them to other servers.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from gateway.http.problems import Problem
from gateway.http.wsgi import App
from gateway.server.sockets import describe
from gateway.server.worker import ENDING, HANDLED, Options, Worker

log = logging.getLogger("gateway.server")

LOAD_FAILED = 3  # exit status
KEPT = "the app does not load, and the running workers stay"
RESPAWN_PAUSE = 1.0  # seconds after a worker that ended before it served
HANG_SECONDS = 30.0  # of a worker's silence, after which it is killed
EXIT_MARGIN = 5.0  # seconds that workers have for their exit, after their drain's time is over
HURRY_SECONDS = 2.0  # … and if nobody wants to wait for them


@dataclass(slots=True)
class _Process:
    """What the master knows of a worker."""

    pulse: int  # the pipe's end from which its heartbeat is read
    generation: int
    must_load: bool  # it is one of the first: if it cannot load the application, there is no use in going on
    is_ready: bool = False
    is_ending: bool = False
    silent: float = 0.0  # seconds since the last heartbeat


class Master:
    """Keeps `count` workers, which serve what `load` returns to whoever connects to `sock`.

    It keeps a process that does what `beside` does, too, to the workers' end.
    """

    def __init__(
        self,
        load: Callable[[], App],
        sock: socket.socket,
        options: Options,
        count: int,
        renew: Callable[[], Callable[[], App]],
        beside: Callable[[], None] | None = None,
    ) -> None:
        self._load, self._socket, self._options, self._count, self._renew = load, sock, options, count, renew
        self._beside, self._beside_pid = beside, 0
        self._workers: dict[int, _Process] = {}
        self._generation = 0
        self._trial = 0  # the process that tries to load new settings
        self._spawn_after = 0.0
        self._lacks_processes = False  # the system had none for the last one that was to start
        self._may_fail = False  # whether the first workers have been started
        self._has_failed = False
        self._woken, self._wakes = os.pipe()  # each signal's number is written to it
        for end in (self._woken, self._wakes):
            os.set_blocking(end, False)

    def run(self) -> int:
        """Keep the workers until a signal ends it; return the exit status. Raises SystemExit in the workers."""
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for handled in HANDLED:
            signal.signal(handled, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        for ignored in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(ignored, signal.SIG_IGN)
        log.info("listening at %s", describe(self._socket))
        while not self._has_failed:
            self._keep_workers()
            numbers = self._wait(1.0)
            if set(ENDING).intersection(numbers):
                # A second one may have come while this process was busy.
                self._stop(hurries=signal.SIGQUIT in numbers or numbers.count(signal.SIGINT) > 1)
                return 0
            if signal.SIGHUP in numbers:
                self._try_to_load()
            self._reap()
        self._stop(hurries=True)
        return LOAD_FAILED

    def _keep_workers(self) -> None:
        """Start workers where some are missing, and end those of before a renewal once the new ones serve."""
        newest = [worker for worker in self._workers.values() if worker.generation == self._generation]
        if time.monotonic() >= self._spawn_after:
            for _ in range(self._count - len(newest)):
                self._spawn()
            if self._beside and not self._beside_pid:
                self._beside_pid = self._start(self._beside, "the process beside the workers fails")
            self._may_fail |= not self._lacks_processes
        if sum(worker.is_ready for worker in newest) >= self._count:
            self._signal(signal.SIGTERM, lambda worker: worker.generation < self._generation)

    def _wait(self, seconds: float) -> bytes:
        """Take heartbeats until something happens, at most so long; return the signals that came."""
        began = time.monotonic()
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        hearts = {worker.pulse: worker for worker in self._workers.values() if worker.pulse >= 0}
        for pulse in hearts:
            poller.register(pulse, select.POLLIN)
        ready = [descriptor for descriptor, _ in poller.poll(seconds * 1000)]
        # Nothing longer counts: if this process was stopped meanwhile, so were the workers.
        self._kill_the_silent(min(time.monotonic() - began, 2 * seconds))
        for pulse in hearts.keys() & ready:
            worker = hearts[pulse]
            if os.read(pulse, 4096):  # the first one says that it serves
                worker.is_ready, worker.silent = True, 0.0
            else:  # it has ended
                os.close(pulse)
                worker.pulse = -1
        return os.read(self._woken, 4096) if self._woken in ready else b""

    def _kill_the_silent(self, seconds: float) -> None:
        for pid, worker in self._workers.items():
            worker.silent += seconds
            if worker.silent > HANG_SECONDS:
                log.error("worker %d has not moved for %d s: it is killed", pid, HANG_SECONDS)
                os.kill(pid, signal.SIGKILL)
                worker.silent = 0.0

    def _spawn(self) -> None:
        try:
            pulse, beats = os.pipe()
        except OSError as error:  # no descriptor is left
            self._note_lack(error)
            return
        for end in (pulse, beats):
            os.set_blocking(end, False)
        pid = self._fork()
        if pid == 0:
            os.close(pulse)
            self._work(beats)
        os.close(beats)
        if pid is None:
            os.close(pulse)
        else:
            self._workers[pid] = _Process(pulse, self._generation, must_load=not self._may_fail)

    def _work(self, pulse: int) -> NoReturn:
        """Be a worker."""
        try:
            application = self._load()
        except (Exception, SystemExit) as error:  # noqa: BLE001
            _report("the app does not load", error)
            sys.exit(LOAD_FAILED)
        Worker(application, self._socket, self._options, pulse).run()
        sys.exit(0)

    def _try_to_load(self) -> None:
        """Try in a process of its own whether the application loads; `_reap` hears of it."""
        if self._trial:
            os.kill(self._trial, signal.SIGKILL)  # it may have read what is old by now
        self._trial = self._start(self._try, KEPT)
        if not self._trial:
            log.error("the app is not loaded anew, and the running workers stay: no process can be started")

    def _try(self) -> None:
        logging.disable(logging.WARNING)  # whoever takes over says the same
        self._renew()()

    def _start(self, run: Callable[[], None], fault: str) -> int:
        """Start a process that runs something and serves no client; return its id, 0 where there can be none.

        It tells what goes wrong, after `fault`. No signal but SIGKILL ends it.
        """
        pid = self._fork()
        if pid != 0:
            return pid or 0
        self._socket.close()  # it would let clients connect, should this process be the last that has it
        status = 0
        try:
            run()
        except BaseException as error:  # noqa: BLE001
            _report(fault, error)
            status = LOAD_FAILED
        logging.shutdown()  # it writes what is left
        os._exit(status)

    def _fork(self) -> int | None:
        """Fork. In the child the signals that end it wait until it can take them.

        None where the system has no process or no memory left, which is logged once, until it has.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        pid: int | None = None
        try:
            pid = os.fork()
        except OSError as error:
            self._note_lack(error)
        if pid != 0:
            self._lacks_processes = pid is None
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return pid
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self._woken, self._wakes, *(worker.pulse for worker in self._workers.values())):
            if descriptor >= 0:
                os.close(descriptor)
        return 0

    def _note_lack(self, error: OSError) -> None:
        if not self._lacks_processes:
            log.error("no process can be started, until the system has room: %s", error.strerror)
        self._lacks_processes = True
        self._spawn_after = time.monotonic() + RESPAWN_PAUSE

    def _reap(self) -> None:
        """Take note of processes that ended. Of a container's first process, orphans are children as well."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended[0], os.waitstatus_to_exitcode(ended[1])
                if pid == self._trial:
                    self._trial = 0
                    if status == 0:
                        self._bring_in()
                elif pid == self._beside_pid:
                    log.error("the process beside the workers has ended, and is started anew")
                    self._beside_pid, self._spawn_after = 0, time.monotonic() + RESPAWN_PAUSE
                elif worker := self._workers.pop(pid, None):
                    self._note_end(pid, worker, status)

    def _bring_in(self) -> None:
        """Have new workers load the application as it was tried. Those that start later load the same."""
        try:
            self._load = self._renew()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it has changed since
            _report(KEPT, error)
            return
        self._generation += 1
        self._spawn_after = 0.0
        log.info("the app is loaded anew: new workers take over, and the old ones finish")

    def _note_end(self, pid: int, worker: _Process, status: int) -> None:
        if worker.pulse >= 0:
            os.close(worker.pulse)
        if not worker.is_ready:
            self._spawn_after = time.monotonic() + RESPAWN_PAUSE
        if status == LOAD_FAILED:
            self._has_failed |= worker.must_load
        elif status and not worker.is_ending:
            log.error("worker %d ended with %s", pid, signal.Signals(-status).name if status < 0 else status)

    def _signal(self, number: int, concerns: Callable[[_Process], bool] = lambda worker: True) -> None:
        """Send the workers concerned a signal that ends them; SIGTERM once only."""
        for pid, worker in self._workers.items():
            if concerns(worker) and not (worker.is_ending and number == signal.SIGTERM):
                worker.is_ending = True
                os.kill(pid, number)

    def _stop(self, hurries: bool) -> None:
        """End the workers: at once if it hurries, else after what is in flight, or when another signal hurries."""
        self._socket.close()
        if self._trial:
            os.kill(self._trial, signal.SIGKILL)
        self._signal(signal.SIGQUIT if hurries else signal.SIGTERM)
        deadline = time.monotonic() + (HURRY_SECONDS if hurries else self._options.drain_timeout + EXIT_MARGIN)
        while self._workers and time.monotonic() < deadline:
            if {signal.SIGINT, signal.SIGQUIT} & set(self._wait(0.1)) and not hurries:
                hurries = True
                self._signal(signal.SIGQUIT)
                deadline = time.monotonic() + HURRY_SECONDS
            self._reap()
        self._signal(signal.SIGKILL)
        for pid in self._workers:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        if self._beside_pid:
            os.kill(self._beside_pid, signal.SIGKILL)
            os.waitpid(self._beside_pid, 0)


def _report(what: str, error: BaseException) -> None:
    """Log why the application does not load: a fault of settings in one line, anything else with its trace."""
    is_fault = isinstance(error, ValueError | OSError | Problem | SystemExit)
    log.error(
        "%s: %s", what, "; ".join(str(error).splitlines()) or type(error).__name__, exc_info=None if is_fault else error
    )
