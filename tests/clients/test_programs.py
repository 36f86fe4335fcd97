"""Java's HttpClient, git and pip, straight and through the gateway."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from cheroot_server import cheroot_serving, ignore_its_sockets
from helpers import mint
from recorder import Recorder, ok
from running import Running

pytestmark = pytest.mark.slow

JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] to) throws Exception {
        var client = HttpClient.newHttpClient();
        for (String method : new String[] {"GET", "HEAD", "POST", "PUT", "DELETE"}) {
            var body = method.startsWith("P") ? HttpRequest.BodyPublishers.ofString("x".repeat(100000))
                : HttpRequest.BodyPublishers.noBody();
            var request = HttpRequest.newBuilder(URI.create(to[0] + "/orders?a=b%20c"))
                .header("Authorization", "Bearer " + to[1]).method(method, body).build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(method + " " + answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"""


def run(*command: str, directory: Path, **environ: str) -> str:
    """Run a program to its end; return what it printed."""
    environ = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(directory), "no_proxy": "*", **environ}
    done = subprocess.run(command, check=False, cwd=directory, capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("java"), reason="java is not installed")
def test_javas_default_client_offers_http_2_and_is_answered_in_http_1(tmp_path: Path) -> None:
    (tmp_path / "Ask.java").write_text(JAVA)
    token = mint(sub="1001")
    with Recorder(ok(b"hello")) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as gateway:
        straight, through = (
            run("java", "-Xshare:auto", "Ask.java", url, token, directory=tmp_path)
            for url in (upstream.url, gateway.url)
        )
        direct, forwarded = upstream.requests[:5], upstream.requests[5:]
    assert through == straight
    assert "POST 200 HTTP_1_1 hello" in through
    assert any(request.field("Upgrade") == "h2c" for request in direct)
    assert not any(request.field("Upgrade") or request.field("HTTP2-Settings") for request in forwarded)
    assert [(request.line, request.size) for request in forwarded] == [
        (request.line, request.size) for request in direct
    ]


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path) -> Iterator[str]:
    """Serve a directory's files; the value is the address."""
    (tmp_path / "files").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "files"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def git_backend(root: Path) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI app that has git's own program serve the repositories of a directory, and takes pushes."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        asked = {key: value for key, value in environ.items() if isinstance(value, str) and "." not in key}
        settings = {"GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": "me"}
        body = environ["wsgi.input"].read()
        settings |= {"CONTENT_LENGTH": str(len(body)), "GIT_PROTOCOL": asked.get("HTTP_GIT_PROTOCOL", "")}
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            env={**os.environ, **asked, **settings},
            capture_output=True,
            check=True,
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        start_response(fields.pop("Status", "200 OK"), [*fields.items(), ("Content-Length", str(len(answer)))])
        return [answer]

    return app


@ignore_its_sockets
@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_git_clones_pushes_and_fetches_through_the_gateway_with_a_header(tmp_path: Path) -> None:
    git = partial(run, "git", "-c", "user.name=a", "-c", "user.email=a@b.test", directory=tmp_path)
    git("init", "-q", "--bare", "served/repository.git")
    git("-C", "served/repository.git", "config", "http.receivepack", "true")
    header = f"http.extraHeader=Authorization: Bearer {mint(sub='1001')}"
    with cheroot_serving(git_backend(tmp_path / "served")) as api, Running(tmp_path, api, "--workers", "1") as gateway:
        for name, url in (("straight", api), ("through", gateway.url)):
            git("-c", header, "clone", "-q", f"{url}/repository.git", name)
            # Beyond a MiB git sends chunks.
            for size in (1000, 3_000_000):
                (tmp_path / name / f"{name}-{size}.bin").write_bytes(os.urandom(size))
                git("-C", name, "add", ".")
                git("-C", name, "commit", "-q", "-m", f"{size} of {name}")
                git("-C", name, "-c", header, "push", "-q", "origin", f"HEAD:refs/heads/{name}")
        listed = [git("-c", header, "ls-remote", f"{url}/repository.git") for url in (api, gateway.url)]
        assert listed[0] == listed[1]
        assert all(git("-C", name, "rev-parse", "HEAD").strip() in listed[0] for name in ("straight", "through"))
        git("-C", "through", "-c", header, "fetch", "-q")
        assert "straight-3000000.bin" in git("-C", "through", "ls-tree", "--name-only", "origin/straight")
        git("-C", "through", "fsck", "--strict")
        with pytest.raises(AssertionError, match=r"Authentication|could not read Username|401"):
            git("clone", f"{gateway.url}/repository.git", "without", GIT_TERMINAL_PROMPT="0")


def test_pip_sends_no_bearer_token_and_installs_from_a_public_path(files: str, tmp_path: Path) -> None:
    pages = tmp_path / "files" / "simple" / "parcel"
    pages.mkdir(parents=True)
    wheel = "parcel-1.0-py3-none-any.whl"
    with ZipFile(pages / wheel, "w") as archive:
        archive.writestr("parcel.py", "x = 1\n" * 50_000)
        about = "parcel-1.0.dist-info"
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: parcel\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    (pages / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel}">{wheel}</a>')
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "--disable-pip-version-check",
        "download",
        "--no-deps",
        "--no-cache-dir",
    )
    with Running(tmp_path, files, "--workers", "1", "--public-paths", "/simple/*") as gateway:
        for name, url in (("straight", files), ("through", gateway.url.replace("//", "//user:word@"))):
            run(
                *pip,
                "-d",
                name,
                "--index-url",
                f"{url}/simple",
                "parcel",
                directory=tmp_path,
                PIP_CONFIG_FILE=os.devnull,
            )
    assert (tmp_path / "through" / wheel).read_bytes() == (tmp_path / "straight" / wheel).read_bytes()
