"""Where the bundled server listens: IPv4, IPv6, a Unix socket, or what systemd opened."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from bundled import Bundled
from processes import ROOT, free_port
from recorder import request, until

from gateway.server.sockets import listening

ASK = request("GET /")


def ask(family: socket.AddressFamily, address: object) -> dict[str, object]:
    """Return the environ that one request had."""
    with socket.socket(family) as sock:
        sock.settimeout(15)
        sock.connect(address)  # type: ignore[arg-type]
        sock.sendall(ASK)
        answer = b""
        while data := sock.recv(65536):
            answer += data
    found: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


def can_use_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not can_use_ipv6(), reason="there is no IPv6 here")


@ipv6
def test_an_ipv6_address_is_listened_on(tmp_path: Path) -> None:
    with Bundled(tmp_path, host="::1") as server:
        assert f"listening at http://[::1]:{server.port}" in server.log
        assert ask(socket.AF_INET6, ("::1", server.port))["REMOTE_ADDR"] == "::1"


@ipv6
def test_two_colons_take_ipv4_too(tmp_path: Path) -> None:
    with Bundled(tmp_path, host="::") as server:
        assert ask(socket.AF_INET6, ("::1", server.port))["REMOTE_ADDR"] == "::1"
        assert str(ask(socket.AF_INET, ("127.0.0.1", server.port))["REMOTE_ADDR"]).endswith("127.0.0.1")


def test_a_unix_socket_serves_owner_and_group_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with Bundled(tmp_path, host=f"unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        environ = ask(socket.AF_UNIX, str(path))
        assert (environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("unix", "localhost", "80")
        server.signal(SIGTERM)
        assert server.wait() == 0
    assert f"listening at unix:{path}" in server.log
    assert not path.exists()


def test_a_unix_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with Bundled(tmp_path, host=f"unix:{path}") as killed:
        killed.signal(SIGKILL)
        killed.wait()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    assert until(lambda: not is_answered(path), 60), "its worker ends, too"
    with Bundled(tmp_path / "one", host=f"unix:{path}"):
        assert ask(socket.AF_UNIX, str(path))
        with Bundled(tmp_path / "other", host=f"unix:{path}") as second:
            assert second.wait() != 0
            assert "Address already in use" in second.log
        assert ask(socket.AF_UNIX, str(path))


def test_a_unix_socket_of_who_started_during_a_drain_stays(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    with Bundled(tmp_path / "old", host=f"unix:{path}") as old, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(request(f"GET /stream?{tmp_path}/go"))
        assert client.recv(65536)
        old.signal(SIGTERM)
        assert until(lambda: not is_answered(path))
        with Bundled(tmp_path / "new", host=f"unix:{path}"):
            (tmp_path / "go").touch()
            assert old.wait() == 0
            assert ask(socket.AF_UNIX, str(path))


def is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("x")
    with Bundled(tmp_path, host=f"unix:{path}") as server:
        assert server.wait() != 0
    assert path.read_text() == "x"


def test_systemd_must_pass_a_socket_that_takes_connections() -> None:
    """As `Accept=yes` or `ListenDatagram=` would have it; in a process of its own, as it is descriptor 3."""
    program = (
        "import os, socket; from gateway.server.sockets import listening\n"
        "sock = socket.socket(type=socket.SOCK_DGRAM)\n"
        "os.dup2(sock.fileno(), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "with listening('127.0.0.1', 0): pass"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, capture_output=True, text=True)
    assert "ListenStream=" in done.stderr


@ipv6
def test_an_address_may_have_the_brackets_that_it_has_in_a_url() -> None:
    with listening("[::1]", 0) as sock:
        assert sock.getsockname()[0] == "::1"
    with listening("[::]", 0) as sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1])):
        pass


def test_what_is_sent_waits_for_no_confirmation_of_what_was_sent_before() -> None:
    with listening("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        assert until(lambda: accepts(sock))


def accepts(sock: socket.socket) -> bool:
    """Return whether somebody has connected, to whom the end of a chunked answer is sent at once."""
    try:
        accepted, _ = sock.accept()
    except BlockingIOError:
        return False
    with accepted:
        return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_unix_socket_needs_a_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="path"), listening("unix:", 0):
        pass


def test_a_socket_whose_owner_is_too_busy_to_take_one_more_is_not_taken_away(tmp_path: Path) -> None:
    path = str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as owner, socket.socket(socket.AF_UNIX) as waiting:
        owner.bind(path)
        owner.listen(0)
        waiting.connect(path)
        with pytest.raises(OSError, match="in use"), listening(f"unix:{path}", 0):
            pass
        assert Path(path).exists()


# As systemd starts a service: its socket is descriptor 3, and its process is named.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2])
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.mark.parametrize("count", [1, 2])
def test_the_socket_that_systemd_opened_is_served(tmp_path: Path, count: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, (tmp_path / "log").open("wb") as log:
        port, free = sock.getsockname()[1], free_port()
        program = ["-m", "gateway", "serve", "--workers", "1", "--port", "1", "--metrics-port", str(free)]
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, str(sock.fileno()), str(count), *program],
            pass_fds=[sock.fileno()],
            stderr=log,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    told = tmp_path / "log"
    if count == 2:
        assert process.wait(30) == 2
        assert "systemd passes 2 sockets" in told.read_text()
        return
    try:
        assert until(lambda: f"listening at http://127.0.0.1:{port}" in told.read_text()), told.read_text()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(request("GET /-/live"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
    finally:
        process.terminate()
        assert process.wait(30) == 0
