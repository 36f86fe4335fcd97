"""Log lines: a reader that stops holds up nothing, what is lost is counted, and what is not is written in order."""

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import NamedTuple

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder, ok, until
from running import ask

from gateway.ops import writer as module
from gateway.ops.writer import LineWriter


class Pipe(NamedTuple):
    reads: int
    writes: int

    def read_all(self) -> bytes:
        """Read until nothing has come for a moment."""
        os.set_blocking(self.reads, False)
        found = b""

        def read() -> bool:
            nonlocal found
            try:
                found += (data := os.read(self.reads, 1 << 20))
            except BlockingIOError:
                return False
            return bool(data)

        while until(read, 0.5):
            pass
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = Pipe(*os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def lost(count: int) -> str:
    return f"lost {count}"


def test_lines_come_in_order_and_all_of_them(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writes, lost)
    for number in range(500):
        writer.write(str(number))
    writer.flush()
    assert pipe.read_all().split() == [str(number).encode() for number in range(500)]


def test_a_reader_that_stops_holds_up_nobody_and_what_is_lost_is_told_once_it_reads_again(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writes, lost)
    line = "x" * 999
    for _ in range(10_000):  # 10 MB: more than the pipe and what may wait
        writer.write(line)
    assert 10_000 - writer.dropped <= (module.LIMIT + (1 << 20)) / 1000
    writer.flush(0.1)
    read = pipe.read_all().decode().splitlines()
    assert read[-1] == f"lost {writer.dropped}"
    assert len(read) - 1 + writer.dropped == 10_000
    writer.write("and on it goes")
    writer.flush()
    assert pipe.read_all() == b"and on it goes\n"


def test_a_descriptor_that_is_set_not_to_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writes, False)
    writer = LineWriter(pipe.writes, lost)
    for number in range(3000):
        writer.write(f"{number:0999}")
    read = b""
    while read.count(b"\n") < 3000:
        read += os.read(pipe.reads, 1 << 20)
    assert [int(line) for line in read.split()] == list(range(3000))


def test_nobody_at_the_other_end_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    writer = LineWriter(writes, lost)
    writer.write("x", at_once=True)
    writer.flush()
    os.close(writes)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
def test_what_a_full_disk_does_not_take_is_counted_and_told_once_there_is_room(pipe: Pipe) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(descriptor, lost)
    for number in range(7):
        writer.write(f"line {number}")
    writer.flush()
    assert writer.dropped == 7
    os.dup2(pipe.writes, descriptor)
    writer.write("there is room")
    read = b""
    while not read.endswith(b"lost 7\n"):
        read += os.read(pipe.reads, 1000)
    assert read == b"there is room\nlost 7\n"
    os.close(descriptor)


def test_the_lines_of_several_processes_do_not_mix(pipe: Pipe) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        fcntl.fcntl(pipe.writes, fcntl.F_SETPIPE_SZ, 4096)  # so that writers get in each other's way
    children = []
    for letter in "abc":
        pid = os.fork()
        if pid == 0:
            writer = LineWriter(pipe.writes, lost)
            for _ in range(1000):
                writer.write(letter * 300)
            writer.flush(30)
            os._exit(0)
        children.append(pid)
    read = b""
    while read.count(b"\n") < 3000:
        read += os.read(pipe.reads, 1 << 20)
    for pid in children:
        os.waitpid(pid, 0)
    assert {len(line) for line in read.splitlines()} == {300}
    assert {len(set(line)) for line in read.splitlines()} == {1}


def test_the_lines_of_several_processes_do_not_mix_in_a_file(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    children = []
    for letter in "abc":
        pid = os.fork()
        if pid == 0:
            writer = LineWriter(descriptor, lost)
            for _ in range(3000):  # more than a pipe would take whole
                writer.write(letter * 300)
            writer.flush(30)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    os.close(descriptor)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 9000
    assert {(len(line), len(set(line))) for line in lines} == {(300, 1)}


def test_a_forked_process_writes_its_own_lines_and_none_of_its_parents(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writes, lost)
    writer.write("of the parent")
    pid = os.fork()
    if pid == 0:
        writer.write("of the child")
        writer.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    writer.flush()
    assert sorted(pipe.read_all().splitlines()) == [b"of the child", b"of the parent"]


def test_its_thread_ends_before_a_fork_and_begins_again(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writes, lost)
    for _ in range(2):
        writer.write("x")
        assert "gateway-log" in {thread.name for thread in threading.enumerate()}
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        assert until(lambda: writer._thread is None)
    assert pipe.read_all() == b"x\nx\n"


def test_lines_at_the_very_end_of_a_process_are_written() -> None:
    program = """
import atexit, logging
from gateway.ops.logs import configure_logging
atexit.register(logging.getLogger("gateway").warning, "at the exit")
configure_logging("json", "info")
logging.getLogger("gateway").info("the last one")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["the last one", "at the exit"]


@pytest.mark.slow
def test_a_gateway_whose_log_is_not_read_serves_probes_and_ends(tmp_path: Path) -> None:
    flags = ("--host", "127.0.0.1", "--port", "0", "--workers", "1", "--metrics-port", "0")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "GATEWAY_STORE": f"sqlite:///{tmp_path}/store"}
    with Recorder(ok()) as upstream:
        command = [sys.executable, "-m", "gateway", "serve", *flags, "--upstream", upstream.url]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environ, cwd=tmp_path)
        assert process.stderr
        ports: dict[str, int] = {}
        while len(ports) < 2:
            if found := re.search(rb"(metrics|listening) at \S+:(\d+)", process.stderr.readline()):
                ports[found[1].decode()] = int(found[2])
        fields = [("Authorization", f"Bearer {mint()}"), ("X-Request-ID", "x" * 120)]
        for number in range(400):  # the pipe takes 64 KiB
            assert ask(ports["listening"], "GET /", *fields).status == 200, number
        assert ask(ports["listening"], "GET /-/ready").status == 200
        assert b"gateway_log_lines_dropped_total 0.0" in ask(ports["metrics"], "GET /metrics").body
        process.send_signal(SIGTERM)
        assert process.wait(20) == 0
        process.stderr.close()
