"""An API that nobody here wrote, used with its own client: WebDAV, straight and through the gateway."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from cheroot_server import cheroot_serving, ignore_its_sockets
from helpers import mint
from running import Running

pytestmark = [pytest.mark.slow, ignore_its_sockets]

wsgidav = pytest.importorskip("wsgidav.wsgidav_app", reason="wsgidav is not installed")
webdav4 = pytest.importorskip("webdav4.client", reason="webdav4 is not installed")

NAMES = ["plain.txt", "with space.txt", "50%.txt", "ünïcode.txt", "a+b&c=d.txt", "semi;colon.txt"]
CONTENT = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def dav(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "files").mkdir()
    config = {
        "provider_mapping": {"/": str(tmp_path / "files")},
        "simple_dc": {"user_mapping": {"*": True}},
        "logging": {"enable": False},
        "verbose": 0,
    }
    with cheroot_serving(wsgidav.WsgiDAVApp(config)) as url:
        yield url


def use(client: Any) -> list[Any]:
    """Do with the client what a user does; return everything it says but times and tags."""
    seen: list[Any] = []
    client.mkdir("folder")
    for name in NAMES:
        client.upload_fileobj(BytesIO(CONTENT), f"folder/{name}")
        received = BytesIO()
        client.download_fileobj(f"folder/{name}", received)
        seen.append((name, received.getvalue() == CONTENT, client.content_length(f"folder/{name}")))
    client.copy("folder/plain.txt", "folder/copy.txt")
    client.move("folder/copy.txt", "moved.txt")
    with client.open("moved.txt", mode="rb") as file:
        file.seek(1000)
        seen.append(file.read(100))
    seen.append(sorted(client.ls("folder", detail=False)))
    seen.append([client.info("moved.txt")[name] for name in ("name", "content_length", "content_type", "type")])
    seen.append([client.exists("moved.txt"), client.exists("nowhere"), client.isdir("folder")])
    for path in ("folder", "moved.txt"):
        client.remove(path)
    seen.append(client.ls("/", detail=False))
    client.http.close()
    return seen


def test_a_webdav_client_sees_no_difference_through_the_gateway(dav: str, tmp_path: Path) -> None:
    with Running(tmp_path, dav) as gateway:
        straight = use(webdav4.Client(dav))
        bearer = {"Authorization": f"Bearer {mint(sub='1001')}"}
        through = use(webdav4.Client(f"http://127.0.0.1:{gateway.port}", headers=bearer))
    assert through == straight
    assert all(whole for _, whole, _ in through[: len(NAMES)])


@pytest.mark.skipif(not shutil.which("rclone"), reason="this needs rclone")
def test_rclone_sees_no_difference_through_the_gateway(dav: str, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "local" / "folder").mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / "folder" / name).write_bytes(CONTENT)
    with Running(tmp_path, dav) as gateway:
        seen = [use_rclone(url, tmp_path / "local") for url in (dav, f"http://127.0.0.1:{gateway.port}")]
    assert seen[0] == seen[1]
    assert len(json.loads(seen[0][0])) == 1 + len(NAMES)


def use_rclone(url: str, local: Path) -> list[str]:
    """Copy a folder there, compare, list, move and delete; return all that was printed but times."""
    token = {"RCLONE_WEBDAV_URL": url, "RCLONE_WEBDAV_BEARER_TOKEN": mint(sub="1001"), "RCLONE_CONFIG": os.devnull}

    def rclone(*words: str) -> str:
        environ = {**os.environ, "no_proxy": "*", **token}
        done = subprocess.run(["rclone", *words], check=False, capture_output=True, timeout=60, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("latin-1")

    rclone("sync", str(local), ":webdav:copied")
    rclone("check", "--download", str(local), ":webdav:copied")
    listed = rclone("lsjson", "-R", "--no-modtime", "--no-mimetype", ":webdav:copied")
    rclone("moveto", ":webdav:copied/folder/plain.txt", ":webdav:copied/moved.txt")
    part = rclone("cat", "--offset", "1000", "--count", "20", ":webdav:copied/moved.txt")
    after = rclone("lsf", "-R", ":webdav:copied")
    rclone("purge", ":webdav:copied")
    return [listed, part, after, rclone("lsf", ":webdav:")]
