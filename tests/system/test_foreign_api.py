"""An API that nobody here wrote, used with its own client: WebDAV, straight and through the gateway."""

import gc
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from helpers import mint
from running import Running

# cheroot leaves kept-alive sockets to the garbage collector, which the fixture calls while that is nobody's fault.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

cheroot = pytest.importorskip("cheroot.wsgi", reason="cheroot is not installed")
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
    server = cheroot.Server(("127.0.0.1", 0), wsgidav.WsgiDAVApp(config))
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield f"http://127.0.0.1:{server.bind_addr[1]}"
    server.stop()
    thread.join()
    del server
    gc.collect()


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
