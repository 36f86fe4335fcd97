"""What waits for many descriptors at once: each event is told once, to one thread, by epoll and by poll."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from processes import ROOT
from recorder import Client, exchange, request, served, until

from gateway.server.alarms import Alarms
from gateway.server.delay import QueueingDelay
from gateway.server.listener import Listener
from gateway.server.poller import EpollPoller, Poller, PollPoller

KINDS = [PollPoller, *([EpollPoller] if hasattr(select, "epoll") else [])]


@pytest.fixture(params=KINDS)
def poller(request: pytest.FixtureRequest) -> Poller:
    made: Poller = request.param()
    return made


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def told(poller: Poller, seconds: float = 0.0) -> list[int]:
    return [fd for fd, _ in poller.wait(seconds)]


def test_what_is_ready_is_told_once_until_it_is_armed_again(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    one, other = ends
    poller.arm(one.fileno(), select.POLLIN)
    assert told(poller) == []
    other.send(b"!")
    assert told(poller, 10) == [one.fileno()]
    assert told(poller) == []
    poller.arm(one.fileno(), select.POLLIN)
    assert told(poller, 10) == [one.fileno()]
    poller.arm(one.fileno(), select.POLLIN | select.POLLOUT)
    poller.disarm(one.fileno())
    assert told(poller) == []


def test_what_is_armed_meanwhile_is_waited_for_by_who_waits_already(
    poller: Poller, ends: tuple[socket.socket, socket.socket]
) -> None:
    one, other = ends
    found: list[int] = []

    def wait() -> None:
        while not found:
            found.extend(fd for fd, _ in poller.wait(None))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    other.send(b"!")
    poller.arm(one.fileno(), select.POLLIN)
    assert until(lambda: found == [one.fileno()])
    thread.join(10)


def test_it_can_be_woken_again_and_again(poller: Poller) -> None:
    for _ in range(3):
        assert told(poller) == []
        poller.wake()
        assert told(poller, 10) == [poller.wake_up]


@pytest.mark.interpreted
@pytest.mark.skipif(EpollPoller not in KINDS, reason="there is no epoll")
def test_it_can_be_woken_again_where_another_thread_is_told_first() -> None:
    poller, found = EpollPoller(), []

    class Ready(list[tuple[int, int]]):
        """What one thread has found when it is interrupted, and another is told of the waking."""

        def __iter__(self) -> Iterator[tuple[int, int]]:
            if not found:
                found.extend(told(poller, 10))
            return super().__iter__()

    class Interrupted:
        def poll(self, seconds: float, count: int) -> Ready:
            ready = Ready(epoll.poll(seconds, count))
            poller._epoll = epoll
            poller.wake()
            return ready

    epoll, poller._epoll = poller._epoll, Interrupted()  # type: ignore[assignment]
    assert told(poller) == []
    assert found == [poller.wake_up]
    poller.wake()
    assert told(poller, 1) == [poller.wake_up]


def test_a_descriptor_that_was_closed_does_no_harm(poller: Poller) -> None:
    reader, writer = os.pipe()
    poller.arm(reader, select.POLLIN)
    os.close(reader)
    os.close(writer)
    told(poller)
    assert told(poller) == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_woken_until_the_process_has_ended(kind: type[Poller]) -> None:
    """Threads wait, and are woken, while the interpreter ends: callbacks run in the order opposite to registration."""
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: (poller.wake(), print(poller.wait(0))))\n"
        "sys.path += sys.argv[1:]\n"
        f"from gateway.server.poller import {kind.__name__}\n"
        f"poller = {kind.__name__}()\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT)], capture_output=True, text=True, check=False)
    assert (done.stdout.count("("), done.stderr) == (1, "")


@pytest.mark.interpreted
def test_events_that_came_together_are_attended_to_though_one_of_them_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()
    work_on = Listener._work_on

    def fails_once(self: Listener, connection: object) -> None:
        if not failed.is_set():
            failed.set()
            raise MemoryError
        work_on(self, connection)  # type: ignore[arg-type]

    def app(environ: object, start: object) -> list[bytes]:
        start("200 OK", [])  # type: ignore[operator]
        return [b"done"]

    with served(app, threads=1) as port:
        monkeypatch.setattr(Listener, "_work_on", fails_once)
        clients = [Client(port, request("GET /")) for _ in range(5)]
        assert failed.wait(10)
        answered = [client.read_all().endswith(b"done") for client in clients]
        assert answered.count(True) >= 4
        assert exchange(port, request("GET /")).endswith(b"done")
        for client in clients:
            client.sock.close()


class Thing:
    """What alarms are set for."""

    alarm = 1 << 62


@pytest.mark.interpreted
def test_an_alarm_is_the_earliest_that_was_set() -> None:
    from gateway.server.connection import NEVER

    alarms, (first, second) = Alarms(100.0), (Thing(), Thing())
    first.alarm = second.alarm = NEVER
    alarms.set(first, 110.0)  # type: ignore[arg-type]
    alarms.set(first, 120.0)  # type: ignore[arg-type]
    alarms.set(second, 110.0)  # type: ignore[arg-type]
    alarms.set(second, 90.0)  # type: ignore[arg-type]
    assert alarms.take(100.0) == [second]
    assert alarms.take(109.0) == []
    alarms.set(second, 105.0)  # type: ignore[arg-type]
    assert second in alarms.take(110.5)
    assert first in alarms.take(111.0) or first.alarm == NEVER
    alarms.set(first, 112.0)  # type: ignore[arg-type]
    alarms.clear(first)  # type: ignore[arg-type]
    assert alarms.take(200.0) == []


def test_a_probe_that_waits_counts_while_it_waits() -> None:
    delay = QueueingDelay(0.05)
    assert delay.send()
    assert not delay.send()
    assert not delay.look()
    time.sleep(0.1)
    assert delay.look()
    delay.take()
    assert delay.look()
    assert delay.send()
    delay.take()
    assert not delay.look()
    delay.note(1.0)
    assert delay.look()
