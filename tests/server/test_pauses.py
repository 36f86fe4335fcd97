"""How the bundled server's threads share the work: one that pauses holds none, who waits lets others work."""

import errno
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from typing import Any

import pytest
from recorder import Client, exchange, request, served, until

from gateway.http.blocking import blocking
from gateway.http.wsgi import context
from gateway.server import acceptor
from gateway.server import listener as module
from gateway.server.pause import WATCH_SECONDS
from gateway.server.turns import Turns

PATIENCE = 60.0  # seconds, more than a test has
KEEP = ("Connection", "keep-alive")
App = Callable[..., Iterable[bytes]]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def pause(environ: dict[str, Any], descriptor: int, seconds: float) -> None:
    wait = context(environ).pause
    assert wait
    wait(seconds, {descriptor: select.POLLIN})


def answered(port: int) -> Client:
    """Return a client whose first request has been answered."""
    client = Client(port, request("GET /", KEEP))
    client.read_until(b"done")
    return client


def is_readable(descriptor: int) -> bool:
    poll = select.poll()  # select itself takes no descriptor beyond 1,023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def until_readable(descriptor: int) -> App:
    """Return an app that waits for the descriptor, but at /now; it answers with how often it was resumed."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        times = 0
        while environ["PATH_INFO"] != "/now" and not is_readable(descriptor):
            pause(environ, descriptor, PATIENCE)
            yield b""
            times += 1
        yield b"%d times" % times

    return app


def test_a_response_that_pauses_holds_no_thread(pipe: tuple[int, int]) -> None:
    with served(until_readable(pipe[0]), threads=1) as port, ExitStack() as stack:
        waits = stack.enter_context(Client(port, request("GET /")))
        waits.read_until(b"text/plain")  # the head is sent, though it has nothing more to say
        with Client(port, request("GET /now")) as other:
            assert b"0 times" in other.read_all()
        os.write(pipe[1], b"!")
        assert b"1 times" in waits.read_all()


def test_who_wants_to_pause_and_ends_holds_up_no_later_request(pipe: tuple[int, int]) -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [("Content-Length", "4")])
        yield b"done"
        pause(environ, pipe[0], PATIENCE)

    requests = request("GET /", KEEP) + request("GET /")
    with served(app, threads=1) as port, Client(port, requests) as client:
        assert client.read_all().count(b"done") == 2


def test_those_who_come_together_go_through_their_stages_together() -> None:
    """The one thread there is attends to /first while three others come; the answer to one of those takes long."""
    seen: list[str] = []
    first, others, over = threading.Event(), threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append("begin")
        start("200 OK", [("Content-Length", "4")])
        if environ["PATH_INFO"] == "/first":
            first.set()
            assert others.wait(PATIENCE)
        return answer(environ)

    def answer(environ: dict[str, Any]) -> Iterator[bytes]:
        seen.append("answer")
        if seen[-5:] == ["answer", "begin", "begin", "begin", "answer"]:
            assert over.wait(PATIENCE)
        yield b"late" if context(environ).overloaded else b"done"

    with served(app, threads=1, queue_timeout=1) as port, ExitStack() as stack:
        clients = [stack.enter_context(answered(port)) for _ in range(4)]
        clients[0].sock.sendall(request("GET /first", KEEP))
        assert first.wait(PATIENCE)
        for client in clients[1:]:
            client.sock.sendall(request("GET /"))
        others.set()
        assert [client.read_all()[-4:] for client in clients[2:]] == [b"late"] * 2
        over.set()
        assert clients[1].read_all()[-4:] == b"done"
    assert seen[-8:] == ["begin"] + ["answer"] + ["begin"] * 3 + ["answer"] * 3


@pytest.mark.interpreted
def test_a_connection_that_cannot_be_taken_harms_no_other(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(sock: socket.socket) -> float:
        monkeypatch.undo()
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(acceptor, "seconds_since_data", fails)
    with served(until_readable(pipe[0]), threads=1) as port:
        with Client(port, request("GET /now")) as failed, suppress(ConnectionError):
            assert failed.read_all() == b""
        with Client(port, request("GET /now")) as other:
            assert b"0 times" in other.read_all()


def test_a_pause_ends_when_its_time_is_over(pipe: tuple[int, int]) -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [("Content-Length", "4")])
        for _ in range(2):
            pause(environ, pipe[0], 0.01)
            yield b""
        yield b"done"

    with served(app, threads=1) as port:
        assert exchange(port, request("GET /")).endswith(b"done")


@pytest.mark.slow
def test_after_a_long_pause_a_client_has_no_more_time_than_else() -> None:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        about = context(environ)
        start("200 OK", [])
        threading.Timer(2 * WATCH_SECONDS, about.resume).start()
        about.pause(3600)
        yield b""
        yield b"done"

    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        listener = module.Listener(app, sock, threads=1, connections=9, queue_timeout=60, keep_alive=0.5)
        with Client(sock.getsockname()[1], request("GET /", KEEP)) as client:
            assert client.read_all().endswith(b"0\r\n\r\n")
        assert until(lambda: not listener.is_busy())
        listener.reset_remaining()


def test_requests_that_came_with_the_one_that_pauses_are_answered_after_it(pipe: tuple[int, int]) -> None:
    requests = request("GET /", KEEP) + request("GET /now", KEEP) + request("GET /now")
    with served(until_readable(pipe[0]), threads=1) as port, Client(port, requests) as client:
        client.read_until(b"text/plain")
        os.write(pipe[1], b"!")
        assert re.findall(rb"(\d) times", client.read_all()) == [b"1", b"0", b"0"]


def waiting_for(released: threading.Event, *, tells: bool) -> App:
    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/wait":
            with blocking() if tells else nullcontext():
                released.wait(PATIENCE)
        start("200 OK", [])
        return [b"done"]

    return app


@pytest.mark.parametrize("tells", [True, False])
def test_while_one_thread_waits_another_works(tells: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it did not tell, it is noticed by the probe."""
    if tells:
        monkeypatch.setattr(module, "TICK_SECONDS", PATIENCE)
    released = threading.Event()
    with served(waiting_for(released, tells=tells), threads=3) as port, ExitStack() as stack:
        waiting = [stack.enter_context(Client(port, request("GET /wait"))) for _ in range(2)]
        with Client(port, request("GET /")) as other:
            assert other.read_all().endswith(b"done")
        released.set()
        assert all(client.read_all().endswith(b"done") for client in waiting)


