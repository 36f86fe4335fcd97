"""The bundled server's processes: they serve, are replaced, are renewed, and end without losing a request."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest
from bundled import Bundled
from processes import memory
from recorder import Client, exchange, request, until

MIB = 1 << 20
KEEP = ("Connection", "keep-alive")


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def pids(port: int, count: int) -> set[bytes]:
    return {body(exchange(port, request("GET /pid"))) for _ in range(count)}


@contextmanager
def in_flight(port: int, path: str, gate: Path) -> Iterator[Client]:
    """Send a request that waits for the gate, and return its client once the app is at it."""
    with Client(port, request(f"GET {path}?{gate}", KEEP)) as client:
        assert until(Path(f"{gate}.reached").exists)
        yield client


def test_every_worker_serves(start: Callable[..., Bundled]) -> None:
    server = start(workers=3)
    assert server.serves_with(3)


def test_a_killed_worker_is_replaced(start: Callable[..., Bundled]) -> None:
    server = start(workers=2)
    victim = server.workers[0]
    os.kill(victim, SIGKILL)
    assert until(lambda: victim not in server.workers and len(server.workers) == 2)
    assert server.serves_with(2)


def test_workers_without_their_master_end_and_leave_the_address_to_another(
    start: Callable[..., Bundled], tmp_path: Path
) -> None:
    server = start(workers=3)
    server.signal(SIGKILL)
    server.wait()
    with Bundled(tmp_path, port=server.port, workers=1):
        pass


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_ends_it_after_what_is_in_flight(
    start: Callable[..., Bundled], tmp_path: Path, number: signal.Signals
) -> None:
    server, gate = start(workers=2), tmp_path / "gate"
    with in_flight(server.port, "/wait", gate) as client:
        server.signal(number)
        assert until(server.refuses_connections)
        gate.touch()
        answer = client.read_all()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert server.wait() == 0


def test_ctrl_c_reaches_the_whole_group_and_drains_as_well(start: Callable[..., Bundled], tmp_path: Path) -> None:
    server, gate = start(workers=1), tmp_path / "gate"
    with in_flight(server.port, "/wait", gate) as client:
        os.kill(server.workers[0], SIGINT)
        server.signal(SIGINT)
        assert until(server.refuses_connections)
        gate.touch()
        assert client.read_all().startswith(b"HTTP/1.1 200 OK\r\n")
    assert server.wait() == 0


def test_a_drain_finishes_a_stream_and_a_body_whose_head_has_come(
    start: Callable[..., Bundled], tmp_path: Path
) -> None:
    server, gate = start(), tmp_path / "gate"
    upload = request("POST /", KEEP, ("Content-Length", "10"))
    with in_flight(server.port, "/stream", gate) as stream, Client(server.port, upload + b"12345") as sender:
        assert stream.read_until(b"first")
        assert exchange(server.port, request("GET /pid"))  # by then the upload's head has been read
        server.signal(SIGTERM)
        assert until(server.refuses_connections)
        sender.sock.sendall(b"67890")
        assert b'"size": 10' in sender.read_all()
        gate.touch()
        assert stream.read_all().endswith(b"4\r\nlast\r\n0\r\n\r\n")
    assert server.wait() == 0


def test_a_drain_waits_for_a_slow_reader(start: Callable[..., Bundled]) -> None:
    server = start()
    with Client(server.port, request("GET /big?16")) as client:
        client.read_until(b"\r\n\r\n")
        server.signal(SIGTERM)
        assert until(server.refuses_connections)
        assert client.read_all().endswith(b"\r\n0\r\n\r\n")
    assert server.wait() == 0


def test_a_drain_closes_idle_connections(start: Callable[..., Bundled]) -> None:
    server = start()
    with Client(server.port, request("GET /pid", KEEP)) as used, Client(server.port) as silent:
        used.read_until(b"\r\n\r\n")
        server.signal(SIGTERM)
        used.read_all()
        assert silent.read_all() == b""
        assert server.wait() == 0


def test_a_drain_tells_who_keeps_asking_and_loses_no_request(start: Callable[..., Bundled]) -> None:
    server = start()
    with Client(server.port) as client:
        answer = b""
        while b"\r\nConnection: close\r\n" not in answer:
            client.received = b""
            client.sock.sendall(request("GET /status/200", KEEP))
            answer = client.read_until(b"hello")
            server.signal(SIGTERM)
        assert client.sock.recv(1) == b""


def test_a_drain_answers_what_found_every_thread_busy(start: Callable[..., Bundled], tmp_path: Path) -> None:
    server, gate = start(threads=1), tmp_path / "gate"
    with Client(server.port, request("GET /pid", KEEP)) as waiting:
        waiting.read_until(b"\r\n\r\n")
        with in_flight(server.port, "/wait", gate):
            waiting.received = b""
            waiting.sock.sendall(request("GET /status/200", KEEP))
            server.signal(SIGTERM)
            assert until(server.refuses_connections)
            time.sleep(1.5)  # longer than an idle connection would be kept
            gate.touch()
            assert waiting.read_all().endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_after_the_deadline_the_rest_is_visibly_cut(
    start: Callable[..., Bundled], tmp_path: Path, version: str
) -> None:
    server = start(drain_timeout=0.5)
    with Client(server.port, request(f"GET /stream?{tmp_path}/never HTTP/{version}")) as client:
        client.read_until(b"first")
        server.signal(SIGTERM)
        if version == "1.1":
            assert not client.read_all().endswith(b"0\r\n\r\n")
        else:  # the end of the connection would be the end of the body
            with pytest.raises(ConnectionResetError):
                client.sock.recv(1)
    assert server.wait() == 0


def test_a_hang_up_brings_in_new_settings_and_loses_no_request(start: Callable[..., Bundled], tmp_path: Path) -> None:
    server, gate = start(workers=2), tmp_path / "gate"
    answers: list[bytes] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(exchange(server.port, request("GET /settings")))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    with in_flight(server.port, "/wait", gate) as client:
        for asker in askers:
            asker.start()
        server.settings.write_text("new")
        old = set(server.workers)
        server.signal(SIGHUP)
        assert until(lambda: answers and answers[-1].endswith(b"new"))
        gate.touch()
        assert client.read_all().startswith(b"HTTP/1.1 200 OK\r\n")
        assert until(lambda: not old & set(server.workers))
    done.set()
    for asker in askers:
        asker.join()
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
    assert len(server.workers) == 2


def test_settings_that_do_not_load_leave_the_running_workers(start: Callable[..., Bundled]) -> None:
    server = start(workers=2)
    old = server.workers
    server.settings.write_text("fail")
    server.signal(SIGHUP)
    assert until(lambda: "does not load" in server.log)
    assert exchange(server.port, request("GET /settings")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert until(lambda: server.workers == old)  # the trial of the new settings was a child too


def test_a_replacement_that_does_not_load_leaves_the_others(start: Callable[..., Bundled]) -> None:
    server = start(workers=2)
    server.settings.write_text("fail")
    victim, other = server.workers
    os.kill(victim, SIGKILL)
    assert until(lambda: "does not load" in server.log)
    assert pids(server.port, 3) == {str(other).encode()}
    server.settings.write_text("")
    assert server.serves_with(2)


def test_an_app_that_does_not_load_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("fail")
    with Bundled(tmp_path, workers=2) as server:
        assert server.wait() == 3


def test_gunicorns_own_configuration_stays_out(start: Callable[..., Bundled], tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('read')")
    environ = {"GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1 --workers 7", "PORT": "1", "WEB_CONCURRENCY": "5"}
    server = start(environ=environ, workers=1)
    assert len(pids(server.port, 3)) == 1
    assert len(server.workers) == 1


@pytest.mark.parametrize(
    "opening",
    [b"", b"GET / HTTP/1.1\r\nHost: a\r\nX", request("POST /", ("Content-Length", "9")), request("GET /big?64", KEEP)],
    ids=["silent", "in the head", "in the body", "reads nothing"],
)
def test_sixty_slow_clients_leave_it_serving(start: Callable[..., Bundled], opening: bytes) -> None:
    server = start(workers=1, threads=2)
    with ExitStack() as stack:
        slow = [stack.enter_context(Client(server.port, opening)) for _ in range(60)]
        for _ in range(3):
            assert exchange(server.port, request("GET /pid")).startswith(b"HTTP/1.1 200 OK\r\n")
            for client in slow[: 60 if opening else 0]:
                client.sock.sendall(b"x")


def test_a_busy_worker_is_not_taken_for_a_dead_one(start: Callable[..., Bundled], tmp_path: Path) -> None:
    server, gate = start(threads=1), tmp_path / "gate"
    before = server.workers
    with in_flight(server.port, "/wait", gate) as busy, Client(server.port, request("GET /pid")) as next_one:
        assert server.workers == before
        gate.touch()
        assert busy.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
        assert body(next_one.read_all()) == str(before[0]).encode()


@pytest.mark.slow
def test_bodies_of_a_quarter_gibibyte_leave_memory_flat(start: Callable[..., Bundled]) -> None:
    server = start()
    exchange(server.port, request("GET /big?1"))
    worker = server.workers[0]
    before, grown = memory(worker), 0
    with Client(server.port, request("GET /big?256")) as client:
        while client.sock.recv(MIB):
            grown = max(grown, memory(worker) - before)
    with Client(server.port, request("POST /", ("Content-Length", str(256 * MIB)))) as client:
        for _ in range(256):
            client.sock.sendall(bytes(MIB))
            grown = max(grown, memory(worker) - before)
        assert f'"size": {256 * MIB}'.encode() in client.read_all()
    assert grown < 16 * MIB


def test_the_log_says_where_it_listens_and_little_else(start: Callable[..., Bundled]) -> None:
    server: Any = start()
    exchange(server.port, request("GET /pid"))
    server.signal(SIGTERM)
    server.wait()
    assert server.log.splitlines() == [f"INFO:gateway.server:listening at http://127.0.0.1:{server.port}"]
