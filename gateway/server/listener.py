"""A listening socket, its connections, and the few threads that share one epoll over them.

One thread leads: it takes what has happened, reads, and answers once a request is whole. All the while it leads,
others sleep: were they to wait for events too, the interpreter's lock would go from thread to thread at every
system call, at a fifth more CPU for each request. When the leader is about to wait itself, for the store or an
upstream that takes a body slowly, the next thread leads; a client, or an answer, that is slow is waited for by epoll.

What has happened to several connections is attended to in stages: all that go on with an answer, then all that send,
then all that receive. Each stage's code stays in the processor's caches, and who is sent to is woken once for many:
with 32 connections a request takes 28 % less CPU than where each connection is served to its end.

How long a connection waits for a thread, a bell tells that is rung four times a second and waits among
them; how long it waited before it was accepted, the kernel tells. A leader that does not come for the bell
loses the lead. Where the wait is too long, requests are marked as overload, for the application to refuse: by
the threads if they come round at all, else by a spare one.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread

from gateway.http.blocking import on_waiting
from gateway.http.draining import is_draining
from gateway.server.connection import NOTHING, QUIET_TIMEOUT, Connection
from gateway.server.lead import Lead
from gateway.server.response import Application
from gateway.server.sockets import BACKLOG

log = logging.getLogger("gateway.server")

READ_ONCE = select.EPOLLIN | select.EPOLLONESHOT  # one event, for one thread, until it is armed again
EVENTS = 32  # taken at once
BELL_SECONDS = 0.25  # between one bell and the next


class Listener:
    """Serves the application to whoever connects, at most `connections` at a time, with so many threads.

    `queue_timeout` is how long, in seconds, a request may wait for a thread before it counts as overload;
    `keep_alive` how long a connection may be idle between requests.
    """

    def __init__(
        self,
        application: Application,
        sock: socket.socket,
        *,
        threads: int,
        connections: int,
        queue_timeout: float,
        keep_alive: float = QUIET_TIMEOUT,
    ) -> None:
        self._application = application
        self._socket = sock
        self._fd = sock.fileno()
        self._limit = connections
        self._keep_alive = keep_alive
        self._accepting = Lock()
        self._connections: dict[int, Connection] = {}
        self._pausing: dict[int, Connection] = {}  # by the descriptor that their response waits for
        self._lead = Lead()
        self._due: tuple[deque[Connection], ...] = (deque(), deque(), deque())  # connections by stage
        self._epoll = select.epoll()
        self._epoll.register(self._fd, READ_ONCE)
        self._queue_timeout = queue_timeout
        self._waited = 0.0  # how long the last bell, or a late connection, waited for a thread
        self._rung = 0.0  # when the bell was rung that still waits
        self._bell = os.eventfd(1, os.EFD_CLOEXEC)  # always readable: it rings when it is armed
        self._epoll.register(self._bell, 0)
        for number in range(threads):
            Thread(target=self._serve, args=(self._turn,), name=f"gateway-{number}", daemon=True).start()
        Thread(target=self._serve, args=(self._stand_in,), name="gateway-spare", daemon=True).start()

    def _serve(self, turn: Callable[[], None]) -> None:
        on_waiting(self._lead.give)
        while True:
            try:
                turn()
            except Exception:
                log.exception("a thread's turn failed")  # a thread that ended would be missed by nobody

    def _turn(self) -> None:
        self._lead.take()
        try:
            while self._lead.is_mine():
                if not any(self._due) and self._gather(-1):
                    self._waited, self._rung = time.monotonic() - self._rung, 0.0
                for due in self._due:
                    while self._lead.is_mine() and (connection := _first(due)):
                        self._attend(connection)
        finally:
            self._lead.give()

    def _gather(self, seconds: float) -> bool:
        """Wait at most so long for something to happen, and note whose turn it is; tell whether the bell has rung."""
        has_rung = False
        for fd, _ in self._epoll.poll(seconds, EVENTS):
            if fd == self._bell:
                has_rung = True
            elif fd == self._fd:
                self._accept()
            elif connection := self._connections.get(fd) or self._pausing.pop(fd, None):
                self._due[connection.stage].append(connection)
        return has_rung

    def _stand_in(self) -> None:
        """Wake whose pause is over; ring the bell; if no thread comes for it in time, refuse what came before it."""
        time.sleep(BELL_SECONDS)
        if self._rung:
            self._lead.withdraw()
        else:
            self._rung = time.monotonic()
            self._epoll.modify(self._bell, READ_ONCE)
        self._wake()
        self._refuse(time.monotonic() + BELL_SECONDS)

    def _refuse(self, until: float) -> None:
        """Take what has come, as long as there is overload; the bell is left to the threads."""
        took_bell = False
        try:
            while self._is_overloaded() and time.monotonic() < until:
                if not any(self._due):
                    took_bell |= self._gather(0)
                if not (connection := next(filter(None, map(_first, self._due)), None)):
                    break
                self._attend(connection)
        finally:
            if took_bell:
                self._epoll.modify(self._bell, READ_ONCE)

    def _wake(self) -> None:
        """Have those served that have paused long enough: being writable is an event, too."""
        now = time.monotonic()
        for connection in list(self._pausing.values()):
            if connection.resume_at < now and connection.lock.acquire(blocking=False):  # else it is being served
                try:
                    if self._connections.get(connection.fd) is connection:
                        self._await(connection, connection.fd, select.EPOLLOUT)
                finally:
                    connection.lock.release()

    def _is_overloaded(self) -> bool:
        rung = self._rung  # once: a thread may come for it now
        waits = time.monotonic() - rung if rung else 0.0
        return max(self._waited, waits) > self._queue_timeout

    def _attend(self, connection: Connection) -> None:
        with connection.lock:
            while self._connections.get(connection.fd) is connection:  # it may have been closed while it was due
                awaited = connection.serve(self._is_overloaded())
                if awaited is None:
                    self._close(connection)
                elif awaited is not NOTHING:
                    self._await(connection, *awaited)
                    return
                elif any(self._due) and self._lead.is_mine():
                    self._due[connection.stage].append(connection)
                    return

    def _await(self, connection: Connection, fd: int, event: int) -> None:
        """Have the connection served when the event has come."""
        if fd != connection.fd:
            self._pausing[fd] = connection
        try:
            self._epoll.modify(fd, event | select.EPOLLONESHOT)
        except FileNotFoundError:
            self._epoll.register(fd, event | select.EPOLLONESHOT)

    def _accept(self) -> None:
        with self._accepting:
            if not is_draining() and self._take_one() is not None:
                self._listen()

    def _listen(self) -> None:
        if len(self._connections) < self._limit:  # else `tidy` tries again
            self._epoll.modify(self._fd, READ_ONCE)

    def _take_one(self) -> bool | None:
        """Accept a connection; return False where none came about, None where there are no descriptors for one."""
        try:
            sock, address = self._socket.accept()
        except OSError as error:  # mostly, another process was faster, or the client has left
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                return False
            log.warning("out of file descriptors: connections wait")  # `tidy` tries again; at once would spin
            return None
        try:
            waited = _seconds_since_data(sock)
            if waited > self._queue_timeout:
                self._waited = waited
            connection = Connection(sock, address, self._application, self._keep_alive)
            self._connections[connection.fd] = connection
            self._epoll.register(connection.fd, READ_ONCE)
        except OSError:
            log.exception("a connection could not be taken")
            self._connections.pop(sock.fileno(), None)
            sock.close()
            return False
        return True

    def _close(self, connection: Connection) -> None:
        if self._connections.pop(connection.fd, None):  # before the number can be another's
            connection.close()

    def tidy(self) -> None:
        """Close the connections whose client has had its time; to be called about once a second."""
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.lock.acquire(blocking=False):  # else it is being served
                try:
                    if connection.is_due(now):
                        self._close(connection)
                finally:
                    connection.lock.release()
        with self._accepting:
            if not is_draining():
                self._listen()

    def close(self) -> None:
        """Accept who has already connected, and no one after; to be called once the drain has begun."""
        with self._accepting:
            self._epoll.unregister(self._fd)
            self._fd = -1  # the number is soon another's
            for _ in range(BACKLOG):  # under load, others connect meanwhile
                if not self._take_one():
                    break
            self._socket.close()

    def is_busy(self) -> bool:
        """Tell whether there are connections."""
        return bool(self._connections)

    def cut(self) -> None:
        """Have the connections that are left reset when the process ends: none shall look complete."""
        for connection in list(self._connections.values()):
            with suppress(OSError):  # closed just now
                connection.reset_at_close()


def _first(due: deque[Connection]) -> Connection | None:
    try:
        return due.popleft() if due else None
    except IndexError:  # another thread has taken it
        return None


def _seconds_since_data(sock: socket.socket) -> float:
    """Return how long ago the client last sent something, or connected: tcpi_last_data_recv of Linux's tcp_info."""
    if sock.family == socket.AF_UNIX:
        return 0.0
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
    return int.from_bytes(info[52:56], sys.byteorder) / 1000