@pytest.mark.parametrize("tells", [True, False])
def test_who_waits_too_long_for_a_thread_counts_as_overload(tells: bool) -> None:
    """Both of the threads there are wait; the timer's takes their place, and has the rest answered."""
    released = threading.Event()
    blocks = waiting_for(released, tells=tells)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if context(environ).overloaded:
            start("503 Service Unavailable", [])
            return [b"late"]
        return blocks(environ, start)

    with served(app, threads=2, queue_timeout=1) as port, ExitStack() as stack:
        held = [stack.enter_context(Client(port, request("GET /wait"))) for _ in range(2)]
        others = [stack.enter_context(Client(port, request("GET /"))) for _ in range(20)]
        assert all(client.read_all().endswith(b"late") for client in others[1:])
        time.sleep(1.5 * module.TICK_SECONDS)  # as long as it lasts, also for who comes later
        assert exchange(port, request("GET /")).endswith(b"late")
        released.set()
        assert all(client.read_all().endswith(b"done") for client in held)
        assert until(lambda: exchange(port, request("GET /")).endswith(b"done"))


def test_the_turn_is_one_threads_and_only_its_own_to_release() -> None:
    turns = Turns()
    turns.acquire()
    taken = threading.Event()

    def follow() -> None:
        turns.release()  # it has none
        turns.acquire()
        taken.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert not taken.wait(0.1)
    turns.revoke()
    assert until(taken.is_set)
    thread.join()
    assert not turns.is_mine()
    turns.release()  # it is the other's
    turns.revoke()
    turns.acquire()
    assert turns.is_mine()


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell how long a connection has waited")
def test_who_connects_while_others_are_served_does_not_wait_for_many_of_their_requests() -> None:
    """Three clients have a hundred requests each when sixty more connect: one a round, they would wait for ninety."""
    seen: list[str] = []
    first, others = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        start("200 OK", [("Content-Length", "4")])
        if environ["PATH_INFO"] == "/first":
            first.set()
            assert others.wait(PATIENCE)
        return [b"done"]

    with served(app, threads=1) as port, ExitStack() as stack:
        clients = [stack.enter_context(answered(port)) for _ in range(4)]
        clients[0].sock.sendall(request("GET /first", KEEP))
        assert first.wait(PATIENCE)
        for client in clients[1:]:
            client.sock.sendall(request("GET /old", KEEP) * 100)
        new = [stack.enter_context(Client(port, request("GET /new"))) for _ in range(60)]
        time.sleep(0.05)  # they wait, and the system tells so
        others.set()
        for client in new:
            assert client.read_all().endswith(b"done")
    assert seen[: max(at for at, path in enumerate(seen) if path == "/new")].count("/old") <= 30
