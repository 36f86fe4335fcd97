"""mnot's tests for HTTP caches: nginx's cache straight before their server, and with a gateway between.

Run as `python -m benchmarks.studies.cache_suite DIRECTORY`, a clone of
github.com/http-tests/cache-tests in which `npm install` has been run. Needs node and nginx, and 4 minutes. Each side
runs twice; prints the tests to which the gateway makes a difference.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from processes import free_port, listens
from recorder import until
from running import Running

DATE = re.compile(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT")
NGINX = """
user root; worker_processes 1; daemon off; pid {directory}/{name}.pid; error_log {directory}/{name}.err;
events {{}}
http {{
  access_log off; client_body_temp_path {directory}/{name}.body; proxy_temp_path {directory}/{name}.temp;
  proxy_cache_path {directory}/{name} keys_zone=all:8m inactive=600m;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{origin}; proxy_http_version 1.1;
      proxy_cache all; proxy_cache_revalidate on;
    }}
  }}
}}
"""


def main() -> None:
    suite = Path(sys.argv[1]).resolve()
    server, straight, through = free_port(), free_port(), free_port()
    with TemporaryDirectory() as name:
        directory = Path(name)
        processes = [node(suite, "server/server.mjs", server, directory)]
        try:
            # The suite sends no token, and Authorization as other fields.
            with Running(directory, f"http://127.0.0.1:{server}", "--workers", "1", "--public-paths", "/*") as gateway:
                for port, origin in ((straight, server), (through, gateway.port)):
                    processes.append(nginx(directory, port, origin))
                for port in (server, straight, through):
                    assert until(lambda port=port: listens(port)), port
                results = [run(suite, port, directory) for port in (straight, straight, through, through)]
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
                process.wait()
    show(*results)


def node(suite: Path, program: str, port: int, directory: Path, **more: Any) -> subprocess.Popen[bytes]:
    config = {
        "protocol": "http",
        "port": str(port),
        "base": f"http://127.0.0.1:{port}",
        "id": "",
        "pidfile": f"{directory}/pid",
    }
    environ = {**os.environ, **{f"npm_package_config_{name}": value for name, value in config.items()}}
    command = ["node", "--no-warnings", f"test-engine/{program}"]
    return subprocess.Popen(command, cwd=suite, env=environ, **{"stdout": subprocess.DEVNULL, **more})


def nginx(directory: Path, port: int, origin: int) -> subprocess.Popen[bytes]:
    configuration = directory / f"{port}.conf"
    configuration.write_text(NGINX.format(directory=directory, name=f"nginx-{port}", port=port, origin=origin))
    return subprocess.Popen(["nginx", "-c", str(configuration)])


def run(suite: Path, port: int, directory: Path) -> dict[str, Any]:
    """Return what the suite says of the cache at that port, by test: true, or the kind of fault and its words."""
    told = node(suite, "cli.mjs", port, directory, stdout=subprocess.PIPE).communicate()[0]
    found: dict[str, Any] = json.loads(told)
    return found


def show(*results: dict[str, Any]) -> None:
    """Print how many tests ended how, straight and through, and those that the gateway alone makes a difference to."""
    for side, result in zip(("straight", "again", "through", "again"), results, strict=True):
        print(side, len(result), dict(Counter("passed" if told is True else told[0] for told in result.values())))
    for test in sorted(results[0]):
        verdicts = [DATE.sub("<date>", json.dumps(result.get(test))) for result in results]
        if not set(verdicts[:2]) & set(verdicts[2:]):
            print(f"differs: {test}\n  straight {verdicts[0]}\n  through  {verdicts[2]}")


if __name__ == "__main__":
    main()
