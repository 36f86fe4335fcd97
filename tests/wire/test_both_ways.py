"""What the client sends and what it is sent flow on each as its reader reads, whatever becomes of the other."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from helpers import mint
from processes import memory
from recorder import Client, Recorder, Talk, request, response, until
from running import Running
from websocket_bytes import echo, frame, handshake, switched

BEARER = ("Authorization", f"Bearer {mint()}")
SIZE = 24 << 20  # much more than all buffers on the way hold
PIECE = frame(bytes(65532))
MEMORY = 12 << 20  # bytes that a worker may have gained


class Writer:
    """An upstream that writes all of its answer while another thread reads what comes, if it reads at all."""

    def __init__(self, head: bytes, *, reads: bool = True) -> None:
        self.head, self.reads = head, reads
        self.received = 0
        self.has_written = False

    def __call__(self, talk: Talk) -> None:
        reader = threading.Thread(target=self.read, args=[talk])
        if self.reads:
            reader.start()
        talk.send(self.head)
        for _ in range(SIZE // len(PIECE)):
            talk.send(PIECE)
        self.has_written = True
        if not self.reads:
            reader.start()
        reader.join()
        talk.close()

    def read(self, talk: Talk) -> None:
        self.received += len(talk._buffer)
        while self.received < SIZE and (data := talk.sock.recv(65536)):
            self.received += len(data)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Recorder]:
    with Recorder(read_bodies=False) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def gateway(upstream: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("both"), upstream.url, "--workers", "1", "--threads", "1") as running:
        upstream.answer = echo
        with Client(running.port, handshake("/ws", BEARER) + PIECE) as client:  # so that all is loaded
            client.read_until(PIECE)
        yield running


def send_all(client: Client) -> None:
    with suppress(OSError):
        for _ in range(SIZE // len(PIECE)):
            client.sock.sendall(PIECE)


def count_rest(client: Client, size: int) -> int:
    """Return how many bytes come, up to so many."""
    known = len(client.received)
    while known < size and (data := client.sock.recv(65536)):
        known += len(data)
    return known


ANSWER = response(b"", ("Content-Length", str(SIZE)))
UPLOAD = request("PUT /x", BEARER, ("Content-Length", str(SIZE)))


@pytest.mark.parametrize(
    ("begin", "head"), [(handshake("/ws", BEARER), switched()), (UPLOAD, ANSWER)], ids=["upgraded", "upload"]
)
def test_a_client_may_send_all_before_it_reads(upstream: Recorder, gateway: Running, begin: bytes, head: bytes) -> None:
    upstream.answer = writer = Writer(head)
    before = memory(gateway.workers[0])
    with Client(gateway.port, begin) as client:
        send_all(client)
        assert until(lambda: writer.received == SIZE)
        assert not writer.has_written
        assert memory(gateway.workers[0]) - before < MEMORY
        assert gateway.get("/-/live").status == 200
        size = client.read_until(b"\r\n\r\n").index(b"\r\n\r\n") + 4 + SIZE
        assert count_rest(client, size) == size


@pytest.mark.parametrize(
    ("begin", "head"), [(handshake("/ws", BEARER), switched()), (UPLOAD, ANSWER)], ids=["upgraded", "upload"]
)
def test_an_upstream_may_send_all_before_it_reads(
    upstream: Recorder, gateway: Running, begin: bytes, head: bytes
) -> None:
    upstream.answer = writer = Writer(head, reads=False)
    before = memory(gateway.workers[0])
    with Client(gateway.port, begin) as client:
        sender = threading.Thread(target=send_all, args=[client])
        sender.start()
        size = client.read_until(b"\r\n\r\n").index(b"\r\n\r\n") + 4 + SIZE
        assert count_rest(client, size) == size
        assert memory(gateway.workers[0]) - before < MEMORY
        if begin is UPLOAD:  # the answer is whole: nobody waits for the rest of the request
            client.sock.shutdown(socket.SHUT_RDWR)
        else:
            assert until(lambda: writer.received == SIZE)
        sender.join()
